"""The form of a family."""
