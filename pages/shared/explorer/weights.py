"""What a neuron's own weights say: the tokens that it promotes, and the neurons that are like it."""

from functools import partial
from typing import Any

import pandas as pd
import streamlit as st

from nmerge_core.runs import client
from nmerge_core.runs.folder import Run
from pages.shared.explorer.found import go_to
from pages.shared.explorer.searching import row_of
from pages.shared.frame.beside import telling
from pages.shared.frame.clickable import draw_clickable
from pages.shared.frame.text import verbatim
from pages.shared.neurons.chosen import all_categories

SECONDS = 180.0  # for the worker to load the model, or to read all its layers
TOKENS, NEAREST = 10, 10
FORMULA = r"""
*Tokens* (logit lens): with $w$ the neuron's column of down, $z = U(N(P(w))) - U(N(0))$, where $P$ is the norm that
some families have behind the MLP, at a residual stream of 0, $N$ the final norm and $U$ the unembedding with whatever
the model does to its logits. So much an activation $\varphi > 0$ alone raises the logit of each token, were it all that
the residual stream holds; $\varphi < 0$ lowers what is promoted. *Nearest neurons*: the cosine of two neurons' weights,
their rows of gate and up and their column of down one after the other.
"""


@st.cache_data(max_entries=256, show_spinner=False)
def _asked(question: str, content: str, **arguments: Any) -> Any:
    """What the worker answers about a model whose fingerprint is `content`."""
    return client.ask(question, timeout=SECONDS, **arguments)


def draw_lens(run: Run, layer: int, neuron: int) -> None:
    """The tokens that a neuron promotes and suppresses."""
    model = run.parameters["model"]
    with telling(set()):
        found = _asked("neuron_lens", run.inputs[model], model=model, layer=layer, neuron=neuron, count=TOKENS)
        for kind, icon in (("promoted", "trending_up"), ("suppressed", "trending_down")):
            words = " ".join(f"{_code(token)}" for token, _ in found[kind])
            st.markdown(f":material/{icon}: **{kind.capitalize()}** {words}")
        strongest = found["promoted"][0][1]
        st.caption(
            "By its weights alone: the tokens whose logit it raises and lowers most where it fires, by up to "
            f"{strongest:.1f} were nothing else there (logit lens)."
        )


def _code(token: str) -> str:
    """A token as Markdown, its spaces and line breaks to be seen."""
    text = token.replace("\n", "↵").replace("\t", "⇥").replace("`", "ˋ")
    return f":gray-background[{verbatim(text.replace(' ', '␣'))}]"


def draw_nearest(run: Run, layer: int, neuron: int) -> None:
    """The neurons whose weights are most like one's; a click on a row goes to it."""
    everywhere = st.toggle(
        "In all layers", key="explorer_everywhere", bind="query-params", help="Reads all weights of the MLPs once"
    )
    model = run.parameters["model"]
    with telling(set()), st.spinner("Comparing the weights", show_time=True):
        asked = {"model": model, "layer": layer, "neuron": neuron, "count": NEAREST, "everywhere": everywhere}
        rows = pd.DataFrame(_asked("nearest_neurons", run.inputs[model], **asked))
        categories = all_categories(str(run.results))
        rows["category"] = [categories[each.layer][each.neuron] for each in rows.itertuples()]
        draw_clickable(
            "explorer_nearest",
            rows,
            partial(_pick, run, rows),
            height=388,
            column_config={
                "neuron": st.column_config.NumberColumn(format="localized"),
                "cosine": st.column_config.NumberColumn(format="%.3f"),
            },
        )


def _pick(run: Run, rows: pd.DataFrame, row: int | None, _: str | None) -> None:
    if row is not None:
        place = rows.iloc[row]
        go_to(run, row_of(run, int(place["layer"]), int(place["neuron"])))
