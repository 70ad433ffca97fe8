"""The colour of each checkpoint that a merge run makes, the same in every figure."""

from nmerge_core.cache import cache_root
from nmerge_core.figures import style
from nmerge_core.runs.folder import list_runs


def merge_tints() -> dict[str, str]:
    """Return the colour of each merge by its folder, in the order that they were begun: a newer one changes none."""
    runs = [run for run in reversed(list_runs(cache_root())) if run.kind == "merge"]
    return style.merge_colours([str(run.results / "merged") for run in runs])
