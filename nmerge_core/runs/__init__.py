"""Runs: long work done by worker processes, each run a folder of parameters, status, log and results."""
