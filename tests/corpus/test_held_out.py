"""Which texts of a corpus are held out."""

import hashlib

import pytest

from nmerge_core.corpus.held_out import held_out
from nmerge_core.errors import InputError
from tests.tiny import write_corpus

LINES = {name: [f"{name} {number}" for number in range(10)] for name in ("general", "math")}


def texts(reference: str, category: str) -> list[str]:
    return [each.text for each in held_out(reference).corpus.exemplars if each.category == category]


def test_a_slice_holds_out_what_it_leaves_out(tmp_path):
    corpus = write_corpus(tmp_path, LINES)
    found = held_out(f"{corpus}[:-3]")
    assert found.corpus.categories == ("general", "math")
    assert set(texts(f"{corpus}[:-3]", "math")) == {"math 7", "math 8", "math 9"}
    assert f"the last 3 texts of each category, which {corpus}[:-3] leaves out" == found.said
    assert texts(f"{corpus}[-3:]", "math") == texts(f"{corpus}[:-3]", "math")


def test_texts_that_also_stand_in_what_is_kept_are_not_held_out(tmp_path):
    lines = {"general": [*LINES["general"], "math 7"], "math": ["math 9", *LINES["math"]]}
    corpus = f"{write_corpus(tmp_path, lines)}[:-3]"  # general 8, 9 and math 7; math 7, 8 and 9, which is its first too
    assert texts(corpus, "math") == sorted(
        ["math 7", "math 8"], key=lambda text: hashlib.sha256(text.encode()).digest()
    )
    assert set(texts(corpus, "general")) == {"general 8", "general 9", "math 7"}
    assert held_out(corpus).said.endswith("[:-3] leaves out, but those that stand in it too (1)")
    write_corpus(tmp_path / "same", LINES | {"math": ["one"] * 5})
    with pytest.raises(InputError, match="expected texts of 'math' among the last 2 that do not stand before them too"):
        held_out(f"{tmp_path / 'same'}[:-2]")


def test_a_whole_corpus_holds_out_a_fifth_that_content_decides(tmp_path):
    by_digest = sorted(LINES["math"], key=lambda text: hashlib.sha256(text.encode()).hexdigest())
    found = held_out(write_corpus(tmp_path / "one", LINES))
    assert "has seen" in found.said
    assert texts(str(tmp_path / "one"), "math") == by_digest[:2]
    turned = {name: [*reversed(lines), lines[0]] for name, lines in LINES.items()}  # moved, and one there twice
    write_corpus(tmp_path / "other", turned)
    assert texts(str(tmp_path / "other"), "math") == by_digest[:2]
    write_corpus(tmp_path / "short", {name: lines[:3] for name, lines in LINES.items()})
    assert len(texts(str(tmp_path / "short"), "general")) == 1


def test_what_is_no_corpus_is_refused(tmp_path):
    with pytest.raises(InputError, match="expected a folder of <category>.jsonl files"):
        held_out(str(tmp_path / "nowhere"))
