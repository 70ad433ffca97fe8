"""Checkpoints that vLLM serves. It is not here: what lm-eval's backend is told is checked, and lm-eval's HFLM told it.

HFLM takes the same arguments, so the way of scores through another backend than ours is walked for real.
"""

import ast
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import lm_eval
import pytest
import torch
from lm_eval.models import MODEL_MAPPING
from lm_eval.models.huggingface import HFLM

from nmerge_core.errors import InputError
from nmerge_core.evaluation import Evaluator, evaluate
from nmerge_core.evaluation.served import Served, check_served, served
from nmerge_core.parameters.settings import ALIKE
from tests.evaluation.test_tasks import DOCS, SUMS, write_task
from tests.tiny import tiny_model


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return tiny_model(tmp_path_factory.mktemp("models") / "tiny")


def test_without_vllm_it_is_said_in_a_sentence_before_a_model_is_read(model: str, tmp_path: Path) -> None:
    if importlib.util.find_spec("vllm"):
        pytest.skip("vLLM is here")
    with pytest.raises(
        InputError, match="^backend: expected vLLM to be installed, found none; install it beside NMerge"
    ):
        evaluate([model], [write_task(tmp_path, SUMS, DOCS)], backend="vllm")
    with pytest.raises(InputError, match="backend"):
        evaluate([model], [write_task(tmp_path, SUMS, DOCS)], backend="onnx")


def test_what_lm_evals_backend_is_told_are_parameters_of_it(model: str) -> None:
    found = served(model, "tiny", device="cpu", run_dtype="bfloat16", batch_size="auto", seed=7)
    assert dict(found.arguments) == {"pretrained": model, "dtype": "bfloat16", "batch_size": "auto", "seed": 7}
    module, name = MODEL_MAPPING["vllm"].split(":")  # lm-eval's registry; importing it would import vLLM
    text = (Path(lm_eval.__file__).parent.parent / f"{module.replace('.', '/')}.py").read_text()
    [backend] = [each for each in ast.parse(text).body if isinstance(each, ast.ClassDef) and each.name == name]
    members = {each.name: each for each in backend.body if isinstance(each, ast.FunctionDef)}
    assert found.arguments.keys() <= {each.arg for each in members["__init__"].args.args}
    # What is asked of a backend, and what scores are made by.
    assert {"max_length", "max_gen_toks", "tok_encode", "apply_chat_template", "generate_until"} <= members.keys()
    # It takes no device, so that a number of one would be passed over in silence.
    assert "device" not in found.arguments and "device" not in {each.arg for each in members["__init__"].args.args}


def test_an_accelerator_by_its_number_is_refused(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nmerge_core.evaluation.served.find_spec", lambda name: name)  # as where vLLM is installed
    with pytest.raises(InputError, match="none by its number; expected device auto or cuda, found cuda:1; name it in"):
        check_served([model], ALIKE, "cuda:1")


def test_scores_of_another_backend_are_those_of_ours_and_tell_it(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class OfLmEval(HFLM):
        def __init__(self, seed: int, **told: object) -> None:
            super().__init__(**told, device="cpu")

    beside = ModuleType("lm_eval.models.vllm_causallms")
    monkeypatch.setattr(beside, "VLLM", OfLmEval, raising=False)
    monkeypatch.setitem(sys.modules, "lm_eval.models.vllm_causallms", beside)
    monkeypatch.setattr(Served, "backend", "vllm 0")
    reference = write_task(tmp_path, SUMS, DOCS)
    evaluator = Evaluator([reference], batch_size=2)
    ours = evaluate([model], [reference], batch_size=2)
    theirs = evaluator.scored(served(model, "tiny", device="cpu", run_dtype="float32", batch_size=2, seed=1234))
    assert isinstance(theirs.table.loc[0, "backend"], str) and theirs.table.loc[0, "backend"] == "vllm 0"
    assert ours.loc[0, "backend"] == "transformers"
    told = ["value", "samples", "run_dtype", "batch_size", "shots"]
    assert theirs.table.loc[0, told].tolist() == ours.loc[0, told].tolist()
    long = write_task(tmp_path / "long", SUMS, [{"prompt": "a" * 60, "answer": ""}])
    with pytest.raises(
        InputError, match="tiny on sums: expected problems that fit with their answers in the 64 tokens"
    ):
        Evaluator([long]).scored(Served("tiny", "float32", torch.device("cpu"), {"pretrained": model, "seed": 0}))
