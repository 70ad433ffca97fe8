"""How loops are compiled: on first use, a few seconds each, for this processor, and kept in the cache."""

import os

from nmerge_core.cache import cache_root

os.environ.setdefault("NUMBA_CACHE_DIR", str(cache_root() / "compiled"))  # read when numba is imported

from numba import njit  # noqa: E402

# Without the interpreter's lock, so that threads work side by side; no operation is fused with another or reordered.
compiled = njit(nogil=True, cache=True)
inlined = njit(nogil=True)
