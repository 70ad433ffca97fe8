"""Every page on a family that names no corpus and no tasks: it says what that means, and leads to where to name one."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from nmerge_core.family import Member
from nmerge_core.merging.recipe.registry import methods
from pages.shared.frame.page import NAVIGATION
from tests.app.conftest import OpenPage, vary_family
from tests.app.scored import done, models

NO_CORPUS, NO_TASKS = "This family names no corpus.", "This family names no tasks."
PAGES = {path: () for links in NAVIGATION.values() for path, _, _ in links} | {
    "pages/2_Neurons.py": (NO_CORPUS,),
    "pages/3_Explorer.py": (NO_CORPUS,),
    "pages/5_Knockout.py": (NO_CORPUS,),
    "pages/6_Linearity.py": (NO_CORPUS,),
    "pages/8_Evaluate.py": (NO_TASKS,),
}


@pytest.fixture
def bare(tiny_cache: Path) -> Iterator[str]:
    known = models(tiny_cache)  # in roles of which other tests leave no merge
    file = vary_family(
        tiny_cache, "bare", base=known["code"], models=(Member(known["base"], "old", "math"),), corpus=None
    )
    yield file.stem
    file.unlink()


def told(app: AppTest) -> tuple[str, ...]:
    """What the page says the family lacks; with each there is a link to the Models page."""
    texts = (text.value.split(": ", 1)[-1] for text in app.markdown)
    lacks = [text for text in texts if text.startswith("This family names no")]
    links = [link.proto for link in app.main if link.type == "page_link"]
    assert [link.label for link in links].count("Change the family") >= len(lacks)
    return tuple(f"{text.split('.')[0]}." for text in lacks)


@pytest.mark.parametrize("page", PAGES)
def test_what_a_page_lacks_is_said(page: str, bare: str, open_page: OpenPage) -> None:
    app = open_page(page, family=bare)
    assert told(app) == PAGES[page]
    assert not app.error


def test_a_base_that_is_no_model_is_told(tiny_cache: Path, open_page: OpenPage) -> None:
    file = vary_family(tiny_cache, "odd", base=str(tiny_cache / "models"))
    app = open_page("pages/5_Knockout.py", family=file.stem)
    assert "found models in folders of it" in app.error[0].value and not app.button
    file.unlink()


def test_what_needs_neither_goes_on(bare: str, tiny_cache: Path, open_page: OpenPage) -> None:
    known = models(tiny_cache)
    done(tiny_cache, "cosine", {"base": known["code"], "models": [known["base"]]})
    moved = open_page("pages/4_Similarity.py", family=bare).dataframe[0].value
    assert len(moved) and "category" not in moved
    assert open_page("pages/7_Merge.py", family=bare, merge_method="TIES-Merging").button(key="merge_run")


@pytest.mark.parametrize("name", ["ties", *(name for name, method in methods().items() if method.inputs)])
def test_a_merge_method_says_which_data_it_lacks(name: str, bare: str, open_page: OpenPage) -> None:
    app = open_page("pages/7_Merge.py", family=bare, merge_method=methods()[name].title)
    takes = {parameter.name for parameter in methods()[name].parameters}
    lacks = [text for text, names in ((NO_CORPUS, {"corpus", "calibration"}), (NO_TASKS, {"tasks"})) if takes & names]
    assert told(app) == tuple(lacks)


def test_data_typed_for_a_merge_is_not_asked_for(bare: str, tiny_cache: Path, open_page: OpenPage) -> None:
    app = open_page("pages/7_Merge.py", family=bare, merge_method=methods()["sublin"].title)
    box = next(box for box in app.text_input if (box.key or "").startswith("merge_sublin_calibration"))
    box.set_value(str(tiny_cache / "corpus")).run()
    assert told(app) == () and not app.error


def test_tasks_are_asked_for_where_a_model_is_scored(tiny_cache: Path, open_page: OpenPage) -> None:
    sources = [{"model": models(tiny_cache)[name]} for name in ("math", "code")]
    run = done(tiny_cache, "merge", {"recipe": {"merge_method": "linear", "models": sources}}, "A mean")
    assert told(open_page("pages/7_Merge.py", run=run.id)) == (NO_TASKS,)


def test_a_task_typed_on_evaluate_is_enough(bare: str, open_page: OpenPage) -> None:
    app = open_page("pages/8_Evaluate.py", family=bare)
    app.multiselect(key="evaluate_tasks").set_value(["math"]).run()
    assert told(app) == () and app.button(key="evaluate_run").label == "Score 2 models"
