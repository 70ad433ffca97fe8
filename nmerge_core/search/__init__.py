"""Search over recipe parameters: every trial is merged, scored and written down before the next begins."""

from nmerge_core.search.plan import Sweep, load_sweep
from nmerge_core.search.trials_loop import sweep

__all__ = ["Sweep", "load_sweep", "sweep"]
