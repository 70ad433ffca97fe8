"""What a wheel has beyond the package: the app, which an editable install finds in the checkout."""

from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

APP = ("app.py", "server.py", "pages", ".streamlit")


class AppHook(BuildHookInterface[Any]):
    """Puts the app beside its engine; `nmerge_core.places` looks for it there."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Add the app's files to a wheel that is not editable."""
        if version == "standard":
            build_data["force_include"] |= {name: f"nmerge_core/app/{name}" for name in APP}
