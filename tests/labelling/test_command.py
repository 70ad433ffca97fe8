"""`nmerge label` and `nm.label`: what they print and return, and that an answer is asked for once."""

from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest

import nmerge_core as nm
from nmerge_core.cli import main
from nmerge_core.runs.kept import newest_labels
from tests.chat import serve_chat
from tests.labelling.conftest import TEXTS
from tests.labelling.test_work import reads
from tests.tiny import write_corpus


def test_the_command_and_the_function_give_the_same(
    labelled: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("NMERGE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("OWN_API_KEY", "sk-secret")
    with serve_chat(reads) as chat:
        chat.key = "sk-secret"
        by = f"m@{chat.address}"
        asked = ["label", labelled.model, "--neurons", labelled.neurons, "--by", by, "--count", "3", "--key-from"]
        files = ["--out", str(tmp_path / "labels.csv"), "--matrix", str(tmp_path / "matrix.csv")]
        assert main([*asked, "OWN_API_KEY", *files]) == 0
        printed = capsys.readouterr()
        found = nm.label(labelled.model, labelled.neurons, by, count=3, key_from="OWN_API_KEY", progress=False)
        assert len(chat.requests) == 6  # the function took what the command had found
        assert main([*asked, "OWN_API_KEY"]) == 0 and "requests" not in capsys.readouterr().err
        with pytest.raises(SystemExit, match="2"):
            main([*asked, "HOME"])
    for model in (labelled.model, labelled.corpus + "/../model"):
        assert newest_labels(model, labelled.corpus) == found.path
    other = write_corpus(tmp_path / "other", {name: ["another text"] for name in TEXTS})  # gives other categories
    assert newest_labels(labelled.model, other) is None and newest_labels(labelled.model, None) is None
    host = chat.address.removeprefix("http://").removesuffix("/v1")
    assert f"Excerpts of the corpus's texts are sent to {host}; about 6 requests of" in printed.err
    assert "3 of 3 neurons have the category of their texts (100.0 %" in printed.out and "Cohen's κ" in printed.out
    assert "6 requests, " in printed.out
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "labels.csv"), pd.read_csv(found.path / "labels.csv"))
    assert pd.read_csv(tmp_path / "matrix.csv").set_index("category").to_numpy().sum() == len(found.table) == 3
    assert found.agreement is not None and found.agreement.share == 1.0
    assert list(found.asked["about"]) == ["label", "detection"] * 3
    figure = found.figure()
    assert list(figure.data[0].x) == ["general", "code", "math", "no answer"]
    assert [[int(text) for text in row] for row in figure.data[0].text] == found.counts.to_numpy().tolist()
    kept = [path.read_bytes() for path in (tmp_path / "cache").rglob("*") if path.is_file()]
    assert kept and not any(b"sk-secret" in content for content in kept)
