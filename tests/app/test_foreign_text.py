"""Text that is not ours, on every page: it is shown letter by letter, and is never markup."""

import html
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import plotly.graph_objects as go
import pytest
from streamlit.testing.v1 import AppTest

from nmerge_core.errors import InputError
from nmerge_core.family import Family, Member, save_family
from nmerge_core.figures import effects, knockout, linearity, merge, neurons, report, scores, similarity, style, sweep
from nmerge_core.runs import client
from nmerge_core.runs.folder import Status, create, delete, list_runs
from pages.shared.frame.page import NAVIGATION
from pages.shared.frame.text import verbatim
from tests.app.conftest import OpenPage
from tests.app.scored import done, make_family, models
from tests.tiny import TEXTS, write_corpus

MARK = "evil.example"
HOSTILE = (
    f"![x](http://{MARK}/x.png) <img src='//{MARK}'> [l](http://{MARK}) www.{MARK} me@{MARK} $x$ :red[x] "
    f":material/home: :tada: `c` *e* _u_ ~~s~~ -> &lt; | {MARK}"
)
NAME = f":red[x] <b>$y$ `c` *e* :tada: {MARK}"  # that of a file: no slash
# Where Streamlit takes plain text, or shows code as it is.
ENDS = ("mean", "low", "high")
PLAIN = {"options", "raw_value", "raw_values", "default", "value", "code_text", "query_string", "placeholder", "id"}


def texts(message: Any, place: str) -> Iterator[tuple[str, str]]:
    """Every text inside a message of the page's, with the names of the fields that lead to it."""
    for field, value in message.ListFields():
        path = f"{place}.{field.name}"
        for each in value if field.is_repeated else [value]:
            if hasattr(each, "ListFields"):
                yield from texts(each, path)
            elif isinstance(each, str):
                yield path, each


def drawn(app: AppTest) -> Iterator[tuple[str, str]]:
    """Every text that a page sends to the browser."""

    def walk(node: Any) -> Iterator[tuple[str, str]]:
        if hasattr(getattr(node, "proto", None), "ListFields"):
            yield from texts(node.proto, node.type)
        for child in getattr(node, "children", {}).values():
            yield from walk(child)

    yield from walk(app._tree)


def without_shown(text: str) -> str:
    """A Markdown text without the hostile ones that it shows as they are."""
    for each in (HOSTILE, NAME):
        text = text.replace(verbatim(each), "")
    return text


@pytest.mark.parametrize(
    ("text", "markdown"),
    [
        ("![x](http://a/x.png)", "!\\[x\\](http:\u2060//a/x.png)"),
        ("<img src=x> &lt;", "\\<img src=x\\> \\&lt;"),
        ("$x$ `c` *e* _u_ ~~s~~ a|b", "\\$x\\$ \\`c\\` \\*e\\* \\_u\\_ \\~\\~s\\~\\~ a\\|b"),
        (":red[x] :material/home: :tada:", ":\u2060red\\[x\\] :\u2060material/home: :\u2060tada:"),
        ("www.a.b me@a.b a -> b -- c >= d", "www\u2060.a.b me@\u2060a.b a -\\>\u2060 b --\u2060 c \\>=\u2060 d"),
        ("# x\n\n- y", "\\# x - y"),
        ("- x", "\\- x"),
        ("12. x", "12\\. x"),
        ("my_file.yaml, line 3: expected 1.5, found 'a-b' (c)", "my_file.yaml, line 3: expected 1.5, found 'a-b' (c)"),
    ],
)
def test_verbatim(text: str, markdown: str) -> None:
    assert verbatim(text) == markdown


@pytest.fixture(scope="module")
def hostile(tiny_cache: Path) -> Iterator[str]:
    """A family with runs of all kinds in which every name and text is hostile."""
    known = models(tiny_cache)
    corpus = write_corpus(
        tiny_cache / "hostile",
        {"general": TEXTS["general"], NAME: [f"{HOSTILE} {n}" for n in range(4)], "code": TEXTS["code"]},
    )
    plain = Path(make_family(tiny_cache)).read_text()
    task = tiny_cache / f"{NAME}.yaml"
    task.write_text(plain.replace("task: plain", f"task: {json.dumps(NAME)}"))
    tuned = (Member(known["math"], HOSTILE, NAME), Member(known["code"], NAME, "code"))
    file = save_family(Family("hostile", known["base"], tuned, corpus, (str(task),)), tiny_cache / "families")
    references = list(known.values())
    for model in references:
        done(tiny_cache, "classify", {"model": model, "corpus": corpus}, HOSTILE)
    done(tiny_cache, "cosine", {"base": references[0], "models": references[1:]}, HOSTILE)
    recipe = {"merge_method": "linear", "models": [{"model": model} for model in references[1:]]}
    merged = done(tiny_cache, "merge", {"recipe": recipe}, HOSTILE)
    for model in [*references, str(merged.results / "merged")]:
        asked = {"models": [model], "tasks": [str(task)], "limit": None, "run_code": False}
        done(tiny_cache, "evaluate", asked, HOSTILE)
    for state in ("failed", "cancelled", "queued"):
        left = create(tiny_cache, "cosine", state, HOSTILE, {"base": HOSTILE}, {}, "")
        left.write_status(replace(Status(state), message=HOSTILE, stage=HOSTILE))
    yield "hostile"
    file.unlink()
    for run in list_runs(tiny_cache):
        if run.title == HOSTILE:
            delete(run)


