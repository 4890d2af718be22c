"""Candidates: who might be relevant, and who is a hard negative."""
