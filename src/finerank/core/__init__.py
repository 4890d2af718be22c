"""The nouns: what things are. Standard library only."""
