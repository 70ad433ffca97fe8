"""The frame of every page: heading, navigation, the chosen family, settings in the address, runs, foreign text."""