def refuse(question: str, **arguments: Any) -> None:
    """Answer no question, for a reason that is hostile too."""
    raise InputError(HOSTILE)


@pytest.mark.parametrize("page", [path for links in NAVIGATION.values() for path, _, _ in links])
def test_no_page_takes_foreign_text_for_markup(
    page: str, hostile: str, open_page: OpenPage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "ensure_worker", lambda: None)
    monkeypatch.setattr(client, "ask", refuse)
    named = {"run": "cosine-failed"} if page == "pages/9_Runs.py" else {}  # whatever else this cache has
    found = [(place, text) for place, text in drawn(open_page(page, family=hostile, **named)) if MARK in text]
    assert found
    for place, text in found:
        element, _, name = place.rpartition(".")
        if element in ("html", "bidi_component"):
            if element == "bidi_component":  # its description becomes an attribute's value, in which nothing is markup
                text = json.dumps({key: value for key, value in json.loads(text).items() if key != "alt"})
            sent = text.replace("\\", "").replace("u003c", "<").replace("u003e", ">")  # as JSON has it
            assert "<img" not in sent and "<b>$" not in sent, (place, text)
        elif place == "dataframe.columns":
            helps = [column["help"] for column in json.loads(text).values() if "help" in column]
            assert MARK not in without_shown("".join(helps))
        elif name not in PLAIN:
            assert MARK not in without_shown(text), (place, text)


def searched() -> Iterator[go.Figure]:
    """The figures of a sweep over a choice of texts, in cells and in points."""
    key, values = f"parameters.specific.{HOSTILE}", [HOSTILE, f"{HOSTILE} too"]
    for texts in (values, [f"{HOSTILE} {number}" for number in range(20)]):
        trials = pd.DataFrame({"trial": range(len(texts)), key: texts, "parameters.x": 1, "objective": 0.5})
        yield sweep.heat(trials, key, "parameters.x", "objective")
        yield sweep.parallel(trials, [key, "parameters.x"], "objective")
    yield sweep.importance(pd.DataFrame({"key": [key], "importance": [1.0]}))


def test_figures_draw_foreign_text_as_it_is() -> None:
    told = style.plain(HOSTILE)
    assert not {"<", ">", "$"} & set(told) and html.unescape(told) == HOSTILE
    assert style.plain("a & b <br> $c$") == "a &amp; b &lt;br&gt; &#36;c&#36;"
    layer, score = {"layer": [0], "model": [HOSTILE]}, {"metric": [HOSTILE], "value": [0.5], "samples": [4]}
    counts = pd.DataFrame({"layer": [0], "category": [HOSTILE], HOSTILE: [3], "intersection": [3]})
    cosine = pd.DataFrame(
        {**layer, "matrix": "up", "neurons": 1, "zero": 0, **dict.fromkeys(("mean", "p50", "p01", "min"), 1.0)}
    )
    line = pd.DataFrame({**layer, "submodule": "group", "group": HOSTILE, "alpha": 0.5, "value": 0.1})
    knocked = pd.DataFrame(
        {"group": [HOSTILE, "random"], "proportion": 1.0, "neurons": 3, "seed": 0, "value": 0.1, "metric": HOSTILE}
    )
    cell = dict.fromkeys(("intact", "own", "random", "effect", "stderr", "adjusted"), 0.1)
    effect = pd.DataFrame(layer | cell | {"category": HOSTILE, "metric": HOSTILE, "neurons": 3, "draws": 1})
    scored = pd.DataFrame({"model": [HOSTILE], "task": HOSTILE, "low": 0.1, "high": 0.9, **score})
    colours = {HOSTILE: "#123456"}
    for figure in (
        neurons.categories_by_layer(counts, [0], colours),
        neurons.proportions(counts, [HOSTILE], colours),
        neurons.over_depth(counts, HOSTILE, colours),
        similarity.mean_cosine(cosine, colours),
        linearity.nonlinearity(line, colours),
        merge.by_layer(pd.DataFrame({**layer, "part": HOSTILE, "α": 0.1}), "α", colours),
        knockout.curves(knocked, HOSTILE, colours),
        effects.by_layer(effect, HOSTILE),
        scores.bars(scored, colours, [HOSTILE]),
        *searched(),
        report.methods(pd.DataFrame({"method": [HOSTILE], "mean": 1.0, "low": 0.5, "high": 1.5}), HOSTILE, []),
        report.grid(pd.DataFrame({HOSTILE: [1.0]}, index=[HOSTILE]), HOSTILE, HOSTILE, HOSTILE),
        report.knocked_out(
            pd.DataFrame({"category": [HOSTILE], "group": HOSTILE, **dict.fromkeys(("proportion", *ENDS), 1.0)}),
            colours,
            {HOSTILE: HOSTILE},
            HOSTILE,
        ),
        report.shares(pd.DataFrame({"part": [HOSTILE], HOSTILE: [1.0]}), HOSTILE, colours),
    ):
        sent = str(figure.to_dict())
        assert MARK in sent and "<img" not in sent and "$x$" not in sent
