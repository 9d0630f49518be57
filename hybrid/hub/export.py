"""A run folder as standard artefacts, and the model card that goes with them."""

import json
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from hybrid import report
from hybrid.build import plain
from hybrid.config import dump
from hybrid.experiment import Experiment, load_reasoner, positions_in_all, read_experiment
from hybrid.frontier import read
from hybrid.hub.pipeline import HybridReasoningPipeline
from hybrid.nets.adapt import write_adapter
from hybrid.nets.quantised import size_of
from hybrid.reasoner import Reasoner


def export(run: str | Path, out: str | Path, *, adapters: bool = False) -> list[Path]:
    """Write the reasoner of a run folder as a pipeline with its model card; returns the folders and files made.

    decoder/ and drafter/ load with the AutoModel classes of transformers, the whole with
    `HybridReasoningPipeline.from_pretrained(out)`. Low-rank matrices are merged into the weights; `adapters` also
    writes them on their own, to be put on the checkpoint they were trained on.
    """
    run, out = Path(run), Path(out)
    if out.exists() and any(out.iterdir()):
        raise ValueError(f"{out} is not empty: name a new folder")
    experiment = read_experiment(run)
    reasoner, trained = load_reasoner(run, experiment)
    lora = _adapted(reasoner) if adapters else {}
    HybridReasoningPipeline.of(reasoner).save_pretrained(out)
    for name, model in lora.items():
        write_adapter(model, out / f"{name}_adapter")
    (out / "README.md").write_text(card(run, experiment, reasoner, trained), encoding="utf-8")
    for weights in out.rglob("*.safetensors"):  # which the library writes for their owner alone
        weights.chmod((out / "README.md").stat().st_mode)
    return sorted(out.iterdir())


def _adapted(reasoner: Reasoner) -> dict[str, PreTrainedModel]:
    networks = reasoner.networks
    parts = {"decoder": networks.decoder, "drafter": None if networks.is_shared else networks.drafter}
    found = {n: p.model for n, p in parts.items() if p is not None and getattr(p.model, "peft_config", None)}
    if not found:
        raise ValueError("--adapters: this run trained no low-rank matrices (backbone kind: lora)")
    return found


def card(run: Path, experiment: Experiment, reasoner: Reasoner, trained: dict[str, Any]) -> str:
    """The model card: how to load and call it, what it was trained on, and its measured frontier."""
    parts = "one shared trunk" if reasoner.networks.is_shared else "separate drafter and decoder"
    if reasoner.networks.drafter is None:
        parts = "a decoder alone"
    head = {"library_name": "diffusers", "tags": ["hybrid-reasoning", "discrete-diffusion"], "task": experiment.title}
    front = "".join(f"{key}: {json.dumps(value)}\n" for key, value in head.items())
    parameters = sum(map(size_of, reasoner.parameters()))
    config = plain(experiment)
    seen = positions_in_all(trained)
    text = f"""---
{front}---

# {experiment.title}: {experiment.model.method} reasoner

A drafter drafts a reasoning sketch in parallel by discrete diffusion; a decoder reads it and writes the answer.
{parameters:,} parameters, {parts}; trained {trained["steps"]:,} steps, {seen:,.0f} token positions.

```python
from hybrid.hub.pipeline import HybridReasoningPipeline

pipeline = HybridReasoningPipeline.from_pretrained("THIS_FOLDER_OR_REPOSITORY")
output = pipeline(["{_example(experiment)}"], num_inference_steps={reasoner.config.canvas})
print(output.sketches, output.answers, output.num_function_evaluations)
```

The canvas holds {reasoner.config.canvas} tokens, the answer {reasoner.config.max_answer}. `decoder/` is
`{type(reasoner.networks.decoder.model).__name__}` and loads with transformers alone.

## Measured

{_measured(run)}

## Config

```yaml
{dump({key: config[key] for key in ("task", "model", "train", "seed")}).rstrip()}
```
"""
    return text


def _measured(run: Path) -> str:
    if not (run / "frontier.json").is_file():
        return "Not evaluated before export: `hybrid evaluate RUN` measures quality against what is spent."
    frontier = read(run / "frontier.json")
    return f"Split `{frontier.split}` of {frontier.task}, counted per example.\n\n```\n{report.table(frontier)}\n```"


def _example(experiment: Experiment) -> str:
    try:
        return json.dumps(experiment.examples("test")[0].prompt, ensure_ascii=False)[1:-1]
    except (ValueError, OSError):  # the run's data need not be here
        return "..."


def push(folder: str | Path, repository: str, *, private: bool = False) -> str:
    """Upload an exported folder to a repository of the Hub, made where it is not there; returns its address.

    Raises:
        ValueError: not signed in, not allowed or not reachable, in one line.
    """
    from huggingface_hub import HfApi

    api = HfApi()
    try:
        url = api.create_repo(repository, private=private, exist_ok=True)
        api.upload_folder(repo_id=repository, folder_path=str(folder), commit_message="Export of a hybrid reasoner")
    except Exception as error:  # of the Hub, or of the transport, whose kinds change with the library
        reason = str(error).strip().partition("\n")[0]
        raise ValueError(f"push to {repository}: {reason}; {folder} is complete and can be pushed later") from None
    return str(url)
