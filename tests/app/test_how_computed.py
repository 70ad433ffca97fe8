"""What each page shows under "How this is computed" runs as it stands and gives what the page shows.

The Python is run as the notebook that the page offers.
"""

import json
import shlex
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nbformat
import pandas as pd
import pytest
from nbclient import NotebookClient
from streamlit.runtime.media_file_manager import MediaFileManager
from streamlit.testing.v1 import AppTest, app_test

from nmerge_core.runs.folder import Run, list_runs
from tests.app.conftest import OpenPage
from tests.app.scored import FAMILY, done, drawn, make_family, models, plain

ROOT = Path(__file__).parents[2]
PLOTLY, GRID = "application/vnd.plotly.v1+json", "neuron-grid"
Prepare = Callable[[Path], Run | None]


def nothing(root: Path) -> None:
    make_family(root)


def cosine(root: Path) -> Run:
    known = models(root)
    asked = {"base": known["base"], "models": [known["math"], known["code"]]}
    done(root, "interference", asked)
    return done(root, "cosine", asked)


def knockout(root: Path) -> Run:
    known = models(root)
    asked = {
        "model": known["base"],
        "neurons": done(root, "classify", {"model": known["base"], "corpus": str(root / "corpus")}).id,
        "category": "math",
        "layers": [0, 1],
        "task": make_family(root),
        "repeats": 2,
        "limit": 10,
    }
    return done(root, "knockout", asked)


def linearity(root: Path) -> Run:
    known, corpus = models(root), str(root / "corpus")
    asked = {
        "base": known["base"],
        "models": [known["math"], known["code"]],
        "corpus": corpus,
        "neurons": done(root, "classify", {"model": known["base"], "corpus": corpus}).id,
        "categories": ["math", "code"],
        "samples": 5,
    }
    return done(root, "linearity", asked)


def scores(root: Path) -> None:
    task = make_family(root)
    for model in models(root).values():
        done(root, "evaluate", {"models": [model], "tasks": [task]})


def merge(root: Path) -> Run:
    """Merge as the page's controls stand at first; the scores of the family and of the merge are there too."""
    known, corpus = models(root), str(root / "corpus")
    scores(root)
    recipe = {
        "merge_method": "sublin",
        "base_model": known["base"],
        "models": [{"model": known[name], "parameters": {"category": name}} for name in ("math", "code")],
        "parameters": {"calibration": corpus, "samples": 30},
    }
    run = done(root, "merge", {"recipe": recipe}, "SubModule Linearity")
    done(root, "evaluate", {"models": [str(run.results / "merged")], "tasks": [make_family(root)]})
    return run


def merge_beside(root: Path) -> None:
    """Merge and classify the merge, for a page that shows it beside the family, and measure what it kept."""
    known, corpus = models(root), str(root / "corpus")
    make_family(root)
    tuned = {"base": known["base"], "models": [known["math"]]}
    recipe = {"merge_method": "task_arithmetic", "base_model": known["base"], "parameters": {"weight": 0.5}}
    run = done(root, "merge", {"recipe": recipe | {"models": [{"model": known["math"]}]}}, "Half of math")
    merged = str(run.results / "merged")
    done(root, "classify", {"model": merged, "corpus": corpus})
    done(root, "inherited", {"merge": merged, **tuned})


BESIDE = {"merges": "Half of math"}


@dataclass(frozen=True)
class Page:
    """A page in one state: what was done before, what its address says, what is chosen and typed, and its tables.

    `chosen` has the values of the page's lists by their keys, `tables` the files that its commands write.
    """

    script: str
    prepare: Prepare = nothing
    query: dict[str, str] = field(default_factory=dict)
    chosen: dict[str, list[str]] = field(default_factory=dict)
    tables: tuple[str, ...] = ()
    typed: str = ""  # the key of a box for text


LIVE = {"merge_live": "true", "merge_view": "Compare"}  # a prompt, and nothing asked of the merge

