"""The family "scored": the tiny models with a task, and runs done on them by the real operations."""

import base64
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import plotly.graph_objects as go
from streamlit.testing.v1 import AppTest

from nmerge_core.progress import silent
from nmerge_core.runs.folder import Run, Status, create, find
from nmerge_core.runs.lock import transitions
from nmerge_core.runs.operations import OPERATIONS
from nmerge_core.runs.request import resolve
from tests.app.conftest import vary_family

FAMILY = "scored"


def models(root: Path) -> dict[str, str]:
    """The tiny models' folders by name."""
    return {name: str(root / "models" / name) for name in ("base", "math", "code")}


def make_family(root: Path) -> str:
    """Write the family and its task, the bits per byte of four lines, unless they are there; return the task."""
    task = root / "plain.yaml"
    if not task.exists():
        lines = [json.dumps({"text": f"some words {number}"}) for number in range(4)]
        (root / "plain.jsonl").write_text("\n".join(lines))
        task.write_text(
            "task: plain\ndataset_path: json\ndataset_kwargs: {data_files: {test: plain.jsonl}}\ntest_split: test\n"
            'output_type: loglikelihood_rolling\ndoc_to_text: ""\ndoc_to_target: "{{text}}"\n'
            "metric_list:\n  - {metric: bits_per_byte, aggregation: bits_per_byte, higher_is_better: false}\n"
        )
        vary_family(root, FAMILY, tasks=(str(task),))
    return str(task)


def done(root: Path, kind: str, parameters: dict[str, Any], title: str = "") -> Run:
    """Do a run here and now, as the worker would, unless it was done before."""
    request = resolve(root, kind, parameters)
    run = find(root, request.id)
    if run is None:
        with transitions(root):  # a worker of another test must not take it
            run = create(root, kind, request.key, title or request.title, request.parameters, request.inputs, "")
            run.write_status(Status("running"))
        run.part.mkdir()
        OPERATIONS[kind](run.parameters, run.part, silent)
        run.part.rename(run.results)
        run.write_status(Status("done"))
    return run


def drawn(app: AppTest, index: int = 0) -> go.Figure:
    """The figure that a page has drawn, its number arrays as lists."""
    sent = json.loads(app.get("bidi_component")[index].proto.json)
    return plain(sent["figure"])


def plain(figure: str) -> go.Figure:
    """A figure from its JSON, its number arrays as lists: two that show the same are equal."""
    return go.Figure(_lists(json.loads(figure)))


def _lists(value: Any) -> Any:
    if isinstance(value, dict) and "bdata" in value:
        return np.frombuffer(base64.b64decode(value["bdata"]), value["dtype"]).tolist()
    if isinstance(value, dict):
        return {key: _lists(inner) for key, inner in value.items()}
    return [_lists(inner) for inner in value] if isinstance(value, list) else value


def click(app: AppTest, key: str, point: Sequence[Any]) -> tuple[str, int, int, str, list[int]]:
    """Click on what a chart says of a point as its `customdata`.

    Returns:
        What the Explorer then shows: model, layer, neuron, which neurons, of which layers (none: all).
    """
    app.session_state[f"{key}_clicked"] = list(point)
    app.run()
    assert not app.exception and app.title[0].value == "What does this neuron react to?"
    assert not [each.value for each in app.warning if "asks for" in each.value]
    model, layer, neuron, only, layers = (
        app.session_state[name] for name in ("model", "layer", "neuron", "explorer_only", "explorer_layers")
    )
    return model, layer, neuron, only, layers
