import pandas as pd
import plotly.graph_objects as go
import pytest

from nmerge_core.figures import (
    departure,
    effects,
    intervals,
    knockout,
    linearity,
    merge,
    panels,
    scores,
    similarity,
    style,
)

COLOURS = {"base": "#000000", "math": style.COLOURS["math"], "code": style.COLOURS["code"], "ties": style.MERGE}


QUANTILES = {"min": 0.5, "p01": 0.9, "p50": 1.0}


def test_cosines_have_a_panel_per_matrix_and_tell_the_whole_fact() -> None:
    rows = [
        {
            "model": model,
            "layer": layer,
            "matrix": matrix,
            "neurons": 1024,
            "mean": mean,
            "min": 0.5,
            "p01": 0.9,
            "p50": 1.0,
        }
        for model, mean in (("math", 0.99), ("code", 0.98))
        for layer in (1, 0)
        for matrix in ("gate", "up", "down")
    ]
    figure = similarity.mean_cosine(pd.DataFrame(rows).assign(zero=[3] + [0] * 11), COLOURS)
    assert [(line.name, line.xaxis, line.line.color, line.showlegend) for line in figure.data[:3]] == [
        ("math", "x", COLOURS["math"], True),
        ("code", "x", COLOURS["code"], True),
        ("math", "x2", COLOURS["math"], False),
    ]
    assert (list(figure.data[0].x), list(figure.data[0].y)) == ([0, 1], [0.99, 0.99])  # in order of layer
    assert figure.data[0].hovertext[1] == (
        "layer 1 · gate · math · 1,024 neurons<br>mean cosine 0.99000 · median 1.00000<br>"
        "1 in 100 below 0.90000 · lowest 0.50000<br>3 zero vectors left out"
    )


def knocked_out() -> pd.DataFrame:
    curve = [("code", 0, 0, 0, 0.5), ("random", 0, 0, 0, 0.5), ("code", 1.0, 40, 0, 0.1)]
    control = [("random", 1.0, 40, seed, value) for seed, value in ((0, 0.3), (1, 0.4), (2, 0.5))]
    columns = ["group", "proportion", "neurons", "seed", "value"]
    return pd.DataFrame(curve + control, columns=columns).assign(metric="pass@1")


def test_spread_over_repeats() -> None:
    frame = knocked_out()
    last = knockout.spread(frame[frame["group"] == "random"]).iloc[-1]
    # (0.3 + 0.4 + 0.5) / 3 = 0.4
    assert (last["mean"], last["low"], last["high"], last["repeats"]) == (pytest.approx(0.4), 0.3, 0.5, 3)


def test_knockout_draws_the_category_over_its_dashed_control_with_a_band() -> None:
    figure = knockout.curves(knocked_out(), "pass@1", COLOURS)
    band, control, curve = figure.data
    assert band.fill == "toself" and list(band.x) == [0, 100, 100, 0] and list(band.y) == [50, 50, 30, 50]
    assert (control.line.color, control.line.dash) == (style.RANDOM, "dash")
    assert (curve.line.color, curve.line.dash, list(curve.y)) == (COLOURS["code"], "solid", [50, 10])
    assert curve.hovertext[0] == "nothing knocked out<br>pass@1 50.0 %"
    assert control.hovertext[1] == (
        "40 random neurons off (100.0 % of the category)<br>pass@1 40.0 % · 30.0 % to 50.0 % over 3 repeats"
    )


def test_several_models_have_a_panel_each_on_one_scale_and_one_legend() -> None:
    frame = pd.concat([knocked_out().assign(model=model) for model in ("base", "merge")])
    figure = knockout.curves(frame, "pass@1", COLOURS)
    assert [title.text for title in figure.layout.annotations] == ["<b>base</b>", "<b>merge</b>"]
    shown = [(trace.name, trace.xaxis) for trace in figure.data if trace.showlegend]
    assert shown == [("as many random neurons", "x"), ("code neurons", "x")]
    assert figure.layout.yaxis2.matches == "y" and figure.layout.xaxis.title.text == knockout.NARROW_OFF


