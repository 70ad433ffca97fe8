"""torch, imported when something of it is first used.

To describe a method, to estimate a merge, or to run one in compiled loops takes none of it, and importing it seconds.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch as torch
else:

    class _Torch:
        def __getattr__(self, name: str) -> Any:
            import torch

            return getattr(torch, name)

    torch = _Torch()
