"""What scripts and notebooks call: `import nmerge_core as nm`, then `nm.classify(…)`, `nm.merge(…)` and so on."""

from nmerge_core.face.functions import (
    classify,
    compare,
    cosine,
    estimate,
    evaluate,
    extract,
    inspect,
    knockout,
    linearity,
    merge,
    methods,
    statistics,
    sweep,
)

__all__ = [
    "classify",
    "compare",
    "cosine",
    "estimate",
    "evaluate",
    "extract",
    "inspect",
    "knockout",
    "linearity",
    "merge",
    "methods",
    "statistics",
    "sweep",
]
