"""Collect the statistics of a model on texts, into a folder that is there only when it is complete."""

import hashlib
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nmerge_core.cache import cache_root
from nmerge_core.calibration.store import KINDS, VERSION, Statistics, of_weights, open_statistics
from nmerge_core.checkpoints import Checkpoint, fingerprint, label, open_checkpoint
from nmerge_core.corpus.corpus import Corpus, load_corpus
from nmerge_core.errors import DISK_ERRORS, InputError
from nmerge_core.files.folders import check_free, new_folder, write_meta
from nmerge_core.files.in_use import note_use
from nmerge_core.files.kept_files import remove
from nmerge_core.inputs import model_fingerprint
from nmerge_core.machine import choose_device, kind_of
from nmerge_core.progress import Progress, silent
from nmerge_core.version import __version__

_STAGES = {"gram": "Gram matrices", "magnitude": "Input magnitudes"}


def collect(
    model: str,
    corpus: str,
    kind: str,
    out: Path,
    *,
    categories: Sequence[str] | None = None,
    samples: int = 256,
    max_length: int = 512,
    seed: int = 0,
    device: str = "auto",
    progress: Progress = silent,
) -> None:
    """Write a statistics folder (`store` lists its files): a model's Fisher information, or what its layers read.

    Args:
        model: a model folder or Hub id.
        corpus: a corpus folder or YAML (see `corpus.load_corpus`).
        kind: fisher, gram or magnitude.
        out: the folder to write; new or empty.
        categories: the categories whose texts are taken; all by default.
        samples: texts drawn per category, or as many as it has.
        max_length: tokens a text is cut to.
        seed: of the draw of texts.
        device: auto, cpu, cuda, …
        progress: told after each text or batch at each layer.

    Raises:
        InputError: the model or the corpus cannot be read, `out` is in use, or a parameter is out of range.
    """
    import torch

    from nmerge_core.corpus.text_samples import pack, sequences

    started = time.monotonic()
    if kind not in KINDS:
        raise InputError(f"kind: expected one of {', '.join(KINDS)}, found {kind!r}")
    check_free(out)
    checkpoint = open_checkpoint(model)
    loaded = load_corpus(corpus, categories)
    chosen = list(dict.fromkeys(loaded.categories if categories is None else categories))
    drawn = sequences(loaded, chosen, checkpoint, samples=samples, max_length=max_length, seed=seed)
    texts = [text for category in chosen for text in drawn[category]]
    taken: dict[str, Any] = {"categories": chosen, "samples": samples, "max_length": max_length, "seed": seed}
    meta = meta_of(kind, checkpoint, loaded, device, corpus=corpus, **taken)
    try:
        with new_folder(out) as folder:
            if kind == "fisher":
                from nmerge_core.calibration.fisher import fisher

                texts = [text for text in texts if len(text) > 1]  # a single token predicts nothing
                if not texts:
                    raise InputError(f"corpus {corpus}: expected texts of at least two tokens, found none; fill them")
                tokens = [torch.tensor(text) for text in texts]
                files = fisher(checkpoint, tokens, folder, device, f"Fisher information of {label(model)}", progress)
            else:
                from nmerge_core.calibration.inputs import inputs

                batches = [batch for category in chosen for batch in pack(category, drawn[category])]
                stage = f"{_STAGES[kind]} of {label(model)}"
                files, meta[of_weights(kind)] = inputs(checkpoint, batches, kind, folder, device, stage, progress)
            meta |= {"files": files, "texts": len(texts), "tokens": sum(map(len, texts))}
            write_meta(folder, {**meta, "seconds": round(time.monotonic() - started, 3)})
    except OSError as error:
        if error.errno not in DISK_ERRORS:
            raise
        raise InputError(f"{out}: writing failed ({error.strerror}); nothing was left there, make room") from error


def meta_of(kind: str, checkpoint: Checkpoint, loaded: Corpus, device: str, **taken: Any) -> dict[str, Any]:
    """Return what meta.json says of statistics from the start: of what they are, and which texts were `taken`."""
    return {
        "kind": kind,
        "model": checkpoint.reference,
        "label": label(checkpoint.reference),
        "model_fingerprint": fingerprint(checkpoint),
        "corpus_fingerprint": loaded.fingerprint,
        **taken,
        "device": kind_of(choose_device(device)),
        "version": __version__,
    }


def cache_folder(
    checkpoint: Checkpoint, corpus: str, kind: str, category: str, *, samples: int, seed: int, device: str
) -> Path:
    """Return where the cache has the statistics of a model on one category's texts, if it has them.

    The folder's name tells what is in it: model and tokenizer, texts, parameters, kind of device and `VERSION`.
    """
    alone = model_fingerprint(open_checkpoint(checkpoint.reference))  # without a head that its family gave it
    identity = [kind, alone, load_corpus(corpus, [category]).fingerprint, category]
    identity += [str(samples), str(seed), kind_of(choose_device(device)), str(VERSION)]
    key = hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:12]
    return cache_root() / "statistics" / f"{kind}-{key}"


def cached(
    checkpoint: Checkpoint,
    corpus: str,
    kind: str,
    category: str,
    *,
    samples: int,
    seed: int,
    device: str,
    progress: Progress,
) -> Statistics:
    """Return the statistics of a model on one category's texts from the cache, collecting them if need be."""
    folder = cache_folder(checkpoint, corpus, kind, category, samples=samples, seed=seed, device=device)
    if folder.exists():
        note_use(folder)
        try:
            return open_statistics(folder, kind, checkpoint)
        except InputError:  # as its name tells that it is of this kind and model, it is damaged
            remove(folder)
    try:
        collect(
            checkpoint.reference,
            corpus,
            kind,
            folder,
            categories=[category],
            samples=samples,
            seed=seed,
            device=device,
            progress=progress,
        )
    except (InputError, OSError):
        if not folder.exists():  # where it does, another process has collected the same meanwhile
            raise
    return open_statistics(folder, kind, checkpoint)
