"""What a merge finds out before it writes: opened models, vocabularies, costs, whole-model facts, searches."""
