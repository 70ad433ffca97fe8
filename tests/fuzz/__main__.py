"""A long run: `python -m tests.fuzz --seconds 600 --seed 3`; `--only recipes:17` does one case again and shows it."""

import tests.conftest  # noqa: F401 — no network, a cache of its own  # isort: skip

import argparse
import resource
import sys
import tempfile
import time
import warnings
from collections import Counter
from pathlib import Path
from random import Random

from tests.fuzz import files, recipes
from tests.tiny_family import make_family

KINDS = {"recipes": recipes.one, "files": files.one}
_MEMORY = 6 << 30  # beside what this process has: a case that takes more ends in "Out of memory"


def main() -> int:
    """Draw cases until the time is over, print those that ended badly, and return 1 if there are any."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", metavar="KIND:CASE", help="one case, with what was read")
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + _MEMORY, resource.RLIM_INFINITY))
    done, faults, statuses = 0, list[str](), Counter[str]()
    with tempfile.TemporaryDirectory(prefix="nmerge-fuzz-") as root:
        family = make_family(Path(root) / "family")
        if given.only:
            kind, _, case = given.only.partition(":")
            text, found = KINDS[kind](family, _folder(root, kind, family), Random(f"{given.seed} {case}"))
            print(text[:4_000].decode("utf-8", "backslashreplace"), found, found.fault, sep="\n\n")
            return bool(found.fault)
        until = time.monotonic() + given.seconds
        while time.monotonic() < until:
            for kind, one in KINDS.items():
                _, found = one(family, _folder(root, kind, family), Random(f"{given.seed} {done}"))
                statuses[f"{kind}, status {found.status}"] += 1
                if found.fault:
                    faults.append(f"{kind}:{done} (seed {given.seed}): {found.fault}")
                    print(faults[-1], flush=True)
            done += 1
    print(f"{done * len(KINDS):,} cases, {len(faults)} ended badly;", *map(" ".join, _told(statuses)), file=sys.stderr)
    return bool(faults)


def _told(statuses: Counter[str]) -> list[tuple[str, str]]:
    return [(f"{name}:", f"{count:,};") for name, count in sorted(statuses.items())]


def _folder(root: str, kind: str, family: object) -> Path:
    folder = Path(root) / kind
    folder.mkdir(exist_ok=True)
    return folder


if __name__ == "__main__":
    sys.exit(main())
