"""Showing a figure, and saving it for a document."""

import html
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import plotly
import plotly.graph_objects as go
import streamlit as st
from streamlit.components.v1 import declare_component

from nmerge_core.figures.describe import describe
from nmerge_core.figures.paper import on_paper
from pages.shared.charts.pdf import FIT, chrome, pdf

SCRIPT = FIT + Path(__file__).with_name("chart.js").read_text(encoding="utf-8")
EXPORT = FIT + Path(__file__).with_name("export.js").read_text(encoding="utf-8")
LIBRARY = declare_component("plotly", path=Path(plotly.__file__).with_name("package_data"))  # serves plotly.min.js
CONFIG = {
    "displaylogo": False,
    "modeBarButtonsToRemove": ["toImage", "lasso2d", "select2d", "autoScale2d", "sendChartToCloud"],
}
PIXELS_PER_CM, PIXELS_PER_POINT = 96 / 2.54, 96 / 72  # of CSS
WIDE = 1100  # pixels of a figure on the page, of which a document's is a picture in proportion
TOOLBAR = """
.js-plotly-plot .modebar-container { top: 100% !important; right: auto !important; width: auto !important; left: 0; }
.js-plotly-plot .plotly .modebar.modebar { position: static; display: flex; padding-top: 1.1rem; }
.js-plotly-plot .plotly .modebar-btn.modebar-btn::after { right: auto; left: 0; }
.js-plotly-plot:fullscreen .modebar-container { top: auto !important; bottom: 0; }
.js-plotly-plot:fullscreen .plotly .modebar.modebar { padding: .5rem; }
"""  # under a figure, left of what saves it, and over nothing; it reaches up to it, for the mouse to get there
IMAGES = """<style>
.images { display: flex; gap: 1rem; }
.images button { font: inherit; color: var(--st-text-color); background: none; cursor: pointer; min-height: 2.5rem;
  border: 1px solid var(--st-border-color); border-radius: var(--st-button-radius, .375rem); padding: .25rem .75rem; }
.images button:hover, .images button:focus-visible { border-color: var(--st-primary-color); }
</style><div class="images"></div>"""


def dark() -> bool:
    """Whether the reader's theme is dark; figures take it as their `dark` argument."""
    return st.context.theme.type == "dark"


def _nowhere(_: Any) -> None:
    """Where a click on a chart leads that has no other place."""


def show(
    figure: go.Figure,
    key: str,
    frame: pd.DataFrame | None = None,
    name: str | None = None,
    picked: Callable[[Any], None] = _nowhere,
) -> None:
    """Draw a figure in full width, and under it the menu that saves it, and `frame` as CSV.

    `key` must be unique on the page; `name` is the file name without ending (default `key`). `picked` is told the
    `customdata` of a point that is clicked.
    """
    _draw(figure, key, picked)
    _exports(figure, key, name or key, frame)


def show_picked(figure: go.Figure, key: str, frame: pd.DataFrame | None = None, name: str | None = None) -> Any:
    """As `show`; return once the `customdata` of the point that was clicked, its texts as they are, else None."""
    clicked = st.session_state.pop(f"{key}_clicked", None)
    show(figure, key, frame, name, lambda data: st.session_state.update({f"{key}_clicked": data}))
    return clicked and [html.unescape(each) if isinstance(each, str) else each for each in clicked]


def _draw(figure: go.Figure, key: str, picked: Callable[[Any], None]) -> None:
    """Put a figure on the page in full width.

    `st.plotly_chart` throws a chart away and draws it anew, more than once, whenever its figure changes; `chart.js`
    changes the chart that is there.
    """
    # Told at each call: runtimes forget.
    chart = st.components.v2.component("chart", css=TOOLBAR, js=SCRIPT, isolate_styles=False)
    library = f"component/{LIBRARY.name}/plotly.min.js?{plotly.__version__}"
    drawn = {"figure": figure.to_json(validate=False), "config": CONFIG, "alt": describe(figure)}
    data = drawn | {"plotly": library, "leads": picked is not _nowhere}
    chart(key=key, data=data, on_picked_change=lambda: picked(st.session_state[key].picked))


@st.fragment  # so that the menu opens without drawing the page again
def _exports(figure: go.Figure, key: str, name: str, frame: pd.DataFrame | None) -> None:
    """The menu that saves a figure, as an image of some size for a document or interactive; and its numbers."""
    with st.container(horizontal=True, horizontal_alignment="right", gap="small", key=f"{key}_exports"):
        menu = st.popover(
            "Save figure", type="tertiary", icon=":material/download:", key=f"{key}_export", on_change="rerun"
        )
        if frame is not None:
            csv_button(frame, key, name)
    if not menu.open:
        return
    with menu:
        drawn = figure.layout.height or 450
        left, middle, right = st.columns(3)
        width = left.number_input("Width, cm", 4.0, 60.0, 16.0, 0.5, "%.1f", key=f"{key}_width")
        tall = min(60.0, max(4.0, round(2 * 16 * drawn / WIDE + 1) / 2))
        height = middle.number_input("Height, cm", 4.0, 60.0, tall, 0.5, "%.1f", key=f"{key}_height")
        font = right.number_input("Font, pt", 4.0, 24.0, 8.0, 0.5, "%.1f", key=f"{key}_font")
        paper = on_paper(
            figure,
            width=round(width * PIXELS_PER_CM),
            height=round(height * PIXELS_PER_CM),
            font=font * PIXELS_PER_POINT,
        )
        with st.container(horizontal=True, vertical_alignment="center"):
            _images(paper, key, name)
            _pdf_button(paper, key, name)
            _html_button(figure, key, name)
        st.caption("On a light ground; PNG with 300 pixels an inch. HTML is interactive and needs no network.")


def _images(paper: go.Figure, key: str, name: str) -> None:
    """The buttons for PNG and SVG, which the browser makes."""
    images = st.components.v2.component("export", html=IMAGES, js=EXPORT, isolate_styles=False)
    images(key=f"{key}_images", data={"figure": paper.to_json(validate=False), "name": name}, width="content")


def _pdf_button(paper: go.Figure, key: str, name: str) -> None:
    program = chrome()
    st.download_button(
        "PDF",
        lambda: pdf(paper, program) if program else b"",
        f"{name}.pdf",
        "application/pdf",
        key=f"{key}_pdf",
        disabled=program is None,
        help=None if program else "Needs a Chrome or Chromium on the machine that NMerge runs on",
        on_click="ignore",
    )


def _html_button(figure: go.Figure, key: str, name: str) -> None:
    config: dict[str, Any] = {**CONFIG, "toImageButtonOptions": {"format": "svg", "filename": name}}
    st.download_button(
        "HTML",
        lambda: (
            on_paper(figure)
            .to_html(include_plotlyjs=True, config=config)
            .replace("</head>", f"<style>{TOOLBAR}</style></head>", 1)
        ),
        f"{name}.html",
        "text/html",
        key=f"{key}_html",
        on_click="ignore",
    )


def csv_button(frame: pd.DataFrame, key: str, name: str | None = None) -> None:
    """A download of a table as CSV."""
    st.download_button(
        "CSV",
        lambda: frame.to_csv(index=False).encode(),
        f"{name or key}.csv",
        "text/csv",
        key=f"{key}_csv",
        type="tertiary",
        icon=":material/download:",
        help="The numbers behind the figure",
        on_click="ignore",
    )
