"""What Neurons says of labels by a language model: who is asked, what that takes and sends, and what came of it."""

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from nmerge_core.labelling.tables import describe, open_labels
from nmerge_core.runs import client
from nmerge_core.runs.folder import delete
from tests.app.conftest import OpenPage, vary_family
from tests.app.scored import done, drawn, models
from tests.chat import serve_chat
from tests.labelling.conftest import TEXTS
from tests.labelling.test_work import reads
from tests.tiny import write_corpus

OTHER = {name: [f"another {name} text {number}" for number in range(12)] for name in TEXTS}


@pytest.fixture
def large(tiny_cache: Path) -> Iterator[SimpleNamespace]:
    """A family whose base is classified by a corpus that is large enough to hold texts out."""
    base, corpus = models(tiny_cache)["base"], write_corpus(tiny_cache / "large", TEXTS)
    file = vary_family(tiny_cache, "large", corpus=corpus)
    classified = done(tiny_cache, "classify", {"model": base, "corpus": corpus})
    yield SimpleNamespace(base=base, neurons=str(classified.results))
    file.unlink()


def test_neurons_are_labelled_from_the_page(
    tiny_cache: Path, open_page: OpenPage, large: SimpleNamespace, no_worker: None
) -> None:
    app = open_page("pages/2_Neurons.py", family="large")
    figures = len(app.get("bidi_component"))
    assert any("Name who is asked" in each.value for each in app.caption)
    with serve_chat(reads) as chat:
        by = f"m@{chat.address}"
        asked = {"model": large.base, "neurons": large.neurons, "by": by, "count": 2}
        first = done(tiny_cache, "label", asked)
        app = open_page("pages/2_Neurons.py", family="large")  # shows what is there, whoever was asked
        assert any(each.value == " ".join(describe(open_labels(first.results))) for each in app.markdown)
        file = vary_family(tiny_cache, "other", corpus=(other := write_corpus(tiny_cache / "other", OTHER)))
        done(tiny_cache, "classify", {"model": large.base, "corpus": other})
        elsewhere = open_page("pages/2_Neurons.py", family="other")  # whose texts give other categories
        file.unlink()
        assert any("Name who is asked" in each.value for each in elsewhere.caption)
        chat.requests.clear()
        app.selectbox(key="neurons_label_by").set_value(by).run()
        app.number_input(key="neurons_label_count").set_value(5).run()
        host = chat.address.removeprefix("http://").removesuffix("/v1")
        told = "".join(each.value for each in app.warning).replace("\N{WORD JOINER}", "")
        assert f"texts are sent to {host}" in told.replace("\\", "")
        assert any("bout 10 requests of" in each.value for each in app.caption)
        app.text_input(key="neurons_label_key").set_value("HOME").run()
        app.button(key="neurons_label").click().run()
        assert any("ends in _API_KEY" in each.value.replace("\\", "") for each in app.error)
        app.text_input(key="neurons_label_key").set_value("").run()
        app.button(key="neurons_label").click().run()
        asked["count"] = 5
        run = client.lookup("label", asked)
        assert run is not None and run.status().state == "queued" and not chat.requests
        client.cancel(run)
        delete(run)
        labels = open_labels(done(tiny_cache, "label", asked).results)

    app.run()
    assert any(each.value == " ".join(describe(labels)) for each in app.markdown)
    matrix = drawn(app, figures)  # the last of the page
    assert matrix.data[0].type == "heatmap"
    assert [[int(text) for text in row] for row in matrix.data[0].text] == labels.counts.to_numpy().tolist()
    command, script = (next(each.value for each in app.code if part in each.value) for part in (" label ", "nm.label("))
    assert f"--by {by} --count 5" in command
    found: dict[str, object] = {}
    exec(script.replace(".figure().show()", ".figure()"), found)
    assert list(found["labels"].table["label"]) == list(labels.table["label"])  # type: ignore[attr-defined]
