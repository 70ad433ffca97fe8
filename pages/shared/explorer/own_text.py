"""A text of the reader's own: per token the strongest neurons of every model, and where the models part."""

import hashlib
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlencode

import streamlit as st

from nmerge_core.family import Family
from nmerge_core.figures import text_neurons as figures
from nmerge_core.notebook import Step, literal
from nmerge_core.runs import client
from nmerge_core.runs.folder import Run
from pages.shared.charts.charts import dark, show
from pages.shared.charts.tokens import choose_token, token_strip
from pages.shared.explorer.texts import OWN_TEXT
from pages.shared.frame.address import asked_number
from pages.shared.frame.beside import telling
from pages.shared.frame.choice import as_option
from pages.shared.frame.page import command, how_computed
from pages.shared.frame.settings import KEPT, put
from pages.shared.frame.terms import DIVERGENCE
from pages.shared.frame.text import verbatim
from pages.shared.neurons.chosen import all_categories, colours_in_order, opened

SECONDS = 180.0  # for the worker to load a model and answer
TOKEN = "explorer_token"  # the chosen token in the address
STRONGEST = 8  # neurons of each token and model
EXAMPLE = "Question: Mia has 3 bags with 12 marbles each. How many marbles does she have?\nAnswer:"
FORMULA = r"""
At each token every neuron $j$ of every layer has $|\varphi_j|$ divided by its largest score over the corpus,
$\max_s a_j(s)$: 100 % is as strong as on the text that excites it most, and more can be. The highest are shown; a token
is shaded in the colour of the category of the very highest. What is added to the text is the chosen model's own,
greedily, and all models read the same tokens. After each token
$\mathrm{KL}(p_\text{model} \,\Vert\, p_\text{base}) = \sum_v p_\text{model}(v) \ln \frac{p_\text{model}(v)}
{p_\text{base}(v)}$ in nats.
"""


@st.cache_data(max_entries=128, show_spinner=False)
def _asked(question: str, content: tuple[str, ...], **arguments: Any) -> Any:
    """What the worker answers about models whose fingerprints are `content`."""
    return client.ask(question, timeout=SECONDS, **arguments)


@st.fragment
def draw_own_text(family: Family, done: Mapping[str, Run], model: str) -> None:
    """The text, what the chosen model adds to it, and the neurons at a chosen token."""
    left, right = st.columns([3, 1], gap="large")
    own = left.text_area("Your own text", EXAMPLE, key="explorer_text_read", max_chars=OWN_TEXT, height=110, **KEPT)
    more = right.slider(
        "Tokens that the model adds", 0, 64, 16, key="explorer_more", help="The likeliest one, again and again", **KEPT
    )
    if not own.strip():
        st.caption("Type or paste a text.")
        return
    references = {label: run.parameters["model"] for label, run in done.items()}
    content = {label: run.inputs[references[label]] for label, run in done.items()}
    read: dict[str, Any] = {}
    strongest: dict[str, list[list[figures.Named]]] = {}
    parted: dict[str, list[float]] = {}
    said = set[str]()
    with telling(said), st.spinner("Reading the text with each model", show_time=True):
        read = _asked("continued", (content[model],), model=references[model], text=own, more=more)
        for label, run in done.items():
            with telling(said):
                asked = {"model": references[label], "ids": read["ids"], "names": read["names"]}
                found = _asked(
                    "strongest_neurons", (content[label],), neurons=str(run.results), count=STRONGEST, **asked
                )
                strongest[label] = [_named(family, list(done), label, run, token) for token in found]
                if label != "base" and "base" in done:
                    both = (content[label], content["base"])
                    parted[label] = _asked("token_divergence", both, other=references["base"], **asked)
    if model not in strongest:
        return
    colours = colours_in_order(family, opened(done[model]))
    key = f"explorer_tokens_{hashlib.sha256(own.encode()).hexdigest()[:12]}"
    with st.container(key="explorer_apart"):
        if parted:
            st.markdown("**How differently does each model go on from the base after each token?**", help=DIVERGENCE)
            figure = figures.divergences(read["pieces"], parted, "base", dark=dark())
            show(figure, "explorer_parted", picked=lambda token: choose_token(key, int(token)))
    pieces = figures.token_pieces(read["pieces"], strongest[model], colours, read["given"])
    asked_token, last = asked_number(TOKEN), len(pieces) - 1
    first = read["given"] - 1 if asked_token is None else int(min(max(0, asked_token), last))
    chosen = token_strip(key, pieces, first)
    st.session_state[TOKEN] = chosen
    put(TOKEN, str(chosen))
    st.caption(
        "A token has the colour of its strongest neuron's category; underlined is what the model added. Click one, or "
        "go to it by the arrow keys and press Enter."
    )
    st.markdown(f"**At {verbatim(repr(read['pieces'][chosen]))}** the strongest neurons, layer · number:")
    st.html(figures.neurons_beside({label: tokens[chosen] for label, tokens in strongest.items()}, colours))
    asked_models = literal(references)
    how_computed(
        FORMULA,
        command("classify", references[model], "--corpus", family.corpus, "--out", f"neurons/{model}"),
        [
            Step(
                f"models = {asked_models}\n"
                f"found = nm.classify(models, corpus={literal(family.corpus)})\n"
                f"read = found.on_text({literal(own)}, more={more}, model={literal(model)})"
            ),
            *(
                [Step("read.figure().show()", "How far each model goes on differently from the first:")]
                if parted
                else []
            ),
            Step(f"read.neurons.query('position == {chosen}')", "## The strongest neurons at the chosen token"),
            Step("read.tokens"),
        ],
    )


def _named(family: Family, labels: list[str], label: str, run: Run, token: list[dict[str, Any]]) -> list[figures.Named]:
    """The strongest neurons at a token with their category, and the address of each."""
    categories = all_categories(str(run.results))
    address = urlencode({"family": family.name, "model": as_option(label, labels)})
    return [
        figures.Named(
            each["layer"],
            each["neuron"],
            categories[each["layer"]][each["neuron"]],
            each["share"],
            each["activation"],
            f"/Explorer?{address}&layer={each['layer']}&neuron={each['neuron']}",
        )
        for each in token
    ]
