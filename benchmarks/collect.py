"""What scores of neurons cost beside the forward pass that they are taken from: both in turn, on the same batches.

    python -m benchmarks.collect                             # four layers in the shape of Qwen2.5-0.5B, on this CPU
    python -m benchmarks.collect --run-dtype bfloat16
    python -m benchmarks.collect --shape 7b --layers 28 --device cuda --batches 16x512

A batch of random tokens goes through the layers alone (no head on either side), and through them with every score
a_j(s) and its token taken, and so with the statistics over all tokens. Medians; a ratio is the median of the pairs'
ratios to the layers alone, of seconds on the clock and of cores.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from benchmarks.family import QWEN_05B, QWEN_7B, write_family
from benchmarks.live import add_tokenizer
from nmerge_core.activations.collect import Scores, scoring, whole
from nmerge_core.activations.forward import run_body
from nmerge_core.activations.reading import of_tokens
from nmerge_core.activations.statistics import LayerStatistics
from nmerge_core.cache import cache_root
from nmerge_core.loading import LanguageModel, load_model

SHAPES = {"0.5b": QWEN_05B, "7b": QWEN_7B}
BATCHES = "1x64,1x512,8x64,8x512,64x64,64x128"
WANTED = 1.1  # times the forward pass


@dataclass(frozen=True)
class Cost:
    """Seconds on the clock, and of all cores."""

    wall: float
    cpu: float


def cost(work: Callable[[], object], device: torch.device) -> Cost:
    """Do some work to its end."""
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return Cost(time.perf_counter() - wall, time.process_time() - cpu)


def in_turn(language_model: LanguageModel, texts: int, length: int, repeats: int) -> list[list[Cost]]:
    """Run the layers alone, with scores, and with scores and statistics, in turn; return what each took."""
    chance = torch.Generator().manual_seed(length)
    batch = torch.randint(language_model.model.config.vocab_size, (texts, length), generator=chance)  # (B, T)
    mask = torch.ones_like(batch, dtype=torch.bool)
    widths = [layer.d_ffn for layer in language_model.architecture.layers]
    scores = Scores(
        tuple(range(len(widths))),
        tuple(torch.zeros(texts, width, dtype=language_model.model.dtype) for width in widths),
        tuple(torch.zeros(texts, width, dtype=torch.int16) for width in widths),
    )
    reading = of_tokens(range(len(widths)), list(batch))
    found: list[list[Cost]] = [[], [], []]
    for turn in range(1 + repeats):  # the first is not counted
        costs = [cost(lambda: run_body(language_model, batch, mask), language_model.device)]
        counted = {layer: LayerStatistics.of(texts, width) for layer, width in enumerate(widths)}
        for kept in (scores, replace(scores, statistics=counted)):
            with scoring(language_model, reading, kept, False, kept.layers, whole(language_model)) as score:
                costs.append(cost(lambda: score(list(range(texts))), language_model.device))  # noqa: B023
        if turn:
            for side, own in zip(found, costs, strict=True):
                side.append(own)
    return found


def main() -> None:
    """Print a row per batch."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, default="0.5b")
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--batches", default=BATCHES, help="texts x tokens, separated by commas (default: %(default)s)")
    parser.add_argument("--run-dtype", default="float32")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--repeats", type=int, default=5, help="counted pairs (default: %(default)s)")
    parser.add_argument("--work", type=Path, default=cache_root() / "benchmarks", help="where models are kept")
    asked = parser.parse_args()
    shape = replace(SHAPES[asked.shape], layers=asked.layers, vocabulary=8192)
    folders = write_family(asked.work / f"collect-{asked.shape}-{asked.layers}", shape, models=1)
    add_tokenizer(folders, asked.work / "demo")
    language_model = load_model(str(folders[0]), asked.device, asked.run_dtype)
    print(f"{asked.layers} layers of {asked.shape} in {language_model.run_dtype}, medians of {asked.repeats} pairs")
    columns = (
        "texts x tokens",
        "forward s",
        "scores s",
        "ratio",
        "of cores",
        "wanted",
        "statistics s",
        "ratio",
        "of cores",
    )
    print("  ".join(columns))
    for name in asked.batches.split(","):
        texts, length = map(int, name.split("x"))
        alone, scored, counted = in_turn(language_model, texts, length, asked.repeats)
        seconds = [statistics.median(each.wall for each in side) for side in (alone, scored, counted)]
        (wall, cpu), (more, cores) = (
            [
                statistics.median(getattr(b, unit) / getattr(a, unit) for a, b in zip(alone, side, strict=True))
                for unit in ("wall", "cpu")
            ]
            for side in (scored, counted)
        )
        written = (name, *(f"{number:.3f}" for number in (seconds[0], seconds[1], wall, cpu)), f"≤ {WANTED}")
        written += tuple(f"{number:.3f}" for number in (seconds[2], more, cores))
        print("  ".join(f"{each:>{len(title)}}" for each, title in zip(written, columns, strict=True)), flush=True)


if __name__ == "__main__":
    main()