def test_what_is_kept_alone_is_drawn_under_the_level_of_the_intact_model() -> None:
    intact = pd.DataFrame([("intact", 1.0, 90, 0, 0.6, "pass@1")], columns=list(knocked_out().columns))
    figure = knockout.curves(pd.concat([intact, knocked_out()]), "pass@1", COLOURS, keep_only=True)
    level, curve = figure.data[0], figure.data[-1]
    assert (level.name, list(level.x), list(level.y)) == ("intact model", [0, 100], [60, 60])
    assert curve.hovertext[0] == "no neuron of these layers kept<br>pass@1 50.0 %"
    assert curve.hovertext[1] == "40 code neurons kept (100.0 % of the category)<br>pass@1 10.0 %"


EFFECTS = pd.DataFrame(
    {"model": "base", "layer": [0, 1, 0, 0], "category": ["code", "code", "loud", "code"], "neurons": 40}
    | {"metric": ["code/loss", "code/loss", "loss", "loss"], "intact": 0.5, "own": 1.5, "random": 1.0}
    | {"effect": [0.5, -0.1, 0.2, 9.0], "stderr": 0.1, "adjusted": [0.01, 0.05, 0.9, 0.001], "draws": 3}
)


def test_effects_are_pale_where_they_may_be_chance() -> None:
    """A category is drawn on its own texts, a list, which has none, on all."""
    assert effects.metrics_of(EFFECTS) == ["own texts", "code/loss", "loss"]
    sure, pale = effects.by_layer(EFFECTS, effects.OWN).data
    assert (sure.coloraxis, pale.coloraxis, list(sure.x), list(sure.y)) == (
        *("coloraxis", "coloraxis2"),
        *([0, 1], ["code", "loud"]),
    )
    assert [list(line) for line in sure.z] == [[0.5, None], [None, None]]
    assert [list(line) for line in pale.z] == [[None, -0.1], [0.2, None]]
    assert sure.text[0][0] == "+0.50<br>± 0.10" and pale.text[0][1] == "-0.10<br>± 0.10"
    assert sure.hovertext[0][0] == (
        "layer 0 · 40 code neurons · base<br>loss, nats per token: 0.500 intact, 1.50 without them, 1.00 without as "
        "many random ones (3 draws)<br>+0.500 ± 0.100 lost beyond random · p 0.01, distinguishable from chance"
    )


def test_effects_on_a_share_are_in_points_of_one_scale() -> None:
    figure = effects.by_layer(EFFECTS.assign(metric="exact_match"), "exact_match")
    assert figure.data[0].z[0][0] == 900 and figure.layout.coloraxis.cmax == -figure.layout.coloraxis.cmin == 900
    assert figure.layout.coloraxis.colorbar.title.text == "lost beyond<br>random, points"


def test_a_metric_that_is_no_share_is_drawn_as_it_is() -> None:
    figure = knockout.curves(knocked_out().assign(metric="word_perplexity"), "word_perplexity", COLOURS)
    assert list(figure.data[-1].y) == [0.5, 0.1]
    assert figure.layout.yaxis.title.text == "perplexity per word (lower is better)"


LINEARITY = pd.DataFrame(
    [
        ("math", 0, "attention", None, 0.1, 0.2),
        ("math", 0, "attention", None, 0.2, 0.4),
        ("math", 0, "group", "code", 0.1, 0.1),
        ("code", 0, "mlp", None, 0.1, 0.3),
    ],
    columns=["model", "layer", "submodule", "group", "alpha", "value"],
)


def test_nonlinearity_is_the_mean_over_alpha_in_a_panel_per_model() -> None:
    figure = linearity.nonlinearity(LINEARITY, COLOURS, title="{} fine-tune")
    assert [title.text for title in figure.layout.annotations] == ["<b>math fine-tune</b>", "<b>code fine-tune</b>"]
    attention, group, mlp = figure.data
    assert attention.y[0] == pytest.approx(0.3)  # (0.2 + 0.4) / 2
    assert (attention.name, attention.line.dash, attention.xaxis) == ("attention", "dot", "x")
    assert (group.name, group.line.color) == ("code neurons", COLOURS["code"])
    assert (mlp.name, mlp.line.color, mlp.xaxis) == ("whole MLP", style.base_colour(), "x2")


def test_base_lines_change_colour_with_the_theme() -> None:
    light, dark = (linearity.nonlinearity(LINEARITY, COLOURS, dark=theme) for theme in (False, True))
    assert light.data[0].line.color != dark.data[0].line.color
    assert light.data[1].line.color == dark.data[1].line.color  # a category's colour is the same everywhere


