"""What each command does: call the function that the app's worker calls too, print its table, write its CSV."""

import json
import os
import secrets
import sys
from argparse import Namespace
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from nmerge_core.cache import DEMO, cache_root
from nmerge_core.checkpoints.family import FamilyReport, inspect_family
from nmerge_core.checkpoints.reference import labels
from nmerge_core.errors import InputError
from nmerge_core.places import APP
from nmerge_core.progress import TerminalProgress

if TYPE_CHECKING:
    import pandas as pd

# What takes seconds to import is imported in the command that needs it: `--help` and `inspect` answer at once.


def demo(arguments: Namespace) -> None:
    """Write the demo family, shipped or trained anew, and print where it is."""
    from nmerge_core.demo import family

    if arguments.retrain:
        out = arguments.out or cache_root() / "demo-retrained"
        family.retrain(out, arguments.device, TerminalProgress())
    else:
        out = arguments.out or cache_root() / DEMO
        family.write_family(out, TerminalProgress())
    print(out)


def inspect(arguments: Namespace) -> None:
    """Print the facts of each model; wrong input if they cannot be merged."""
    report = inspect_family(arguments.models[0], arguments.models[1:])
    if arguments.json:
        print(json.dumps({**asdict(report), "mergeable": report.mergeable}, indent=1))
    elif report.models:
        _print_facts(report)
        for warning in report.warnings:
            print(f"nmerge: warning: {warning}", file=sys.stderr)
    if report.errors:
        raise InputError("; ".join(report.errors))


def classify(arguments: Namespace) -> None:
    """Write a classification folder and print its neurons per category."""
    from nmerge_core.classification import classify

    classify(
        arguments.model,
        arguments.corpus,
        arguments.out,
        top_k=arguments.top_k,
        margin=arguments.margin,
        max_length=arguments.max_length,
        batch_size=arguments.batch_size,
        device=arguments.device,
        run_dtype=arguments.run_dtype,
        categories=arguments.categories,
        skip_first=arguments.skip_first,
        progress=TerminalProgress(),
    )
    import pandas as pd

    summary = pd.read_csv(arguments.out / "summary.csv")
    print(summary.pivot(index="layer", columns="category", values="neurons").to_string())
    meta = json.loads((arguments.out / "meta.json").read_text(encoding="utf-8"))
    print(f"run in {meta['run_dtype']}; {meta['undecided']:,} neurons hang on the order of scores within 1e-5")


def compare(arguments: Namespace) -> None:
    """Print neurons per layer and category in each model, and in all."""
    from nmerge_core.classification import compare

    _give(compare(arguments.folders, k=arguments.top_k, margin=arguments.margin), arguments.out)


def cosine(arguments: Namespace) -> None:
    """Print cosine similarity per model, layer and matrix."""
    from nmerge_core.similarity import cosine

    found = cosine(arguments.base, arguments.models, progress=TerminalProgress())
    _give(found.summary, arguments.out)
    if arguments.moved:
        write_csv(found.moved, arguments.moved)


def knockout(arguments: Namespace) -> None:
    """Print the knock-out curve and its random control."""
    from nmerge_core.ablation import knockout

    found = knockout(
        arguments.model,
        arguments.neurons,
        arguments.category,
        arguments.layers,
        arguments.proportions,
        arguments.task,
        repeats=arguments.repeats,
        seed=arguments.seed,
        limit=arguments.limit,
        device=arguments.device,
        run_dtype=arguments.run_dtype,
        run_code=arguments.run_code,
        progress=TerminalProgress(),
    )
    _give(found, arguments.out)


def linearity(arguments: Namespace) -> None:
    """Print non-linearity (the mean over α; the CSV has every α) per model, layer and submodule."""
    from nmerge_core import nonlinearity as linearity

    progress = TerminalProgress()
    shared = {"samples": arguments.samples, "seed": arguments.seed, "device": arguments.device, "progress": progress}
    neurons = str(arguments.neurons) if arguments.neurons else None
    found = linearity.measure(arguments.base, arguments.models, arguments.corpus, neurons=neurons, **shared)
    if arguments.out:
        write_csv(found, arguments.out)
    _print(found.groupby(["model", "layer", "submodule", "group"], sort=False)["value"].mean().reset_index())
    if arguments.coefficients:
        categories = arguments.categories or labels(arguments.models)
        solved = linearity.solve(arguments.base, arguments.models, arguments.corpus, categories, **shared)
        for warning in solved.warnings:
            print(f"nmerge: warning: {warning}", file=sys.stderr)
        print()
        _give(solved.to_frame(), arguments.coefficients)


def statistics(arguments: Namespace) -> None:
    """Write a statistics folder and print what it is of."""
    from nmerge_core.calibration import collect

    collect(
        arguments.model,
        arguments.corpus,
        arguments.kind,
        arguments.out,
        categories=arguments.categories,
        samples=arguments.samples,
        max_length=arguments.max_length,
        seed=arguments.seed,
        device=arguments.device,
        progress=TerminalProgress(),
    )
    meta = json.loads((arguments.out / "meta.json").read_text(encoding="utf-8"))
    size = sum((arguments.out / name).stat().st_size for name in meta["files"])
    print(f"categories    {', '.join(meta['categories'])}")
    print(f"texts         {meta['texts']:>10,}")
    print(f"tokens        {meta['tokens']:>10,}")
    print(f"size          {size / 1e6:>10,.1f} MB")


