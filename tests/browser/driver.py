"""The real app in a real browser: starting and stopping it, and what a person does on a page."""

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from playwright.sync_api import Locator, Page, TimeoutError, expect

from nmerge_core.cache import DEMO
from nmerge_core.demo.family import CORPUS_SIZE, write_family
from nmerge_core.runs.lock import worker_pid

ROOT = Path(__file__).parent.parent.parent
PAGES = (
    "",
    "Models",
    "Neurons",
    "Explorer",
    "Similarity",
    "Knockout",
    "Linearity",
    "Merge",
    "Sweep",
    "Evaluate",
    "Report",
    "Runs",
)
ARGUMENTS = (
    "--no-sandbox",  # tests run as root in containers
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
RUN_SECONDS = 300  # runs on the demo family take seconds; a slow, busy machine has this long


def chromium() -> str | None:
    """Path of the system's Chromium, without a screen where there is one; None lets Playwright take its own."""
    names = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")
    return next(filter(None, map(shutil.which, names)), None)


@dataclass(frozen=True)
class App:
    """A running app with a cache of its own."""

    url: str
    cache: Path
    log: Path
    process: subprocess.Popen[bytes]

    @property
    def worker(self) -> int | None:
        """Process id of the worker that does this app's runs."""
        return worker_pid(self.cache)

    @property
    def healthy(self) -> bool:
        """Whether the server lives and answers."""
        if self.process.poll() is not None:
            return False
        with contextlib.suppress(OSError):
            return urllib.request.urlopen(f"{self.url}/_stcore/health", timeout=5).status == 200
        return False

    def runs(self, kind: str = "") -> list[dict[str, Any]]:
        """Description and status of every run on disk, of one kind if named."""
        files = sorted(self.cache.glob(f"runs/{kind}*/run.json"))
        found = [json.loads(path.read_text()) for path in files if path.with_name("status.json").exists()]
        states = [json.loads((self.cache / "runs" / run["id"] / "status.json").read_text()) for run in found]
        return [run | {"state": state["state"]} for run, state in zip(found, states, strict=True)]


@contextlib.contextmanager
def serve(cache: Path, log: Path, script: str = "server.py") -> Iterator[App]:
    """Serve the app, or another script, on a free port; at the end stop it and its worker."""
    environment = os.environ | {"NMERGE_CACHE": str(cache)}
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "streamlit", "run", script, "--server.port", str(port)]
    with log.open("wb") as output:
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=output, stderr=subprocess.STDOUT)
    app = App(f"http://127.0.0.1:{port}", cache, log, process)
    try:
        until = time.monotonic() + 60
        while not app.healthy:
            assert process.poll() is None and time.monotonic() < until, log.read_text()
            time.sleep(0.1)
        yield app
    finally:
        process.kill()
        process.wait()
        if pid := app.worker:
            os.kill(pid, signal.SIGKILL)


def write_demo(cache: Path, exemplars: int = CORPUS_SIZE) -> None:
    """Put the demo family into a cache, with the first so many texts of each category in its corpus."""
    for file in (write_family(cache / DEMO) / "corpus").iterdir():
        file.write_text("".join(file.read_text().splitlines(keepends=True)[:exemplars]))


def settle(page: Page, seconds: float = 120) -> None:
    """Wait until the page's script has finished and every widget and chart is drawn."""
    page.wait_for_timeout(300)  # what was just typed or moved is on its way to the server
    state = page.locator('[data-testid="stApp"][data-test-script-state="notRunning"]')
    expect(state).to_be_attached(timeout=seconds * 1000)
    expect(page.locator('[data-testid="stSkeleton"]')).to_have_count(0, timeout=seconds * 1000)
    expect(page.locator(".stBidiComponent:not(:has(.js-plotly-plot, [role=option], .curve))")).to_have_count(
        0, timeout=seconds * 1000
    )


def visit(page: Page, app: App, name: str, **query: str) -> None:
    """Open a page by its address, as a link or a reload does."""
    page.goto(f"{app.url}/{name}" + ("?" if query else "") + "&".join(f"{k}={v}" for k, v in query.items()))
    expect(page.locator("h1")).to_be_visible(timeout=60_000)
    settle(page)
    sound(page)


def sound(page: Page) -> None:
    """Assert that the page shows no exception and no traceback."""
    exceptions = page.locator('[data-testid="stException"]')
    assert exceptions.count() == 0, exceptions.first.inner_text()
    assert "Traceback (most recent call last)" not in page.locator("body").inner_text()


def keyed(page: Page, key: str) -> Locator:
    """The widget or chart with this Streamlit key."""
    return page.locator(f".st-key-{key}")


def press(page: Page, key: str) -> None:
    """Click the button with this Streamlit key."""
    keyed(page, key).get_by_role("button").first.click()


