"""A recipe on a page: by controls, as text, in the gallery of methods."""
