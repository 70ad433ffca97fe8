"""Merging: a recipe names models and a method, the method merges blocks, one streaming loop writes the result."""
