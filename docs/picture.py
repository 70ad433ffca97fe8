"""Take docs/neurons.png, README's picture: the Neurons page on the demo family. `python -m docs.picture`."""

import tempfile
from pathlib import Path

from playwright.sync_api import sync_playwright

import nmerge_core as nm
from nmerge_core.cache import DEMO, cache_root
from nmerge_core.demo.family import MODELS, write_family
from tests.browser.driver import ARGUMENTS, chromium, serve, visit

PICTURE = Path(__file__).parent / "neurons.png"
WIDTH, HEIGHT = 1440, 1200


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
        page = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT}, color_scheme="light")
        visit(page, app, "Neurons")
        page.screenshot(path=PICTURE)
        browser.close()


if __name__ == "__main__":
    main()
