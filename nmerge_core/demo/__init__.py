"""The demo family: text generators, training script and shipped weights of a small base and three fine-tunes."""
