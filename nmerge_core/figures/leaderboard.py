"""Models × tasks as numbers that sort, with means, gains and what is kept of them; as Markdown and LaTeX too."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import pandas as pd

from nmerge_core.comparison.score_tables import BETTER, primary
from nmerge_core.figures.scores import Metric, metric

MEAN, GAIN, KEPT = "mean", "gain over base", "own gain kept, %"
_UNKNOWN = "–"
_LESS = " ↓"  # of which less is better
_LATEX = str.maketrans(
    {letter: f"\\{letter}" for letter in "&%$#_{}"}
    | {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\^{}", "·": r"$\cdot$", "↓": r"$\downarrow$"}
)


def leaderboard(
    scores: pd.DataFrame, models: Sequence[str], *, base: str = "", own: Mapping[str, str] | None = None
) -> pd.DataFrame:
    """Return a row per model and a column of numbers per task, shares in percent; of ↓ less is better.

    A group of tasks has a column before theirs, and counts in nothing else. First are the mean over the tasks whose
    metric is a share (or over all, where they have one metric), its gain over the base, and, as the mean over tasks,
    which share of the gain of a task's own fine-tune is kept: (model − base) / (own − base), of tasks whose own
    fine-tune is better than the base.

    Args:
        scores: a table of scores.
        models: the models, in their order.
        base: the model that gains are over; none when empty.
        own: the fine-tune of each task.
    """
    kept = primary(scores).drop_duplicates(["model", "task"])
    values = kept.pivot(index="model", columns="task", values="value").reindex(models)
    values = values[list(dict.fromkeys(kept["task"]))]
    metrics = _metrics(kept)
    table = pd.DataFrame(index=values.index)
    alike = [task for task in values if metrics[task].share]
    alike = list(values) if len(set(metrics.values())) == 1 else alike
    if len(alike) > 1:
        known = metrics[alike[0]]
        mean = _scale(known) * values[alike].mean(axis=1, skipna=False)
        table[MEAN + _unit(known)] = mean
        if base in values.index:
            gain = (mean - mean[base]) * (1 if known.higher_is_better else -1)
            table[GAIN + (", points" if known.share else "")] = gain
    if base in values.index and (shares := _kept(values, metrics, base, own or {})) is not None:
        table[KEPT] = shares
    groups = primary(scores, group=True).drop_duplicates(["model", "task"])
    for rows, called in ((groups, "{} (group)"), (kept, "{}")):
        for task, known in _metrics(rows).items():
            numbers = rows[rows["task"].astype(str) == task].set_index("model")["value"].reindex(models)
            table[_title(called.format(task), known)] = _scale(known) * numbers
    return table.rename_axis("model")


def own_fine_tunes(scores: pd.DataFrame, categories: Mapping[str, str]) -> dict[str, str]:
    """Return the fine-tune of each task: that of its category, else the one that is best at it.

    Args:
        scores: a table of scores.
        categories: the category of each fine-tune, by its name.
    """
    own, kept = {category: name for name, category in categories.items()}, primary(scores)
    found = {}
    for task, rows in kept[kept["model"].isin(categories)].groupby("task", sort=False):
        by_model = rows.set_index("model")["value"]
        best = by_model.idxmax() if rows["higher_is_better"].iloc[0] else by_model.idxmin()
        found[str(task)] = own[str(task)] if own.get(str(task)) in by_model.index else str(best)
    return found


def sure_gains(differences: pd.DataFrame, own: Mapping[str, str]) -> dict[str, str]:
    """Keep the fine-tunes that are better than the base on their tasks by more than chance, as the differences say.

    A share of less tells nothing.

    Args:
        differences: of models from the base (`score_tables.compare`).
        own: the fine-tune of each task.
    """
    sure = differences[differences["verdict"] == BETTER]
    pairs = set(zip(sure["task"], sure["model"], strict=True))
    return {task: model for task, model in own.items() if (task, model) in pairs}


def best(table: pd.DataFrame) -> pd.DataFrame:
    """Return where the best number of each column stands: the least where less is better; of texts none is."""
    numbers = table.select_dtypes("number")
    ends = {column: numbers[column].min() if less(column) else numbers[column].max() for column in numbers}
    marks = pd.DataFrame({column: numbers[column] == end for column, end in ends.items()}, table.index)
    return marks.reindex(columns=table.columns, fill_value=False)


def written(table: pd.DataFrame) -> pd.DataFrame:
    """Return the numbers as text: shares and points with one decimal, others with four digits; texts as they are."""
    return pd.DataFrame({column: [_write(value, column) for value in table[column]] for column in table}, table.index)


def markdown(table: pd.DataFrame) -> str:
    """Write a table in Markdown, the best of each column bold."""
    rows = _cells(table, lambda text: f"**{text}**")
    head = ["model", *table.columns]
    lines = [head, ["---", *["---:"] * len(table.columns)], *rows]
    return "".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |\n" for line in lines)


def latex(table: pd.DataFrame) -> str:
    """Write a table in LaTeX, for the package booktabs, the best of each column bold."""
    bold = r"\textbf{{{}}}".format
    cells = _cells(table, bold, unknown="--", minus="$-$", escape=_escaped)
    rows = [[_escaped(name), *own] for name, *own in cells]
    head = ["model", *map(_escaped, table.columns)]
    body = "".join(f"{' & '.join(line)} \\\\\n" for line in rows)
    return (
        f"\\begin{{tabular}}{{l{'r' * len(table.columns)}}}\n\\toprule\n{' & '.join(head)} \\\\\n\\midrule\n{body}"
        "\\bottomrule\n\\end{tabular}\n"
    )


def _cells(
    table: pd.DataFrame,
    bold: Callable[[str], str],
    *,
    unknown: str = _UNKNOWN,
    minus: str = "-",
    escape: Callable[[str], str] = str,
) -> list[list[str]]:
    marks, texts = best(table).to_numpy(), written(table).to_numpy()  # by place: a model may have several rows

    def cell(row: int, column: int) -> str:
        said, number = str(texts[row, column]), pd.api.types.is_number(table.iat[row, column])
        text = unknown if said == _UNKNOWN else said.replace("-", minus) if number else escape(said)
        return bold(text) if marks[row, column] else text

    return [
        [str(name), *(cell(row, column) for column in range(table.shape[1]))] for row, name in enumerate(table.index)
    ]


def _metrics(kept: pd.DataFrame) -> dict[str, Metric]:
    """Return the metric of each task; whether more of it is better is as the scores say."""
    rows = kept.drop_duplicates("task").to_dict("records")
    return {
        str(row["task"]): replace(metric(str(row["metric"])), higher_is_better=bool(row["higher_is_better"]))
        for row in rows
    }


def _kept(values: pd.DataFrame, metrics: Mapping[str, Metric], base: str, own: Mapping[str, str]) -> pd.Series | None:
    shares = []
    for task, tuned in own.items():
        if task not in values or tuned not in values.index:
            continue
        gain = values.at[tuned, task] - values.at[base, task]
        if gain * (1 if metrics[task].higher_is_better else -1) > 0:
            shares.append(100 * (values[task] - values.at[base, task]) / gain)
    return pd.concat(shares, axis=1).mean(axis=1, skipna=False) if shares else None


def _title(task: str, known: Metric) -> str:
    return f"{task} · {known.title}{_unit(known)}"


def _unit(known: Metric) -> str:
    return (", %" if known.share else "") + ("" if known.higher_is_better else _LESS)


def _scale(known: Metric) -> float:
    return 100.0 if known.share else 1.0


def less(column: str) -> bool:
    """Whether of a column's numbers less is better."""
    return column.endswith(_LESS)


def _write(value: float | str, column: str) -> str:
    if isinstance(value, str):
        return value
    if pd.isna(value):
        return _UNKNOWN
    if column.removesuffix(_LESS).endswith((", %", ", points")):
        return f"{value:.1f}"
    return f"{value:#.4g}"


def _escaped(text: str) -> str:
    return text.translate(_LATEX)
