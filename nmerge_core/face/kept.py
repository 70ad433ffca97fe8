"""What the cache keeps: families, and all that was computed."""

import pandas as pd

from nmerge_core.cache import DEMO, cache_root, make_private
from nmerge_core.demo.family import write_family
from nmerge_core.errors import InputError
from nmerge_core.face.calls import Reference, text
from nmerge_core.family import Family, demo_family, families, load_family
from nmerge_core.runs.folder import list_runs


def open_family(source: Reference = DEMO) -> Family:
    """Open a family: base, fine-tunes, corpus and tasks, as one object that every `models` takes.

    Args:
        source: a family's YAML, the name of one saved by the app, or "demo", which is written to the cache when it is
            first asked for.

    Raises:
        InputError: there is no such family, or its file has a mistake.
    """
    name, saved = text(source), families(cache_root())
    if name == DEMO:
        make_private(cache_root())
        write_family(cache_root() / DEMO)
        return demo_family(cache_root())
    if name not in saved and not name.endswith((".yaml", ".yml", ".json")):
        raise InputError(f"family {name}: expected the path of a YAML, or one of {', '.join([DEMO, *saved])}")
    return load_family(saved.get(name, name))


def history() -> pd.DataFrame:
    """Return a row for everything that was computed, newest first: run, kind, title, state, created, version, path."""
    rows = [
        (run.id, run.kind, run.title, run.status().state, run.created, run.version, run.results)
        for run in list_runs(cache_root())
    ]
    frame = pd.DataFrame(rows, columns=["run", "kind", "title", "state", "created", "version", "path"])
    return frame.assign(created=pd.to_datetime(frame["created"], unit="s", utc=True))
