"""The analyses of both papers: neurons and their categories, what fine-tuning moved, and what a category does."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from nmerge_core.face.calls import Models, Reference, as_called, do, named, named_once
from nmerge_core.face.classifications import Classifications
from nmerge_core.face.results import CollectedStatistics, Linearity
from nmerge_core.face.weights import Cosines, Inherited, Interference
from nmerge_core.family import Family
from nmerge_core.parameters.settings import (
    COLLECT_BATCH,
    DEVICE,
    LAYERWISE,
    MARGIN,
    MAX_LENGTH,
    RANDOM_GROUPS,
    RUN_DTYPE,
    SAMPLES,
    SEED,
    SKIP_FIRST,
    STATISTICS,
    STATISTICS_SAMPLES,
    TOP_K,
)


def classify(
    models: Models,
    corpus: Reference,
    *,
    top_k: int = TOP_K.default,
    margin: int = MARGIN.default,
    max_length: int = MAX_LENGTH.default,
    batch_size: int | str = COLLECT_BATCH.default,
    categories: str | Sequence[str] | None = None,
    skip_first: bool = SKIP_FIRST.default,
    statistics: bool = STATISTICS.default,
    layerwise: bool = LAYERWISE.default,
    device: str = DEVICE.default,
    run_dtype: str = RUN_DTYPE.default,
    progress: bool = True,
) -> Classifications:
    """Give every neuron of one model, or of each of several, a category (NeuronMerge §2.2).

    Args:
        models: model folders or Hub ids, the base first.
        corpus: a folder with one `<category>.jsonl` per category, or a YAML of `datasets` sources; for models that see
            images a folder of images per category, or a YAML that names columns of images.
        top_k: exemplars that vote on a neuron, k.
        margin: votes a category must be ahead by, else the neuron is General; m.
        max_length: tokens of an exemplar that are read.
        batch_size: exemplars a batch, or "auto".
        categories: categories to use besides General; all by default.
        skip_first: leave out the first token, an attention sink in many models.
        statistics: also take what each neuron is like over all tokens, for `statistics` of what is returned.
        layerwise: hold the weights of one layer at a time; so it is done by itself where a whole model has no room.
        device: "auto", "cpu", "cuda:1", ….
        run_dtype: the number format the models run in.
        progress: whether it is shown.

    Raises:
        InputError: a model or the corpus cannot be read, or a parameter is out of range.
    """
    names, references = named(models)
    runs = [
        do(
            "classify",
            progress,
            model=model,
            corpus=corpus,
            top_k=top_k,
            margin=margin,
            max_length=max_length,
            batch_size=batch_size,
            categories=categories,
            skip_first=skip_first,
            statistics=statistics,
            layerwise=layerwise,
            device=device,
            run_dtype=run_dtype,
        )
        for model in references
    ]
    return Classifications(tuple(run.results for run in runs), tuple(names))


def compare(folders: Models) -> Classifications:
    """Open classifications that are there, of one family, the base's first.

    Args:
        folders: what `classify` wrote.

    Raises:
        InputError: a folder is no classification, or they differ in corpus or architecture.
    """
    from nmerge_core.activations.store import open_classification
    from nmerge_core.classification.classification import names_of

    names, given = named(folders)
    paths = [Path(folder) for folder in given]
    if not isinstance(folders, Mapping):
        names = names_of([open_classification(path) for path in paths])
    found = Classifications(tuple(paths), tuple(names))
    found.counts()
    return found


def cosine(base: Reference, models: Models, *, progress: bool = True) -> Cosines:
    """Compute the cosine between each neuron's weights in a base and in its fine-tunes (NeuronMerge App. A.3).

    Args:
        base: the base model.
        models: its fine-tunes.
        progress: whether it is shown.
    """
    names, references = named_once(models.models if isinstance(models, Family) else models)
    run = do("cosine", progress, base=base, models=references)
    return Cosines(run.results, as_called(run, names))


def interference(base: Reference, models: Models, *, progress: bool = True) -> Interference:
    """Measure where fine-tunes get in each other's way, for each matrix of a layer (TSV-M's measure, and signs).

    Args:
        base: the base model.
        models: at least two fine-tunes of it.
        progress: whether it is shown.

    Raises:
        InputError: there are fewer than two fine-tunes, a model cannot be opened, or it is not of the base's shape.
    """
    _, references = named_once(models.models if isinstance(models, Family) else models)
    return Interference(do("interference", progress, base=base, models=references).results)


def inherited(merge: Reference, base: Reference, models: Models, *, progress: bool = True) -> Inherited:
    """Measure what each neuron of a merge kept of what each fine-tune changed in it.

    Args:
        merge: a merge of the fine-tunes.
        base: the base model.
        models: the fine-tunes.
        progress: whether it is shown.

    Raises:
        InputError: a model cannot be opened, its neurons are not known, or it is not of the base's shape.
    """
    names, references = named_once(models.models if isinstance(models, Family) else models)
    run = do("inherited", progress, merge=merge, base=base, models=references)
    return Inherited(run.results, as_called(run, names))


def linearity(
    base: Reference,
    models: Models,
    corpus: Reference,
    *,
    neurons: Reference | None = None,
    categories: str | Sequence[str] | None = None,
    samples: int = SAMPLES.default,
    draws: int = RANDOM_GROUPS.default,
    seed: int = SEED.default,
    device: str = DEVICE.default,
    progress: bool = True,
) -> Linearity:
    """Measure how far submodules of fine-tunes are from linear in their task vector (§2.4), and solve SubLin's α.

    Args:
        base: the base model.
        models: its fine-tunes.
        corpus: the texts it is measured on.
        neurons: what `classify` gave for the base: adds its neuron groups, beside random ones of the same sizes.
        categories: the category of each fine-tune in turn; named, the coefficients are solved too.
        samples: texts drawn of each category.
        draws: random groupings of each layer's neurons.
        seed: of the draw.
        device: "auto", "cpu", "cuda:1", ….
        progress: whether it is shown.
    """
    names, references = named_once(models.models if isinstance(models, Family) else models)
    run = do(
        "linearity",
        progress,
        base=base,
        models=references,
        corpus=corpus,
        neurons=neurons,
        categories=categories,
        samples=samples,
        draws=draws,
        seed=seed,
        device=device,
    )
    return Linearity(run.results, as_called(run, names))


def statistics(
    model: Reference,
    corpus: Reference,
    kind: str,
    *,
    categories: str | Sequence[str] | None = None,
    samples: int = STATISTICS_SAMPLES.default,
    max_length: int = MAX_LENGTH.default,
    seed: int = SEED.default,
    device: str = DEVICE.default,
    progress: bool = True,
) -> CollectedStatistics:
    """Collect the Fisher information or the Gram matrices of a model, which merging by statistics reads.

    Args:
        model: a model folder or Hub id.
        corpus: the texts they are collected on.
        kind: "fisher" for the method fisher, "gram" for regmean, "magnitude" for the step aim.
        categories: categories whose texts are taken; all by default.
        samples: texts drawn of each category, or as many as it has.
        max_length: tokens of a text that are read.
        seed: of the draw.
        device: "auto", "cpu", "cuda:1", ….
        progress: whether it is shown.
    """
    run = do(
        "statistics",
        progress,
        model=model,
        corpus=corpus,
        kind=kind,
        categories=categories,
        samples=samples,
        max_length=max_length,
        seed=seed,
        device=device,
    )
    return CollectedStatistics(run.results)
