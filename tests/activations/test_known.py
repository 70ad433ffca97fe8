"""A corpus that has grown: only its new texts are run, and all is as if every text had been."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from nmerge_core.activations import collect as collecting
from nmerge_core.activations.known import known_of
from nmerge_core.activations.store import open_classification
from nmerge_core.classification.classification import classify
from nmerge_core.corpus.corpus import load_corpus
from nmerge_core.progress import TerminalProgress
from nmerge_core.runs import here
from tests.tiny import LAYERS, TEXTS, tiny_model, write_corpus

FEWER = {category: TEXTS[category] for category in ("general", "math")}  # code comes between them


def test_a_category_added_later_costs_its_own_texts_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NMERGE_CACHE", str(tmp_path / "cache"))
    model, corpus, run, texts = tiny_model(tmp_path / "model"), tmp_path / "corpus", collecting.run_body, list[int]()

    def counted(language_model: Any, tokens: torch.Tensor, mask: torch.Tensor) -> None:
        texts.append(len(tokens))
        run(language_model, tokens, mask)

    monkeypatch.setattr(collecting, "run_body", counted)
    asked: dict[str, Any] = {"model": model, "corpus": write_corpus(corpus, FEWER), "top_k": 5}
    here.do("classify", asked)
    assert sum(texts) == 8
    write_corpus(corpus, TEXTS)
    grown = open_classification(here.do("classify", asked).results)
    assert sum(texts) == 8 + 4 and grown.meta["taken_over"] == 8
    classify(**asked, out=tmp_path / "whole")
    assert sum(texts) == 12 + 12
    whole = open_classification(tmp_path / "whole")
    neurons, expected = (found.neurons().drop(columns="values") for found in (grown, whole))
    pd.testing.assert_frame_equal(neurons, expected)
    for layer in range(LAYERS):
        assert np.array_equal(grown.positions(layer), whole.positions(layer))
        every = np.arange(grown.widths[layer])
        np.testing.assert_allclose(grown.scores(layer, every), whole.scores(layer, every), rtol=1e-5)
    copied = {**asked, "corpus": write_corpus(tmp_path / "copied", TEXTS)}
    assert open_classification(here.do("classify", copied, TerminalProgress()).results).meta["taken_over"] == 12
    assert sum(texts) == 24
    here.do("classify", {**asked, "statistics": True})  # they are of all texts
    assert sum(texts) == 24 + 12


@pytest.mark.parametrize(
    "changed",
    [
        {"math": TEXTS["math"][:3]},  # a text is gone
        {"math": TEXTS["math"][::-1]},  # equal scores would be in another order
        {"math": TEXTS["code"], "code": TEXTS["math"]},  # in another category
    ],
)
def test_texts_that_are_others_are_not_known(tmp_path: Path, changed: dict[str, list[str]]) -> None:
    corpus = write_corpus(tmp_path / "corpus", FEWER)
    classify(tiny_model(tmp_path / "model"), corpus, tmp_path / "before", top_k=5)
    same = known_of([tmp_path / "before", tmp_path / "nowhere"], load_corpus(corpus))
    assert same is not None and same.ids == {id: id for id in range(8)}
    texts = {**FEWER, **changed}
    least = min(map(len, texts.values()))
    write_corpus(tmp_path / "corpus", {category: own[:least] for category, own in texts.items()})
    assert known_of([tmp_path / "before"], load_corpus(corpus)) is None
