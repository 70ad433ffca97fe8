"""Scores side by side: unlike settings, paired tests, what was lost and gained, worked out by hand."""

import math

import pandas as pd
import pytest

from nmerge_core.comparison.paired import BOOTSTRAP, MCNEMAR
from nmerge_core.comparison.score_tables import (
    ALIKE,
    BETTER,
    BOTH,
    FEW,
    GAINED,
    LOST,
    NEITHER,
    WORSE,
    compare,
    counts,
    differing,
    losses_as_scores,
    primary,
    searched,
    shared_settings,
    sides,
    unlike,
)


def scores(model: str, values: list[float], task: str = "sums", **changes: object) -> dict:
    settings = {"shots": 0, "decoding": "alike", "batch_size": "auto", "run_dtype": "float32", "higher_is_better": True}
    row = {"model": model, "task": task, "metric": "exact_match", "value": sum(values) / len(values)}
    return row | {"samples": len(values)} | settings | changes


def samples(model: str, values: list[float], task: str = "sums", cluster: list[str] | None = None) -> list[dict]:
    return [
        {"model": model, "task": task, "id": id, "metric": "exact_match", "value": value, "prompt": f"What is {id}?"}
        | {"answer": f"{model} says {id}", "filtered": "", "reference": str(id), "error": ""}
        | {"cluster": cluster[id] if cluster else None}
        for id, value in enumerate(values)
    ]


def test_models_are_compared_problem_by_problem_and_p_is_adjusted_over_all_rows() -> None:
    """6 gained and none lost: p = 2 · 2⁻⁶ = 0.03125, the smaller of two, so doubled; 1 gained, 1 lost: p = 1."""
    base, math_, other = [0.0] * 8, [1.0] * 6 + [0.0] * 2, [1.0] + [0.0] * 7
    table = [scores("base", base), scores("math", math_), scores("base", other, "more"), scores("math", base, "more")]
    table += [scores("math", base, "more") | {"metric": "chrf"}]
    kept = (
        samples("math", math_) + samples("base", base) + samples("base", other, "more") + samples("math", base, "more")
    )
    found = compare(pd.DataFrame(table), pd.DataFrame(kept[::-1]), "base").set_index("task")
    assert list(found.index) == ["sums", "more"] and set(found["model"]) == {"math"}
    assert found.at["sums", "difference"] == 0.75 and found.at["more", "difference"] == -0.125
    assert found.at["sums", "p"] == 0.03125 and found.at["sums", "adjusted"] == 0.0625
    assert list(found["verdict"]) == [ALIKE, ALIKE] and set(found["test"]) == {MCNEMAR}
    alone = compare(pd.DataFrame(table[:2]), pd.DataFrame(kept), "base")
    assert alone.loc[0, "adjusted"] == 0.03125 and alone.loc[0, "verdict"] == BETTER
    worse = pd.DataFrame(table[:2]).assign(higher_is_better=False)
    assert compare(worse, pd.DataFrame(kept), "base").loc[0, "verdict"] == WORSE
    few = compare(pd.DataFrame([scores("a", [1.0] * 3), scores("b", [0.0] * 3)]),
                  pd.DataFrame(samples("a", [1.0] * 3) + samples("b", [0.0] * 3)), "b")  # fmt: skip
    assert few.loc[0, "verdict"] == FEW and math.isnan(few.loc[0, "detectable"])


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"shots": 3}, "examples 3 against 0"),
        ({"decoding": "own"}, "decoding own against alike"),
        (
            {"batch_size": 32.0, "run_dtype": "bfloat16"},
            "batch size 32 against auto; number format bfloat16 against float32",
        ),
        ({"samples": 9}, "problems 9 against 8"),
        ({"lm_eval": "0.4"}, "version of lm-eval 0.4 against not told"),
    ],
)
def test_scores_of_unlike_settings_are_not_compared_and_it_is_told_why(changes: dict, told: str) -> None:
    values = [1.0] * 8
    table = pd.DataFrame([scores("base", values), scores("math", values, **changes)])
    found = compare(table, pd.DataFrame(samples("base", values) + samples("math", values)), "base")
    assert found.loc[0, "unlike"] == told and pd.isna(found.loc[0, "p"]) and found.loc[0, "verdict"] == ""
    assert unlike(scores("a", values, batch_used=64), scores("b", values, batch_used=8)) == ""  # as memory was short
    assert shared_settings(table.drop(columns="decoding")).startswith("examples 0") is ("shots" not in changes)


def test_a_setting_differs_where_models_were_scored_otherwise_on_one_task() -> None:
    """Not where tasks, or the metrics of one, have others; what none of them tells is no setting that they share."""
    rows = [scores(model, [1.0] * 8, signature=None) for model in "ab"]
    rows += [row | {"metric": "chrf", "signature": "nrefs:1"} for row in rows]
    rows += [scores(model, [1.0] * 4, "more", shots=shots) for model, shots in zip("ab", (0, 2), strict=True)]
    table = pd.DataFrame(rows)
    assert differing(table) == {"more": "examples"} and differing(table[:4]) == {}
    assert "signature" not in shared_settings(table[:2]) and "signature" not in shared_settings(table)


