import logging

import pytest
import torch
from torch.nn import functional as F

from nmerge_core import number_format
from nmerge_core.checkpoints import open_checkpoint
from nmerge_core.errors import InputError
from nmerge_core.loading import load_model
from nmerge_core.number_format import NumberFormat, choose_format, stored_format
from tests.tiny import tiny_model

PLAIN, NATIVE = frozenset({"avx2"}), frozenset({"avx2", "avx512_bf16", "amx_bf16"})


@pytest.fixture(scope="module")
def half(tmp_path_factory):
    return tiny_model(tmp_path_factory.mktemp("half"), dtype=torch.bfloat16)


@pytest.fixture
def processor(monkeypatch):
    def become(flags, memory=1 << 34):
        monkeypatch.setattr(number_format, "cpu_flags", lambda: flags)
        monkeypatch.setattr(number_format, "total_memory", lambda: memory)

    return become


def test_auto_is_float32_where_the_processor_emulates_the_checkpoints_format(half, processor):
    checkpoint = open_checkpoint(half)
    processor(PLAIN)
    assert stored_format(checkpoint) == "bfloat16"
    assert choose_format(checkpoint, "auto", "cpu") == NumberFormat("float32")
    assert choose_format(checkpoint, "bfloat16", "cpu") == NumberFormat("bfloat16")
    processor(NATIVE)
    assert choose_format(checkpoint, "auto", "cpu") == NumberFormat("bfloat16")
    assert choose_format(checkpoint, "auto", "cpu", written="float16") == NumberFormat("float32")


def test_auto_is_the_checkpoints_on_an_accelerator(half, processor, monkeypatch):
    processor(PLAIN)
    monkeypatch.setattr(number_format, "choose_device", lambda name: "cuda:1")
    assert choose_format(open_checkpoint(half)) == NumberFormat("bfloat16")
    assert choose_format(open_checkpoint(half), written="float16") == NumberFormat("float16")


def test_a_model_too_large_for_float32_keeps_its_format_and_says_so(half, processor, caplog):
    checkpoint = open_checkpoint(half)
    processor(PLAIN, memory=2 * 4 * checkpoint.parameters)
    assert choose_format(checkpoint, "auto", "cpu").name == "float32"  # just half of the memory
    processor(PLAIN, memory=2 * 4 * checkpoint.parameters - 1)
    with caplog.at_level(logging.WARNING):
        assert load_model(half, "cpu").run_dtype == "bfloat16"
    assert "runs in bfloat16, which this processor emulates slowly" in caplog.text


def test_a_model_too_large_for_any_format_runs_layer_by_layer_in_float32(half, processor):
    checkpoint = open_checkpoint(half)
    processor(PLAIN, memory=2 * checkpoint.parameters)
    assert choose_format(checkpoint, "auto", "cpu").name == "bfloat16"  # all of the memory
    processor(PLAIN, memory=2 * checkpoint.parameters - 1)
    assert choose_format(checkpoint, "auto", "cpu") == NumberFormat("float32")


def test_an_unknown_format_is_refused(half):
    with pytest.raises(InputError, match="run_dtype: expected one of auto, float32, bfloat16, float16, found 'int8'"):
        choose_format(open_checkpoint(half), "int8")


def test_the_weights_are_the_checkpoints_in_whatever_format_they_run(half):
    exact, rounded = load_model(half, "cpu", "float32"), load_model(half, "cpu", "bfloat16")
    assert (exact.run_dtype, rounded.run_dtype) == ("float32", "bfloat16")
    for ours, theirs in zip(exact.model.parameters(), rounded.model.parameters(), strict=True):
        assert torch.equal(ours, theirs.float())
    tokens = torch.tensor([[5, 6, 7, 8]])
    with torch.inference_mode():
        ours, theirs = (loaded.model(tokens).logits.float() for loaded in (exact, rounded))
    assert 0 < F.mse_loss(ours, theirs) < 1e-2 * ours.square().mean()
