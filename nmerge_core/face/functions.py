"""The public functions: each does what the command of its name does, and keeps its result as a run in the cache.

A path may be text or a `Path`, and where several are taken one alone will do. What was computed before, here or by the
app, is not computed again. Progress is shown in a terminal and in a notebook; `progress=False` hides it.
"""

from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import pandas as pd

from nmerge_core.cache import cache_root
from nmerge_core.checkpoints import inspect_family, labels
from nmerge_core.errors import InputError
from nmerge_core.face.results import (
    Classifications,
    CollectedStatistics,
    Cosines,
    Extracted,
    Inspection,
    Knockout,
    Linearity,
    Merged,
    Scores,
    Sweep,
)
from nmerge_core.merging import engine
from nmerge_core.merging.recipe import registry
from nmerge_core.progress import shown_progress
from nmerge_core.runs import here
from nmerge_core.settings import (
    COLLECT_BATCH,
    DEVICE,
    EVALUATE_BATCH,
    LIMIT,
    MARGIN,
    MAX_LENGTH,
    PROPORTIONS,
    REPEATS,
    RUN_CODE,
    RUN_DTYPE,
    SAMPLES,
    SEED,
    SKIP_FIRST,
    STATISTICS_SAMPLES,
    TOP_K,
)

if TYPE_CHECKING:
    from nmerge_core.merging.mergekit.process import Plan
    from nmerge_core.merging.plan.estimate import Estimate

Reference = str | PathLike[str]
References = Reference | Sequence[Reference]


def inspect(models: References) -> Inspection:
    """Read the headers of models and tell whether they can be merged; the first is the base.

    Args:
        models: model folders or Hub ids, or MODEL+ADAPTER.
    """
    base, *others = _several(models)
    return Inspection(inspect_family(base, others))


def classify(
    models: References,
    corpus: Reference,
    *,
    top_k: int = TOP_K.default,
    margin: int = MARGIN.default,
    max_length: int = MAX_LENGTH.default,
    batch_size: int | str = COLLECT_BATCH.default,
    categories: str | Sequence[str] | None = None,
    skip_first: bool = SKIP_FIRST.default,
    device: str = DEVICE.default,
    run_dtype: str = RUN_DTYPE.default,
    progress: bool = True,
) -> Classifications:
    """Give every neuron of one model, or of each of several, a category (NeuronMerge §2.2).

    Args:
        models: model folders or Hub ids, the base first.
        corpus: a folder with one `<category>.jsonl` per category, or a YAML of `datasets` sources.
        top_k: exemplars that vote on a neuron, k.
        margin: votes a category must be ahead by, else the neuron is General; m.
        max_length: tokens of an exemplar that are read.
        batch_size: exemplars a batch, or "auto".
        categories: categories to use besides General; all by default.
        skip_first: leave out the first token, an attention sink in many models.
        device: "auto", "cpu", "cuda:1", ….
        run_dtype: the number format the models run in.
        progress: whether it is shown.

    Raises:
        InputError: a model or the corpus cannot be read, or a parameter is out of range.
    """
    references = _several(models)
    shared = _given(
        corpus=corpus,
        top_k=top_k,
        margin=margin,
        max_length=max_length,
        batch_size=batch_size,
        categories=categories,
        skip_first=skip_first,
        device=device,
        run_dtype=run_dtype,
    )
    paths = [_do("classify", progress, model=model, **shared) for model in references]
    return Classifications(tuple(paths), tuple(labels(references)))


def compare(folders: References) -> Classifications:
    """Open classifications that are there, of one family, the base's first.

    Args:
        folders: what `classify` wrote.

    Raises:
        InputError: a folder is no classification, or they differ in corpus or architecture.
    """
    from nmerge_core.activations.store import open_classification

    paths = [Path(folder) for folder in _several(folders)]
    models = [open_classification(path).meta["model"] for path in paths]
    found = Classifications(tuple(paths), tuple(labels(models)))
    found.counts()
    return found


def cosine(base: Reference, models: References, *, progress: bool = True) -> Cosines:
    """Compute the cosine between each neuron's weights in a base and in its fine-tunes (NeuronMerge App. A.3).

    Args:
        base: the base model.
        models: its fine-tunes.
        progress: whether it is shown.
    """
    return Cosines(_do("cosine", progress, base=base, models=models))