def test_problems_that_share_a_document_are_compared_by_documents() -> None:
    """All eight differ, but they are of two documents: as sure as two problems of one sign are, p = ½."""
    ours, theirs, books = [1.0] * 8, [0.0] * 8, ["a"] * 4 + ["b"] * 4
    table = pd.DataFrame([scores("base", theirs), scores("math", ours)])
    kept = pd.DataFrame(samples("base", theirs, cluster=books) + samples("math", ours, cluster=books))
    found = compare(table, kept, "base")
    assert found.loc[0, "test"] == BOOTSTRAP and found.loc[0, "p"] == 0.5


def test_a_group_of_tasks_is_not_compared_again_beside_its_tasks() -> None:
    """The group has its tasks' problems once more: Holm would count a comparison too many."""
    table = [scores("base", [0.0] * 8), scores("math", [1.0] * 8)]
    table += [row | {"task": "all", "group": True} for row in table]
    kept = pd.DataFrame(samples("base", [0.0] * 8) + samples("math", [1.0] * 8))
    frame = pd.DataFrame(table)  # of tasks the mark is unknown, as beside losses
    assert list(compare(frame, kept, "base")["task"]) == ["sums"]
    assert list(primary(frame, group=True)["task"]) == ["all", "all"]


def test_what_does_not_match_is_not_compared() -> None:
    values = [1.0] * 8
    table, kept = pd.DataFrame([scores("base", values), scores("math", values)]), samples("base", values)
    assert compare(table, pd.DataFrame(kept), "base").loc[0, "unlike"] == "no samples were kept"
    moved = [row | {"id": row["id"] + 1} for row in samples("math", values)]
    assert compare(table, pd.DataFrame(kept + moved), "base").loc[0, "unlike"] == "other problems"
    whole = [row | {"value": None} for row in samples("math", values)]
    assert "all problems together" in compare(table, pd.DataFrame(kept + whole), "base").loc[0, "unlike"]


def test_problems_are_lost_gained_kept_by_both_or_solved_by_neither() -> None:
    kept = pd.DataFrame(samples("merge", [0.0, 1.0, 1.0, 0.0]) + samples("math", [1.0, 0.0, 1.0, 0.0])[::-1])
    found = sides(kept, "sums", "exact_match", "merge", "math", better=True)
    assert list(found["side"]) == [LOST, GAINED, BOTH, NEITHER]
    assert counts(found) == {LOST: 1, GAINED: 1, BOTH: 1, NEITHER: 1}
    assert found.loc[0, ["answer_ours", "answer_theirs"]].tolist() == ["merge says 0", "math says 0"]
    assert list(searched(found, "WHAT 2?")["id"]) == [2] and len(searched(found, "")) == 4
    assert list(searched(found.assign(error_ours=["", "SyntaxError", "", ""]), "syntaxerror")["id"]) == [1]
    assert len(searched(found, "#" + "9" * 5000)) == 0
    assert len(searched(found, "nobody")) == 0 and len(searched(found[:0], "what")) == 0
    losses = pd.DataFrame(samples("merge", [2.5, 1.0, 1.0]) + samples("math", [2.0, 2.0, 1.0]))
    assert list(sides(losses, "sums", "exact_match", "merge", "math", better=False)["side"]) == [LOST, GAINED, BOTH]


def test_losses_are_scores_of_their_categories_whose_tokens_must_be_the_same() -> None:
    rows = [(m, "code", text, loss, 5 + (m == "b"), "float32") for m in "ab" for text, loss in enumerate((1.0, 2.0))]
    losses = pd.DataFrame(rows, columns=["model", "category", "text", "loss", "tokens", "run_dtype"])
    table, kept = losses_as_scores(losses)
    assert table.loc[0, ["task", "metric", "value", "samples", "tokens"]].tolist() == ["code", "loss", 1.5, 2, 10]
    assert compare(table, kept, "a").loc[0, "unlike"] == "tokens 12 against 10"
    many = ({"tokens": float(1_000_000 + each)} for each in (2, 1))  # as numbers are beside rows that have none
    assert unlike(*many) == "tokens 1000002 against 1000001"


def test_no_problem_is_lost_or_gained_by_a_metric_of_all_problems_together() -> None:
    row = {"task": "t", "metric": "f1", "prompt": "", "answer": "x", "filtered": "x", "reference": "", "error": ""}
    kept = pd.DataFrame([{"model": model, "id": id, "value": None} | row for model in "ab" for id in range(3)])
    found = sides(kept, "t", "f1", "a", "b", better=True)
    assert len(found) == 3 and set(counts(found).values()) == {0}


def test_problems_of_equal_ids_are_not_compared_where_the_task_was_changed_meanwhile() -> None:
    table = pd.DataFrame([scores("base", [0.0] * 8), scores("math", [1.0] * 8)])
    kept = pd.DataFrame(samples("base", [0.0] * 8) + samples("math", [1.0] * 8))
    assert list(compare(table, kept, "base")["verdict"]) == [BETTER]
    kept.loc[(kept["model"] == "base") & (kept["id"] < 6), "reference"] = "another"
    assert list(compare(table, kept, "base")["unlike"]) == ["other problems"]
    assert list(sides(kept, "sums", "exact_match", "math", "base", better=True)["id"]) == [6, 7]


def test_whether_two_models_answers_are_right_or_wrong_does_not_depend_on_a_third_model() -> None:
    kept = pd.DataFrame(samples("math", [1.0, 0.0]) + samples("base", [1.0, 0.0]) + samples("code", [0.5, 0.5]))
    assert list(sides(kept, "sums", "exact_match", "math", "base", better=True)["side"]) == [BOTH, NEITHER]
