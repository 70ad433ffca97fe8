import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from nmerge_core.checkpoints.raw_bits import as_stored, bits_of, empty_bits
from nmerge_core.merging.compute import kernels
from nmerge_core.merging.compute.block import Block, Entries
from nmerge_core.merging.compute.drop import Drop
from nmerge_core.merging.compute.entrywise import Entrywise, Rule
from nmerge_core.merging.compute.histogram import look
from nmerge_core.merging.compute.kernels import CHUNK
from nmerge_core.merging.compute.magprune import MagPrune
from nmerge_core.merging.compute.primitives import drop, random_bits
from nmerge_core.merging.compute.spread import Selected
from nmerge_core.merging.recipe.registry import methods
from tests.merging import checkpoints

COUNT = 2 * CHUNK + 37  # a last chunk that is not full
WEIGHTS = (1.0, -0.3, 0.7)
RULES: dict[str, Rule] = {
    "sum": Entrywise(WEIGHTS, 0.4),
    "mean": Entrywise(WEIGHTS, 1.0, normalize=True),
    "trim": Entrywise(WEIGHTS, 0.4, thresholds=(0.5, 1.0, 0.0)),
    "ties": Entrywise(WEIGHTS, 0.9, True, thresholds=(0.5, 1.0, 0.25), elect=True),
    "ties sum": Entrywise(WEIGHTS, 1.0, False, thresholds=(0.5, 1.0, 0.25), elect=True),
    "drop": Entrywise(WEIGHTS, 0.4, drop=Drop((0.4, 1.0, 0.01), True, 7)),
    "drop, no rescale": Entrywise(WEIGHTS, 0.4, True, drop=Drop((0.4, 0.9, 0.5), False, 7)),
    "on an arc": Entrywise(WEIGHTS, 0.9, normalize=True, of_base=-0.2),
    "selected": Selected(tuple(map(abs, WEIGHTS)), 0.5),
    "dropped by rank": MagPrune(WEIGHTS, 0.4, (0.4, 1.0, 0.5), (0.2, 0.0, 0.4), True, 7, False, True, 1.4),
    "dropped by rank, ties": MagPrune(WEIGHTS, 0.4, (0.4, 0.6, 0.5), (0.2, 0.3, 0.0), False, 7, True, True, 1.0),
    "drop ties": Entrywise(WEIGHTS, 0.4, True, drop=Drop((0.4, 0.6, 0.5), True, 7), elect=True),
}


def models(dtype: torch.dtype) -> torch.Tensor:
    """A base and three models, (4, COUNT), with entries that agree, cancel, and are zero."""
    drawn = torch.randn(4, COUNT, generator=torch.Generator().manual_seed(0)).to(dtype)
    drawn[1, :100] = drawn[0, :100]
    drawn[2, 50:150] = 2 * drawn[0, 50:150] - drawn[1, 50:150]
    drawn[:, 150:160] = 0
    drawn[0, 155:] *= -1
    return drawn


def merged_by_kernel(rule: Rule, values: torch.Tensor, differences: bool, dtype: torch.dtype) -> torch.Tensor:
    name = {torch.bfloat16: "BF16", torch.float32: "F32", torch.float16: "F16"}[dtype]
    words = bits_of(values).view(np.uint16 if values.dtype == torch.bfloat16 else np.uint32)
    out = empty_bits(COUNT, name)
    assert rule.merge_entries(Entries("w", 3, words, differences, COUNT), out)
    stored = as_stored(out, name)
    return torch.from_numpy(stored.view(np.int16 if stored.itemsize == 2 else np.int32)).view(dtype)


