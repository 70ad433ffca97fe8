"""A figure as a PDF, printed by the Chrome or Chromium of this machine, where there is one."""

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import plotly.graph_objects as go

FIT = Path(__file__).with_name("fit.js").read_text(encoding="utf-8")
NAMES = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
SECONDS = 60  # after which printing is given up
ARGUMENTS = (
    "--headless",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--host-resolver-rules=MAP * ~NOTFOUND",  # it prints what it is given and asks nobody for anything
    "--no-pdf-header-footer",
    "--virtual-time-budget=10000",
)
LAY_OUT = """
const graph = document.querySelector(".plotly-graph-div");
const layout = stacked(graph.layout, graph.layout.width, graph.layout.height);
Plotly.react(graph, graph.data, layout).then(() =>
  Plotly.react(graph, graph.data, withLegend(layout, legendExcess(graph), false)));
"""


def chrome() -> str | None:
    """The path of a Chrome or Chromium; None where none is found."""
    return next(filter(None, map(shutil.which, NAMES)), None)


def pdf(figure: go.Figure, program: str) -> bytes:
    """Print a figure that has a width and a height on a page of its size.

    Args:
        figure: The figure, as on paper.
        program: The Chrome, as `chrome` finds it.

    Raises:
        RuntimeError: It did not print; the message says why.
    """
    page = figure.to_html(include_plotlyjs=True, config={"staticPlot": True}, full_html=False)
    size = f"{figure.layout.width}px {figure.layout.height}px"
    with tempfile.TemporaryDirectory(prefix="nmerge-pdf-") as folder:
        source, out = Path(folder, "figure.html"), Path(folder, "figure.pdf")
        source.write_text(
            f'<!doctype html><meta charset="utf-8"><style>@page {{ size: {size}; margin: 0 }} '
            f"body {{ margin: 0 }}</style>{page}<script>{FIT}{LAY_OUT}</script>",
            encoding="utf-8",
        )
        own = [f"--user-data-dir={folder}/profile", f"--print-to-pdf={out}"]
        root = ["--no-sandbox"] if os.geteuid() == 0 else []  # Chrome refuses to start with its sandbox as root
        try:
            subprocess.run(
                [program, *ARGUMENTS, *root, *own, source.as_uri()], capture_output=True, check=True, timeout=SECONDS
            )
            return out.read_bytes()
        except (OSError, subprocess.SubprocessError) as error:
            raise RuntimeError(f"{program} did not print the figure: {error}") from error
