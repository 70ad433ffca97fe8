"""What the pages say of a classified merge: where neurons ended up in it, and what it kept of each fine-tune."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from nmerge_core.activations.store import open_classification
from nmerge_core.family import Member
from nmerge_core.figures.style import percent
from nmerge_core.files.kept_files import read_parquet
from nmerge_core.inheritance.measure import neuron_changes
from nmerge_core.runs import client
from nmerge_core.runs.folder import delete
from tests.app.conftest import OpenPage, vary_family
from tests.app.scored import click, done, drawn, models

NAME = "A bit of both"


@pytest.fixture
def pair(tiny_cache: Path, asked_here: None) -> Iterator[SimpleNamespace]:
    """A family of two classified fine-tunes and a classified merge of them; questions are answered in this process."""
    known = models(tiny_cache)
    other = str(tiny_cache / "models" / "other")  # no other test takes its classification for one of code
    shutil.copytree(known["code"], other, dirs_exist_ok=True)
    members = (Member(known["math"], "math", "math"), Member(other, "code", "code"))
    entries = [{"model": each.reference, "parameters": {"weight": 0.25}} for each in members]
    recipe = {"merge_method": "task_arithmetic", "base_model": known["base"], "models": entries}
    merged = str(done(tiny_cache, "merge", {"recipe": recipe}, NAME).results / "merged")
    for model in (other, merged):
        done(tiny_cache, "classify", {"model": model, "corpus": str(tiny_cache / "corpus")})
    file = vary_family(tiny_cache, "pair", models=members)
    yield SimpleNamespace(base=known["base"], tuned=[known["math"], other], merged=merged)
    file.unlink()


def test_the_explorer_tells_what_was_kept_of_one_neuron(open_page: OpenPage, pair: SimpleNamespace) -> None:
    app = open_page("pages/3_Explorer.py", layer="1", neuron="7", merges=NAME, family="pair")
    assert not app.warning and not app.info
    expected = neuron_changes(pair.base, pair.tuned, [pair.merged], 1, 7)
    shares = dict(zip(("math", "code"), expected.kept[0], strict=True))
    told = next(text.value for text in app.markdown if text.value.startswith(f"**{NAME}** has, "))
    assert all(f"**{percent(share)}** of what {name} changed" in told for name, share in shares.items())
    kept = next(each.value for each in app.dataframe if "merge_change" in each.value)
    assert list(kept["kept"]) == pytest.approx([100 * share for share in shares.values()])
    between = next(each.value for each in app.dataframe if "opposed" in each.value)
    assert list(between[["cosine", "opposed"]].iloc[0]) == pytest.approx(
        [expected.cosines[0, 1], expected.opposed[0, 1]]
    )
    alone = open_page("pages/3_Explorer.py", layer="1", neuron="7", family="pair")  # of fine-tunes without a merge
    assert any(between.equals(each.value) for each in alone.dataframe)
    app.number_input(key="neuron").set_value(8).run()
    other = next(text.value for text in app.markdown if text.value.startswith(f"**{NAME}** has, "))
    assert not app.exception and other != told


def test_neurons_shows_where_they_ended_up_and_what_was_kept(
    tiny_cache: Path, open_page: OpenPage, pair: SimpleNamespace, no_worker: None
) -> None:
    app = open_page("pages/2_Neurons.py", merges=NAME, family="pair")
    figures = len(app.get("bidi_component"))
    shares = drawn(app, figures - 1)
    assert [trace.type for trace in shares.data] == ["heatmap"] * 2
    assert [sum(row) for trace in shares.data for row in trace.z if None not in row] == pytest.approx([1.0] * 6)
    app.button(key="neurons_inherited").click().run()
    asked = {"merge": pair.merged, "base": pair.base, "models": pair.tuned}
    run = client.lookup("inherited", asked)
    assert run is not None and run.title == f"What {NAME} kept" and run.status().state == "queued"
    client.cancel(run)
    delete(run)

    measured = read_parquet(done(tiny_cache, "inherited", asked).results / "inherited.parquet")
    app = open_page("pages/2_Neurons.py", merges=NAME, family="pair")
    assert len(app.get("bidi_component")) == figures + 2
    bars = drawn(app, figures)
    classified = done(tiny_cache, "classify", {"model": pair.base, "corpus": str(tiny_cache / "corpus")})
    base = open_classification(classified.results).neurons()
    frame = measured.merge(base, on=["layer", "neuron"])
    for bar, (_, rows) in zip(bars.data, frame.groupby("model", sort=False), strict=True):
        for category, value in zip(bar.x, bar.y, strict=True):
            own = rows[rows["category"] == category]
            square = own["change"].astype(float) ** 2
            assert value == pytest.approx(100 * (square * own["kept"]).sum() / square.sum())
    merge = open_classification(
        done(tiny_cache, "classify", {"model": pair.merged, "corpus": str(tiny_cache / "corpus")}).results
    )
    tuned = done(tiny_cache, "classify", {"model": pair.tuned[0], "corpus": str(tiny_cache / "corpus")})
    both = open_classification(tuned.results).neurons().merge(merge.neurons(), on=["layer", "neuron"])
    cell = both[(both["category_x"] == "math") & (both["category_y"] == "code")].sort_values(["layer", "neuron"])
    point = next(each for row in shares.data[0].customdata for each in row if each[2:] == ["math", "code"])
    assert click(app, "neurons_became", point) == ("math", *cell.iloc[0][["layer", "neuron"]], "math", [])
    assert app.multiselect(key="merges").value == [NAME]
    assert bars.data[1].customdata[0] == ["code", None, bars.data[1].x[0]]
    app = open_page("pages/2_Neurons.py", merges=NAME, family="pair")
    most = max(value for bar in bars.data for value in bar.y)
    assert any(text.value.startswith(f"**{NAME}** kept most, **{percent(most / 100)}**") for text in app.markdown)
