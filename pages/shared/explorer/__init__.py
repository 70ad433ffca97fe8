"""The Explorer: finding a neuron, and what is seen of one: texts, scores, what it writes, the same in every model."""
