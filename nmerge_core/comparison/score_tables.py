"""Scores of models side by side: what else differs in how they came to be, paired tests, problems lost and gained.

A table of scores is what `evaluation` writes as scores.csv, samples what it writes as samples.jsonl; `losses_as_scores`
makes both of losses on held-out texts.
"""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from nmerge_core.comparison.paired import compare_all, mean_interval
from nmerge_core.files.kept_files import read_csv, reading

# What else decides a score, by what it is called: only scores of equal ones are compared.
SETTINGS = {
    "samples": "problems",
    "shots": "examples",
    "chat_template": "chat template",
    "decoding": "decoding",
    "batch_size": "batch size",
    "seed": "seed",
    "run_dtype": "number format",
    "backend": "backend",
    "signature": "signature of sacrebleu",
    "task_version": "version of the task",
    "lm_eval": "version of lm-eval",
    "tokens": "tokens",
}
BETTER, WORSE, ALIKE, FEW = "better", "worse", "not told apart", "too few problems"
LOST, GAINED, BOTH, NEITHER = "lost", "gained", "both", "neither"
_SEARCHED = ("prompt", "reference", "answer", "filtered", "error")
_SAMPLE = ("id", "prompt", "answer", "filtered", "reference", "metric", "value", "cluster", "error")


def read_scores(file: Path) -> pd.DataFrame:
    """Read scores.csv; raises Damaged where it is none."""
    return read_csv(
        file, ("task", "metric", "value", "low", "high", "stderr", "samples"), dtype={"model": "str", "task": "str"}
    )


def read_samples(file: Path) -> pd.DataFrame:
    """Read samples.jsonl; raises Damaged where it is none."""
    with reading(file), file.open(encoding="utf-8") as lines:
        return pd.DataFrame([json.loads(line) for line in lines], columns=["model", "task", *_SAMPLE])


