"""Neuron analysis and neuron-level merging of language models: the engine behind the app and the command line.

```python
import nmerge_core as nm

nm.classify("base", corpus="corpus").figure().show()
merged = nm.merge("recipe.yaml")
nm.evaluate(["base", merged], tasks=["math"]).table
```
"""

from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from nmerge_core.version import __version__ as __version__

if TYPE_CHECKING:
    from nmerge_core.face import *  # noqa: F403  # its list is the one list of the public functions


def __getattr__(name: str) -> Any:
    """Give a public function, imported when the first is asked for: a module of the package needs none of them."""
    # `from nmerge_core import settings` asks here too, before it looks for a module.
    if not name.startswith("_") and not find_spec(f"{__name__}.{name}"):
        face = import_module("nmerge_core.face")
        if name in face.__all__:
            return getattr(face, name)
    raise AttributeError(f"module 'nmerge_core' has no attribute '{name}'")


def __dir__() -> list[str]:
    """List the functions too."""
    return sorted({*globals(), *import_module("nmerge_core.face").__all__})
