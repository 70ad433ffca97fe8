"""Showing a figure with its exports."""

from pathlib import Path
from typing import Any

import pandas as pd
import plotly
import plotly.graph_objects as go
import streamlit as st
from streamlit.components.v1 import declare_component

SCRIPT = Path(__file__).with_name("chart.js").read_text()
LIBRARY = declare_component("plotly", path=Path(plotly.__file__).with_name("package_data"))  # serves plotly.min.js


def dark() -> bool:
    """Whether the reader's theme is dark; figures take it as their `dark` argument."""
    return st.context.theme.type == "dark"


def show(figure: go.Figure, key: str, frame: pd.DataFrame | None = None, name: str | None = None) -> None:
    """Draw a figure in full width, with its toolbar (SVG), and under it downloads as HTML and, of `frame`, as CSV.

    `key` must be unique on the page; `name` is the file name without ending (default `key`).
    """
    name = name or key
    config = {
        "displaylogo": False,
        "toImageButtonOptions": {"format": "svg", "filename": name},
        "modeBarButtonsToRemove": ["lasso2d", "select2d", "autoScale2d", "sendChartToCloud"],
    }
    _draw(figure, key, config)
    with st.container(horizontal=True, horizontal_alignment="right", gap="small", key=f"{key}_exports"):
        st.download_button(
            "HTML",
            lambda: figure.to_html(include_plotlyjs=True, config=config),
            f"{name}.html",
            "text/html",
            key=f"{key}_html",
            type="tertiary",
            icon=":material/download:",
            help="The interactive figure in one file that needs no network",
            on_click="ignore",
        )
        if frame is not None:
            csv_button(frame, key, name)


def _draw(figure: go.Figure, key: str, config: dict[str, Any]) -> None:
    """Put a figure on the page in full width.

    `st.plotly_chart` throws a chart away and draws it anew, more than once, whenever its figure changes; `chart.js`
    changes the chart that is there.
    """
    chart = st.components.v2.component("chart", js=SCRIPT, isolate_styles=False)  # told at each call: runtimes forget
    library = f"component/{LIBRARY.name}/plotly.min.js?{plotly.__version__}"
    chart(key=key, data={"figure": figure.to_json(validate=False), "config": config, "plotly": library})


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
