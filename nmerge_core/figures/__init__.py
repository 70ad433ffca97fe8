"""Data frame → plotly figure: pure functions that a page, a notebook and a script can share."""
