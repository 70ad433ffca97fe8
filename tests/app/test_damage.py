"""Pages on a damaged cache: they say which file is damaged, offer to delete it or to make it anew, and go on."""

import random
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from nmerge_core.errors import InputError
from nmerge_core.family import families, load_family
from nmerge_core.files.kept_files import remove
from nmerge_core.runs import client
from nmerge_core.runs.folder import Run, find, list_runs
from tests.app.conftest import OpenPage, at, vary_family
from tests.app.damage import DAMAGES, damaged, files_of
from tests.app.scored import done

PAGES = {"classify": "pages/2_Neurons.py", "cosine": "pages/4_Similarity.py"}


@pytest.fixture
def cosine(tiny_cache: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setenv("NMERGE_CACHE", str(tiny_cache))
    tiny = load_family(tiny_cache / "families" / "tiny.yaml")
    return done(tiny_cache, "cosine", {"base": tiny.base, "models": tiny.references})


@pytest.mark.parametrize("seed", range(3))
def test_a_page_and_the_runs_open_whatever_happened_to_a_file(
    open_page: OpenPage, tiny_cache: Path, cosine: Run, seed: int
) -> None:
    """One file of one run, damaged in one way; the sweep of `tests.app.damage` tries all."""
    draw = random.Random(seed)
    kind = draw.choice(sorted(PAGES))
    files = [file for name, file in files_of(tiny_cache) if name == kind and file.name not in ("lock", "log.txt")]
    file, how = draw.choice(files), draw.choice(sorted(DAMAGES))
    with damaged(file, how):
        app = open_page(PAGES[kind])
        told = [str(each.value) for each in (*app.warning, *app.error)]
        (hurt,) = [run for run in list_runs(tiny_cache) if run.status().state == "damaged"]
        assert file.is_relative_to(hurt.folder)
        assert kind == "classify" or any("damaged" in text and file.name in text for text in told), (file, how, told)
        open_page("pages/9_Runs.py", run=hurt.id)
    assert find(tiny_cache, hurt.id).status().state == "done"


def test_a_damaged_run_is_made_anew_or_deleted_by_a_button(
    open_page: OpenPage, cosine: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "ensure_worker", lambda: None)  # the run stays queued
    kept = shutil.copytree(cosine.folder, cosine.folder.with_name(".kept"))
    (cosine.results / "cosine.csv").write_bytes(b"")
    app = open_page("pages/4_Similarity.py")
    assert "cosine.csv: damaged" in app.warning[0].value
    app.button(f"run_restart_{cosine.id}").click().run()
    assert not app.exception and cosine.status().state == "queued" and not cosine.results.exists()
    (cosine.folder / "run.json").write_bytes(b"")
    app = open_page("pages/9_Runs.py", run=cosine.id)
    assert f"run_restart_{cosine.id}" not in {button.key for button in app.button}  # what was asked for is lost
    app.button(f"run_remove_{cosine.id}").click().run()
    assert not app.exception and not cosine.folder.exists()
    kept.rename(cosine.folder)


@pytest.fixture
def broken(tiny_cache: Path) -> Iterator[Path]:
    file = vary_family(tiny_cache, "broken")
    yield file
    remove(file)


def test_a_damaged_family_is_told_of_and_deleted_by_a_button(open_page: OpenPage, broken: Path) -> None:
    for how in DAMAGES:
        if how != "cut":  # half a family may be one
            with damaged(broken, how), pytest.raises(InputError, match=re.escape(str(broken))):
                load_family(broken)
    DAMAGES["a folder"](broken)
    app = open_page("pages/1_Models.py", family="broken")
    assert str(broken) in app.error[0].value
    app.button("family_delete").click().run()
    assert not app.exception and "broken" not in families(broken.parents[1])


def test_pages_go_on_when_the_cache_is_deleted_under_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "cache"
    monkeypatch.setenv("NMERGE_CACHE", str(root))
    root.mkdir()
    app: AppTest = at("pages/9_Runs.py").run()
    shutil.rmtree(root)
    for page in ("pages/9_Runs.py", "pages/2_Neurons.py"):
        app = app.switch_page(page).run()
        assert not app.exception
