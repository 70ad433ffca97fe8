"""Runs: long work done by one worker process, each run a folder of parameters, status, log and results."""
