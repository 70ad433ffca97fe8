"""A family: models of one base and what one looks at them with, the same for command line, Python and pages.

    base: base                    # a folder, a Hub id, or MODEL+ADAPTER
    models:                       # category: fine-tune; or a list of models and of {model, label, category}
      math: math
      code: {model: lab/coder-0.5b, label: coder}
    corpus: corpus[:-60]          # all but the last 60 lines of each category, which are held out
    tasks: [math, tasks/own.yaml]
    prompts: ["What is 3 + 4?"]
    neurons: {loud: [[0, 17]]}    # named lists of [layer, neuron]
    neuron_notes: [[0, 17, "fires on digits"]]    # notes on single neurons
    notes: anything

Only `base` and `models` are needed. Relative paths count from the file's folder.
"""

from nmerge_core.family.contents import check_readable
from nmerge_core.family.family import Family, Member
from nmerge_core.family.kept import (
    delete_family,
    demo_family,
    families,
    keep_neurons,
    keep_note,
    rename_family,
    save_family,
)
from nmerge_core.family.read import load_family, read_family

__all__ = [
    "Family",
    "Member",
    "check_readable",
    "delete_family",
    "demo_family",
    "families",
    "keep_neurons",
    "keep_note",
    "load_family",
    "read_family",
    "rename_family",
    "save_family",
]
