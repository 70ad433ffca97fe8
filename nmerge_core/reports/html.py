"""A report as one HTML file that needs no server and no network: plotly.js is in it once, tables read without it."""

import json
import math
from collections.abc import Sequence
from html import escape
from importlib.resources import files
from itertools import groupby

import pandas as pd
import plotly.graph_objects as go
from plotly.offline import get_plotlyjs

from nmerge_core.reports.claims import Tested
from nmerge_core.reports.entries import Entry
from nmerge_core.reports.findings import Findings
from nmerge_core.reports.verdicts import AGREES, DIFFERS, UNCLEAR
from nmerge_core.version import __version__

_CLASS = {AGREES: "yes", DIFFERS: "no", UNCLEAR: "open"}
PAPERS = {"NeuronMerge": "NeuronMerge (Gu et al., ACL 2025)", "NeuroMerging": "NeuroMerging (EMNLP 2025)"}
_FACTS = {
    "step": "‖τ‖/‖θ0‖",
    "mlp_step": "‖τ‖/‖θ0‖ of MLPs",
    "mlp_change": "‖τ‖² in MLPs",
    "mlp_parameters": "parameters in MLPs",
    "dropped": "‖τ‖² in tasks' neurons",
}
_LONG = 14  # rows of a table from which on it is folded


