"""Neuron analysis and neuron-level merging of language models: the engine behind the app and the command line.

```python
import nmerge_core as nm

nm.classify("base", corpus="corpus").figure().show()
merged = nm.merge("recipe.yaml")
nm.evaluate(["base", merged], tasks=["math"]).table
```
"""

from typing import TYPE_CHECKING, Any

from nmerge_core.version import __version__

if TYPE_CHECKING:
    from nmerge_core.face import (
        classify,
        compare,
        cosine,
        estimate,
        evaluate,
        extract,
        generate,
        history,
        inspect,
        knockout,
        linearity,
        merge,
        methods,
        open_family,
        statistics,
        sweep,
    )

__all__ = [
    "__version__",
    "classify",
    "compare",
    "cosine",
    "estimate",
    "evaluate",
    "extract",
    "generate",
    "history",
    "inspect",
    "knockout",
    "linearity",
    "merge",
    "methods",
    "open_family",
    "statistics",
    "sweep",
]


def __getattr__(name: str) -> Any:
    """Give one of the functions, imported when it is first asked for: a module of the package needs none of them."""
    if name not in __all__:
        raise AttributeError(f"module 'nmerge_core' has no attribute '{name}'")
    from nmerge_core import face

    return getattr(face, name)


def __dir__() -> list[str]:
    """List the functions too."""
    return sorted({*globals(), *__all__})
