import pytest

from nmerge_core.cli import main
from tests.tiny_family import make_family


@pytest.fixture(scope="session")
def family(tmp_path_factory):
    return make_family(tmp_path_factory.mktemp("family"))


@pytest.fixture(scope="session")
def classified(family):
    for name in ("base", "math"):
        out = str(family.root / f"{name}-neurons")
        assert main(["classify", getattr(family, name), "--corpus", family.corpus, "--out", out, "--top-k", "5"]) == 0
    return family.root / "base-neurons", family.root / "math-neurons"
