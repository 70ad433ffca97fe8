"""The public functions: each does what the command of its name does, and keeps its result as a run in the cache.

A path may be text or a `Path`, and where several are taken one alone will do. Models are called by the last part of
their path or id, or as the keys of a mapping say: `{"base": "Qwen/Qwen2.5-7B", "math": "qwen-math"}`. What was computed
before, here or by the app, is not computed again. Progress is shown in a terminal and in a notebook; `progress=False`
hides it.
"""

from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import pandas as pd

from nmerge_core.cache import DEMO, cache_root
from nmerge_core.checkpoints import inspect_family, labels
from nmerge_core.demo.family import write_family
from nmerge_core.errors import InputError
from nmerge_core.face.classifications import Classifications
from nmerge_core.face.results import (
    REPORT,
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
from nmerge_core.family import Family, demo_family, families, load_family
from nmerge_core.merging import engine
from nmerge_core.merging.recipe import registry
from nmerge_core.progress import shown_progress
from nmerge_core.runs import here, operations
from nmerge_core.runs.folder import Run, list_runs
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
Models = References | Mapping[str, Reference] | Family


def open_family(source: Reference = DEMO) -> Family:
    """Open a family: base, fine-tunes, corpus and tasks, as one object that every `models` takes.

    Args:
        source: a family's YAML, the name of one saved by the app, or "demo", which is written to the cache when it is
            first asked for.

    Raises:
        InputError: there is no such family, or its file has a mistake.
    """
    name, saved = _text(source), families(cache_root())
    if name == DEMO:
        write_family(cache_root() / DEMO)
        return demo_family(cache_root())
    if name not in saved and not name.endswith((".yaml", ".yml", ".json")):
        raise InputError(f"family {name}: expected the path of a YAML, or one of {', '.join([DEMO, *saved])}")
    return load_family(saved.get(name, name))


def inspect(models: Models) -> Inspection:
    """Read the headers of models and tell whether they can be merged; the first is the base.

    Args:
        models: model folders or Hub ids, or MODEL+ADAPTER.
    """
    names, (base, *others) = _named(models)
    return Inspection(inspect_family(base, others), dict(zip([base, *others], names, strict=True)))


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
    names, references = _named(models)
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
    runs = [_do("classify", progress, model=model, **shared) for model in references]
    return Classifications(tuple(run.results for run in runs), tuple(names))


def compare(folders: Models) -> Classifications:
    """Open classifications that are there, of one family, the base's first.

    Args:
        folders: what `classify` wrote.

    Raises:
        InputError: a folder is no classification, or they differ in corpus or architecture.
    """
    from nmerge_core.activations.store import open_classification

    names, given = _named(folders)
    paths = [Path(folder) for folder in given]
    if not isinstance(folders, Mapping):
        names = labels([open_classification(path).meta["model"] for path in paths])
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
    names, references = _named(models)
    run = _do("cosine", progress, base=base, models=references)
    return Cosines(run.results, _as_called(run, names))


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
    run = _do(
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
    return Knockout(run.results)


def linearity(
    base: Reference,
    models: Models,
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
    names, references = _named(models)
    run = _do(
        "linearity",
        progress,
        base=base,
        models=references,
        corpus=corpus,
        neurons=neurons,
        categories=categories,
        samples=samples,
        seed=seed,
        device=device,
    )
    return Linearity(run.results, _as_called(run, names))


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
    run = _do(
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
        return Merged(_do("merge", progress, recipe=_recipe(recipe), device=device).results / "merged")
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
    path = _do("extract", progress, base=base, model=model, rank=rank, device=device).results
    return Extracted(path / "adapter", pd.read_csv(path / "changes.csv"))


def evaluate(
    models: Models,
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
    names, references = _named(models)
    shared = _given(
        tasks=tasks,
        limit=limit,
        batch_size=batch_size,
        run_code=run_code,
        device=device,
        run_dtype=run_dtype,
    )
    # A run each: a model that was scored before is not scored again beside others.
    runs = [_do("evaluate", progress, models=[model], **shared) for model in references]
    merged = frozenset(n for n, model in zip(names, references, strict=True) if (Path(model) / REPORT).is_file())
    return Scores(tuple(run.results for run in runs), tuple(names), merged)


def generate(models: Models, prompt: str, *, max_new_tokens: int = 64) -> dict[str, str]:
    """Let models continue a text, the most likely token at a time; they stay in memory for further questions.

    Args:
        models: model folders or Hub ids, or what `merge` gave.
        prompt: the beginning of the text.
        max_new_tokens: tokens to add at most.
    """
    names, references = _named(models)
    return {
        name: operations.generate(model, prompt, max_new_tokens) for name, model in zip(names, references, strict=True)
    }


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
    return Sweep(_do("sweep", progress, sweep=_recipe(sweep), run_code=run_code, device=device).results)


def history() -> pd.DataFrame:
    """Return a row for everything that was computed, newest first: run, kind, title, state, created, version, path."""
    rows = [
        (run.id, run.kind, run.title, run.status().state, run.created, run.version, run.results)
        for run in list_runs(cache_root())
    ]
    frame = pd.DataFrame(rows, columns=["run", "kind", "title", "state", "created", "version", "path"])
    return frame.assign(created=pd.to_datetime(frame["created"], unit="s", utc=True))


def _do(run: str, progress: bool, **given: Any) -> Run:
    return here.do(run, _given(**given), shown_progress(progress))


def _given(**values: Any) -> dict[str, Any]:
    """Return the values that are given, paths as they are."""
    return {name: value for name, value in values.items() if value is not None}


def _named(references: Models) -> tuple[list[str], list[str]]:
    """Return what each of one or several references is called, and the references as text."""
    if isinstance(references, Family):
        references = {member.label: member.reference for member in references.members}
    if isinstance(references, Mapping):
        names, given = [str(name) for name in references], [_text(each) for each in references.values()]
    else:
        given = [_text(each) for each in ([references] if isinstance(references, str | PathLike) else references)]
        names = labels(given)
    if not given:
        raise InputError("expected at least one, found an empty list")
    return names, given


def _as_called(run: Run, names: Sequence[str]) -> dict[str, str]:
    """Return what each of a run's `models` is called here, by the name that its files have."""
    return dict(zip(labels(run.parameters["models"]), names, strict=True))


def _text(reference: Any) -> str:
    if isinstance(reference, str):
        return reference
    if isinstance(reference, PathLike):
        return reference.__fspath__()
    raise InputError(f"expected a path or a name, found {reference!r}")


def _recipe(source: Any) -> Any:
    """Return a file as a path, and text or a mapping as it is."""
    return Path(source) if isinstance(source, PathLike) else source
