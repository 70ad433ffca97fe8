"""What the neurons of a merge have of what each fine-tune changed: their categories, and the shares that were kept."""
