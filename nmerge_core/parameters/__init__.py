"""What a parameter is, said once: values, what is named outside, and those that all runs share."""
