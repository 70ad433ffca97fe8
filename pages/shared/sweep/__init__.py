"""A sweep on a page: what is searched, and its trials."""
