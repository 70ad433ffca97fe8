"""What stands beside the weights of an extracted adapter, and how much of the change they have."""

import json
from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from nmerge_core.checkpoints import Checkpoint, absolute, fingerprint, label
from nmerge_core.checkpoints.adapter_config import ADAPTER_CONFIG
from nmerge_core.version import __version__


def write_companions(
    part: Path,
    base: Checkpoint,
    model: Checkpoint,
    rank: int,
    ranks: Mapping[str, int],
    conv1d: bool,
    table: pd.DataFrame,
) -> None:
    """Write adapter_config.json as PEFT reads it, nmerge_report.json and a model card.

    Args:
        part: the folder.
        base: what the adapter is of.
        model: what it makes of the base.
        rank: the rank that was asked for.
        ranks: the rank of each linear layer, by its path in transformers' model.
        conv1d: whether layers store their weights (in, out).
        table: what `extract` found.
    """
    write_config(part, base, rank, ranks, conv1d)
    report = {
        "version": __version__,
        **{
            role: {"model": absolute(each.reference), "label": label(each.reference), "fingerprint": fingerprint(each)}
            for role, each in (("base", base), ("model", model))
        },
        "rank": rank,
        "captured": captured(table),
        "tensors": table.to_dict("records"),
    }
    card = f"""---
library_name: peft
tags: [lora, nmerge]
---

# {label(model.reference)} as a LoRA of {label(base.reference)}

Rank {rank} of the change from `{base.reference}` to `{model.reference}` in every linear layer, by truncated SVD: it
has {captured(table):.1%} of the change's squared norm. Changes of embeddings, norms and biases are not in it;
`nmerge_report.json` has the share of every tensor. Made with NMerge {__version__}.

```python
from peft import PeftModel
from transformers import AutoModelForCausalLM

model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained("{base.reference}"), "this-folder")
```
"""
    (part / "nmerge_report.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    (part / "README.md").write_text(card, encoding="utf-8")


def write_config(part: Path, base: Checkpoint, rank: int, ranks: Mapping[str, int], conv1d: bool) -> None:
    """Write adapter_config.json of an adapter of scale 1 as PEFT reads it; arguments as in `write_companions`."""
    lower = {path: own for path, own in ranks.items() if own < rank}
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": absolute(base.reference),
        "r": rank,
        "lora_alpha": rank,  # as much as the rank: the scale is 1
        "rank_pattern": lower,
        "alpha_pattern": lower,
        "target_modules": sorted({path.rpartition(".")[2] for path in ranks}),
        "fan_in_fan_out": conv1d,
        "bias": "none",
        "lora_dropout": 0.0,
        "inference_mode": True,
    }
    (part / ADAPTER_CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def captured(table: pd.DataFrame) -> float:
    """Return the share of the whole change's squared norm that an adapter has."""
    return float((table["share"] * table["captured"]).sum()) if table["norm"].any() else 1.0


def by_kind(table: pd.DataFrame) -> pd.DataFrame:
    """Sum what was extracted over the layers: kind (the end of the tensors' names), tensors, rank, share, captured."""
    kinds = table["tensor"].str.split(".").str[-2:].str.join(".").rename("kind")
    weighted = table.assign(captured=table["captured"] * table["share"])
    found = weighted.groupby(kinds, sort=False).agg(
        tensors=("tensor", "count"), rank=("rank", "max"), share=("share", "sum"), captured=("captured", "sum")
    )
    found["captured"] /= found["share"].where(found["share"] > 0, 1.0)
    return found.reset_index()
