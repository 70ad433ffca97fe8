"""What mergekit would do in silence: read other weights than transformers loads, leave rows out, write infinities."""

from collections.abc import Sequence
from math import isfinite

from nmerge_core.checkpoints import Checkpoint
from nmerge_core.checkpoints.json_file import read_json
from nmerge_core.checkpoints.vocabulary import counts_tokens
from nmerge_core.checkpoints.weight_files import PICKLED, SAFETENSORS
from nmerge_core.errors import InputError
from nmerge_core.merging.compute.stream import row_blocks


def check_read_alike(model: Checkpoint) -> None:
    """Check that mergekit 0.1.5 reads the weights that transformers loads; raises InputError where it would not."""
    if model.quantised:
        raise InputError(
            f"{model.reference}: its weights are quantised ({model.quantised}), which mergekit would take for numbers; "
            "merge it by a method of NMerge's own, which dequantises them, or dequantise it first"
        )
    own = model.adapter.file if model.adapter else None
    ours, theirs = {file.name for file in model.files if file != own}, _read_by_mergekit(model)
    if ours != theirs:
        raise InputError(
            f"{model.folder}: transformers loads {', '.join(sorted(ours))}, mergekit "
            f"{', '.join(sorted(theirs)) or 'none'}; keep one save of the model in this folder, as {SAFETENSORS} or as "
            "shards with their index"
        )


def _read_by_mergekit(model: Checkpoint) -> set[str]:
    for name in (SAFETENSORS, PICKLED):
        index = model.folder / f"{name}.index.json"
        if index.exists():  # it comes before a single file
            return {str(file) for file in read_json(index, "it lists the shards").get("weight_map", {}).values()}
        if (model.folder / name).exists():
            return {name}
    return set()


def check_finite(written: Checkpoint) -> None:
    """Check that what mergekit wrote holds no NaN or infinite entry; raises InputError naming the tensor."""
    for name, tensor in written.tensors.items():
        for rows in row_blocks(tensor):
            if not isfinite(written.read(name, rows.start, rows.stop).double().sum().item()):
                raise InputError(
                    f"tensor {name}: rows {rows.start} to {rows.stop - 1} of mergekit's merge hold NaN or infinite "
                    f"entries in {tensor.dtype}; choose another 'dtype' or other parameters"
                )


def check_rows(donor: Checkpoint, models: Sequence[Checkpoint]) -> None:
    """Refuse embeddings of different sizes, of which mergekit leaves rows out or whole tensors unmerged."""
    names = [name for name in donor.tensors if counts_tokens(name)]
    for model in models:
        if odd := next((name for name in names if model.info(name).rows != donor.info(name).rows), None):
            raise InputError(
                f"{model.reference}, tensor {odd}: expected {donor.info(odd).rows:,} rows as in {donor.reference}, "
                f"found {model.info(odd).rows:,}; say under 'tokenizer' whose tokens the merge has (source: base)"
            )