def knockout(
    model: Reference,
    neurons: Reference,
    category: str,
    layers: int | Sequence[int],
    task: Reference,
    *,
    proportions: float | Sequence[float] = PROPORTIONS.default,
    repeats: int = REPEATS.default,
    seed: int = SEED.default,
    limit: int | None = LIMIT.default,
    run_code: bool = RUN_CODE.default,
    device: str = DEVICE.default,
    run_dtype: str = RUN_DTYPE.default,
    progress: bool = True,
) -> Knockout:
    """Score a model with growing shares of a category's neurons off, and with as many random ones off (§2.3).

    Args:
        model: a model folder or Hub id.
        neurons: what `classify` gave for this model or its base.
        category: the category whose neurons are silenced.
        layers: the layers they are silenced in, from 0.
        task: a task YAML, a task of the demo family, or an lm-eval name.
        proportions: shares of the category's neurons, in (0, 1].
        repeats: random draws of as many neurons.
        seed: of the draws.
        limit: only the first so many problems.
        run_code: let the task run the code that the model writes, in the sandbox.
        device: "auto", "cpu", "cuda:1", ….
        run_dtype: the number format the model runs in.
        progress: whether it is shown.
    """
    return Knockout(
        _do(
            "knockout",
            progress,
            model=model,
            neurons=neurons,
            category=category,
            layers=layers,
            task=task,
            proportions=proportions,
            repeats=repeats,
            seed=seed,
            limit=limit,
            run_code=run_code,
            device=device,
            run_dtype=run_dtype,
        )
    )


