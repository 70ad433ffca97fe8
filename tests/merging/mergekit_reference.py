"""A program that runs mergekit itself: merges as the recipes on stdin say, and prints what methods and keys it has."""

import json
import logging
import sys

from mergekit.config import MergeConfiguration
from mergekit.merge import run_merge
from mergekit.merge_methods.registry import registered_methods
from mergekit.options import MergeOptions
from mergekit.plan import MergePlanner

from nmerge_core.merging.mergekit.child import set_layer_types

if __name__ == "__main__":
    logging.disable()  # that a folder has no tokenizer to copy
    plan = MergePlanner._plan

    def planned(self: MergePlanner) -> None:
        """Plan, and give the configuration the kinds of the layers, without which mergekit saves no stack of layers."""
        plan(self)
        set_layer_types(self)

    MergePlanner._plan = planned
    for content, out in json.loads(sys.stdin.read()):
        options = MergeOptions(random_seed=0, quiet=True, clone_tensors=True, write_model_card=False)
        run_merge(MergeConfiguration.model_validate(content), out, options)
    methods = sorted(method.spec.name for method in registered_methods())
    print(json.dumps({"methods": methods, "keys": sorted(MergeConfiguration.model_fields)}))
