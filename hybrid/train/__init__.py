"""Training: the only floor that knows a trainer."""
