from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.merging import checkpoints


@pytest.fixture(scope="session")
def family(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """A float32 base and three fine-tunes of it, with their weights at hand."""
    root: Path = tmp_path_factory.mktemp("family")
    base = checkpoints.random_weights(0)
    tunes = {name: checkpoints.fine_tuned(base, seed) for seed, name in enumerate(("math", "code", "translation"), 1)}
    return SimpleNamespace(
        root=root,
        weights=base,
        tunes=tunes,
        base=checkpoints.write(root / "base", base),
        models=[checkpoints.write(root / name, weights) for name, weights in tunes.items()],
        neurons=checkpoints.categories(root / "neurons", ["general", "math", "code", "translation"]),
    )
