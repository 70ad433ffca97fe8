"""What each command does that is not of analysis: call the public function of its name and print what came of it."""

import json
import os
import shlex
import sys
from argparse import Namespace
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nmerge_core.cache import DEMO, cache_root, make_private
from nmerge_core.checkpoints.inspection import inspect_family
from nmerge_core.checkpoints.reference import labels
from nmerge_core.cli.given import family_of, given_to, make
from nmerge_core.cli.output import print_facts, print_table, warn, write_csv, write_samples
from nmerge_core.errors import InputError
from nmerge_core.family import Family, Member
from nmerge_core.machine import choose_device
from nmerge_core.parameters.settings import DEVICE, RUN_DTYPE
from nmerge_core.places import APP
from nmerge_core.progress import TerminalProgress
from nmerge_core.runs.kinds import KINDS

if TYPE_CHECKING:
    from nmerge_core.face.losses import Losses
    from nmerge_core.face.scores import Scores

# What takes seconds to import is imported in the command that needs it: `--help` and `inspect` answer at once.


def demo(arguments: Namespace) -> None:
    """Write the demo family, shipped or trained anew, and print where it is."""
    from nmerge_core.demo import family

    if arguments.out is None:
        make_private(cache_root())
    if arguments.retrain:
        out = arguments.out or cache_root() / "demo-retrained"
        family.retrain(out, arguments.device, TerminalProgress())
    else:
        out = arguments.out or cache_root() / DEMO
        family.write_family(out, TerminalProgress())
    print(out)


def compile_loops(arguments: Namespace) -> None:
    """Compile the loops of merging, by merges of the demo family that nobody keeps."""
    from nmerge_core.demo.family import write_family
    from nmerge_core.merging import ahead

    make_private(cache_root())
    ahead.compile_loops(write_family(cache_root() / DEMO), TerminalProgress())


def inspect(arguments: Namespace) -> None:
    """Print the facts of each model, and of a family's corpus; wrong input if they cannot be merged."""
    family = family_of(arguments.models)
    base, *models = [member.reference for member in family.members] if family else arguments.models
    report = inspect_family(base, models)
    if arguments.json:
        print(json.dumps({**asdict(report), "mergeable": report.mergeable}, indent=1))
    elif report.models:
        print_facts(report)
        warn(report.warnings)
        if models and report.mergeable:
            print("these models can be merged")
    if not arguments.json and family and family.corpus:
        _describe_corpus(family)
    if report.errors:
        raise InputError("; ".join(report.errors))


def _describe_corpus(family: Family) -> None:
    """Print what is in the corpus of a family, where that is a folder."""
    from nmerge_core.family.texts import corpus_of, warnings_of

    corpus = corpus_of(family, cache_root())
    if corpus is not None:
        print()
        print_table(corpus)
        warn([f"corpus: {each}" for each in warnings_of(corpus)])


def methods(arguments: Namespace) -> None:
    """Print what the merge methods do, or all of one."""
    from nmerge_core.merging.recipe import catalogue

    chosen = catalogue.chosen(arguments.name)
    if arguments.json:
        described = [catalogue.described(method) for method in chosen]
        print(json.dumps(described[0] if arguments.name else described, indent=1, ensure_ascii=False))
    else:
        print(catalogue.in_full(chosen[0]) if arguments.name else catalogue.listed(chosen))


def merge(arguments: Namespace) -> None:
    """Merge, or check everything and print what it would cost."""
    from nmerge_core.merging import engine
    from nmerge_core.runs.kept import finished_results

    recipe = engine.load(arguments.recipe)
    if arguments.dry_run:
        choose_device(arguments.device)  # an error where there is none such
        out = arguments.out or Path(".nmerge-dry-run")  # on the disk of the folder that one is in
        cost = engine.estimate(recipe, out, TerminalProgress())
        print("\n".join(cost.lines))
        warn(cost.warnings)
        return

    def work(recipe: Any, device: str, out: Path, progress: TerminalProgress) -> None:
        report = engine.merge(engine.load(recipe), out, device=device, progress=progress, kept=finished_results)
        warn(report.facts["warnings"])

    make("merge", arguments, work, "merged")
    from nmerge_core import distributed

    if distributed.join()[0] == 0:
        print(arguments.out)
        print(f"nmerge: {_told(arguments.out)}", file=sys.stderr)


def _told(out: Path) -> str:
    """What a merge wrote and took, and what to do with it next."""
    report = json.loads((out / "nmerge_report.json").read_text(encoding="utf-8"))
    took = f"{report['bytes_written'] / 1e6:,.1f} MB in {sum(report['seconds'].values()):,.1f} s"
    base = [report["base"]["model"]] if report["base"] else []
    beside = ["--compare", *base] if base else []
    scored = shlex.join(["nmerge", "evaluate", *base, str(out), "--tasks", "TASK", *beside])
    return f"wrote {took}, with {report['peak_memory'] / 1e6:,.0f} MB of memory at most; score it: {scored}"


