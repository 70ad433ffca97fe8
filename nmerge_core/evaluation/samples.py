"""What a model was asked, what it answered and how that was judged, problem by problem, as it is kept with scores."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from nmerge_core.errors import InputError, shown
from nmerge_core.evaluation.code import Verdict
from nmerge_core.evaluation.image_task import CLASSIFY_IMAGE
from nmerge_core.evaluation.of_one import OF_ONE

CLUSTER = "cluster"  # the key of a task's `metadata` that names the field of a document which some of them share


def check_cluster(task: Any) -> None:
    """Raise an InputError where the field that a task's `metadata` names is none of its documents'."""
    field = _cluster(task)
    if field is not None and str(field) not in (known := task.eval_docs[0]):
        raise InputError(
            f"task '{task.task_name}', metadata, key '{CLUSTER}': expected a field of its documents, one of "
            f"{', '.join(map(str, known))}; found {shown(field)}"
        )


def samples_of(task: Any, logged: Sequence[Mapping[str, Any]], metrics: Mapping[str, Sequence[str]]) -> list[dict]:
    """Return a row for each problem and filter of what lm-eval has logged of a task.

    Its keys are id, filter, prompt, answer, filtered (what the filters leave of the answer), reference, metric and
    value (of the filter's first metric), metrics (every one's value), cluster (what problems share that are not
    independent, as the task's `metadata` names it) and error (what a program wrote that failed). A value is None where
    the metric is of all problems together.

    Args:
        task: lm-eval's task.
        logged: what lm-eval has logged of it.
        metrics: the metrics by filter, the primary one first.
    """
    return [_row(task, each, metrics[each["filter"]], _cluster(task)) for each in logged]


def clusters_of(task: Any) -> tuple[str, ...]:
    """Return the document of each problem of a task, where its `metadata` says that they share some; else nothing."""
    field = _cluster(task)
    return () if field is None else tuple(str(doc[field]) for doc in task.eval_docs)


def _cluster(task: Any) -> str | None:
    field: str | None = (task.get_config("metadata") or {}).get(CLUSTER)
    return field


def _row(task: Any, logged: Mapping[str, Any], metrics: Sequence[str], field: str | None) -> dict:
    prompt, answer, reference = _exchange(task, logged)
    filtered = logged["filtered_resps"][0]
    verdict = filtered if isinstance(filtered, Verdict) else None
    if verdict is not None:
        filtered = "passed" if verdict else "failed"
    elif not isinstance(filtered, str):
        filtered = answer
    values = {name: _value(task.aggregation().get(name), logged[name]) for name in metrics if name in logged}
    return {
        "id": logged["doc_id"],
        "filter": logged["filter"],
        "prompt": prompt,
        "answer": answer,
        "filtered": filtered,
        "reference": reference,
        "metric": metrics[0],
        "value": values.get(metrics[0]),
        "metrics": values,
        "cluster": None if field is None else str(logged["doc"][field]),
        "error": verdict.output if verdict is not None and not verdict else "",
    }


def _exchange(task: Any, logged: Mapping[str, Any]) -> tuple[str, str, str]:
    """Return the prompt, the answer and the reference of a problem as text."""
    if task.OUTPUT_TYPE == CLASSIFY_IMAGE:
        return logged["doc"]["image"], task.file.classes[logged["resps"][0][0]], logged["target"]
    arguments, first = logged["arguments"], [answers[0] for answers in logged["resps"]]
    if task.OUTPUT_TYPE == "generate_until":
        return arguments[0][0], str(first[0]), _text(logged["target"])
    if task.OUTPUT_TYPE == "loglikelihood_rolling":
        return "", f"log-likelihood {first[0]:.4f}", arguments[0][0]
    likelihoods = [likelihood for likelihood, _ in first]
    if task.OUTPUT_TYPE == "loglikelihood":
        return arguments[0][0], f"log-likelihood {likelihoods[0]:.4f}", arguments[0][1]
    choices = task.doc_to_choice(logged["doc"])
    conditioned = likelihoods[: len(choices)]  # some metrics ask for each choice alone as well
    likeliest = arguments[conditioned.index(max(conditioned))]
    if task.multiple_input:  # choices are beginnings of one ending
        return "", likeliest[0], _choice(choices, task.doc_to_text(logged["doc"]))
    named = [_choice(choices, each) for each in _several(logged["target"])]
    return likeliest[0], likeliest[1].strip(), _text(named)


def _choice(choices: Sequence[str], place: Any) -> str:
    """Return the choice at a place; what is no place among them, which no answer meets, as it is."""
    return choices[place] if isinstance(place, int) and 0 <= place < len(choices) else str(place)


def _several(target: Any) -> list[Any]:
    return list(target) if isinstance(target, list | tuple) else [target]


def _text(target: Any) -> str:
    return " | ".join(map(str, _several(target)))


def _value(aggregation: Any, item: Any) -> float | None:
    if aggregation not in OF_ONE:
        return None
    try:
        value = float(aggregation([item]))
    except OverflowError:  # the perplexity of one word that was not to be expected
        return None
    return value if math.isfinite(value) else None
