"""Take the Neurons page on the demo family for README, and its figure for a first visit: `python -m docs.picture`."""

import tempfile
from pathlib import Path
from typing import Literal

from playwright.sync_api import sync_playwright

import nmerge_core as nm
from nmerge_core.cache import DEMO, cache_root
from nmerge_core.demo.family import MODELS, write_family
from tests.browser.driver import ARGUMENTS, chromium, keyed, serve, visit

PICTURE = Path(__file__).parent / "neurons.png"
FIRST_VISIT = Path(__file__).parent.parent / "pages" / "shared" / "pictures"
WIDTH, HEIGHT = 1440, 1200
SCHEMES: tuple[Literal["light", "dark"], ...] = ("light", "dark")


def main() -> None:
    """Classify the demo family, unless that was done, and take the picture."""
    demo = write_family(cache_root() / DEMO)
    nm.classify([demo / name for name in MODELS], demo / "corpus")
    with (
        tempfile.TemporaryDirectory() as folder,
        serve(cache_root(), Path(folder) / "app.log") as app,
        sync_playwright() as playwright,
    ):
        browser = playwright.chromium.launch(executable_path=chromium(), args=ARGUMENTS)
        for theme in SCHEMES:
            page = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT}, color_scheme=theme)
            visit(page, app, "Neurons")
            if theme == "light":
                page.screenshot(path=PICTURE)
            keyed(page, "neurons_by_layer").locator(".js-plotly-plot").screenshot(
                path=FIRST_VISIT / f"neurons-{theme}.png"
            )
        browser.close()


if __name__ == "__main__":
    main()
