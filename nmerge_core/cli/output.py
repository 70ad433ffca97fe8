"""What commands print and write: tables, samples, the facts of models, warnings."""

import os
import re
import secrets
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from nmerge_core.checkpoints.inspection import FamilyReport

if TYPE_CHECKING:
    import pandas as pd


def write_csv(frame: "pd.DataFrame", path: Path) -> None:
    """Write a table to a temporary file beside `path`, then rename it to `path`; into a pipe or a device at once."""
    if path.exists() and not path.is_file():
        frame.to_csv(path, index=False)
        return
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        frame.to_csv(temporary, index=False)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def warn(warnings: Sequence[str]) -> None:
    """Print warnings to stderr."""
    for warning in warnings:
        print(f"nmerge: warning: {warning}", file=sys.stderr)


def give(frame: "pd.DataFrame", out: Path | None) -> None:
    """Print a table, and write it to `out` where one is named."""
    if out:
        write_csv(frame, out)
    print_table(frame)


def print_table(frame: "pd.DataFrame") -> None:
    """Print a table, its numbers to four digits."""
    print(frame.to_string(index=False, float_format=lambda value: f"{value:.4g}", na_rep="–"))


def print_facts(report: FamilyReport) -> None:
    """Print a column per model and a row per fact."""
    rows = [
        ("", [model.label for model in report.models]),
        ("type", [model.model_type for model in report.models]),
        ("layers", [str(model.layers) for model in report.models]),
        ("d_model", [f"{model.d_model:,}" for model in report.models]),
        ("d_ffn", [model.neurons for model in report.models]),
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


def write_samples(samples: "pd.DataFrame", folder: Path) -> None:
    """Write what each model was asked and answered to FOLDER/MODEL.jsonl."""
    folder.mkdir(parents=True, exist_ok=True)
    for model, own in samples.groupby("model", sort=False):
        name = re.sub(r"[^\w.+ -]+", "-", str(model)).strip(".") or "model"
        own.to_json(folder / f"{name}.jsonl", orient="records", lines=True, force_ascii=False)