def choose(page: Page, key: str, option: str) -> None:
    """Pick an option of the select box with this key; a list that a late answer of the server closes opens again.

    Of a long list those are there that are seen: typing finds the others.
    """
    box = keyed(page, key).locator("input, [role=combobox]").first
    wanted = page.get_by_role("option", name=option, exact=True)
    for _ in range(6):
        if not wanted.is_visible():
            box.click()
            box.fill(option)
        with contextlib.suppress(TimeoutError):
            wanted.click(timeout=5_000)
            break
    else:
        raise AssertionError(f"{key}: no option {option!r}")
    settle(page)


def fill(page: Page, key: str, value: float) -> None:
    """Type a number into the number input with this key."""
    field = keyed(page, key).locator("input")
    field.fill(str(value))
    field.press("Enter")
    settle(page)


def finish(page: Page, app: App, kind: str, count: int = 1) -> list[Path]:
    """Wait until `count` runs of a kind are done and the page shows it; return their results, oldest first."""
    until = time.monotonic() + RUN_SECONDS
    while True:
        runs = app.runs(kind)
        states = [run["state"] for run in runs]
        assert "failed" not in states, [run for run in runs if run["state"] == "failed"]
        if states.count("done") == count:
            break
        assert time.monotonic() < until, f"{kind}: {states}"
        page.wait_for_timeout(200)
    expect(page.locator('[class*="st-key-run_cancel_"]')).to_have_count(0, timeout=30_000)
    settle(page)
    sound(page)
    runs.sort(key=lambda run: run["created"])
    return [app.cache / "runs" / run["id"] / "results" for run in runs if run["state"] == "done"]


def classify_family(page: Page, app: App) -> list[Path]:
    """Classify the demo family's four models from the Neurons page and return their results."""
    visit(page, app, "Neurons")
    press(page, "neurons_classify")
    return finish(page, app, "classify", 4)


def traces(page: Page, key: str) -> list[dict[str, Any]]:
    """Name, colour, x and y of every trace of the Plotly chart with this key, as the browser draws them."""
    chart = keyed(page, key).locator(".js-plotly-plot")
    expect(chart).to_be_visible(timeout=30_000)
    return chart.evaluate(
        """chart => chart._fullData.map(trace => ({name: trace.name, colour: (trace.marker || trace.line || {}).color,
            type: trace.type, x: Array.from(trace.x || []), y: Array.from(trace.y || [])}))"""
    )


def click_point(page: Page, key: str, name: str, place: int) -> None:
    """Click on a point of the line of this name in the chart with this key, which shows that it leads somewhere."""
    chart = keyed(page, key).locator(".js-plotly-plot")
    chart.scroll_into_view_if_needed()
    across, down = chart.evaluate(
        """(chart, [name, place]) => {
            const line = chart._fullData.find(trace => trace.name === name);
            const { xaxis, yaxis } = chart._fullLayout;
            const box = chart.getBoundingClientRect();
            const [x, y] = [xaxis.d2p(line.x[place]), yaxis.d2p(line.y[place])];
            return [box.left + xaxis._offset + x, box.top + yaxis._offset + y];
        }""",
        [name, place],
    )
    page.mouse.move(across, down)
    expect(chart.locator(".nsewdrag").first).to_have_css("cursor", "pointer")
    page.mouse.click(across, down)


def answer(page: Page, selector: str, act: Callable[[], None]) -> float:
    """Seconds from the key or mouse press in `act` to the last change a reader sees inside the selected element.

    That is the moment the page has answered: no script is running, and what is shown there has changed since the press
    and been still for half a second. (Whether a script has run cannot be asked: one that is done within a frame never
    shows.) An element that a new one has replaced is hidden at once and taken away later: what happens to it is not
    counted.
    """
    page.evaluate(
        """selector => {
            window.watcher?.disconnect();
            Object.assign(window, {pressed: 0, changed: 0});
            const app = document.querySelector('[data-testid="stApp"]');
            const still = () => app.dataset.testScriptState === "notRunning";
            const seen = record => {
                const element = record.target.nodeType === 1 ? record.target : record.target.parentElement;
                return element?.closest(selector) && !element.closest("[data-retained]");
            };
            const change = new MutationObserver(records => {
                if (records.some(seen)) window.changed = performance.now();
            });
            const all = {subtree: true, childList: true, attributes: true, characterData: true};
            change.observe(document.body, all);
            window.watcher = change;
            window.answered = () =>
                still() && window.changed > window.pressed && performance.now() - window.changed > 500;
            const press = () => { window.pressed ||= performance.now(); };
            for (const name of ["keydown", "pointerdown"]) addEventListener(name, press, {capture: true, once: true});
        }""",
        selector,
    )
    act()
    page.wait_for_function("() => window.answered()", timeout=60_000)  # else evaluated, which the app forbids
    return float(page.evaluate("(window.changed - window.pressed) / 1000"))


def errors_in(log: Path) -> list[str]:
    """Lines of the server's log that tell of an exception."""
    return re.findall(r"^.*(?:Traceback|Uncaught app|Error:).*$", log.read_text(), re.MULTILINE)
