"""A program that runs mergekit itself: merges as the recipes on stdin say, and prints what methods and keys it has."""

import json
import logging
import sys

from mergekit.config import MergeConfiguration
from mergekit.merge import run_merge
from mergekit.merge_methods.registry import registered_methods
from mergekit.options import MergeOptions

if __name__ == "__main__":
    logging.disable()  # that a folder has no tokenizer to copy
    for content, out in json.loads(sys.stdin.read()):
        options = MergeOptions(random_seed=0, quiet=True, write_model_card=False)
        run_merge(MergeConfiguration.model_validate(content), out, options)
    methods = sorted(method.spec.name for method in registered_methods())
    print(json.dumps({"methods": methods, "keys": sorted(MergeConfiguration.model_fields)}))
