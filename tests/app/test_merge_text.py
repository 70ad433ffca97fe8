"""The Merge page's recipe as text: checked at once, to the controls and back, in the link."""

import errno
import hashlib
import os
import time
import zlib
from base64 import urlsafe_b64encode
from pathlib import Path
from typing import Any

import pytest
import yaml

from nmerge_core.merging.recipe.reading import load_recipe
from pages.shared.frame.drafts import LONGEST, packed, unpacked
from pages.shared.frame.text import verbatim
from tests.app.conftest import OpenPage
from tests.app.recipes import PAGE, recipe_shown, written_as_yaml
from tests.app.scored import models
from tests.files.test_yaml_file import BOMB


def test_a_recipe_as_text_is_checked(tiny_cache: Path, open_page: OpenPage) -> None:
    app = open_page(PAGE, merge_method="TIES-Merging")
    written_as_yaml(app)
    area = app.text_area(key="merge_yaml")
    assert yaml.safe_load(area.value)["merge_method"] == "ties"  # it starts at what the controls made
    area.set_value(area.value.replace("lambda", "lamda")).run()
    assert any("unknown key 'lamda'" in error.value and "'lambda'" in error.value for error in app.error)
    assert "merge_run" not in [button.key for button in app.button]


def test_a_recipe_of_a_model_that_is_not_here_fetches_nothing(
    tiny_cache: Path, open_page: OpenPage, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[object] = []
    monkeypatch.setattr("socket.getaddrinfo", lambda *name, **_: asked.append(name))
    app = open_page(PAGE, merge_method="TIES-Merging")
    written_as_yaml(app)
    area = app.text_area(key="merge_yaml")
    area.set_value(area.value.replace(models(tiny_cache)["math"], "nobody/has-this")).run()
    assert not app.error and any(
        f"Not on this machine yet: {verbatim('nobody/has-this')}." in text.value for text in app.markdown
    )
    assert not asked
    assert "merge_run" not in [button.key for button in app.button]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (BOMB, "expected at most 100,000 values, found more"),
        ("# comment\n" * 2_000_000, "expected YAML of at most 1,000,000 bytes, found 20,000,000"),
        ("merge_method: ties\nseed: " + "9" * 5_000, "found a whole number beyond 64 bits"),
        ("merge_method: ties\nbase_model: ~nobody/x\nmodels: [{model: 2024-13-45}]", "no such folder"),
        ("merge_method: ties\nbase_model: " + "x/" * 3_000 + "\nmodels: [{model: [1]}]", "found [1]"),
        ("merge_method: ties\nbase_model: b\nmodels: [{model: m}]\ntokenizer: {1: a, b: c}", "unknown key 1"),
    ],
)
def test_what_is_no_recipe_is_said_on_the_page_at_once(
    tiny_cache: Path, open_page: OpenPage, text: str, expected: str
) -> None:
    app = open_page(PAGE, merge_method="TIES-Merging")
    written_as_yaml(app)
    started = time.process_time()
    app.text_area(key="merge_yaml").set_value(text).run()
    assert time.process_time() - started < 5
    assert not app.exception and verbatim(expected) in app.error[0].value and len(app.error[0].value) < 700


def test_a_recipe_goes_from_controls_to_text_and_back_and_nothing_is_lost(
    tiny_cache: Path, open_page: OpenPage
) -> None:
    app = open_page(PAGE, merge_method="TIES-Merging")
    app.slider(key="merge_ties_lambda").set_value(0.5).run()
    written_as_yaml(app)
    area = app.text_area(key="merge_yaml")
    assert yaml.safe_load(area.value)["parameters"]["lambda"] == 0.5
    edited = yaml.safe_load(area.value)
    edited["models"][1]["parameters"] = {"density": 0.75}
    edited |= {"seed": 7, "dtype": "float16", "merge_method": "dare_ties"}
    del edited["parameters"]["trim"]
    wanted = load_recipe(edited)
    area.set_value(yaml.safe_dump(edited)).run()
    way: Any = app.get("button_group")[0]
    way.set_value("Controls").run()
    assert not app.exception and app.selectbox(key="merge_method").value == "dare_ties"
    assert load_recipe(recipe_shown(app)).content == wanted.content
    for kept in (True, False):
        written_as_yaml(app)
        edited = yaml.safe_load(app.text_area(key="merge_yaml").value)
        if kept:
            edited["parameters"]["lambda"] = [0.1, 0.5]  # a curve over the layers
        else:
            edited["run_dtype"] = "float32"  # what has no control
        app.text_area(key="merge_yaml").set_value(yaml.safe_dump(edited)).run()
        back: Any = app.get("button_group")[0]
        back.set_value("Controls").run()
        assert load_recipe(recipe_shown(app)).content == load_recipe(edited).content
        assert kept != any("no place for 'run_dtype: float32'" in info.value for info in app.info)


@pytest.mark.parametrize("comment", ["", "".join(f"# {n**19}\n" for n in range(200))], ids=["short", "long"])
def test_a_recipe_that_has_no_controls_is_in_the_link(comment: str, tiny_cache: Path, open_page: OpenPage) -> None:
    """Compressed in the address itself, or as a draft in the cache where it is too long for that."""
    app = open_page(PAGE, merge_method="TIES-Merging")
    written_as_yaml(app)
    text = comment + app.text_area(key="merge_yaml").value.replace("lambda: 1.0", "lambda: [0.1, 0.5]")
    assert "[0.1, 0.5]" in text
    app.text_area(key="merge_yaml").set_value(text).run()
    assert not app.error
    # What a control binds, the browser writes into the address.
    address = {name: str(value) for name, value in app.query_params.items()} | {"merge_source": "YAML"}
    assert len(address["merge_recipe"]) <= LONGEST
    assert bool(comment) == address["merge_recipe"].startswith("draft-")
    again = open_page(PAGE, **address)
    assert again.text_area(key="merge_yaml").value == text and not again.warning
    assert recipe_shown(again)["parameters"]["lambda"] == [0.1, 0.5]
    cut = open_page(PAGE, **address | {"merge_recipe": address["merge_recipe"][:-3]})
    assert [warning.value for warning in cut.warning] == [
        "The recipe in the address is cut off, or its draft is gone: it cannot be shown."
    ]


def test_a_small_address_stands_for_no_more_than_a_recipe_may_have() -> None:
    bomb = urlsafe_b64encode(zlib.compress(b"0" * 10**8)).decode()
    assert unpacked(bomb) is None
    assert unpacked(packed("a: 1 # ü\n") or "") == "a: 1 # ü\n"
    assert unpacked("draft-../../etc") is None and unpacked("") is None


def test_a_draft_that_cannot_be_written_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NMERGE_CACHE", str(tmp_path))

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    noise = "".join(hashlib.sha256(str(number).encode()).hexdigest() for number in range(100))  # hardly compressible
    assert packed(noise) is None and not [*(tmp_path / "drafts").iterdir()]
