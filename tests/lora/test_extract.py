"""A LoRA extracted from a fine-tune: the best of its rank, whole at full rank, and read by peft as by us."""

import json
import shutil
import warnings
from math import sqrt
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from nmerge_core.checkpoints import open_checkpoint
from nmerge_core.cli import main
from nmerge_core.errors import Cancelled, InputError
from nmerge_core.lora.adapter_files import by_kind, captured
from nmerge_core.lora.extract import extract
from nmerge_core.lora.low_rank import truncated_svd
from tests.peft_adapters import GPT2, QWEN2, merged, random_adapter, save_model

FULL = 48  # above the rank of every layer here


def fine_tune(base: str, folder: Path, only: str = "") -> str:
    """Move every tensor, or those whose names contain `only`, at random."""
    shutil.copytree(base, folder)
    weights = load_file(folder / "model.safetensors")
    generator = torch.Generator().manual_seed(1)
    for name, value in weights.items():
        if only in name:
            value += 0.1 * torch.randn(value.shape, generator=generator)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    return str(folder)


@pytest.fixture(scope="module", params=["qwen2", "gpt2"])
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """A base and a fine-tune: an untied Qwen2, and a tied GPT-2 whose layers store their weights transposed."""
    root = tmp_path_factory.mktemp(request.param)
    base = save_model(root / "base", {"qwen2": QWEN2, "gpt2": GPT2}[request.param])
    return base, fine_tune(base, root / "tuned")


def linear(name: str) -> bool:
    return name.endswith("weight") and any(part in name for part in ("proj", "c_attn", "c_fc", "lm_head"))


def test_a_diagonal_by_hand() -> None:
    """M = diag(3, 2, 1) over a zero row: rank 2 keeps 9 + 4 of ‖M‖² = 14, and U√S·√S·Vᵀ = diag(3, 2, 0)."""
    matrix = torch.cat([torch.diag(torch.tensor([3.0, 2.0, 1.0])), torch.zeros(1, 3)]).double()
    found = truncated_svd(lambda: iter(matrix.split(2)), 2)
    assert (found.energy, found.captured) == (pytest.approx(14), pytest.approx(13 / 14))
    expected = torch.cat([torch.diag(torch.tensor([3.0, 2.0, 0.0])), torch.zeros(1, 3)])
    torch.testing.assert_close(found.left @ found.right, expected)
    torch.testing.assert_close(found.left.norm(dim=0), torch.tensor([sqrt(3), sqrt(2)]))  # balanced: √S on both sides
    torch.testing.assert_close(found.right.norm(dim=1), torch.tensor([sqrt(3), sqrt(2)]))


def test_rank_beyond_what_is_there_and_no_change_at_all() -> None:
    thin = torch.outer(torch.arange(1.0, 6.0), torch.tensor([1.0, -1.0, 2.0])).double()  # rank 1
    found = truncated_svd(lambda: iter([thin]), 3)
    assert found.captured == pytest.approx(1)
    torch.testing.assert_close(found.left @ found.right, thin.float())
    nothing = truncated_svd(lambda: iter([torch.zeros(5, 3, dtype=torch.float64)]), 2)
    assert (nothing.energy, nothing.captured) == (0, 1) and not nothing.left.any() and not nothing.right.any()


def test_at_full_rank_it_is_the_change_of_every_linear_layer(pair: tuple[str, str], tmp_path: Path) -> None:
    base, tuned = pair
    table = extract(base, tuned, tmp_path / "lora", FULL)
    again, start, goal = (open_checkpoint(each) for each in (f"{base}+{tmp_path / 'lora'}", base, tuned))
    for name in goal.tensors:
        expected = goal if linear(name) else start
        torch.testing.assert_close(again.read(name), expected.read(name), atol=2e-6, rtol=2e-6)
    carried = table.set_index("tensor")["rank"] > 0
    assert {name for name in goal.tensors if linear(name)} == set(carried[carried].index)
    assert table["share"].sum() == pytest.approx(1)
    norms = {name: (goal.read(name) - start.read(name)).double().norm().item() for name in goal.tensors}
    assert dict(zip(table["tensor"], table["norm"], strict=True)) == pytest.approx(norms)
    squares = sum(norms[name] ** 2 for name in norms if linear(name)) / sum(norm**2 for norm in norms.values())
    assert captured(table) == pytest.approx(squares)


def test_at_a_lower_rank_it_is_the_best_of_that_rank(pair: tuple[str, str], tmp_path: Path) -> None:
    base, tuned = pair
    table = extract(base, tuned, tmp_path / "lora", 5).set_index("tensor")
    again, start, goal = (open_checkpoint(each) for each in (f"{base}+{tmp_path / 'lora'}", base, tuned))
    for name in filter(linear, goal.tensors):
        delta = (goal.read(name) - start.read(name)).double()
        u, s, v = torch.linalg.svd(delta, full_matrices=False)
        best = (u[:, :5] * s[:5]) @ v[:5]
        torch.testing.assert_close((again.read(name) - start.read(name)).double(), best, atol=5e-6, rtol=5e-6)
        share = (s[:5].square().sum() / s.square().sum()).item()
        assert table.loc[name, "captured"] == pytest.approx(share), name


