"""Evaluation of finished checkpoints."""
