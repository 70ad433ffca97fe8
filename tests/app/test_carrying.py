"""A merge is pushed to the Hub from the page: by a process of its own, which is watched to its end."""

import time
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from pages.shared.frame.text import verbatim
from tests.hub import Seen


def page() -> None:
    """What stands behind the button Hub."""
    import os
    from pathlib import Path

    from pages.shared.kept.carrying import draw_hub

    draw_hub(Path(os.environ["PUSHED"]), 3)


@pytest.mark.parametrize(("token", "told"), [("right", "It is at {}/me/merge"), ("wrong", "the Hub did not take it")])
def test_a_push_is_watched_to_its_end(
    hub: tuple[str, Seen], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, token: str, told: str
) -> None:
    address, seen = hub
    (tmp_path / "config.json").write_text("{}\n")
    for name, value in {"PUSHED": tmp_path, "HF_ENDPOINT": address, "HF_HUB_OFFLINE": 0, "HF_HOME": tmp_path}.items():
        monkeypatch.setenv(name, str(value))
    app = AppTest.from_function(page).run()
    app.text_input(key="merge_hub_name").set_value("me/merge")
    app.text_input(key="merge_hub_token").set_value(token).run()
    app.button(key="merge_hub_push").click().run()
    until = time.monotonic() + 60
    while not (ended := [*app.success, *app.error]) and time.monotonic() < until:
        app.run()
    assert not app.exception and verbatim(told.format(address)) in ended[0].value
    assert any("/commit/" in path for path, *_ in seen) == (token == "right")
    app.button(key="merge_hub_again").click().run()
    assert app.text_input(key="merge_hub_name")