def merge(arguments: Namespace) -> None:
    """Merge, or check everything and print what it would cost."""
    from nmerge_core.merging.engine import MergekitRecipe, load, merge

    recipe = load(arguments.recipe)
    if not arguments.dry_run:
        from nmerge_core import distributed

        merge(recipe, arguments.out, device=arguments.device, progress=TerminalProgress())
        if distributed.join()[0] == 0:
            print(arguments.out)
    elif isinstance(recipe, MergekitRecipe):
        from nmerge_core.merging.mergekit.engine import plan

        planned = plan(recipe, arguments.out, TerminalProgress())
        print(f"tensors       {planned.tensors:>10,}")
        print(f"parameters    {planned.parameters:>10,}")
        print(f"reads         {planned.bytes_read / 1e6:>10,.1f} MB")
        print(f"writes        {planned.bytes_written / 1e6:>10,.1f} MB")
    else:
        from nmerge_core.checkpoints.writer import check_target
        from nmerge_core.merging.plan.estimate import estimate

        cost = estimate(recipe, arguments.out)
        check_target(arguments.out, cost.bytes_written)
        print(f"tensors       {cost.tensors:>10,}")
        print(f"parameters    {cost.parameters:>10,}")
        print(f"token rows    {cost.rows:>10,}" + (f" ({cost.appended:,} tokens appended)" if cost.appended else ""))
        print(f"reads         {cost.bytes_read / 1e6:>10,.1f} MB")
        print(f"writes        {cost.bytes_written / 1e6:>10,.1f} MB")
        print(f"disk free     {cost.disk_free / 1e6:>10,.1f} MB")
        print(f"peak memory   {cost.peak_memory / 1e6:>10,.1f} MB")
        print(f"about         {cost.seconds:>10,.1f} s" + (" and running the models on texts" if cost.solving else ""))


def extract(arguments: Namespace) -> None:
    """Write the adapter, and print how much of the change it has, summed over the layers."""
    from nmerge_core.lora.adapter_files import by_kind, captured
    from nmerge_core.lora.extract import extract

    found = extract(
        arguments.base,
        arguments.model,
        arguments.out,
        arguments.rank,
        device=arguments.device,
        progress=TerminalProgress(),
    )
    _print(by_kind(found))
    left = found[found["rank"] == 0]["share"].sum()
    print(f"{arguments.out} has {captured(found):.2%} of the change (its squared norm)")
    if left:
        print(
            f"nmerge: warning: {left:.2%} of the change is in embeddings, norms, biases and other tensors of no linear "
            "layer, which the adapter does not have",
            file=sys.stderr,
        )


def evaluate(arguments: Namespace) -> None:
    """Print the scores of each model on each task."""
    from nmerge_core.evaluation import evaluate

    found = evaluate(
        arguments.models,
        arguments.tasks,
        limit=arguments.limit,
        batch_size=arguments.batch_size,
        device=arguments.device,
        run_dtype=arguments.run_dtype,
        run_code=arguments.run_code,
        progress=TerminalProgress(),
    )
    _give(found, arguments.out)


def sweep(arguments: Namespace) -> None:
    """Search recipe parameters and print a row per trial, and where the best recipe is."""
    from nmerge_core.search import load_sweep, sweep

    found = sweep(
        load_sweep(arguments.sweep),
        arguments.out,
        device=arguments.device,
        run_code=arguments.run_code,
        progress=TerminalProgress(),
    )
    _print(found)
    print(arguments.out / "best.yaml")


def app(arguments: Namespace) -> None:
    """Become the app's server; the app's own .streamlit overrules that of the user and of the working directory."""
    port = arguments.port or os.environ.get("PORT") or "8501"
    script = str(APP / "app.py")
    os.execv(sys.executable, [sys.executable, "-P", "-m", "streamlit", "run", script, "--server.port", str(port)])


def write_csv(frame: "pd.DataFrame", path: Path) -> None:
    """Write a table to a temporary file beside `path`, then rename it to `path`."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        frame.to_csv(temporary, index=False)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _give(frame: "pd.DataFrame", out: Path | None) -> None:
    if out:
        write_csv(frame, out)
    _print(frame)


def _print(frame: "pd.DataFrame") -> None:
    print(frame.to_string(index=False, float_format=lambda value: f"{value:.4g}", na_rep="–"))


def _print_facts(report: FamilyReport) -> None:
    """Print a column per model and a row per fact."""
    rows = [
        ("", [model.label for model in report.models]),
        ("type", [model.model_type for model in report.models]),
        ("layers", [str(model.layers) for model in report.models]),
        ("d_model", [f"{model.d_model:,}" for model in report.models]),
        ("d_ffn", [f"{model.d_ffn:,}" for model in report.models]),
        ("heads (key-value)", [f"{model.heads} ({model.kv_heads})" for model in report.models]),
        ("vocabulary", [f"{model.vocabulary:,}" for model in report.models]),
        ("tied embedding", ["yes" if model.tied else "no" for model in report.models]),
        ("parameters", [f"{model.parameters:,}" for model in report.models]),
        ("  neuronal (2-D)", [_share(model.neuronal, model.parameters) for model in report.models]),
        ("  point (1-D)", [_share(model.point, model.parameters) for model in report.models]),
        ("dtype", [model.dtype for model in report.models]),
        ("files", [str(model.shards) for model in report.models]),
        ("size", [f"{model.bytes / 1e6:,.1f} MB" for model in report.models]),
    ]
    widths = [max(len(cells[column]) for _, cells in rows) for column in range(len(rows[0][1]))]
    for name, cells in rows:
        print(f"{name:<18}" + "  ".join(f"{cell:>{width}}" for cell, width in zip(cells, widths, strict=True)))


def _share(part: int, whole: int) -> str:
    return f"{part:,} ({part / whole:.2%})"
