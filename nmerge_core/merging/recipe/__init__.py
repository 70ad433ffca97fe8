"""What a merge is asked to do: recipes, the registry of methods, gradients and filters, the choice of a tokenizer."""