def losses_as_scores(losses: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return losses, a row per model and text, as a table of scores and samples: a category is a task."""
    rows = []
    for (model, category), own in losses.groupby(["model", "category"], sort=False):
        interval = mean_interval(own["loss"])
        facts = {"samples": len(own), "tokens": own["tokens"].sum(), "run_dtype": own["run_dtype"].iloc[0]}
        score = {"value": own["loss"].mean(), "low": interval.low, "high": interval.high, "interval": interval.by}
        named = {"model": model, "task": category, "metric": "loss"}
        rows.append(named | score | {"stderr": own["loss"].sem(), "higher_is_better": False} | facts)
    samples = losses.rename(columns={"category": "task", "text": "id", "loss": "value"}).assign(metric="loss")
    return pd.DataFrame(rows), samples.reindex(columns=["model", "task", *_SAMPLE])


def primary(scores: pd.DataFrame, *, group: bool = False) -> pd.DataFrame:
    """Keep each task's primary metric, the first one it lists; or each group's of tasks, which has theirs again."""
    kept = scores[scores.get("group", pd.Series(False, scores.index)).eq(True) == group]  # losses have no groups
    return kept[kept["metric"] == kept.groupby("task", sort=False)["metric"].transform("first")]


def unlike(one: Mapping[str, Any], other: Mapping[str, Any]) -> str:
    """Say in which settings two scores differ; empty where in none."""
    differing = []
    for key, name in SETTINGS.items():
        ours, theirs = (_told(each.get(key)) for each in (one, other))
        if ours != theirs:
            differing.append(f"{name} {ours} against {theirs}")
    return "; ".join(differing)


def _told(value: Any) -> str:
    if value is None or value != value:
        return "not told"
    text = f"{value:.15g}" if isinstance(value, float) else str(value)
    return {"True": "yes", "False": "no"}.get(text, text)


def shared_settings(scores: pd.DataFrame) -> str:
    """Say the settings that all of some scores have."""
    there = {key: name for key, name in SETTINGS.items() if key in scores and scores[key].notna().any()}
    kept = {key: name for key, name in there.items() if scores[key].map(_told).nunique() == 1}
    return ", ".join(f"{name} {_told(scores[key].iloc[0])}" for key, name in kept.items() if key != "samples")


def differing(scores: pd.DataFrame) -> dict[str, str]:
    """Return in words the settings by which models were scored otherwise on a task; tasks without such are left out."""
    found: dict[str, str] = {}
    for task, rows in primary(scores).groupby("task", sort=False):
        names = [name for key, name in SETTINGS.items() if key in rows and rows[key].map(_told).nunique() > 1]
        if names:
            found[str(task)] = ", ".join(names)
    return found


def compare(scores: pd.DataFrame, samples: pd.DataFrame, baseline: str) -> pd.DataFrame:
    """Compare every other model with one of them by each task's primary metric, problem by problem.

    Returns:
        Columns model, task, metric, problems, difference (of the baseline's), low, high (95 % interval), p, adjusted
        (p by Holm, over all rows), detectable (the least difference that so many problems show with 80 % power), test,
        verdict (better, worse, not told apart, too few problems) and unlike: in which settings the two differ, where
        they do, or why else they do not compare; there is no test or verdict then.
    """
    rows: list[dict[str, Any]] = []
    pairs, clusters, tested = [], [], []
    kept = primary(scores).drop_duplicates(["model", "task"])
    by_name = {(row["model"], row["task"]): row for row in kept.to_dict("records")}
    values = {
        (str(model), str(task), str(metric)): own.drop_duplicates("id").set_index("id")
        for (model, task, metric), own in samples.groupby(["model", "task", "metric"], sort=False)
    }
    for (model, task), row in by_name.items():
        theirs = by_name.get((baseline, task))
        if model == baseline or theirs is None:
            continue
        found = {"model": model, "task": task, "metric": row["metric"], "problems": int(row["samples"])}
        found |= {"unlike": unlike(row, theirs), "better": bool(row["higher_is_better"])}
        found |= {"test": "", "verdict": ""}
        own, other = (values.get((name, task, row["metric"])) for name in (model, baseline))
        if not found["unlike"]:
            found["unlike"] = _no_match(own, other)
        if not found["unlike"]:
            assert own is not None and other is not None
            pairs.append((own["value"].astype(float), other.loc[own.index, "value"].astype(float)))
            clusters.append(list(own["cluster"]) if own["cluster"].notna().all() else None)
            tested.append(found)
        rows.append(found)
    for found, each in zip(tested, compare_all(pairs, clusters=clusters), strict=True):
        few = math.isnan(each.detectable)
        better = (each.difference > 0) == found["better"]
        told = FEW if few else ALIKE
        found |= {
            "difference": each.difference,
            "low": each.interval.low,
            "high": each.interval.high,
            "p": each.p,
            "adjusted": each.adjusted,
            "detectable": each.detectable,
            "test": each.test,
            "verdict": (BETTER if better else WORSE) if each.distinguishable else told,
        }
    columns = ["model", "task", "metric", "problems", "difference", "low", "high", "p", "adjusted", "detectable"]
    return pd.DataFrame(rows).reindex(columns=[*columns, "test", "verdict", "unlike"])


def _no_match(own: pd.DataFrame | None, other: pd.DataFrame | None) -> str:
    """Say why samples of two models do not compare problem by problem; empty where they do."""
    if own is None or other is None:
        return "no samples were kept"
    if set(own.index) != set(other.index) or not _references(own).equals(_references(other.loc[own.index])):
        return "other problems"
    if own["value"].isna().any() or other["value"].isna().any():
        return "the metric is of all problems together"
    return ""


def _references(own: pd.DataFrame) -> "pd.Series[str]":
    """Return what tells problems of equal ids apart where the task was changed meanwhile; models have no part in it."""
    return own["reference"].astype(str)


def sides(samples: pd.DataFrame, task: str, metric: str, ours: str, theirs: str, *, better: bool) -> pd.DataFrame:
    """Put two models' samples of a task beside each other, those of the same problems.

    Args:
        samples: of both models.
        task: the task.
        metric: its primary metric, whose filter counts.
        ours: the model that is looked at.
        theirs: the model that it is looked at against.
        better: whether more of the metric is better.

    Returns:
        Columns id, prompt, reference, side and, ending in _ours and _theirs, answer, filtered, value and error. The
        side is "lost" where ours is worse, "gained" where it is better, else "both" where both are right and "neither"
        where none is; of values that are not right or wrong "both"; and empty of a metric of all problems together.
    """
    chosen = samples[(samples["task"] == task) & (samples["metric"] == metric)]
    one, other = (chosen[chosen["model"] == name].drop_duplicates("id") for name in (ours, theirs))
    theirs_of = other[["id", "reference", "answer", "filtered", "value", "error"]]
    found = one.merge(theirs_of, on=["id", "reference"], suffixes=("_ours", "_theirs"))
    binary = found[["value_ours", "value_theirs"]].isin([0, 1]).all(axis=None)
    gain = (found["value_ours"].astype(float) - found["value_theirs"].astype(float)) * (1 if better else -1)
    right = found["value_ours"].astype(float) == (1 if better else 0)
    equal = [BOTH if each or not binary else NEITHER for each in right]
    side = [LOST if g < 0 else GAINED if g > 0 else same if g == 0 else "" for g, same in zip(gain, equal, strict=True)]
    return found.assign(side=side)


def counts(found: pd.DataFrame) -> dict[str, int]:
    """Count the problems of each side."""
    return {side: int((found["side"] == side).sum()) for side in (LOST, GAINED, BOTH, NEITHER)}


def searched(found: pd.DataFrame, words: str) -> pd.DataFrame:
    """Keep the problems whose prompt, reference, answers or errors have every one of some words, in capitals or not.

    `#7` is the problem of that number.
    """
    columns: Sequence[str] = [name for name in found if name.startswith(_SEARCHED)]
    texts = found[list(columns)].map(lambda text: text if isinstance(text, str) else "")
    text = texts.agg(" ".join, axis=1).str.casefold() if len(found) else pd.Series(dtype=str)
    kept = pd.Series(True, index=found.index)
    for word in words.casefold().split():
        numbered = word.startswith("#") and word[1:].isdecimal()
        kept &= found["id"].astype(str) == word[1:] if numbered else text.str.contains(word, regex=False)
    return found[kept]