def test_numbers_by_layer_have_a_panel_per_part() -> None:
    rows = [("math", 1, "attention", 0.25), ("math", 0, "attention", 0.5), ("code", 0, "general", 0.75)]
    frame = pd.DataFrame(rows, columns=["model", "layer", "part", "coefficient"])
    figure = merge.by_layer(frame, "coefficient α", COLOURS)
    assert figure.layout.yaxis.title.text == "coefficient α"
    assert [title.text for title in figure.layout.annotations] == ["<b>attention</b>", "<b>general neurons</b>"]
    assert (list(figure.data[0].x), list(figure.data[0].y)) == ([0, 1], [0.5, 0.25])
    assert figure.data[1].hovertext[0] == "layer 0 · general neurons<br>code: 0.750"
    alone = merge.by_layer(frame[["layer", "model", "coefficient"]].assign(layer=[1, 0, 0]), "share", COLOURS)
    assert [line.hovertext[0] for line in alone.data] == ["layer 0<br>math: 0.500", "layer 0<br>code: 0.750"]


SCORES = pd.DataFrame(
    [
        ("base", "code", "pass@1", 0.4, 0.35, 0.46, 300),
        ("ties", "code", "pass@1", 0.55, 0.49, 0.6, 300),
        ("ties", "text", "word_perplexity", 12.34, float("nan"), float("nan"), 100),
        ("ties", "text", "bits_per_byte", 1.2, float("nan"), float("nan"), 100),
    ],
    columns=["model", "task", "metric", "value", "low", "high", "samples"],
)


def test_bars_show_the_primary_metric_with_its_interval() -> None:
    figure = scores.bars(SCORES, COLOURS, ["base", "ties"], base="base")
    code, values, text, _ = figure.data  # each followed by its written values
    assert list(values.text) == ["40.0 %", "55.0 %"] and set(values.x) == {figure.layout.xaxis.range[1]}  # right of all
    assert (list(code.y), list(code.x), list(code.marker.color)) == (
        ["base", "ties"],
        pytest.approx([40, 55]),
        ["#000000", style.MERGE],
    )
    assert list(code.error_x.array) == pytest.approx([6, 5]) and list(code.error_x.arrayminus) == pytest.approx([5, 6])
    assert (
        code.hovertext[1]
        == "ties · code · pass@1<br>55.0 % [49.0, 60.0] (95 %) · 300 problems<br>+15.0 points against the base"
    )
    assert (list(text.y), list(text.x)) == (["ties"], [12.34])
    assert [title.text for title in figure.layout.annotations] == [
        "<b>code · pass@1, %</b>",
        "<b>text · perplexity per word (lower is better)</b>",
    ]


def test_the_table_has_every_metric_and_marks_what_is_missing() -> None:
    written = scores.table(SCORES, ["base", "ties"])
    assert written.to_dict("records") == [
        {
            "model": "base",
            "code · pass@1": "40.0 % [35.0, 46.0]",
            "text · perplexity per word": "–",
            "text · bits per byte": "–",
        },
        {
            "model": "ties",
            "code · pass@1": "55.0 % [49.0, 60.0]",
            "text · perplexity per word": "12.3",
            "text · bits per byte": "1.20",
        },
    ]


@pytest.mark.parametrize(("count", "columns", "rows"), [(1, 1, 1), (3, 3, 1), (4, 3, 2), (7, 3, 3)])
def test_panels_fill_row_by_row(count: int, columns: int, rows: int) -> None:
    layout = go.Figure(layout=panels.panels([str(i) for i in range(count)], x_title="layer", y_title="neurons")).layout
    across = [layout[f"xaxis{i + 1}"] for i in range(count)]
    down = [layout[f"yaxis{i + 1}"] for i in range(count)]
    assert "xaxis" + str(count + 1) not in layout
    assert layout.height == rows * panels.HEIGHT + panels.LEGEND
    assert (across[0].domain[0], down[0].domain[1]) == (0, 1)
    assert across[columns - 1].domain[1] == pytest.approx(1) and down[-1].domain[0] == pytest.approx(0)
    for i in range(count):
        row, column = divmod(i, columns)
        assert across[i].domain == across[column].domain and down[i].domain == down[row * columns].domain
        assert (down[i].title.text, down[i].showticklabels) == (("neurons", True) if column == 0 else ("", False))
        assert (layout.annotations[i].text, layout.annotations[i].x) == (f"<b>{i}</b>", across[i].domain[0])
        assert layout.annotations[i].y == down[i].domain[1]
        assert down[i].matches == (None if i == 0 else "y")  # one scale
    assert [i for i in range(count) if across[i].title.text] == list(range(max(0, count - columns), count))


