import pickle
from pathlib import Path

import pytest

from nmerge_core.errors import InputError
from nmerge_core.files.folders import new_folder, resumed_folder
from nmerge_core.files.in_use import InUse, is_used, remove_unused


def test_what_is_used_stays_until_nobody_uses_it(tmp_path: Path) -> None:
    folder = tmp_path / "kept"
    (folder / "0").mkdir(parents=True)
    for path in (folder, folder / "0"):  # what is inside is used with it
        used = InUse(path)
        as_well = pickle.loads(pickle.dumps(used))  # what another process gets
        del used
        with pytest.raises(InputError, match="kept: a merge that is going goes by it"):
            remove_unused(folder)
        assert folder.exists()
        del as_well
        assert not is_used(folder)
    (tmp_path / ".deleted-1").mkdir()  # by a process that was killed
    remove_unused(folder)
    assert not list(tmp_path.iterdir())
    remove_unused(folder)  # as another tab has done
    assert not is_used(folder) and InUse(folder)


def test_what_is_being_made_is_used(tmp_path: Path) -> None:
    for make in (new_folder, resumed_folder):
        with make(tmp_path / make.__name__) as part:
            assert is_used(part)
        assert not is_used(tmp_path / make.__name__)
