"""A merge in memory on a page: it answers, is scored and looked through as its controls move."""
