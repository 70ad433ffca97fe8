"""Corpora: read and checked, what is in them, which texts are held out, which are drawn."""