PAGES = [
    Page("1_Models"),
    Page("2_Neurons", merge_beside, {"neurons_k": "3", "neurons_layers": "1", "neurons_model": "math"} | BESIDE),
    Page("3_Explorer", merge_beside, {"model": "math", "layer": "1", "neuron": "7"} | BESIDE, typed="explorer_text"),
    Page(
        "4_Similarity",
        cosine,
        {"similarity_quantity": "sign conflict", "similarity_of": "math and code"},
        tables=("cosine.csv", "moved.csv"),
    ),
    Page(
        "5_Knockout",
        knockout,
        {"knockout_models": "base", "knockout_category": "math", "knockout_task": "plain"}
        | {"knockout_repeats": "2", "knockout_limit": "10"},
        tables=("knockout.csv",),
    ),
    Page("6_Linearity", linearity, {"linearity_samples": "5"}, tables=("linearity.csv", "coefficients.csv")),
    Page("7_Merge", merge, LIVE | {"merge_method": "SubModule Linearity"}, typed="merge_prompt"),
    Page("8_Evaluate", scores, chosen={"evaluate_models": ["base", "math", "code"]}),
    Page("9_Runs"),
]


@pytest.fixture
def downloads(monkeypatch: pytest.MonkeyPatch) -> list[MediaFileManager]:
    """Where the pages that are opened keep what can be downloaded, the last one's last."""
    made: list[MediaFileManager] = []

    def kept(*arguments: Any) -> MediaFileManager:
        made.append(MediaFileManager(*arguments))
        return made[-1]

    monkeypatch.setattr(app_test, "MediaFileManager", kept)
    return made


@pytest.fixture
def kernel(forked: tuple[str, ...], tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a notebook kernel that needs no imports any more."""
    folder = tmp_path_factory.mktemp("jupyter")
    monkeypatch.setenv("JUPYTER_PATH", str(folder))
    (folder / "kernels" / "forked").mkdir(parents=True)
    argv = [*forked, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    (folder / "kernels" / "forked" / "kernel.json").write_text(json.dumps({"argv": argv, "display_name": "Forked"}))
    return "forked"


@pytest.mark.usefixtures("asked_here")
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.script)
def test_commands_and_notebook_give_what_the_page_shows(
    page: Page,
    open_page: OpenPage,
    tiny_cache: Path,
    downloads: list[MediaFileManager],
    kernel: str,
    forked: tuple[str, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    run = page.prepare(tiny_cache)
    app = open_page(f"pages/{page.script}.py", family=FAMILY, **page.query)
    for key, values in page.chosen.items():
        app.multiselect(key=key).set_value(values).run()
    if page.typed:
        app.text_area(key=page.typed).set_value("2 + 2\nis").run()
    assert not app.error and not app.warning
    before = states(tiny_cache)
    execute_notebook(app, downloads[-1], kernel, tmp_path)
    assert states(tiny_cache) == before  # nothing was computed again
    execute_commands(app, forked, tmp_path)
    for name in page.tables:
        assert run is not None
        pd.testing.assert_frame_equal(pd.read_csv(tmp_path / name), pd.read_csv(run.results / name))


def execute_notebook(app: AppTest, media: MediaFileManager, kernel: str, folder: Path) -> None:
    """Execute the notebook that the page's button gives: it holds the page's words, its code, and then its figures."""
    url = media.execute_deferred(app.download_button(key="notebook").proto.deferred_file_id)
    notebook = nbformat.reads(
        media._storage.get_file(Path(url).name).content.decode(),  # type: ignore[attr-defined]
        as_version=4,
    )
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert notebook.cells[0].source.startswith(f"# {app.title[0].value}\n\n{app.markdown[0].value}\n")
    assert "\n\n".join(cell.source for cell in code) == shown_code(app, "python")
    NotebookClient(notebook, timeout=120, kernel_name=kernel, resources={"metadata": {"path": str(folder)}}).execute()
    outputs = [output for cell in code for output in cell.outputs]
    assert not [output for output in outputs if output.output_type == "error" or output.get("name") == "stderr"]
    data = [output.data for output in outputs if "data" in output]
    figures = [plain(json.dumps(each[PLOTLY])) for each in data if PLOTLY in each]
    assert figures == [drawn(app, index) for index in range(len(app.get("bidi_component")))]
    texts = [each["text/html"] for each in data if GRID in each.get("text/html", "")]
    assert texts == [body for each in app.get("html") if GRID in (body := each.proto.body)]


def execute_commands(app: AppTest, forked: tuple[str, ...], folder: Path) -> None:
    """Run the commands in an empty shell."""
    script = f'python() {{ {shlex.join(forked)} "$@"; }}\n{shown_code(app, "bash")}'
    done = subprocess.run(["bash", "-ec", script], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def shown_code(app: AppTest, language: str) -> str:
    [shown] = [each.value for each in app.code if each.language == language]
    return shown


def states(root: Path) -> dict[str, float]:
    return {run.id: run.status().updated for run in list_runs(root)}
