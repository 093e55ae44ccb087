"""Training, evaluation and checkpoints; knows of a task only its contract."""
