"""From documents to training rows: entities, queries, verdicts, filters, a leak-free split."""