def combine(arguments: Namespace) -> None:
    """Write the adapter that several make together."""
    from nmerge_core.core_space import combine

    make("combine", arguments, combine, "adapter")
    print(arguments.out)


def extract(arguments: Namespace) -> None:
    """Write the adapter, and print how much of the change it has, summed over the layers."""
    import pandas as pd

    from nmerge_core.lora.adapter_files import by_kind, captured
    from nmerge_core.lora.extract import extract

    make("extract", arguments, extract, "adapter")
    report = json.loads((arguments.out / "nmerge_report.json").read_text(encoding="utf-8"))
    found = pd.DataFrame(report["tensors"])
    print_table(by_kind(found))
    left = found[found["rank"] == 0]["share"].sum()
    print(f"{arguments.out} has {captured(found):.2%} of the change (its squared norm)")
    if left:
        print(
            f"nmerge: warning: {left:.2%} of the change is in embeddings, norms, biases and other tensors of no linear "
            "layer, which the adapter does not have",
            file=sys.stderr,
        )


def evaluate(arguments: Namespace) -> None:
    """Print the scores of each model on each task, and its loss on the held-out texts of each category of a corpus."""
    import pandas as pd

    from nmerge_core import face
    from nmerge_core.cli.scores import difference, score, written
    from nmerge_core.comparison import score_tables

    given = given_to("evaluate", arguments)
    found: list[Scores | Losses] = []
    if not arguments.tasks and not arguments.loss:
        raise InputError("evaluate: expected --tasks, or --loss with a corpus, found neither")
    names = [model.label if isinstance(model, Member) else model for model in given["models"]]
    if arguments.compare and arguments.compare not in (known := [*names, *labels(arguments.models)]):
        raise InputError(f"--compare: expected one of {', '.join(dict.fromkeys(known))}, found {arguments.compare!r}")
    if arguments.tasks:
        found.append(face.evaluate(**given))
    if arguments.loss:
        runs_in = {name: given[name] for name in (DEVICE.name, RUN_DTYPE.name)}
        found.append(face.loss(given["models"], arguments.loss, **runs_in))
    scores = pd.concat([each.scores for each in found], ignore_index=True)
    samples = pd.concat([each.samples for each in found], ignore_index=True)
    if arguments.samples:
        write_samples(samples, arguments.samples)
    if arguments.out:
        write_csv(scores, arguments.out)
    differing = [name for name in score_tables.SETTINGS if name in scores and scores[name].astype(str).nunique() > 1]
    shown = ["model", "task", "metric", "value", "low", "high", "samples", *differing]
    print_table(written(scores[list(dict.fromkeys(shown))], score))
    print(f"low, high: 95 % interval ({', '.join(scores['interval'].dropna().unique())})")
    print(f"all by {score_tables.shared_settings(scores)}")
    if arguments.compare:
        baseline = dict(zip([*names, *labels(arguments.models)], found[0].labels * 2, strict=False))[arguments.compare]
        print()
        print_table(written(score_tables.compare(scores, samples, baseline), difference))
        print(f"difference from {baseline}: 95 % interval; adjusted: p by Holm; detectable: at 80 % power")


def sweep(arguments: Namespace) -> None:
    """Search recipe parameters and print a row per trial, and where the best recipe is."""
    from nmerge_core.runs.kept import finished_results
    from nmerge_core.search.reading import load_sweep
    from nmerge_core.search.trials_loop import sweep

    found = sweep(
        load_sweep(arguments.sweep),
        arguments.out,
        device=arguments.device,
        run_code=arguments.run_code,
        allow_task_code=arguments.allow_task_code,
        progress=TerminalProgress(),
        kept=finished_results,
    )
    print_table(found)
    print(arguments.out / "best.yaml")


def report(arguments: Namespace) -> None:
    """Make a report and print what the family says to the six claims, and where the page is."""
    from nmerge_core import face
    from nmerge_core.figures.style import roughly
    from nmerge_core.runs.durations import report_seconds

    given = given_to("report", arguments)
    with suppress(InputError):  # not known, or wrong, which the report itself tells
        told = roughly(report_seconds(KINDS["report"].check(given)))
        print(f"nmerge: {told} in all; what was measured before is taken over", file=sys.stderr)
    found = face.report(**given, out=arguments.out)
    for claim in found.claims.itertuples():
        print(f"{claim.claim}: {claim.verdict}\n    {claim.told}")
    print(found.page)


def app(arguments: Namespace) -> None:
    """Become the app's server; the app's own .streamlit overrules that of the user and of the working directory."""
    port = arguments.port or os.environ.get("PORT") or "8501"
    script = str(APP / "server.py")
    os.execv(sys.executable, [sys.executable, "-P", "-m", "streamlit", "run", script, "--server.port", str(port)])
