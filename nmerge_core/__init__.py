"""Neuron analysis and neuron-level merging of language models: the engine behind the app and the command line."""

__version__ = "0.2.0"
