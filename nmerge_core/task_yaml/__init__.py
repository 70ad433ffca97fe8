"""Task YAMLs of lm-evaluation-harness before any of it runs: the files they read, the code they would run."""
