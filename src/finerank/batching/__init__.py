"""Nouns to tensors."""
