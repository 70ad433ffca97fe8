"""A folder of results that goes on with what a stopped process left."""

from pathlib import Path

import pytest

from nmerge_core.errors import Cancelled, InputError
from nmerge_core.files.folders import resumed_folder


def test_what_was_stopped_goes_on_and_what_was_wrong_vanishes(tmp_path: Path) -> None:
    out = tmp_path / "new" / "out"
    with pytest.raises(Cancelled), resumed_folder(out) as folder:
        (folder / "half").touch()
        raise Cancelled
    with resumed_folder(out) as folder:
        assert (folder / "half").exists() and not out.exists()
        (folder / "rest").touch()
    assert {file.name for file in out.iterdir()} == {"half", "rest"}
    with pytest.raises(InputError), resumed_folder(tmp_path / "other") as folder:
        (folder / "half").touch()
        raise InputError("wrong")
    assert [*tmp_path.iterdir()] == [tmp_path / "new"] and [*out.parent.iterdir()] == [out]


def test_another_process_begins_its_own_and_the_first_to_end_is_kept(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(OSError, match="not empty"), resumed_folder(out) as first:
        (first / "mine").touch()
        with resumed_folder(out) as second:
            assert not [*second.iterdir()]
            (second / "theirs").touch()
        assert [file.name for file in out.iterdir()] == ["theirs"]
    assert [*tmp_path.iterdir()] == [out]
