"""The rows of a table of scores from what lm-evaluation-harness returns: values, intervals, standard errors."""

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from lm_eval.api.metrics import mean

from nmerge_core.comparison.paired import Z_95, mean_interval
from nmerge_core.evaluation.samples import samples_of
from nmerge_core.evaluation.translation import signature

_JACKKNIFE_GROUPS = 20


def metrics_in(results: dict[str, Any], name: str) -> list[tuple[str, str]]:
    """Return the metrics of a task, each with the filter that it is taken behind, the primary one first."""
    keys = [key.split(",") for key in results["results"][name] if "," in key and "_stderr," not in key]
    return [(metric, chain) for metric, chain in keys]


def samples_in(results: dict[str, Any], tasks: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the samples of all tasks in what lm-eval returned: see `samples.samples_of`; with the name of the task."""
    rows = []
    for name, task in tasks.items():
        keys, by_filter = metrics_in(results, name), defaultdict[str, list[str]](list)
        for metric, chain in keys:
            by_filter[chain].append(metric)
        logged = sorted(results["samples"][name], key=lambda each: each["doc_id"])
        for row in samples_of(task, logged, by_filter):
            rows.append({"task": name} | row | {"metric": _named(row["metric"], row["filter"], keys)})
    return rows


def rows_of(
    results: dict[str, Any], tasks: dict[str, Any], samples: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """Return a row for each metric of each task, and of each group of them, in what lm-eval returned.

    A `group` has what its tasks have, once more.
    """
    rows = []
    for name, values in results["results"].items():
        keys, task = metrics_in(results, name), tasks.get(name)
        for metric, chain in keys:
            own = [each for each in samples if each["task"] == name and each["filter"] == chain]
            aggregation, items = _made_of(task, metric, chain, results, name)
            value, stderr = float(values[f"{metric},{chain}"]), _stderr(aggregation, items)
            low, high, interval = _interval(task, metric, own, value, stderr)
            rows.append(
                {
                    "task": name,
                    "group": task is None,
                    "metric": _named(metric, chain, keys),
                    "value": value,
                    "low": low,
                    "high": high,
                    "interval": interval,
                    "stderr": stderr,
                    "samples": int(values["sample_len"]),
                    "higher_is_better": bool(results["higher_is_better"].get(name, {}).get(metric, True)),
                    "signature": signature(aggregation, items),
                    "shots": results["n-shot"].get(name),
                    "task_version": results["versions"].get(name),
                }
            )
    return rows


def jackknife(statistic: Callable[[list[Any]], float], items: list[Any]) -> float:
    """Return the standard error of a statistic of the items, by leaving out one of up to 20 groups of them at a time.

    SE² = (g − 1)/g · Σ (θ₍ᵢ₎ − mean θ₍·₎)² over the g groups (Efron & Tibshirani 1993, Eq. 11.5, with groups for
    items). Unlike lm-eval's bootstrap it draws nothing at random, starts no processes and exists for every metric. NaN
    of one item, or where it is more than a number holds, as a perplexity without its predictable texts may be.
    """
    groups = min(_JACKKNIFE_GROUPS, len(items))
    if groups < 2:
        return math.nan
    try:
        left_out = [statistic([x for i, x in enumerate(items) if i % groups != group]) for group in range(groups)]
        centre = sum(left_out) / groups
        return math.sqrt((groups - 1) / groups * sum((value - centre) ** 2 for value in left_out))
    except OverflowError:
        return math.nan


def _named(metric: str, chain: str, keys: list[tuple[str, str]]) -> str:
    """Return what a metric is called: with its filter where a task has several."""
    return f"{metric},{chain}" if len({each for _, each in keys}) > 1 else metric


def _interval(
    task: Any, metric: str, samples: Sequence[Mapping[str, Any]], value: float, stderr: float
) -> tuple[float, float, str]:
    """Return a score's 95 % interval, and what it is by."""
    values = [each["metrics"].get(metric) for each in samples]
    if task is None or task.aggregation().get(metric, mean) is not mean or not values or None in values:
        return value - Z_95 * stderr, value + Z_95 * stderr, "jackknife" if stderr == stderr else ""
    clusters = [each["cluster"] for each in samples]
    found = mean_interval(values, clusters=clusters if None not in clusters else None)
    return found.low, found.high, found.by


def _made_of(
    task: Any, metric: str, chain: str, results: dict[str, Any], name: str
) -> tuple[Callable[[list[Any]], float], list[Any]]:
    """Return how a metric is made of its problems, and what it is made of; of a group that is nothing."""
    if task is None:
        return mean, []
    logged = results["samples"].get(name, [])
    items = [sample[metric] for sample in logged if sample["filter"] == chain and metric in sample]
    return task.aggregation().get(metric, mean), items


def _stderr(aggregation: Callable[[list[Any]], float], items: list[Any]) -> float:
    if len(items) < 2:
        return math.nan
    if aggregation is mean:
        centre = sum(items) / len(items)
        return math.sqrt(sum((item - centre) ** 2 for item in items) / (len(items) - 1) / len(items))
    return jackknife(aggregation, items)
