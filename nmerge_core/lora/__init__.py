"""What a merge or a fine-tune changed, as a LoRA adapter of its base."""
