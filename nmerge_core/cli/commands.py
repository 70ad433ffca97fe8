"""What each command does: call the public function of its name, print its table, write its files."""

import json
import os
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
from nmerge_core.cli.output import give, print_facts, print_table, warn, write_csv, write_samples
from nmerge_core.errors import InputError
from nmerge_core.family import Family, Member
from nmerge_core.files.kept_files import read_csv
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


def classify(arguments: Namespace) -> None:
    """Write a classification folder and print its neurons per category."""
    from nmerge_core.classification.classification import classify

    make("classify", arguments, classify)
    summary = read_csv(arguments.out / "summary.csv")
    print(summary.pivot(index="layer", columns="category", values="neurons").to_string())
    meta = json.loads((arguments.out / "meta.json").read_text(encoding="utf-8"))
    print(f"run in {meta['run_dtype']}; {meta['undecided']:,} neurons hang on the order of scores within 1e-5")


def compare(arguments: Namespace) -> None:
    """Print neurons per layer and category in each model, and in all; and how sure categories are where it is asked."""
    import pandas as pd

    from nmerge_core import face
    from nmerge_core.activations.store import open_classification
    from nmerge_core.classification.agreement import EXACT, rounding
    from nmerge_core.classification.classification import compare

    give(compare(arguments.folders, k=arguments.top_k, margin=arguments.margin), arguments.out)
    opened = [open_classification(folder) for folder in arguments.folders]
    for folder, share in rounding(opened, k=arguments.top_k, margin=arguments.margin).items():
        print(f"{share:.2%} of the neurons of {folder} have another category in {EXACT}")
    if arguments.neurons:
        neurons = face.compare(arguments.folders).vote(arguments.top_k, arguments.margin).confidence()
        write_csv(neurons, arguments.neurons)
        print(
            "\nhow sure categories are, the mean over all neurons: lead, the share of votes by which the first category"
        )
        print("is ahead of the second; support, the share of corpora with the texts drawn again that give the same one")
        print_table(neurons.groupby("model", sort=False)[["lead", "support"]].mean().reset_index())
    if arguments.statistics:
        found = face.compare(arguments.folders)
        tables = [found.statistics(label).assign(model=label) for label in found.labels]
        write_csv(pd.concat(tables, ignore_index=True), arguments.statistics)


def cosine(arguments: Namespace) -> None:
    """Print cosine similarity per model, layer and matrix."""
    from nmerge_core import face

    found = face.cosine(**given_to("cosine", arguments))
    give(found.table, arguments.out)
    if arguments.moved:
        write_csv(found.moved, arguments.moved)
    if arguments.neurons:
        write_csv(found.neurons, arguments.neurons)
    if arguments.between:
        write_csv(found.between, arguments.between)
    if arguments.conflicts:
        write_csv(found.conflicts(), arguments.conflicts)


def interference(arguments: Namespace) -> None:
    """Print where fine-tunes get in each other's way, the worst matrix first."""
    from nmerge_core import face

    found = face.interference(**given_to("interference", arguments)).table
    order = (found["interference"] / found["chance"]).sort_values(ascending=False).index
    give(found.loc[order], arguments.out)


def inherited(arguments: Namespace) -> None:
    """Print what a merge kept of each fine-tune in the neurons of each layer; the CSV has every neuron."""
    from nmerge_core import face

    found = face.inherited(**given_to("inherited", arguments))
    if arguments.out:
        write_csv(found.neurons, arguments.out)
    print_table(found.layers())


def knockout(arguments: Namespace) -> None:
    """Print the knock-out curve and its random control."""
    from nmerge_core import face

    found = face.knockout(**given_to("knockout", arguments))
    if arguments.effects:
        write_csv(found.effects, arguments.effects)
    give(found.curve, arguments.out)


def effects(arguments: Namespace) -> None:
    """Print what each category's neurons of each layer do, by one metric; the CSV has all."""
    from nmerge_core import face
    from nmerge_core.figures.effects import metrics_of, of_metric

    found = face.effects(**given_to("effects", arguments)).table
    if arguments.out:
        write_csv(found, arguments.out)
    shown = ["layer", "category", "neurons", "metric", "intact", "own", "random", "effect", "stderr", "adjusted"]
    print_table(of_metric(found, metrics_of(found)[0])[shown])
    print("effect: how much worse without these neurons than without as many random ones; adjusted: p by Holm")


def label(arguments: Namespace) -> None:
    """Print neurons by category and label, how far these agree, and how good the explanations are."""
    from nmerge_core import face
    from nmerge_core.activations.store import open_classification
    from nmerge_core.labelling.cost import estimate, leaves_for
    from nmerge_core.labelling.tables import describe, spent
    from nmerge_core.runs import here

    given = given_to("label", arguments)
    if here.finished("label", given) is None:
        expected = estimate(arguments.count, open_classification(arguments.neurons).categories)
        told = [leaves_for(arguments.by), "" if arguments.lists else expected.told]
        if any(told):
            print(f"nmerge: {'; '.join(filter(None, told))}", file=sys.stderr)
    found = face.label(**given)
    if arguments.out:
        write_csv(found.table, arguments.out)
    give(found.counts.reset_index(), arguments.matrix)
    print("\n".join(["", *describe(found.labels), f"{spent(found.labels.meta)}: {found.path}"]))


def linearity(arguments: Namespace) -> None:
    """Print non-linearity (the mean over α; the CSV has every α) per model, layer and submodule."""
    from nmerge_core import face

    given = given_to("linearity", arguments)
    if arguments.coefficients and not arguments.categories:
        family = family_of([arguments.base, *arguments.models])
        own = [member.category or member.label for member in family.models] if family else labels(arguments.models)
        given["categories"] = own
    found = face.linearity(**given)
    if arguments.out:
        write_csv(found.table, arguments.out)
    keys = ["model", "layer", "submodule", "group"]
    print_table(found.table.groupby(keys, sort=False)["value"].mean().reset_index())
    if found.by_chance is not None:
        if arguments.by_chance:
            write_csv(found.by_chance, arguments.by_chance)
        columns = ["value", "low", "high", "quadratic", "bend", "random", "difference", "adjusted", "whole"]
        print("\nneuron groups, the mean over layers at α = 1/2, against random groups and against all neurons")
        print_table(found.by_chance[found.by_chance["layer"].isna()][["model", "group", "neurons", *columns]])
    if arguments.coefficients and found.coefficients is not None:
        print()
        give(found.coefficients, arguments.coefficients)


def statistics(arguments: Namespace) -> None:
    """Write a statistics folder and print what it is of."""
    from nmerge_core.calibration import collect

    make("statistics", arguments, collect)
    meta = json.loads((arguments.out / "meta.json").read_text(encoding="utf-8"))
    size = sum((arguments.out / name).stat().st_size for name in meta["files"])
    print(f"categories    {', '.join(meta['categories'])}")
    print(f"texts         {meta['texts']:>10,}")
    print(f"tokens        {meta['tokens']:>10,}")
    print(f"size          {size / 1e6:>10,.1f} MB")


def merge(arguments: Namespace) -> None:
    """Merge, or check everything and print what it would cost."""
    from nmerge_core.merging import engine
    from nmerge_core.runs.kept import finished_results

    recipe = engine.load(arguments.recipe)
    if arguments.dry_run:
        choose_device(arguments.device)  # an error where there is none such
        cost = engine.estimate(recipe, arguments.out, TerminalProgress())
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
