"""The strip of tokens by mouse and by keyboard, in a browser."""

from collections.abc import Callable

from playwright.sync_api import Page, expect

from pages.shared.charts.tokens import CSS, HTML, SCRIPT

TOKENS = [("", "def"), (" ", "f"), ("", "↵\n"), ("", "    "), ("", "<b>$x$")]
DRAW = """async ([script, pieces]) => {
  const module = await import(URL.createObjectURL(new Blob([script], { type: "text/javascript" })));
  window.told = [];
  window.redraw = (chosen) => module.default({
    data: { pieces, chosen, label: "Tokens of the text" },
    parentElement: document.body,
    setStateValue: (name, index) => { window.told.push([name, index]); },
  });
  window.redraw(0);
}"""


def test_a_token_is_chosen_by_a_click_or_by_keys(tab: Callable[[], Page]) -> None:
    page = tab()
    page.set_content(f"<style>{CSS}</style>{HTML}")
    pieces = [{"before": before, "text": text, "style": "", "told": "1 nat"} for before, text in TOKENS]
    page.evaluate(DRAW, [SCRIPT, pieces])
    strip, chosen = page.get_by_role("listbox", name="Tokens of the text"), page.locator("[aria-selected=true]")
    assert strip.evaluate("element => element.textContent") == "def f↵\n    <b>$x$"
    assert strip.get_by_role("option").count() == len(TOKENS)
    strip.get_by_role("option", name="f, 1 nat", exact=True).click()
    expect(chosen).to_have_text("f")
    for key in ("ArrowRight", "ArrowRight", "ArrowRight"):
        page.keyboard.press(key)
    expect(chosen).to_have_text("f")  # keys move the focus alone, as what is chosen is asked of models
    page.keyboard.press("ArrowRight")  # there is no further one
    page.keyboard.press("Enter")
    expect(chosen).to_have_text("<b>$x$")
    page.keyboard.press("Home")
    page.keyboard.press(" ")
    assert page.evaluate("window.told") == [["token", 1], ["token", 4], ["token", 0]]
    page.evaluate("window.redraw(0)")  # drawn again when the answer is there
    assert page.evaluate("document.activeElement.textContent") == "def"
    page.keyboard.press("Tab")  # leaves the strip, whose one token is in the order of tabs
    assert page.evaluate("document.activeElement.getAttribute('role')") != "option"
