"""What scripts and notebooks call: `import nmerge_core as nm`, then `nm.classify(…)`, `nm.merge(…)` and so on."""

import warnings

from nmerge_core.face.analysis import classify, compare, cosine, inherited, interference, linearity, statistics
from nmerge_core.face.kept import history, open_family
from nmerge_core.face.knockouts import effects, knockout
from nmerge_core.face.labels import label
from nmerge_core.face.merges import combine, estimate, extract, merge, methods, sweep
from nmerge_core.face.models import evaluate, generate, inspect, loss
from nmerge_core.face.reports import report
from nmerge_core.face.tuning import live

# Of a library below, which would tell every notebook that its bars need ipywidgets: progress is shown without them.
warnings.filterwarnings("ignore", message="IProgress not found")

__all__ = [
    "classify",
    "compare",
    "cosine",
    "effects",
    "estimate",
    "evaluate",
    "combine",
    "extract",
    "generate",
    "history",
    "inherited",
    "inspect",
    "interference",
    "knockout",
    "label",
    "linearity",
    "live",
    "loss",
    "merge",
    "methods",
    "open_family",
    "report",
    "statistics",
    "sweep",
]
