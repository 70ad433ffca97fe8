"""The figures of a sweep, by what they hold."""

import pandas as pd
import pytest

from nmerge_core.figures.sweep import front, heat, importance, parallel, progress, title_of

TRIALS = pd.DataFrame(
    {
        "trial": [1, 2, 3, 4, 5],
        "parameters.lambda_1": [0.0, 0.0, 1.0, 1.0, 1.0],
        "parameters.merge_function": ["mean", "sum", "mean", "sum", "sum"],
        "objective": [0.25, 0.5, 0.375, None, 0.75],
    }
)
KEYS = ["parameters.lambda_1", "parameters.merge_function"]


def test_the_best_so_far_and_only_trials_with_an_objective() -> None:
    figure = progress(TRIALS, "objective")
    points, best = figure.data
    assert figure.layout.xaxis.dtick == 1  # there is no trial 1.5
    assert list(points.x) == [1, 2, 3, 5] and list(points.y) == [0.25, 0.5, 0.375, 0.75]
    assert list(best.y) == [0.25, 0.5, 0.5, 0.75]


def test_a_heat_map_has_the_mean_of_each_pair() -> None:
    more = pd.concat([TRIALS, TRIALS.iloc[[0]].assign(trial=6, objective=0.75)])
    [cells] = heat(more, KEYS[0], KEYS[1], "objective").data
    assert list(cells.x) == ["0.0", "1.0"] and list(cells.y) == ["mean", "sum"]
    assert [list(row) for row in cells.z] == [[0.5, 0.375], [0.5, 0.75]]
    assert [list(row) for row in cells.customdata] == [[6, 3], [2, 5]]  # the best trial of each
    many = pd.DataFrame({"trial": range(20), KEYS[0]: range(20), KEYS[1]: range(20), "objective": range(20)})
    [points] = heat(many, KEYS[0], KEYS[1], "objective").data
    assert points.mode == "markers" and list(points.marker.color) == list(range(20))


def test_a_line_a_trial_the_best_last_and_thick() -> None:
    figure = parallel(TRIALS, KEYS, "objective")
    assert [trace.name for trace in figure.data] == ["trial 1", "trial 3", "trial 2", "trial 5"]
    # λ1 in [0, 1]; mean at 0 and sum at 1; the objective in [0.25, 0.75].
    assert [list(trace.y) for trace in figure.data] == [[0, 0, 0], [1, 0, 0.25], [0, 1, 0.5], [1, 1, 1]]
    assert [trace.line.width for trace in figure.data] == [1.5, 1.5, 1.5, 4]
    told = [(each.x, each.y, each.text) for each in figure.layout.annotations]
    assert (1, 0.0, "mean") in told and (1, 1.0, "sum") in told and (2, 1.0, "0.750") in told


def test_importance_has_the_most_important_on_top() -> None:
    figure = importance(pd.DataFrame({"key": KEYS, "importance": [0.75, 0.25]}))
    [bars] = figure.data
    assert figure.layout.xaxis.tickformat == ".0%" and not figure.layout.xaxis.tickformatstops  # these would rule it
    assert list(bars.y) == ["merge function", "λ1"] and list(bars.x) == pytest.approx([0.25, 0.75])


def test_what_keys_are_called() -> None:
    assert title_of("models[1].parameters.weight") == "weight of model 2"
    assert title_of("parameters.lambda") == "λ" and title_of("seed") == "seed"
    assert title_of("then[1].omega") == "omega of step 2"
    assert title_of("models") == "fine-tunes" and title_of("parameters.specific.math") == "math neurons"
    assert title_of("parameters.specific.own") == "own factor"
    assert title_of("parameters.specific.math.foreign") == "foreign factor of math"
    assert title_of("math/exact_match,strict.v2") == "math, exact match,strict.v2"


def test_the_front_is_what_no_other_trial_betters_in_both() -> None:
    trials = pd.DataFrame(
        {"trial": [1, 2, 3, 4, 5], "objective_1": [1.0, 3.0, 2.0, 2.0, None], "objective_2": [3.0, 1.0, 2.0, 1.5, 9.0]}
    )
    every, best = front(trials, ["objective_1", "objective_2"]).data
    assert list(every.customdata) == [2, 3, 4, 1]
    assert list(best.customdata) == [2, 3, 1]  # 3 betters 4: as good in the first, better in the second
    assert list(best.x) == [3, 2, 1] and list(best.y) == [1, 2, 3]