def test_peft_reads_the_folder_as_we_do(pair: tuple[str, str], tmp_path: Path) -> None:
    base, tuned = pair
    extract(base, tuned, tmp_path / "lora", 20)  # above the rank of Qwen2's k_proj and v_proj, 16
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # peft's own; a missing or unknown tensor would still fail
        theirs = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), tmp_path / "lora")
    state = merged(theirs).state_dict()
    ours = open_checkpoint(f"{base}+{tmp_path / 'lora'}")
    for name in ours.tensors:
        torch.testing.assert_close(ours.read(name), state[name], atol=2e-6, rtol=2e-6)


def test_an_adapter_comes_back_from_the_model_it_makes(tmp_path: Path) -> None:
    base = save_model(tmp_path / "base")
    random_adapter(base, tmp_path / "lora", r=3, lora_alpha=1, target_modules=["q_proj", "down_proj"])
    table = extract(base, f"{base}+{tmp_path / 'lora'}", tmp_path / "again", 3)
    assert captured(table) == pytest.approx(1)
    one, two = (open_checkpoint(f"{base}+{tmp_path / name}") for name in ("lora", "again"))
    for name in one.tensors:
        torch.testing.assert_close(one.read(name), two.read(name), atol=1e-5, rtol=1e-5)


def test_bytes_do_not_depend_on_shards_or_threads(tmp_path: Path) -> None:
    base = save_model(tmp_path / "base")
    tuned = fine_tune(base, tmp_path / "tuned")
    AutoModelForCausalLM.from_pretrained(tuned).save_pretrained(tmp_path / "sharded", max_shard_size="20KB")
    assert len(open_checkpoint(str(tmp_path / "sharded")).files) > 3
    extract(base, tuned, tmp_path / "one", 6)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        extract(base, str(tmp_path / "sharded"), tmp_path / "two", 6)
    finally:
        torch.set_num_threads(threads)
    for file in ("adapter_model.safetensors", "adapter_config.json"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()


def test_what_is_not_carried_is_told(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    base = save_model(tmp_path / "base")
    tuned = fine_tune(base, tmp_path / "tuned", "norm")
    assert main(["extract", base, tuned, str(tmp_path / "lora"), "--rank", "4"]) == 0
    printed = capsys.readouterr()
    assert f"{tmp_path / 'lora'} has 0.00% of the change" in printed.out
    assert "warning: 100.00% of the change is in embeddings, norms, biases" in printed.err
    report = json.loads((tmp_path / "lora/nmerge_report.json").read_text())
    assert report["captured"] == 0 and (report["base"]["label"], report["model"]["label"]) == ("base", "tuned")
    assert {row["tensor"] for row in report["tensors"]} == set(open_checkpoint(base).tensors)
    assert main(["inspect", base, f"{base}+{tmp_path / 'lora'}"]) == 0


def test_kinds_sum_over_layers(tmp_path: Path) -> None:
    base = save_model(tmp_path / "base")
    table = extract(base, fine_tune(base, tmp_path / "tuned"), tmp_path / "lora", 4)
    kinds = by_kind(table).set_index("kind")
    rows = table[table["tensor"].str.endswith("up_proj.weight")]
    up = kinds.loc["up_proj.weight"]
    assert (up["tensors"], up["rank"], up["share"]) == (2, 4, pytest.approx(rows["share"].sum()))
    mean = (rows["captured"] * rows["share"]).sum() / rows["share"].sum()
    assert up["captured"] == pytest.approx(mean) and kinds.loc["embed_tokens.weight", "captured"] == 0


def test_wrong_input_leaves_nothing(tmp_path: Path) -> None:
    base = save_model(tmp_path / "base")
    tuned = fine_tune(base, tmp_path / "tuned")
    with pytest.raises(InputError, match="tuned: exists already"):
        extract(base, tuned, tmp_path / "tuned", 4)
    grown = save_model(tmp_path / "grown", type(QWEN2)(**{**QWEN2.to_dict(), "vocab_size": 42}))
    with pytest.raises(InputError, match=r"grown, tensor lm_head.weight: expected shape \[40, 32\] as in"):
        extract(base, grown, tmp_path / "lora", 4)
    other = save_model(tmp_path / "gpt2", GPT2)
    with pytest.raises(InputError, match="no adapter can be extracted:\n  gpt2: config.json, key 'model_type'"):
        extract(base, other, tmp_path / "lora", 4)
    weights = load_file(tmp_path / "tuned/model.safetensors")
    weights["lm_head.weight"][1, 1] = float("inf")
    save_file(weights, tmp_path / "tuned/model.safetensors", {"format": "pt"})
    with pytest.raises(InputError, match="tuned, tensor lm_head.weight: rows 0 to 39 hold NaN or infinite"):
        extract(base, tuned, tmp_path / "lora", 4)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["base", "gpt2", "grown", "tuned"]


def test_a_cancelled_extraction_leaves_nothing(tmp_path: Path) -> None:
    base = save_model(tmp_path / "base")
    tuned = fine_tune(base, tmp_path / "tuned")

    def stop(stage: str, done: float, total: float, unit: str = "") -> None:
        if done == 5:
            raise Cancelled

    with pytest.raises(Cancelled):
        extract(base, tuned, tmp_path / "lora", 4, progress=stop)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["base", "tuned"]
