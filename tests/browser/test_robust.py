"""What must not break the app: several people at once, a worker process that is killed, and other sites."""

import os
import re
import signal
import time
from collections.abc import Callable
from dataclasses import replace

from playwright.sync_api import Browser, Page, expect

from nmerge_core.family import demo_family, load_family, save_family
from tests.browser.driver import RUN_SECONDS, App, choose, finish, keyed, press, settle, sound, traces, visit

EXEMPLARS = 12  # of each category: enough that models are still being classified while others merge and look around


def test_three_people_at_once(app: App, tab: Callable[[], Page]) -> None:
    """One classifies, one merges, one looks around; all runs end well, and each page shows its own."""
    classifying, merging, looking = tab(), tab(), tab()
    visit(classifying, app, "Neurons")
    visit(merging, app, "Merge")
    press(classifying, "neurons_classify")
    choose(merging, "merge_method", "TIES-Merging")
    press(merging, "merge_run")
    for name in ("Models", "Runs", "Explorer", "Similarity"):
        visit(looking, app, name)
    finish(classifying, app, "classify", 4)
    (merged,) = finish(merging, app, "merge")
    assert traces(classifying, "neurons_by_layer")
    expect(merging.get_by_text(str(merged / "merged")).first).to_be_visible(timeout=60_000)
    visit(looking, app, "Runs")
    told = looking.get_by_text(re.compile(r"^\d+ runs, ")).first.inner_text()
    assert int(told.split()[0]) >= 5


def test_a_family_chosen_by_the_address_goes_along(app: App, tab: Callable[[], Page]) -> None:
    """Its page leads to the Models page, which gives it the corpus that it lacks."""
    demo = demo_family(app.cache)
    file = save_family(replace(demo, name="bare", corpus=None), app.cache / "families")
    page = tab()
    visit(page, app, "Neurons", family="bare")
    page.get_by_role("link", name="Change the family").click()
    page.get_by_text("Change this family, or make another").click()
    settle(page)
    choose(page, "models_corpus", str(demo.corpus))
    press(page, "models_save")
    settle(page)
    sound(page)
    assert load_family(file) == replace(demo, name="bare")
    page.get_by_role("link", name="Neurons", exact=True).click()
    expect(keyed(page, "family").locator("input").first).to_have_value("bare")
    expect(page.get_by_text("This family names no corpus")).to_have_count(0)
    file.unlink()


def test_killed_worker_is_told_in_a_sentence_and_the_run_starts_again(app: App, tab: Callable[[], Page]) -> None:
    page = tab()
    visit(page, app, "Linearity", linearity_samples="2")
    press(page, "linearity_run")
    until = time.monotonic() + RUN_SECONDS
    while not (running := [run["id"] for run in app.runs("linearity") if run["state"] == "running"]):
        assert time.monotonic() < until
        page.wait_for_timeout(50)
    killed = app.worker
    assert killed is not None
    os.kill(killed, signal.SIGKILL)
    expect(page.get_by_text("The process that did this run stopped while it was going")).to_be_visible(timeout=30_000)
    sound(page)
    assert app.healthy
    press(page, f"run_restart_{running[0]}")
    finish(page, app, "linearity")
    assert app.worker != killed


FOREIGN = """async () => {
    const refused = [];
    addEventListener("securitypolicyviolation", event => refused.push(event.effectiveDirective));
    const foreign = "http://127.0.0.1:9/x";
    const made = name => Object.assign(document.createElement(name), {src: foreign});
    document.body.append(...["img", "script", "iframe", "video"].map(made));
    await fetch(foreign).catch(() => null);
    await new Promise(done => setTimeout(done, 300));
    return refused;
}"""


def test_a_page_fetches_nothing_foreign_and_no_other_origin_frames_it(app: App, browser: Browser) -> None:
    page = browser.new_page()
    visit(page, app, "")
    wanted = {"img-src", "script-src-elem", "frame-src", "media-src", "connect-src"}
    assert wanted <= set(page.evaluate(FOREIGN))
    page.goto("about:blank")  # another origin
    page.evaluate("url => document.body.append(Object.assign(document.createElement('iframe'), {src: url}))", app.url)
    page.wait_for_timeout(1000)
    framed = [frame for frame in page.frames if frame != page.main_frame]
    assert framed and not any(frame.locator("[data-testid=stApp]").count() for frame in framed)
    page.close()
