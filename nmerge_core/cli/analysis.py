"""What each command of analysis does: call the public function of its name, print its table, write its files."""

import json
import sys
from argparse import Namespace

from nmerge_core.checkpoints.reference import labels
from nmerge_core.cli.given import family_of, given_to, make, make_kept
from nmerge_core.cli.output import give, print_table, write_csv
from nmerge_core.errors import InputError
from nmerge_core.files.kept_files import read_csv

# What takes seconds to import is imported in the command that needs it: `--help` answers at once.


def classify(arguments: Namespace) -> None:
    """Write a classification folder and print its neurons per category."""
    from nmerge_core.classification.classification import classify

    make_kept("classify", arguments, classify)
    summary = read_csv(arguments.out / "summary.csv")
    print(summary.pivot(index="layer", columns="category", values="neurons").to_string())
    meta = json.loads((arguments.out / "meta.json").read_text(encoding="utf-8"))
    print(f"run in {meta['run_dtype']}; {meta['undecided']:,} neurons hang on the order of scores within 1e-5")
    if meta.get("taken_over"):  # runs of older versions do not say
        texts = len(meta["exemplar_categories"])
        print(f"scores of {meta['taken_over']:,} of the {texts:,} exemplars were there already, by an earlier corpus")


def compare(arguments: Namespace) -> None:
    """Print neurons per layer and category in each model, and in all; how sure they are, and agree, where asked."""
    import pandas as pd

    from nmerge_core import face
    from nmerge_core.activations.store import open_classification
    from nmerge_core.classification.agreement import EXACT, agreements, rounding
    from nmerge_core.classification.classification import compare

    opened = [open_classification(folder) for folder in arguments.folders]
    if arguments.agreement:
        first, *others = opened
        if not others:
            raise InputError("--agreement: expected at least two folders, found one")
        named = dict(zip(map(str, arguments.folders[1:]), others, strict=True))
        write_csv(found := agreements(first, named, k=arguments.top_k, margin=arguments.margin), arguments.agreement)
        print_table(found)
        print(f"share, Cohen's κ and IoU: how far the categories of neurons are those of {arguments.folders[0]}\n")
        if len({each.meta["corpus_fingerprint"] for each in opened}) > 1:  # counts are of the same texts alone
            return
    give(compare(arguments.folders, k=arguments.top_k, margin=arguments.margin), arguments.out)
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