def page(found: Findings, tested: Sequence[Tested], made: Sequence[Entry], facts: pd.DataFrame | None) -> str:
    """Return the report as HTML."""
    own = files("nmerge_core.reports")
    title = f"Both papers on {found.family.name}"
    body = "\n".join(
        [
            f"<h1>{escape(title)}</h1>",
            _lead(found),
            *(f'<p class="note">{escape(note)}</p>' for note in found.notes),
            '<h2 id="claims">The six claims</h2>',
            _claims(tested),
            *_facts(facts),
            *_papers(made),
            f"<footer>Made by NMerge {__version__}, budget “{found.budget.name}”.</footer>",
        ]
    )
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(title)}</title>
<style>{own.joinpath("report.css").read_text(encoding="utf-8")}</style></head>
<body><nav aria-label="Contents"><button id="theme" type="button">Light / dark</button>
{_contents(made)}</nav>
<main>{body}</main>
<script>{get_plotlyjs()}</script>
<script>{own.joinpath("report.js").read_text(encoding="utf-8")}</script></body></html>
"""


def _lead(found: Findings) -> str:
    models = ", ".join(model.label for model in found.family.models)
    own = [subject for subject in found.subjects if subject.owner]
    judged = "; ".join(f"{subject.owner}: {subject.name}, {subject.count} problems" for subject in own) or "nothing"
    held = f" The texts are {own[0].said}." if own and own[0].said else ""
    return (
        "<p>Every figure and table of NeuronMerge and NeuroMerging that this family allows, each beside what the paper "
        f"reports and whether the two agree. Fine-tunes: {escape(models)}. What each is judged by – "
        f"{escape(judged)}; numbers are in {escape(found.unit)}.{escape(held)} Intervals are of 95 %.</p>"
    )


def _kind(entry: Entry) -> str:
    return _CLASS.get(entry.verdict.verdict, "none")


def _badge(verdict: str) -> str:
    return f'<span class="badge {_CLASS.get(verdict, "none")}">{escape(verdict)}</span>'


def _claims(tested: Sequence[Tested]) -> str:
    rows = "".join(
        f"<tr><td>{escape(each.claim.title)}<br><small>{escape(each.claim.source)}</small></td>"
        f"<td>{_badge(each.verdict.verdict)}</td><td>{escape(each.verdict.told)}"
        + (f'<p class="why">{escape(each.reason)}</p>' if each.reason else "")
        + f"<details><summary>How it is tested</summary>{escape(each.claim.method)}</details></td></tr>"
        for each in tested
    )
    head = "<tr><th>claim</th><th>this family</th><th>measured</th></tr>"
    return f'<div class="wide"><table class="claims"><thead>{head}</thead><tbody>{rows}</tbody></table></div>'


def _facts(facts: pd.DataFrame | None) -> list[str]:
    if facts is None:
        return []
    text = (
        "What may tell this family from the papers', in percent: the length of the change against that of the base's "
        "weights, ‖τ‖/‖θ0‖, whole and in MLPs (the paper's cosine of 0.999 means 4.5); the share of ‖τ‖² in MLPs and "
        "of parameters there; and the share of ‖τ‖² in the tasks' own neurons, which NeuronMerge drops."
    )
    return ['<h2 id="facts">Tuning</h2>', f"<p>{text}</p>", table(facts.rename(columns=_FACTS))]


def _contents(made: Sequence[Entry]) -> str:
    lists = []
    for paper, group in groupby(made, key=lambda entry: entry.item.paper):
        links = "".join(
            f'<li><a href="#{entry.item.id}" class="{_kind(entry)}">{entry.item.number}</a></li>' for entry in group
        )
        lists.append(f"<h3>{paper}</h3><ol>{links}</ol>")
    return f'<a href="#claims">The six claims</a>{"".join(lists)}'


def _papers(made: Sequence[Entry]) -> list[str]:
    parts = []
    for paper, group in groupby(made, key=lambda entry: entry.item.paper):
        parts += [f"<h2>{escape(PAPERS[paper])}</h2>", *map(_entry, group)]
    return parts


def _entry(entry: Entry) -> str:
    item = entry.item
    parts = [
        f'<section id="{item.id}"><h3>{item.number}. {escape(item.title)} {_badge(entry.verdict.verdict)}</h3>',
        f"<p><b>The paper:</b> {escape(item.trend)}</p>",
        f"<p><b>This family:</b> {escape(entry.verdict.told)}</p>",
        f"<p><small>{escape(item.note)}</small></p>" if item.note else "",
    ]
    if entry.light is not None and entry.dark is not None:
        parts.append(drawn(entry.light, entry.dark, f"{item.paper}, {item.number}: {item.title}"))
    columns = [_table("This family", entry.table)] if entry.table is not None else []
    columns += [_table("The paper", item.published)] if item.published is not None else []
    parts.append(f'<div class="pair">{"".join(columns)}</div></section>')
    return "".join(parts)


def _table(title: str, frame: pd.DataFrame) -> str:
    if len(frame) <= _LONG:
        return f"<div><h4>{title}</h4>{table(frame)}</div>"
    return f"<div><details><summary>{title}: {len(frame)} rows</summary>{table(frame)}</details></div>"


def table(frame: pd.DataFrame) -> str:
    """Return a table as HTML, numbers with four digits."""
    head = "".join(f"<th>{escape(str(name))}</th>" for name in frame)
    rows = "".join(f"<tr>{''.join(map(_cell, row))}</tr>" for row in frame.itertuples(index=False, name=None))
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>'


def _cell(value: object) -> str:
    if isinstance(value, str):
        return f"<td>{escape(value)}</td>"
    return f'<td class="number">{written(value)}</td>'


def written(value: object) -> str:
    """Write a number: whole ones as they are, others with four digits; what is missing as nothing."""
    if value is None or value != value:
        return ""
    number = float(value)  # type: ignore[arg-type]
    if math.isinf(number):
        return "unbounded"
    text = f"{number:,.0f}" if number == int(number) and abs(number) < 1e15 else f"{number:.4g}"
    return text.replace("-", "−")


def drawn(light: go.Figure, dark: go.Figure, alt: str) -> str:
    """Return a figure as HTML: its JSON for both themes, which the page's script draws."""
    both = {"light": json.loads(light.to_json(validate=False)), "dark": json.loads(dark.to_json(validate=False))}
    content = json.dumps(both, ensure_ascii=False).replace("<", "\\u003c")  # which may end a script, or begin one
    height = light.layout.height or 450
    label = f'role="img" aria-label="{escape(alt)}"'
    return (
        f'<div class="figure" style="min-height:{height}px" {label}>'
        f'<script type="application/json">{content}</script></div>'
    )