def test_panels_lie_apart() -> None:
    layout = panels.panels(["a", "b", "c", "d"], columns=2, height=320)
    # Two columns: (1 − 0.035) / 2 = 0.4825 each; two rows of 640 pixels, 64 of them between: (1 − 0.1) / 2 = 0.45 each.
    assert layout["xaxis2"]["domain"] == pytest.approx([0.5175, 1])
    assert layout["yaxis2"]["domain"] == pytest.approx([0.55, 1])
    assert layout["yaxis3"]["domain"] == pytest.approx([0, 0.45])


def test_a_metric_behind_a_filter_is_written_as_the_metric() -> None:
    known = scores.metric("exact_match,strict-match")
    assert (known.axis, known.write(0.5)) == ("exact match (strict-match), %", "50.0 %")
    assert scores.metric("word_perplexity,last") == scores.Metric("perplexity per word (last)", False, False)


def test_a_category_keeps_its_colour_when_others_follow() -> None:
    own = style.category_colours(["general", "law", "math"])
    more = style.category_colours(["general", "law", "math", "art", "biology"])
    assert {name: more[name] for name in own} == own
    assert len({*more.values(), style.MERGE, style.INTERSECTION, style.RANDOM}) == 8


def test_tokens_are_shaded_by_nats_and_keep_their_spaces() -> None:
    first, second, last = departure.pieces(["  if", "\n", "   "], [2.0, 0.0, 0.5], "base")
    assert (first.before, first.text, first.told) == ("  ", "if", "2.00 nats from base after this token")
    assert first.style.startswith(f"background:{style.translucent(style.MERGE, 1.0)}")
    assert (second.before, second.text, second.style) == ("", "↵\n", "")
    # 0.05 + 0.95 · log10(1 + 9 · 0.5 / 2) = 0.536
    assert (last.before, last.text) == ("", "   ") and ",0.536)" in last.style


def test_next_tokens_are_the_likeliest_of_any_model_in_the_merge_s_order() -> None:
    tokens = ["a", " a", "b", *"cdefghi"]
    probabilities = {"ties": [0.5, 0.3, 0.1, *[0.01] * 7], "math": [0.0, 0.0, 0.005, *[0.1] * 7]}
    figure = departure.next_tokens(tokens, probabilities, COLOURS)
    assert list(figure.layout.yaxis.ticktext) == ["'a'", "' a'", "'b'", "'c'", "'d'", "'e'", "'f'", "'g'"]
    assert [(bars.name, list(bars.x)[:3]) for bars in figure.data] == [("ties", [50, 30, 10]), ("math", [0, 0, 0.5])]
    assert figure.data[0].hovertext[1] == "' a' · ties<br>30.0 %"
    sure = departure.next_tokens(["a", "b"], {"ties": [0.999, 0.001]}, COLOURS)
    assert list(sure.layout.yaxis.ticktext) == ["'a'"]


def test_points_have_a_panel_per_row_and_whiskers_of_unequal_length() -> None:
    rows = [("math", "exact_match", "base", 0.0, 0.0, 0.161, 20), ("math", "exact_match", "<b>", 0.5, 0.3, 0.7, 20)]
    rows += [("general", "loss", model, 2.0, 1.5, 2.75, 8) for model in ("base", "<b>")]
    found = pd.DataFrame(rows, columns=["row", "metric", "model", "value", "low", "high", "problems"])
    figure = intervals.points(found, {"base": "#000000", "<b>": style.MERGE}, ["base", "<b>"])
    shares, losses = figure.data
    assert list(shares.x) == [0, 50] and list(shares.error_x.array) == pytest.approx([16.1, 20])
    assert list(shares.error_x.arrayminus) == pytest.approx([0, 20]) and list(shares.y) == ["base", "&lt;b&gt;"]
    assert list(shares.marker.color) == ["#000000", style.MERGE] and shares.marker.symbol[0] == "circle"
    assert list(losses.error_x.array) == [0.75, 0.75] and figure.layout.xaxis2.range == (1.4, 2.85)
    assert shares.hovertext[0] == ("base · math · exact match<br>0.0 %, 95 % between 0.0 % and 16.1 % · 20 problems")
    assert "(lower is better)" in figure.layout.annotations[1].text
