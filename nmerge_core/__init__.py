"""Neuron analysis and neuron-level merging of language models: the engine behind the app and the command line."""

from nmerge_core.version import __version__

__all__ = ["__version__"]
