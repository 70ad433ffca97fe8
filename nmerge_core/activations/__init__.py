"""Neuron activations: hooks on a model, collection over a corpus, and the folder they are kept in."""
