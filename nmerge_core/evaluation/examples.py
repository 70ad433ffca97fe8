"""Which solved examples may stand before a problem."""

from typing import Any

from nmerge_core.errors import InputError


def draw_from_the_others(task: Any, name: str) -> None:
    """Have a task that draws examples from its own problems leave out the one that is asked.

    lm-eval does so only where the task says that its examples are of the split that it is scored on: where it names
    none, and has no other, a problem may stand with its answer before itself.

    Raises:
        InputError: it has too few problems.
    """
    if getattr(task, "MULTIMODAL", False) or task.OUTPUT_TYPE == "loglikelihood_rolling":
        return
    shots, asked = int(task.get_config("num_fewshot") or 0), task.config.test_split or task.config.validation_split
    if not shots or _split_of_examples(task) != asked:
        return
    task.fewshot_cfg.split = task.config.test_split  # these two lm-eval compares
    if len(task.eval_docs) <= shots:
        raise InputError(
            f"task '{name}': expected at least {shots + 1} problems, as the {shots} examples before each are drawn "
            f"from the others, found {len(task.eval_docs)}; give fewer (--shots 0)"
        )


def _split_of_examples(task: Any) -> str | None:
    """Return the split that lm-eval takes a task's examples from, by its own rule where the task names none."""
    told, settings = task.fewshot_cfg, task.config
    if told.split is None and (told.samples or told.fewshot_indices):
        return None
    split: str | None = told.split or settings.training_split or settings.validation_split or settings.test_split
    return split
