"""Fuzzing: damaged inputs, drawn from a seed, must end in a valid output or in one line that says what is wrong."""
