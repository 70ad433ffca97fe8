"""Every condition of scores: set from the command line and Python, in the run's key, in the result, and checked."""

from inspect import signature
from types import SimpleNamespace
from typing import Any

import pytest

from nmerge_core import face
from nmerge_core.cli import main
from nmerge_core.cli.parser import build_parser
from nmerge_core.errors import InputError
from nmerge_core.evaluation.scores import COLUMNS
from nmerge_core.runs.kinds import KINDS
from nmerge_core.runs.request import resolve
from tests.tiny_family import make_family

# By name: a value that is no default, one that is wrong, what is said of it, and where the result tells it.
CONDITIONS: dict[str, tuple[Any, Any, str, str]] = {
    "limit": (2, 0, "expected a whole number from 1", "samples"),
    "shots": (3, -1, "expected a whole number in .0, ∞.", "shots"),
    "chat_template": (True, "often", "expected true or false", "chat_template"),
    "decoding": ("own", "greedy", "expected one of alike, own", "decoding"),
    "batch_size": (3, 0, "expected a whole number from 1, or auto", "batch_size"),
    "seed": (7, -1, "expected a whole number from 0", "seed"),
    "run_dtype": ("bfloat16", "int3", "expected one of auto, ", "run_dtype"),
    "backend": ("vllm", "gguf", "expected one of transformers, vllm", "backend"),
}
PARAMETERS = KINDS["evaluate"].by_name


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    return make_family(tmp_path_factory.mktemp("family"))


def test_no_condition_is_left_out() -> None:
    assert set(PARAMETERS) == {*CONDITIONS, "models", "tasks", "device", "run_code", "allow_task_code"}
    assert {"task_version", "lm_eval", "batch_used"} <= set(COLUMNS)


@pytest.mark.parametrize("name", CONDITIONS)
def test_a_condition_from_everywhere(name: str, family: SimpleNamespace, capsys: pytest.CaptureFixture) -> None:
    value, wrong, said, column = CONDITIONS[name]
    option = f"--{name.replace('_', '-')}"
    command = ["evaluate", family.base, "--tasks", family.task, option]
    parsed = build_parser().parse_args(command if value is True else [*command, str(value)])
    assert getattr(parsed, name) == value != PARAMETERS[name].default
    assert signature(face.evaluate).parameters[name].default == PARAMETERS[name].default
    asked = {"models": [family.base], "tasks": [family.task]}
    plain, given = (resolve(family.root, "evaluate", asked | more) for more in ({}, {name: value}))
    assert plain.id != given.id and given.parameters[name] == value
    assert column in COLUMNS
    with pytest.raises(InputError, match=f"{name}.*{said}.*found {wrong!r}"):
        face.evaluate([family.base], tasks=[family.task], progress=False, **{name: wrong})
    if value is not True:  # a switch takes no value
        try:
            status = main([*command, str(wrong)])
        except SystemExit as ended:  # argparse's, which names the option
            status = int(ended.code or 0)
        told = capsys.readouterr().err
        assert status == 2 and (name in told or option in told) and str(wrong) in told
