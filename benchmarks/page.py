"""How soon the Merge page shows the next tokens after a slider was moved, in a browser, on the demo family.

    python -m benchmarks.page          # Chromium and the app on this machine, which they share with the worker

Milliseconds from the key that moves the slider to the new text in the page, by the browser's own clock, and what of it
the worker says that merging took; medians. The first move of each method, which reads the family, is left out.
"""

import argparse
import re
import statistics
import tempfile
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

from tests.browser.driver import ARGUMENTS, App, chromium, keyed, serve, settle, visit, write_demo

SLIDERS = (  # of methods, and the keys that move them so far that the next tokens show it
    ("task_arithmetic", "weight", "PageUp"),
    ("ties", "density", "PageUp"),
    ("dare_linear", "weight", "PageUp"),
    ("neuromerging", "lambda_1", "PageUp"),
)
STEPS = 4  # after which a slider is at its end, and the next one is moved
WANTED = 300  # milliseconds
ANSWER = """() => [...document.querySelectorAll('.st-key-merge_answer_0 p')]
    .map(each => each.textContent).find(text => text.startsWith('Next token: '))"""


def watch(shown: str) -> str:
    """Return JavaScript that sets `window.took` to the milliseconds from a key or click to another text of `shown`."""
    return f"""() => {{
    const shown = {shown};
    const start = () => Object.assign(window, {{before: shown(), pressed: performance.now(), took: 0}});
    for (const each of ['keydown', 'pointerdown']) addEventListener(each, start, true);
    new MutationObserver(() => {{
        const now = shown();
        if (window.pressed && !window.took && now && now !== window.before)
            window.took = performance.now() - window.pressed;
    }}).observe(document.body, {{subtree: true, childList: true, characterData: true}});
}}"""


def moves(page: Page, app: App, method: str, parameter: str, key: str, repeats: int) -> list[float]:
    """Move a slider again and again, each time when all has been drawn, and return the milliseconds."""
    visit(page, app, "Merge", merge_method=method, merge_prompt="Question:")
    page.get_by_text("Next token: ").first.wait_for(timeout=120_000)
    sliders = keyed(page, f"merge_{parameter}").get_by_role("slider")
    page.evaluate(watch(ANSWER))
    found = []
    for turn in range(repeats + 1):
        settle(page)
        page.wait_for_timeout(700)  # in which what comes late is drawn
        sliders.nth(min(turn // STEPS, sliders.count() - 1)).press(key)
        page.wait_for_function("() => window.took > 0", timeout=60_000)
        found.append(float(page.evaluate("() => window.took")))
    return found[1:]


def main() -> None:
    """Print a row for each slider."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=6)
    repeats = parser.parse_args().repeats
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        work = Path(folder)
        write_demo(work / "cache")
        with serve(work / "cache", work / "app.log") as app:
            browser = playwright.chromium.launch(executable_path=chromium(), args=[*ARGUMENTS])
            print(f"{'slider':28} {'ms':>6} {'worst':>6} {'wanted':>6}")
            for method, parameter, key in SLIDERS:
                page = browser.new_page(viewport={"width": 1440, "height": 1000})
                found = moves(page, app, method, parameter, key, repeats)
                page.close()
                name = f"{method}, {re.sub('_', ' ', parameter)}"
                print(f"{name:28} {statistics.median(found):6.0f} {max(found):6.0f} {WANTED:6}")
            browser.close()


if __name__ == "__main__":
    main()
