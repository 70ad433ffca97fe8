"""Scores of models on tasks: lm-evaluation-harness in memory, and a locked-down place for generated code."""

from nmerge_core.evaluation.of_models import evaluate
from nmerge_core.evaluation.scores import Evaluator

__all__ = ["Evaluator", "evaluate"]
