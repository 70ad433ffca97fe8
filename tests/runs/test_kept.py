"""What stands in for what: classifications that a page shows although a command asked for them."""

from nmerge_core.runs.client import find_or_create
from nmerge_core.runs.kept import classifications
from nmerge_core.runs.lock import transitions
from nmerge_core.runs.request import resolve
from tests.tiny import TEXTS, tiny_model, write_corpus


def test_a_command_s_classification_is_a_page_s_whatever_decides_no_category(tmp_path, monkeypatch):
    monkeypatch.setenv("NMERGE_CACHE", str(tmp_path))
    asked = {"model": tiny_model(tmp_path / "model"), "corpus": write_corpus(tmp_path / "corpus", TEXTS)}

    def begun(**otherwise):
        with transitions(tmp_path):
            return find_or_create(tmp_path, resolve(tmp_path, "classify", {**asked, **otherwise})).id

    same = {begun(device="cpu", batch_size=3), begun(statistics=True)}
    others = {begun(top_k=3), begun(margin=2), begun(skip_first=True), begun(max_length=8), begun(run_dtype="bfloat16")}
    assert len(same | others) == 7
    assert {run.id for run in classifications(asked)} == same
    write_corpus(tmp_path / "corpus", {**TEXTS, "math": TEXTS["math"][::-1]})
    assert classifications(asked) == []
