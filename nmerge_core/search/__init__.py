"""Search over recipe parameters: every trial is merged, scored and written down before the next begins."""
