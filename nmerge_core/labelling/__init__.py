"""What a language model would call neurons: a category and an explanation of each, and how far both can be trusted."""
