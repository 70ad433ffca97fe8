"""Models × tasks as numbers, worked out by hand; and as documents have them."""

import pandas as pd
import pytest

from nmerge_core.figures.leaderboard import best, latex, leaderboard, markdown, own_fine_tunes, sure_gains, written

VALUES = {  # of math, code, text
    "base": (0.1, 0.2, 12.0),
    "math": (0.5, 0.2, 12.5),
    "code": (0.1, 0.6, 11.0),
    "merge_1": (0.3, 0.6, 11.5),
}
KINDS = {"math": ("exact_match", True), "code": ("pass@1", True), "text": ("word_perplexity", False)}
SCORES = pd.DataFrame(
    [
        {"model": model, "task": task, "metric": metric, "value": value, "higher_is_better": better}
        for model, own in VALUES.items()
        for (task, (metric, better)), value in zip(KINDS.items(), own, strict=True)
    ]
)
OWN = {"math": "math", "code": "code", "text": "code"}


def test_a_leaderboard_has_means_of_shares_gains_and_what_is_kept_of_them() -> None:
    """merge_1 keeps (0.3 − 0.1)/(0.5 − 0.1) = ½ of math's, all of code's, (11.5 − 12)/(11 − 12) = ½ of text's: ⅔."""
    assert own_fine_tunes(SCORES, {"math": "math", "code": "code"}) == OWN
    table = leaderboard(SCORES, list(VALUES), base="base", own=OWN)
    assert list(table) == [
        "mean, %",
        "gain over base, points",
        "own gain kept, %",
        "math · exact match, %",
        "code · pass@1, %",
        "text · perplexity per word ↓",
    ]
    assert table.loc["merge_1"].tolist() == pytest.approx([45, 30, 200 / 3, 30, 60, 11.5])
    assert table.loc["base", "own gain kept, %"] == 0 and table.loc["math", "own gain kept, %"] == pytest.approx(50 / 3)
    marks = best(table)
    assert marks.sum().tolist() == [1, 1, 2, 1, 2, 1] and marks.loc["merge_1"].tolist()[:3] == [True] * 3
    assert marks.index[marks["text · perplexity per word ↓"]].tolist() == ["code"]
    partly = SCORES[(SCORES["model"] != "merge_1") | (SCORES["task"] != "code")]
    shown = written(leaderboard(partly, list(VALUES), base="base", own=OWN))
    assert shown.loc["merge_1"].tolist() == ["–", "–", "–", "30.0", "–", "11.50"]


def test_a_group_of_tasks_has_a_column_of_its_own_and_counts_in_nothing_else() -> None:
    """Of math (10, 50, 10, 30 %) and code (20, 20, 60, 60 %) the means are 15, 35, 35, 45, whatever the group's are."""
    scores = pd.concat([SCORES[SCORES["task"] == "math"].assign(task="both", value=0.9, group=True), SCORES])
    table = leaderboard(scores, list(VALUES), base="base", own=OWN)
    alone = leaderboard(SCORES, list(VALUES), base="base", own=OWN)
    pd.testing.assert_frame_equal(table.drop(columns="both (group) · exact match, %"), alone)
    assert list(table).index("both (group) · exact match, %") == 3  # before its tasks
    assert table["mean, %"].tolist() == pytest.approx([15, 35, 35, 45])
    assert own_fine_tunes(scores, {"math": "math", "code": "code"}) == OWN


def test_a_gain_that_may_be_chance_has_no_share_that_is_kept() -> None:
    own = {"math": "math", "code": "code", "text": "text", "chat": "chat"}
    verdicts = ["not told apart", "better", "worse", ""]  # of the last, which is not compared, nothing is known
    differences = pd.DataFrame({"task": [*own], "model": [*own], "verdict": verdicts})
    assert sure_gains(differences, own) == {"code": "code"}


def test_losses_of_categories_have_a_mean_of_which_less_is_better() -> None:
    losses = SCORES.assign(metric="loss", higher_is_better=False)
    table = leaderboard(losses, list(VALUES), base="base")
    assert table.loc["merge_1", "mean ↓"] == pytest.approx((0.3 + 0.6 + 11.5) / 3)
    assert table.loc["code", "gain over base"] == pytest.approx((12.3 - 11.7) / 3)  # as much less
    assert "own gain kept, %" not in table and best(table).loc["code", "gain over base"]


def test_documents_have_the_best_of_each_column_bold_and_names_as_they_are() -> None:
    table = leaderboard(SCORES, ["base", "merge_1"], base="base")[["math · exact match, %", "gain over base, points"]]
    assert markdown(table.rename(index={"base": "a|b"})) == (
        "| model | math · exact match, % | gain over base, points |\n| --- | ---: | ---: |\n"
        "| a\\|b | 10.0 | 0.0 |\n| merge_1 | **30.0** | **30.0** |\n"
    )
    assert latex(table) == (
        "\\begin{tabular}{lrr}\n\\toprule\n"
        "model & math $\\cdot$ exact match, \\% & gain over base, points \\\\\n\\midrule\n"
        "base & 10.0 & 0.0 \\\\\nmerge\\_1 & \\textbf{30.0} & \\textbf{30.0} \\\\\n\\bottomrule\n\\end{tabular}\n"
    )
    unknown = latex(pd.DataFrame({"gain over base, points": [-1.0, float("nan")]}, ["a", "b"]))
    assert "a & \\textbf{$-$1.0} \\\\\nb & -- \\\\\n" in unknown
    both = pd.DataFrame({"mean, %": [1.0, 2.0], "Method": ["TIES_2", "-"]}, ["a", "a"])  # with texts, which stay
    assert markdown(both).splitlines()[2:] == ["| a | 1.0 | TIES_2 |", "| a | **2.0** | - |"]
    assert "a & 1.0 & TIES\\_2 \\\\\na & \\textbf{2.0} & - \\\\\n" in latex(both)
