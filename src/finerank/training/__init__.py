"""Losses, the trainer, checkpoints."""
