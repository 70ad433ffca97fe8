"""Figures on a page, and as files for a paper."""
