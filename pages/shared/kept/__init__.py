"""Merges that were kept: their reports, files and notebooks."""
