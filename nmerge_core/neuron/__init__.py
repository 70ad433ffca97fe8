"""Neurons up close: what excites one, what it writes, which are like it, and a table of all to find one in."""
