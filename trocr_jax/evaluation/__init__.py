"""Models on lines whose text is known: what is read, how it is scored, and what becomes metrics.json."""
