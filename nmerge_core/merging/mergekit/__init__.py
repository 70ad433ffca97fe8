"""Recipes with `engine: mergekit`: checked here, merged by mergekit in a process of its own."""
