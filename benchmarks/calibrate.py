"""What Fisher information and Gram matrices cost beside the passes that they are taken from, and a RegMean by them.

    python -m benchmarks.calibrate                # an eighth of Qwen2.5-0.5B: 3 layers, and as much of the vocabulary
    python -m benchmarks.calibrate --layers 24    # all of it
    python -m benchmarks.calibrate --regmean      # the merge of a base and three fine-tunes, statistics at hand

Random tokens, in float32 on one core. Fisher information goes beside a forward and a backward pass of the same model,
text by text, Gram matrices beside a forward pass of the layers on the same batches; these are of a model that is
loaded. Both sides in turn: medians; a ratio is the median of the pairs'. The seconds are the processor's, of the merge
of all cores.
"""

import argparse
import statistics
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch
import yaml
from torch import Tensor

from benchmarks.collect import Cost, cost
from benchmarks.family import QWEN_05B, write_family
from benchmarks.live import add_tokenizer
from benchmarks.measure import in_turn, median
from benchmarks.merge import ours
from nmerge_core.cache import cache_root
from nmerge_core.calibration.fisher import fisher
from nmerge_core.calibration.inputs import inputs
from nmerge_core.calibration.squares import log_likelihood
from nmerge_core.checkpoints import Checkpoint, open_checkpoint
from nmerge_core.corpus.text_samples import Batch, pack
from nmerge_core.demo.family import write_family as write_demo
from nmerge_core.loading import LanguageModel, load_model
from nmerge_core.progress import silent

WANTED = {"fisher": 1.2, "gram": 3.0}  # times the passes alone
DEVICE = torch.device("cpu")


def passes(language_model: LanguageModel, texts: Sequence[Tensor]) -> None:
    """Take the gradient of each text's log-likelihood by all weights, and drop it."""
    weights = list(language_model.model.parameters())
    for text in texts:
        logits = language_model.model(input_ids=text[None], use_cache=False).logits
        torch.autograd.grad(log_likelihood(logits, text[None]), weights)


@torch.inference_mode()
def forward(language_model: LanguageModel, batches: Sequence[Batch]) -> None:
    """Run the layers on each batch, without the head."""
    for batch in batches:
        language_model.model.get_decoder()(input_ids=batch.tokens, use_cache=False)


def pairs(alone: Callable[[], None], measured: Callable[[], object], repeats: int) -> list[tuple[Cost, Cost]]:
    """Do both in turn, after one uncounted time each."""
    return [(cost(alone, DEVICE), cost(measured, DEVICE)) for _ in range(1 + repeats)][1:]


def print_row(name: str, found: Sequence[tuple[Cost, Cost]]) -> None:
    """Print the seconds of both sides and how many times the one is of the other."""
    alone, measured = (statistics.median(pair[side].cpu for pair in found) for side in (0, 1))
    ratio, wall = (statistics.median(getattr(b, unit) / getattr(a, unit) for a, b in found) for unit in ("cpu", "wall"))
    print(f"{name:8} {alone:9.2f} {measured:9.2f} {ratio:7.2f} {wall:9.2f} {f'≤ {WANTED[name]:g}':>7}", flush=True)


def collections(model: Checkpoint, texts: Sequence[Tensor], repeats: int) -> None:
    """Print a row for Fisher information and one for Gram matrices."""
    language_model = load_model(model.reference, str(DEVICE), "float32")
    batches = pack("texts", [text.tolist() for text in texts])
    with tempfile.TemporaryDirectory() as name:
        out = Path(name)
        sides: dict[str, tuple[Callable[[], None], Callable[[], object]]] = {
            "fisher": (
                lambda: passes(language_model, texts),
                lambda: fisher(model, texts, out, str(DEVICE), "", silent),
            ),
            "gram": (
                lambda: forward(language_model, batches),
                lambda: inputs(model, batches, "gram", out, str(DEVICE), "", silent),
            ),
        }
        print(f"{'':8} {'passes s':>9} {'with it':>9} {'ratio':>7} {'of clock':>9} {'wanted':>7}")
        for kind, (alone, measured) in sides.items():
            print_row(kind, pairs(alone, measured, repeats))


def regmean(folders: Sequence[Path], corpus: Path, work: Path, repeats: int) -> None:
    """Print the seconds of a merge by RegMean; its first run, which is not counted, collects the statistics."""
    models = [
        {"model": str(folder), "parameters": {"category": name}}
        for folder, name in zip(folders[1:], ("math", "code", "translation"), strict=True)
    ]
    content = {"merge_method": "regmean", "models": models, "parameters": {"corpus": str(corpus)}, "dtype": "bfloat16"}
    recipe = work / "regmean.yaml"
    recipe.write_text(yaml.safe_dump(content), encoding="utf-8")
    found = median(in_turn([ours(recipe, work / "out-regmean")], repeats)["nmerge"])
    print(
        f"RegMean, statistics at hand: {found.wall:.1f} s, {found.cpu:.1f} s of all cores, {found.memory / 1e6:.0f} MB"
    )


def main() -> None:
    """Print the rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=3, help="of the 24 (default: %(default)s)")
    parser.add_argument("--texts", type=int, default=32, help="default: %(default)s")
    parser.add_argument("--tokens", type=int, default=128, help="of a text (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=3, help="counted pairs (default: %(default)s)")
    parser.add_argument("--regmean", action="store_true", help="time the merge instead")
    parser.add_argument("--work", type=Path, default=cache_root() / "benchmarks", help="where models are kept")
    asked = parser.parse_args()
    shape = replace(QWEN_05B, layers=asked.layers, vocabulary=QWEN_05B.vocabulary * asked.layers // QWEN_05B.layers)
    work = asked.work / f"calibrate-{asked.layers}"
    folders = write_family(work, shape)
    add_tokenizer(folders, asked.work / "demo")
    if asked.regmean:
        regmean(folders, write_demo(asked.work / "demo") / "corpus", work, asked.repeats)
        return
    torch.set_num_threads(1)
    chance = torch.Generator().manual_seed(0)
    texts = [torch.randint(shape.vocabulary, (asked.tokens,), generator=chance) for _ in range(asked.texts)]
    print(f"{asked.layers} layers, {asked.texts} texts of {asked.tokens} tokens, medians of {asked.repeats} pairs")
    collections(open_checkpoint(str(folders[0])), texts, asked.repeats)


if __name__ == "__main__":
    main()
