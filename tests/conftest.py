"""What every test has: no network, one thread, and a cache of its own."""

import os
import tempfile

# Before any test module imports torch, transformers or the project.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["NMERGE_CACHE"] = tempfile.mkdtemp(prefix="nmerge-tests-")
