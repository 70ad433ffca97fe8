"""Speed and memory of whole processes, both sides in one run."""
