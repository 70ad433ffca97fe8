import re
from pathlib import Path

from streamlit.testing.v1 import AppTest

from pages.shared.frame.page import NAVIGATION
from tests.app.conftest import OpenPage, at


def text_of(app: AppTest) -> str:
    return "\n".join(element.value for element in app.markdown)


def test_home_names_the_family_and_the_last_runs(open_page: OpenPage) -> None:
    app = open_page("app.py")
    said = text_of(app)
    assert "**tiny**, a base and its fine-tunes math, code" in said
    badges = [line for line in said.splitlines() if re.match(r":\w+-badge\[", line)]
    links = [link.proto for link in app.main if link.type == "page_link"]
    runs = [link for link in links if "run=" in link.query_string]
    assert 1 <= len(badges) == len(runs) <= 5
    for link in runs:  # of whatever was done last in this cache
        assert "run=classify-" in link.query_string if link.label.startswith("Classify") else link.page
    [figure] = app.get("bidi_component")  # what is known of the family already
    assert "neurons_" in figure.proto.json or "share of neurons" in figure.proto.json


def test_a_fresh_cache_leads_to_the_demo(empty_cache: Path) -> None:
    app = at("app.py").run()
    assert not app.exception
    assert "The family **demo** is not unpacked yet." in text_of(app)
    assert [heading.value for heading in app.subheader][-1] == "What there is to see"  # and no runs
    assert any(each.value.startswith("Neurons of the demo family") for each in app.caption)


def test_every_page_of_the_menu_exists_and_every_page_is_in_the_menu() -> None:
    listed = {path for links in NAVIGATION.values() for path, _, _ in links}
    assert listed == {"app.py", *map(str, Path("pages").glob("*.py"))}


def test_an_address_of_no_family_is_told_and_no_other_is_shown(open_page: OpenPage) -> None:
    app = open_page("pages/2_Neurons.py", family="nosuch")
    [error] = app.error
    assert error.value.startswith("There is no family “nosuch” here. Choose one on the left: demo, ")
    assert not app.get("bidi_component") and not app.button
    app.selectbox(key="family").set_value("tiny").run()
    assert not app.error and app.get("bidi_component")
