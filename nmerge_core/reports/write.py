"""What a report leaves in its folder: the page, the notebook behind it, the tables, the figures, and the verdicts."""

import shutil
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from nmerge_core.family import Family
from nmerge_core.files.kept_files import Damaged, digest, read_object, remove, write_json, write_text
from nmerge_core.notebook import Notebook, Step, literal, verbatim
from nmerge_core.reports import reasons
from nmerge_core.reports.claims import CLAIMS, claims_table, test_claims
from nmerge_core.reports.entries import Entry, entries
from nmerge_core.reports.findings import Findings, Lacking
from nmerge_core.reports.html import PAPERS, page
from nmerge_core.reports.parameter import content_of
from nmerge_core.reports.said import VERDICTS, Said
from nmerge_core.version import __version__

PAGE, NOTEBOOK = "index.html", "report.ipynb"
TABLES, PUBLISHED, FIGURES = "tables", "papers", "figures"
CLAIMS_TABLE, FACTS_TABLE = "claims", "tuning"


def is_written(out: Path, call: str, prints: Mapping[str, str]) -> bool:
    """Whether a report's page, as this version writes it of inputs with these fingerprints, is there to the end."""
    try:
        return read_object(out / VERDICTS)["made"] == _made(call, prints) and (out / PAGE).is_file()
    except (Damaged, KeyError):
        return False


def _made(call: str, prints: Mapping[str, str]) -> dict[str, str]:
    return {"by": __version__, "call": call, "of": digest(prints)}


def write(found: Findings, out: Path, call: str, prints: Mapping[str, str], *, complete: bool = True) -> None:
    """Write everything anew.

    `call` is the Python that makes the report, for its notebook, and `prints` the fingerprint of each input.
    """
    remove(out / VERDICTS)
    made, tested = list(entries(found)), test_claims(found)
    try:
        facts = reasons.facts(found)
    except Lacking:
        facts = None
    tables = {CLAIMS_TABLE: claims_table(tested)} | ({} if facts is None else {FACTS_TABLE: facts})
    tables |= {entry.item.id: entry.table for entry in made if entry.table is not None}
    published = {entry.item.id: entry.item.published for entry in made if entry.item.published is not None}
    for name, own in ((TABLES, tables), (PUBLISHED, published), (FIGURES, {})):
        shutil.rmtree(out / name, ignore_errors=True)
        (out / name).mkdir()
        for entry_id, table in own.items():
            table.to_csv(out / name / f"{entry_id}.csv", index=False)
    for entry in made:
        for theme, figure in (("light", entry.light), ("dark", entry.dark)):
            if figure is not None:
                (out / FIGURES / f"{entry.item.id}-{theme}.json").write_text(
                    figure.to_json(validate=False), encoding="utf-8"
                )
    verdicts = {entry.item.id: asdict(_said(entry)) for entry in made}
    write_text(out / NOTEBOOK, notebook(found, made, call).to_json())
    write_text(out / PAGE, page(found, tested, made, facts))
    told = {"notes": list(found.notes), "unit": found.unit, "items": verdicts}
    write_json(out / VERDICTS, told | ({"made": _made(call, prints)} if complete else {}))


def _said(entry: Entry) -> Said:
    item, verdict = entry.item, entry.verdict
    return Said(item.paper, item.number, item.title, item.trend, item.note, verdict.verdict, verdict.told, item.behind)


def notebook(found: Findings, made: list[Entry], call: str) -> Notebook:
    """Return the notebook that makes the same tables and figures."""
    formula = "\n\n".join(f"**{claim.title}** ({claim.source}). {claim.method}" for claim in CLAIMS)
    steps = [
        Step(f"report = {call}\nreport.claims", "## The six claims\n\nWhat was measured before is not measured anew.")
    ]
    for entry in made:
        item = entry.item
        head = f"## {PAPERS[item.paper]}, {item.number}\n\n**{item.title}.** {item.trend}\n\n"
        said = f"{head}*{entry.verdict.verdict}*: {verbatim(entry.verdict.told)}"
        name = literal(item.id)
        own = [Step(f"report.tables[{name}]")] if entry.table is not None else []
        own += [Step(f"report.figure({name})")] if entry.light is not None else []
        theirs = [Step(f"report.papers[{name}]", "The paper's own:")] if item.published is not None else []
        first, *rest = [*own, *theirs] or [Step(f"report.verdicts.set_index('id').loc[{name}]")]
        steps += [Step(first.code, said), *rest]
    context = "Every figure and table of both papers that this family allows, beside the papers' own."
    return Notebook(
        f"Both papers on {verbatim(found.family.name)}",
        context,
        formula,
        [step for step in steps if step.code or step.text],
    )


def call_of(family: Family, budget: str, run_code: bool, allow_task_code: bool, out: Path | None) -> str:
    """Return the Python that makes a report, or finds it where it was made."""
    more = [f"budget={literal(budget)}", f"run_code={run_code!r}", f"allow_task_code={allow_task_code!r}"]
    more += [f"out={literal(str(out.resolve()))}"] if out else []
    return f"nm.report({literal(content_of(family))}, {', '.join(more)})"
