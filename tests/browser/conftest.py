"""A browser and an app for each test file, and a picture of every page that was open at a failure."""

from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from nmerge_core.demo.family import CORPUS_SIZE
from tests.browser.driver import ARGUMENTS, App, chromium, errors_in, serve, write_demo

REPORT = Path(__file__).parent / "report"


@pytest.fixture(scope="module")  # while it is open, its event loop would be in the way of other files' tests
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=chromium(), args=ARGUMENTS)
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def app(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[App]:
    """The app with the demo family, whose corpus is as short as the test file says by its EXEMPLARS."""
    folder = tmp_path_factory.mktemp("app")
    write_demo(folder / "cache", getattr(request.module, "EXEMPLARS", CORPUS_SIZE))
    with serve(folder / "cache", folder / "app.log") as served:
        yield served
        assert served.healthy
        assert not errors_in(served.log)


@pytest.fixture
def tab(browser: Browser, request: pytest.FixtureRequest) -> Iterator[Callable[[], Page]]:
    """A function that opens a tab of its own session; at the end none has had an error in JavaScript or policy."""
    pages: list[Page] = []
    crashes: list[str] = []
    policy = "Content Security Policy"

    def open_tab() -> Page:
        page = browser.new_context(viewport={"width": 1440, "height": 900}, reduced_motion="reduce").new_page()
        page.set_default_navigation_timeout(120_000)
        page.on("pageerror", lambda error: crashes.append(str(error)))
        page.on("console", lambda said: crashes.append(said.text) if policy in said.text else None)
        pages.append(page)
        return page

    yield open_tab
    if request.node.stash.get(FAILED, False):
        REPORT.mkdir(exist_ok=True)
        for number, page in enumerate(pages):
            page.screenshot(path=REPORT / f"{request.node.name}-{number}.png", full_page=True)
    for page in pages:
        page.context.close()
    assert not crashes


FAILED = pytest.StashKey[bool]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.when == "call":
        item.stash[FAILED] = report.failed
    return report
