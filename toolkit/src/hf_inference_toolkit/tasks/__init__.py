"""The tasks: what each takes, and how it makes of a model's numbers what the reference document shows."""
