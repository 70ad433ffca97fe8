"""A tiny classified model whose corpus is large enough to hold texts out."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from nmerge_core.classification.classification import classify
from tests.tiny import tiny_model, write_corpus

TEXTS = {
    "general": [
        f"the {one} and the {other}" for one in ("cat", "sea", "old man") for other in ("mat", "sky", "road", "x")
    ],
    "math": [f"{one} + {other} = {one + other}" for one in (2, 31, 405) for other in (1, 9, 12, 777)],
    "code": [f"def {name}(x): return x{end}" for name in ("f", "go", "run") for end in ("", "+1", "[0]", "()")],
}


@pytest.fixture(scope="session")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """A model, its corpus of 36 texts and its classification."""
    folder: Path = tmp_path_factory.mktemp("labelled")
    model = tiny_model(folder / "model")
    corpus = write_corpus(folder / "corpus", TEXTS)
    classify(model, corpus, folder / "neurons")
    return SimpleNamespace(model=model, corpus=corpus, neurons=str(folder / "neurons"), root=folder)
