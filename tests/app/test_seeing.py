"""Every page on a family that sees images and names no tasks: what cannot be made of it is said before it is tried."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from nmerge_core.family import Family, Member, save_family
from pages.shared.frame.page import NAVIGATION
from tests.app.conftest import OpenPage
from tests.app.scored import done
from tests.tiny_images import draw_colours, tiny_clip

PAGES = [path for links in NAVIGATION.values() for path, _, _ in links]


@pytest.fixture(scope="module")
def seeing(tiny_cache: Path) -> Iterator[str]:
    """Two tiny CLIP, compared and classified by images, which tell the neurons of the image encoder's layers alone."""
    root = tiny_cache / "seeing"
    for seed, name in enumerate(("base", "red")):
        tiny_clip(root / name, seed=seed)
    (draw_colours(root / "corpus") / "green").rename(root / "corpus" / "general")
    base, red, corpus = (str(root / name) for name in ("base", "red", "corpus"))
    file = save_family(Family("seeing", base, (Member(red, "red", "red"),), corpus), tiny_cache / "families")
    for model in (base, red):
        done(tiny_cache, "classify", {"model": model, "corpus": corpus})
    done(tiny_cache, "cosine", {"base": base, "models": [red]})
    yield file.stem
    file.unlink()


@pytest.mark.parametrize("page", PAGES)
@pytest.mark.usefixtures("asked_here")
def test_a_page_shows_what_there_is_and_says_what_lacks(page: str, seeing: str, open_page: OpenPage) -> None:
    app = open_page(page, family=seeing)
    assert not app.error
    said, buttons = " ".join(text.value for text in app.markdown), [button.label for button in app.button]
    if page == "pages/4_Similarity.py":
        categories = app.dataframe[0].value.groupby("layer")["category"]
        assert [each.ne("").all() for _, each in categories] == [False, False, True, True]  # of texts, of images
    elif page == "pages/5_Knockout.py":
        assert "This family names no tasks. The loss on texts is for causal language models" in said and not buttons
    elif page == "pages/6_Linearity.py":
        assert "Linearity is measured of causal language models" in said and not buttons
    elif page == "pages/8_Evaluate.py":
        assert app.segmented_control(key="evaluate_on").value == "Tasks" and "This family names no tasks" in said
    elif page == "pages/10_Sweep.py":
        assert "nothing scores a merge" in said and not buttons
