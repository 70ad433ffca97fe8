"""Both papers' figures and tables of one's own models: measured, set beside the papers' own, and judged."""
