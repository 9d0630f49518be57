"""The door to other people's tools: a whole reasoner as a diffusers pipeline, its parts as transformers models."""
