"""What a report leaves in its folder: the page, the notebook behind it, the tables, the figures, and the verdicts."""

import os
import secrets
import shutil
from pathlib import Path

import pandas as pd

from nmerge_core.kept_files import write_json
from nmerge_core.notebook import Notebook, Step, literal
from nmerge_core.reports import reasons
from nmerge_core.reports.claims import CLAIMS, claims_table, test_claims
from nmerge_core.reports.entries import Entry, entries
from nmerge_core.reports.findings import Findings, Lacking
from nmerge_core.reports.html import PAPERS, page
from nmerge_core.reports.parameter import content_of

PAGE, NOTEBOOK, TABLES, FIGURES, VERDICTS = "index.html", "report.ipynb", "tables", "figures", "verdicts.json"
CLAIMS_TABLE, FACTS_TABLE = "claims", "tuning"


def write(found: Findings, out: Path, call: str) -> None:
    """Write everything anew; `call` is the Python that makes the report, for its notebook."""
    made, tested = list(entries(found)), test_claims(found)
    try:
        facts = reasons.facts(found)
    except Lacking:
        facts = None
    tables = {CLAIMS_TABLE: claims_table(tested)} | ({} if facts is None else {FACTS_TABLE: facts})
    tables |= {entry.item.id: entry.table for entry in made if entry.table is not None}
    for name in (TABLES, FIGURES):
        shutil.rmtree(out / name, ignore_errors=True)
        (out / name).mkdir()
    for name, table in tables.items():
        table.to_csv(out / TABLES / f"{name}.csv", index=False)
    for entry in made:
        for theme, figure in (("light", entry.light), ("dark", entry.dark)):
            if figure is not None:
                (out / FIGURES / f"{entry.item.id}-{theme}.json").write_text(
                    figure.to_json(validate=False), encoding="utf-8"
                )
    verdicts = {entry.item.id: {"verdict": entry.verdict.verdict, "told": entry.verdict.told} for entry in made}
    write_json(out / VERDICTS, {"notes": list(found.notes), "unit": found.unit, "items": verdicts})
    _replace(out / NOTEBOOK, notebook(found, made, call).to_json())
    _replace(out / PAGE, page(found, tested, made, facts))


def notebook(found: Findings, made: list[Entry], call: str) -> Notebook:
    """Return the notebook that makes the same tables and figures."""
    formula = "\n\n".join(f"**{claim.title}** ({claim.source}). {claim.method}" for claim in CLAIMS)
    steps = [
        Step(f"report = {call}\nreport.claims", "## The six claims\n\nWhat was measured before is not measured again."),
    ]
    for entry in made:
        item = entry.item
        title = f"## {PAPERS[item.paper]}, {item.number}\n\n**{item.title}.** {item.trend}\n\n"
        said = f"*{entry.verdict.verdict}*: {entry.verdict.told}"
        if entry.table is None:
            steps.append(
                Step(f"report.papers[{literal(item.id)}]", title + said)
                if item.published is not None
                else Step("", title + said)
            )
            continue
        code = [f"report.papers[{literal(item.id)}]"] if item.published is not None else []
        steps.append(Step(f"report.tables[{literal(item.id)}]", title + said))
        steps += [Step(code[0], "The paper's own:")] if code else []
        steps += [Step(f"report.figure({literal(item.id)})")] if entry.light is not None else []
    context = "Every figure and table of both papers that this family allows, beside the papers' own."
    return Notebook(
        f"Both papers on {found.family.name}", context, formula, [step for step in steps if step.code or step.text]
    )


def call_of(found_family: object, budget: str, run_code: bool, allow_task_code: bool, out: Path | None) -> str:
    """Return the Python that makes a report, or finds it where it was made."""
    more = [f"budget={literal(budget)}", f"run_code={run_code!r}", f"allow_task_code={allow_task_code!r}"]
    more += [f"out={literal(str(out.resolve()))}"] if out else []
    return f"nm.report({literal(content_of(found_family))}, {', '.join(more)})"  # type: ignore[arg-type]


def _replace(file: Path, text: str) -> None:
    beside = file.with_name(f".{file.name}.{secrets.token_hex(4)}")
    beside.write_text(text, encoding="utf-8", errors="backslashreplace")
    os.replace(beside, file)


def read_table(out: Path, name: str) -> pd.DataFrame:
    """Read a table of a report by its name."""
    return pd.read_csv(out / TABLES / f"{name}.csv")
