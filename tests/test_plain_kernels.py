"""What is promised of categories holds on any processor: their tests again with the kernels that every one has."""

import os
import subprocess
import sys
from pathlib import Path

PROJECT = Path(__file__).parents[1]

# Those of torch, MKL and oneDNN that every x86-64 processor runs.
PLAIN = {"ATEN_CPU_CAPABILITY": "default", "MKL_ENABLE_INSTRUCTIONS": "SSE4_2", "ONEDNN_MAX_CPU_ISA": "SSE41"}
TESTS = ("tests/classification/test_categories.py", "tests/classification/test_classification.py", "tests/activations")


PROGRAM = """
import sys, pytest, torch
print(torch.backends.cpu.get_cpu_capability())
sys.exit(pytest.main(sys.argv[1:]))
"""


def test_categories_and_scores_with_plain_kernels() -> None:
    # What starts processes of its own is not about kernels, and takes long.
    command = [sys.executable, "-c", PROGRAM, "-q", "-p", "no:cacheprovider", "-k", "not processes", *TESTS]
    done = subprocess.run(command, cwd=PROJECT, env=os.environ | PLAIN, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    assert done.stdout.startswith("DEFAULT\n")
