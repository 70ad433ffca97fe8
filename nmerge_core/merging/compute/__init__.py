"""Arithmetic on blocks: streaming rows of every model, entrywise rules and their compiled loops, order statistics."""