def merged_by_torch(rule: Rule, values: torch.Tensor, differences: bool, dtype: torch.dtype) -> torch.Tensor:
    held = values.float()
    base = held[0] if differences else torch.zeros(COUNT)
    deltas = held[1:] - base if differences else held
    # A point parameter: one row of columns, whose entry i is the tensor's entry 3 + i.
    block = Block("w", base[None], deltas[:, None], 3, 3 + COUNT, False, None, "", 0.0, None)
    return (rule.merge(block)[0] + base).to(dtype)


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
@pytest.mark.parametrize("stored", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("out", [torch.bfloat16, torch.float32, torch.float16])
def test_compiled_loops_and_torch_give_the_same_bits(rule: Rule, stored: torch.dtype, out: torch.dtype) -> None:
    values = models(stored)
    compiled, naive = merged_by_kernel(rule, values, True, out), merged_by_torch(rule, values, True, out)
    assert (bits_of(compiled) == bits_of(naive)).all()


@pytest.mark.parametrize("weights", [(1.0, 1.0, 1.0), (-1.0, -1.0, -0.5), (0.0, 2.0, 1e-3)])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_without_a_base_the_weights_themselves_are_merged(weights: tuple[float, ...], dtype: torch.dtype) -> None:
    rule, values = Entrywise(weights, normalize=True), models(dtype)[1:]
    compiled = merged_by_kernel(rule, values, False, dtype)
    assert (bits_of(compiled) == bits_of(merged_by_torch(rule, values, False, dtype))).all()


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
def test_zeros_of_either_sign_and_tiny_numbers(rule: Rule) -> None:
    few = torch.tensor([0.0, -0.0, 1e-45, -1e-45, 1e-38, 3.0, -3.0])
    values = few[torch.randint(len(few), (4, COUNT), generator=torch.Generator().manual_seed(0))]
    compiled = merged_by_kernel(rule, values, True, torch.float32)
    assert (bits_of(compiled) == bits_of(merged_by_torch(rule, values, True, torch.float32))).all()


def test_ties_by_hand() -> None:
    # Base 1; models 3, −1, 2.5: deltas 2, −2, 1.5. Weights 1, 1, 2; least magnitudes 1, 3, 1: the second is trimmed.
    # Sum 2 + 2·1.5 = 5: positive; mean of what agrees 5 / (1 + 2); times λ = 3, plus the base: 6.
    words = torch.tensor([[1.0], [3.0], [-1.0], [2.5]]).view(torch.int32).numpy().view(np.uint32)
    out = empty_bits(1, "F32")
    rule = Entrywise((1.0, 1.0, 2.0), 3.0, True, thresholds=(1.0, 3.0, 1.0), elect=True)
    assert rule.merge_entries(Entries("w", 0, words, True), out)
    assert out.view(np.float32).tolist() == [6.0]


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("source", range(4))
def test_an_entry_that_is_not_finite_is_seen_wherever_it_is(bad: float, source: int) -> None:
    for dtype in (torch.bfloat16, torch.float32):
        for place in (0, CHUNK + 5, COUNT - 1):
            values = models(dtype)
            values[source, place] = bad
            words = bits_of(values).view(np.uint16 if dtype == torch.bfloat16 else np.uint32)
            found = Entries("w", 0, words, True)
            assert not RULES["ties"].merge_entries(found, empty_bits(COUNT, "F32"))
            assert not kernels.magnitudes(words, np.empty((3, COUNT), np.float32))


def test_the_largest_finite_numbers_are_finite() -> None:
    values = torch.full((4, COUNT), torch.finfo(torch.bfloat16).max, dtype=torch.bfloat16)
    assert torch.equal(merged_by_kernel(RULES["sum"], values, True, torch.bfloat16), values[0])


def test_magnitudes_are_the_differences() -> None:
    for dtype in (torch.bfloat16, torch.float32):
        values = models(dtype)
        found = np.empty((3, COUNT), np.float32)
        assert kernels.magnitudes(bits_of(values).view(f"u{values.element_size()}"), found)
        assert torch.equal(torch.from_numpy(found), (values[1:].float() - values[0].float()).abs())


@pytest.mark.parametrize("count", [1, CHUNK - 1, COUNT])
def test_a_look_equals_counting(count: int) -> None:
    values = models(torch.float32)[1, :count].numpy()
    low, high = np.float32(-0.3), np.float32(0.4)
    first = -int(np.float32(0.3).view(np.int32))  # negative floats are ordered backwards
    offsets = np.empty(count, np.int64)
    inside, above = look(values, low, high, first, offsets)
    within = values[(values >= low) & (values <= high)]
    bits = within.view(np.int32).astype(np.int64)
    keys = np.where(bits < 0, -(bits & 0x7FFFFFFF), bits)
    assert offsets[:inside].tolist() == (keys - first).tolist()
    assert above == (values > high).sum()


def test_random_bits_are_those_of_splitmix64() -> None:
    # The first numbers from state 1234567, as on rosettacode.org ("Pseudo-random numbers/Splitmix64").
    numbers = [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431]
    assert random_bits(1234567, 0, 4, torch.device("cpu")).tolist() == [number >> 32 for number in numbers]


def test_drop_does_not_depend_on_blocks() -> None:
    deltas = torch.ones(2, 1000)
    whole = drop(deltas, Drop((0.3, 0.5), True, 1), "w", 0)
    for first in (0, 1, 40, 41, 999):
        assert torch.equal(drop(deltas[:, first:], Drop((0.3, 0.5), True, 1), "w", first), whole[:, first:])


def test_drop_keeps_its_density_and_depends_on_seed_model_and_name() -> None:
    def kept(seed: int = 0, name: str = "w") -> torch.Tensor:
        return drop(torch.ones(2, 400_000), Drop((0.3, 0.3), False, seed), name, 0)

    mask, second = kept()
    # Standard deviation of the mean of 400 000 draws: √(0.3 · 0.7 / 400 000) = 0.0007.
    assert mask.mean().item() == pytest.approx(0.3, abs=0.004)
    for other in (second, kept(seed=1)[0], kept(name="v")[0], mask.roll(1), mask.roll(64), mask.roll(896)):
        # Independent masks agree where both keep or both drop: 0.3² + 0.7² = 0.58.
        assert (other == mask).float().mean().item() == pytest.approx(0.58, abs=0.005)


def test_rescale_is_the_inverse_of_the_density() -> None:
    assert Drop((0.4, 1.0), True, 0).scales.tolist() == [np.float32(2.5), 1.0]
    assert Drop((0.4, 1.0), False, 0).scales.tolist() == [1.0, 1.0]


def test_merges_by_rules_on_a_cpu_take_no_torch(family, tmp_path: Path) -> None:
    ruled = [name for name, method in methods().items() if method.rule]
    for method in ruled:
        models = checkpoints.entries(method, family.models)
        recipe = {"merge_method": method, "base_model": family.base, "models": models}
        (tmp_path / f"{method}.yaml").write_text(json.dumps(recipe), encoding="utf-8")
    program = (
        "import sys; from pathlib import Path; from nmerge_core.cli import main\n"
        f"for method in {ruled!r}:\n"
        f"    out = Path({str(tmp_path)!r}) / method\n"
        "    assert not main(['merge', f'{out}.yaml', str(out), '--device', 'cpu']), method\n"
        "    assert 'numba' in sys.modules and not {'torch', 'pandas'} & sys.modules.keys(), method"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_kept_loop_is_loaded_without_what_compiles_it() -> None:
    program = (
        "import sys; import numpy as np; from nmerge_core.merging.compute.kernels import magnitudes\n"
        "out = np.zeros((1, 1), np.float32)\n"
        "assert magnitudes(np.array([[0x3F80], [0xC000]], np.uint16), out) and out == 3\n"  # |−2 − 1|, of bfloat16
        "print('scipy.linalg' in sys.modules)"
    )
    first, second = (subprocess.run([sys.executable, "-c", program], capture_output=True, text=True) for _ in "12")
    assert (second.returncode, second.stdout) == (0, "False\n"), first.stderr + second.stderr


def test_a_pool_leaves_the_number_of_threads() -> None:
    program = (
        "from nmerge_core.machine import cores, threads\n"
        "from nmerge_core.parallel import in_order\n"
        "list(in_order(abs, range(9), with_torch=False)); list(in_order(abs, range(9)))\n"
        "assert threads() == cores(), threads()"
    )
    free = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=free)
    assert done.returncode == 0, done.stderr


COMPILE = """
from pathlib import Path
import numpy as np
from nmerge_core.merging.compute.histogram import count
counts = np.zeros(3, np.int64)
count(np.array([5, 0, 4]), 1, counts)
assert counts.tolist() == [1, 0, 2]
"""


def compile_with(cache: Path) -> None:
    environment = os.environ | {"NUMBA_CACHE_DIR": str(cache)}
    done = subprocess.run([sys.executable, "-c", COMPILE], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(("suffix", "content"), [(".nbi", b"no pickle"), (".nbc", b"")])
def test_compiled_loops_that_were_damaged_are_compiled_again(tmp_path: Path, suffix: str, content: bytes) -> None:
    compile_with(tmp_path)
    files = sorted(file for file in tmp_path.rglob("histogram.count*") if file.suffix == suffix)
    assert files
    for file in files:
        file.write_bytes(content)
    compile_with(tmp_path)
    assert all(file.read_bytes() != content for file in files)


def test_loops_are_compiled_where_nothing_can_be_kept(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    environment = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path / "file/folder"), "NUMBA_CACHE_LOCATOR_CLASSES": ""}
    program = "from numba.core import caching; caching.CacheImpl._locator_classes = []\n" + COMPILE
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
