"""What is written beside merged weights: every file that belongs to them, and a configuration that fits them."""

import fnmatch
import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from transformers import AutoModelForCausalLM

from nmerge_core.checkpoints import companions as module
from nmerge_core.checkpoints.companions import companions
from nmerge_core.checkpoints.header import TensorInfo
from nmerge_core.checkpoints.written_config import written_config
from nmerge_core.merging.pipeline import merge
from nmerge_core.merging.recipe.reading import load_recipe
from tests.merging import checkpoints

CARRIED = ["tekken.json", "tiktoken.model", "sentencepiece.bpe.model", "source.spm", "target.spm", "qwen.tiktoken"]
CARRIED += ["video_preprocessor_config.json", "preprocessor_config.json", "processor_config.json", "vocab.json"]
CARRIED += ["additional_chat_templates/tool_use.jinja", "config_sentence_transformers.json", "1_Pooling/config.json"]
CARRIED += ["sentence_bert_config.json", "2_Dense/model.safetensors", "merges.txt", "special_tokens_map.json"]
LEFT = ["optimizer.pt", "trainer_state.json", "training_args.bin", "modeling_x.py", "tokenization_x.py", "data.jsonl"]
LEFT += ["checkpoint-5/tokenizer.json", "runs/events", "onnx/model.onnx", "1_Pooling/own.py", "model.fp16.safetensors"]


def files(folder: Path) -> set[str]:
    return {file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file()}


def recipe_of(base: str, tune: str, **more: Any):
    return load_recipe({"merge_method": "task_arithmetic", "base_model": base, "models": [{"model": tune}], **more})


def test_what_belongs_to_the_tokens_is_carried_and_nothing_else(tmp_path: Path) -> None:
    weights = checkpoints.random_weights(0)
    base, tune = (checkpoints.write(tmp_path / name, weights) for name in ("base", "tune"))
    modules = [{"path": ""}, {"path": "1_Pooling"}, {"path": "2_Dense"}, {"path": "../tune"}, {"path": "/etc"}, 3]
    for name in (*CARRIED, *LEFT):
        (tmp_path / "base" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "base" / name).write_text("{}")
    (tmp_path / "base/modules.json").write_text(json.dumps(modules))
    found = {file.relative_to(base).as_posix() for file in companions(Path(base))}
    assert found == {*CARRIED, "modules.json"}
    (tmp_path / "base/model.fp16.safetensors").unlink()  # no weight file of a kind that is opened
    merge(recipe_of(base, tune), tmp_path / "out")
    own = {"config.json", "model.safetensors", "README.md", "nmerge_recipe.yaml", "nmerge_report.json"}
    assert files(tmp_path / "out") == own | found


def test_every_file_that_a_tokenizer_class_of_transformers_names_is_carried() -> None:
    names = set[str]()
    for file in Path(transformers.__file__).parent.glob("models/*/tokenization_*.py"):
        for block in re.findall(r"(?i)vocab_files_names\b[^=\n]*=\s*\{(.*?)\}", file.read_text(), re.DOTALL):
            names |= set(re.findall(r':\s*"([^"]+)"', block))
    assert {"vocab.txt", "source.spm", "sentencepiece.bpe.model"} <= names
    assert [n for n in sorted(names) if not any(fnmatch.fnmatch(n, p) for p in module._PATTERNS)] == []


def test_what_others_were_quantised_by_and_code_are_left_out_and_said(tmp_path: Path) -> None:
    weights = checkpoints.random_weights(0)
    own = {"AutoModelForCausalLM": "modeling_x.X", "AutoConfig": "modeling_x.C"}
    left: dict[str, Any] = {"auto_map": own, "quantization_config": {"quant_method": "gptq", "bits": 4}}
    base = checkpoints.write(tmp_path / "base", weights, **left)
    tune = checkpoints.write(tmp_path / "tune", weights)
    (tmp_path / "base/tokenizer_config.json").write_text(json.dumps({"auto_map": {"AutoTokenizer": "x.X"}, "a": "é"}))
    (tmp_path / "base/vocab.json").write_text(json.dumps({"auto_map": 3}))  # a token, here
    report = merge(recipe_of(base, tune), tmp_path / "out")
    config = json.loads((tmp_path / "out/config.json").read_text())
    assert not left.keys() & config.keys()
    assert json.loads((tmp_path / "out/tokenizer_config.json").read_text()) == {"a": "é"}
    assert json.loads((tmp_path / "out/vocab.json").read_text()) == {"auto_map": 3}
    told = report.facts["warnings"]
    assert any("base/config.json: key 'quantization_config' is left out of the merge, whose weights" in w for w in told)
    for file in ("base/config.json", "base/tokenizer_config.json"):
        assert any(f"{file}: key 'auto_map' is left out of the merge, as code that comes with" in w for w in told)
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "out").dtype == torch.float32


@pytest.mark.parametrize(
    ("config", "written", "expected"),
    [
        ({}, {"a": "BF16"}, {"dtype": "bfloat16"}),
        ({"torch_dtype": "float16"}, {"a": "F32"}, {"torch_dtype": "float32"}),
        ({"dtype": "float16"}, {"a": "F16", "b": "F16", "c": "F32"}, {"dtype": "float16"}),
        (
            {
                "text_config": {"dtype": "float32", "tie_word_embeddings": True, "quantization_config": {}},
                "dtype": None,
            },
            {"lm_head.weight": "F16"},
            {
                "text_config": {"dtype": "float16", "tie_word_embeddings": False},
                "dtype": "float16",
                "tie_word_embeddings": False,
            },
        ),
        ({"tie_word_embeddings": True}, {"a": "F32"}, {"dtype": "float32", "tie_word_embeddings": True}),
        ({"tie_word_embeddings": True}, {"lm_head.weight": "F32"}, {"dtype": "float32", "tie_word_embeddings": False}),
        (
            {"tie_word_embeddings": True, "is_encoder_decoder": True},  # T5's scales the output by it too
            {"lm_head.weight": "F32"},
            {"dtype": "float32", "tie_word_embeddings": True, "is_encoder_decoder": True},
        ),
    ],
)
def test_a_configuration_follows_from_what_was_written(
    config: dict[str, Any], written: dict[str, str], expected: dict[str, Any]
) -> None:
    tensors = {name: TensorInfo(name, dtype, (2, 2), Path(), 0) for name, dtype in written.items()}
    assert written_config(config, tensors) == expected


def test_a_format_is_that_of_the_weights_whatever_the_base_said(tmp_path: Path) -> None:
    weights = checkpoints.random_weights(0)
    base, tune = (checkpoints.write(tmp_path / name, weights, dtype="bfloat16") for name in ("base", "tune"))
    merge(recipe_of(base, tune), tmp_path / "out")
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "out").dtype == torch.float32
    merge(recipe_of(base, tune, dtype="float16"), tmp_path / "half")
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "half").dtype == torch.float16
