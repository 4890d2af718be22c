"""The verbs: an options dataclass and run(options); files in, files out."""
