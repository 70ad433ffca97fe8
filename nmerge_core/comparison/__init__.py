"""Whether two things differ by more than chance: paired tests, random draws, scores side by side."""
