"""How far fine-tunes turned the weights of each neuron away from the base (NeuronMerge App. A.3), and if they agree."""
