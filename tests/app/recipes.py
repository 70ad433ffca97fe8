"""The recipe that the Merge page shows, as its tests read and write it."""

from typing import Any

import yaml
from streamlit.testing.v1 import AppTest

PAGE = "pages/7_Merge.py"


def recipe_shown(app: AppTest) -> dict[str, Any]:
    """The recipe that the page shows as YAML."""
    return yaml.safe_load(next(code.value for code in app.code if code.value.startswith("merge_method")))


def written_as_yaml(app: AppTest) -> None:
    """Have the recipe as text, not as controls."""
    _turned(app, "YAML")


def turned_to_controls(app: AppTest) -> None:
    """Have the recipe in the controls again, if they can hold it."""
    _turned(app, "Controls")


def _turned(app: AppTest, to: str) -> None:
    way: Any = app.get("button_group")[0]
    way.set_value(to).run()
