"""Search over recipe parameters by Optuna: trials are merged in memory and scored, by any number of processes."""