def linearity(
    base: Reference,
    models: References,
    corpus: Reference,
    *,
    neurons: Reference | None = None,
    categories: str | Sequence[str] | None = None,
    samples: int = SAMPLES.default,
    seed: int = SEED.default,
    device: str = DEVICE.default,
    progress: bool = True,
) -> Linearity:
    """Measure how far submodules of fine-tunes are from linear in their task vector (§2.4), and solve SubLin's α.

    Args:
        base: the base model.
        models: its fine-tunes.
        corpus: the texts it is measured on.
        neurons: what `classify` gave for the base: adds its neuron groups.
        categories: the category of each fine-tune in turn; named, the coefficients are solved too.
        samples: texts drawn of each category.
        seed: of the draw.
        device: "auto", "cpu", "cuda:1", ….
        progress: whether it is shown.
    """
    return Linearity(
        _do(
            "linearity",
            progress,
            base=base,
            models=models,
            corpus=corpus,
            neurons=neurons,
            categories=categories,
            samples=samples,
            seed=seed,
            device=device,
        )
    )


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
        kind: "fisher" for the method fisher, "gram" for regmean.
        categories: categories whose texts are taken; all by default.
        samples: texts drawn of each category, or as many as it has.
        max_length: tokens of a text that are read.
        seed: of the draw.
        device: "auto", "cpu", "cuda:1", ….
        progress: whether it is shown.
    """
    return CollectedStatistics(
        _do(
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
    )


@overload
def methods() -> pd.DataFrame: ...


@overload
def methods(name: str) -> registry.Method: ...


def methods(name: str | None = None) -> pd.DataFrame | registry.Method:
    """Return a table of the merge methods, or one of them with its parameters, their ranges and defaults.

    Args:
        name: the method.

    Raises:
        InputError: there is no such method.
    """
    known = registry.methods()
    if name is None:
        columns = ("name", "title", "paper", "summary")
        return pd.DataFrame([{column: getattr(each, column) for column in columns} for each in known.values()])
    if name not in known:
        raise InputError(f"method {name!r}: expected one of {', '.join(known)}")
    return known[name]


def estimate(recipe: Reference | Mapping[str, Any]) -> "Estimate | Plan":
    """Tell from headers alone what a merge reads, writes and takes.

    Args:
        recipe: a YAML file, its text, or what stands in it.

    Raises:
        InputError: the recipe is wrong, or does not fit its models.
    """
    return engine.estimate(engine.load(_recipe(recipe)), cache_root() / "estimate")


def merge(
    recipe: Reference | Mapping[str, Any],
    out: Reference | None = None,
    *,
    device: str = DEVICE.default,
    progress: bool = True,
) -> Merged:
    """Merge models as a recipe says, into a complete checkpoint.

    Args:
        recipe: a YAML file as mergekit has them and more, its text, or what stands in it.
        out: the folder to write, which must be new; a run of the cache by default.
        device: "auto", "cpu", "cuda:1", ….
        progress: whether it is shown.

    Raises:
        InputError: the recipe is wrong or does not fit its models, `out` exists, or the disk is full.
    """
    if out is None:
        return Merged(_do("merge", progress, recipe=_recipe(recipe), device=device) / "merged")
    engine.merge(engine.load(_recipe(recipe)), Path(out), device=device, progress=shown_progress(progress))
    return Merged(Path(out))


def extract(
    base: Reference, model: Reference, rank: int, *, device: str = DEVICE.default, progress: bool = True
) -> Extracted:
    """Make a LoRA adapter of what a merge or a fine-tune changed of its base.

    Args:
        base: the base model.
        model: what was made of it.
        rank: the rank of each linear layer's change.
        device: "auto", "cpu", "cuda:1", ….
        progress: whether it is shown.
    """
    path = _do("extract", progress, base=base, model=model, rank=rank, device=device)
    return Extracted(path / "adapter", pd.read_csv(path / "changes.csv"))


def evaluate(
    models: References,
    tasks: References,
    *,
    limit: int | None = LIMIT.default,
    batch_size: int = EVALUATE_BATCH.default,
    run_code: bool = RUN_CODE.default,
    device: str = DEVICE.default,
    run_dtype: str = RUN_DTYPE.default,
    progress: bool = True,
) -> Scores:
    """Score models on tasks by lm-evaluation-harness.

    Args:
        models: model folders or Hub ids, or what `merge` gave.
        tasks: task YAMLs, tasks of the demo family (math, code, translation, general), or lm-eval names.
        limit: only the first so many problems of each task.
        batch_size: texts a batch.
        run_code: let tasks run the code that a model writes, in the sandbox.
        device: "auto", "cpu", "cuda:1", ….
        run_dtype: the number format the models run in.
        progress: whether it is shown.
    """
    path = _do(
        "evaluate",
        progress,
        models=_several(models),
        tasks=tasks,
        limit=limit,
        batch_size=batch_size,
        run_code=run_code,
        device=device,
        run_dtype=run_dtype,
    )
    return Scores(path)


def sweep(
    sweep: Reference | Mapping[str, Any],
    *,
    run_code: bool = RUN_CODE.default,
    device: str = DEVICE.default,
    progress: bool = True,
) -> Sweep:
    """Search recipe parameters: every trial is merged and evaluated; a stopped sweep goes on where it was.

    Args:
        sweep: a YAML file with recipe, search, tasks and strategy, or what stands in it.
        run_code: let tasks run the code that a merge writes, in the sandbox.
        device: "auto", "cpu", "cuda:1", ….
        progress: whether it is shown.
    """
    return Sweep(_do("sweep", progress, sweep=_recipe(sweep), run_code=run_code, device=device))


def _do(run: str, progress: bool, **given: Any) -> Path:
    return here.do(run, _given(**given), shown_progress(progress)).results


def _given(**values: Any) -> dict[str, Any]:
    """Return the values that are given, paths as they are."""
    return {name: value for name, value in values.items() if value is not None}


def _several(references: References) -> list[str]:
    """Return one or several references as a list of texts."""
    given = [references] if isinstance(references, str | PathLike) else references
    found = [_text(each) for each in given]
    if not found:
        raise InputError("expected at least one, found an empty list")
    return found


def _text(reference: Any) -> str:
    if isinstance(reference, str):
        return reference
    if isinstance(reference, PathLike):
        return reference.__fspath__()
    raise InputError(f"expected a path or a name, found {reference!r}")


def _recipe(source: Any) -> Any:
    """Return a file as a path, and text or a mapping as it is."""
    return Path(source) if isinstance(source, PathLike) else source
