"""Where this installation lies: the package, the app, the user's cache folder."""

import os
import sys
import tempfile
from os.path import expanduser
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent
FROM_WHEEL = (PACKAGE / "app").is_dir()  # a wheel has the app inside the package, a checkout beside it
APP = PACKAGE / "app" if FROM_WHEEL else PACKAGE.parent  # holds app.py, pages/ and .streamlit/


def default_cache() -> Path:
    """Return where results are kept if nothing else is said: cache/ of a checkout, else the user's cache folder."""
    if not FROM_WHEEL:
        return PACKAGE.parent / "cache"
    home = Path(expanduser("~"))
    if not home.is_absolute():  # a user of a container, say, whom the system does not know
        return Path(tempfile.gettempdir()) / f"nmerge-{os.getuid()}"
    if sys.platform == "darwin":
        return home / "Library" / "Caches" / "nmerge"
    return Path(os.environ.get("XDG_CACHE_HOME") or home / ".cache") / "nmerge"


def child_environment() -> dict[str, str]:
    """Return this process's environment, with which a Python it starts imports this very package."""
    if FROM_WHEEL:  # both have the same site-packages, which must not come before the standard library
        return dict(os.environ)
    path = os.pathsep.join(filter(None, [str(PACKAGE.parent), os.environ.get("PYTHONPATH")]))
    return {**os.environ, "PYTHONPATH": path}
