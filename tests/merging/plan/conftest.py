"""A family whose fine-tunes have tokens of their own."""

import pytest

from tests.merging.vocabularies import make_family


@pytest.fixture(scope="module")
def grown(tmp_path_factory: pytest.TempPathFactory):
    return make_family(tmp_path_factory.mktemp("grown"))
