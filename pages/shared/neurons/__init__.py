"""Classified neurons on a page: what is there, groups and lists of them, readings of one."""
