"""What the public functions promise: their parameters, defaults, types and documentation, and what is refused."""

import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import nmerge_core as nm
from nmerge_core import face
from nmerge_core.errors import InputError
from nmerge_core.runs.kinds import KINDS
from tests.face.conftest import states

FUNCTIONS = face.__all__


def test_a_family_that_is_not_there_is_told_of_with_those_that_are(cache):
    with pytest.raises(InputError, match="family mine: expected the path of a YAML, or one of demo"):
        nm.open_family("mine")


@pytest.mark.parametrize("name", [name for name in FUNCTIONS if name in KINDS])
def test_a_function_has_the_parameters_and_defaults_of_its_kind_of_run(name):
    own = dict(inspect.signature(getattr(nm, name)).parameters)
    for parameter in KINDS[name].parameters:
        named = "models" if (name, parameter.name) == ("classify", "model") else parameter.name
        found = own.pop(named)
        assert found.default == (inspect.Parameter.empty if parameter.required else parameter.default), named
    assert own.keys() <= {"progress", "out"}


def test_every_function_is_documented_and_typed():
    for name in FUNCTIONS:
        function = getattr(nm, name)
        signature = inspect.signature(function)
        assert inspect.getdoc(function), name
        assert signature.return_annotation is not inspect.Signature.empty
        for parameter in signature.parameters.values():
            assert parameter.annotation is not inspect.Parameter.empty, (name, parameter.name)
            assert f"{parameter.name}:" in inspect.getdoc(function) or parameter.name == "progress", (name, parameter)
    assert set(FUNCTIONS) <= set(dir(nm))
    with pytest.raises(AttributeError, match="has no attribute 'clasify'"):
        nm.clasify  # noqa: B018


def test_no_room_of_the_package_has_the_name_of_a_function():
    rooms = {path.stem for path in Path(nm.__file__).parent.iterdir()}
    assert not rooms & set(FUNCTIONS)


def test_importing_the_package_takes_nothing_heavy():
    program = "import sys, nmerge_core; assert not {'torch', 'pandas', 'plotly'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True)


def test_wrong_input_is_said_as_everywhere(family, cache):
    with pytest.raises(InputError, match="expected a path or a name, found 3"):
        nm.classify([3], family.corpus)  # type: ignore[list-item]  # which is the point
    with pytest.raises(InputError, match=r"classify, margin: expected a whole number in \[0, 50\], found -1"):
        nm.classify(family.base, family.corpus, margin=-1, progress=False)
    with pytest.raises(InputError, match="nowhere: no such corpus"):
        nm.classify(family.base, "nowhere", progress=False)
    with pytest.raises(InputError, match="empty list"):
        nm.inspect([])
    for wrong in (3, None, {"a", "b"}):
        with pytest.raises(InputError, match="expected a path, several, {name: path} or a family, found "):
            nm.classify(wrong, family.corpus)  # type: ignore[arg-type]


def test_a_model_that_is_there_twice_is_told_of_before_any_work(family, cache, monkeypatch):
    before = states(cache)
    monkeypatch.chdir(family.root)
    for twice in ([family.base, family.base], ("base", "math", Path("./base")), [family.base, "math/../base"]):
        with pytest.raises(InputError, match="base is there twice; leave one out, or name both by a mapping"):
            nm.evaluate(twice, family.task, progress=False)
    with pytest.raises(InputError, match="math is there twice; leave one out$"):
        nm.cosine(family.base, {"one": family.math, "two": family.math}, progress=False)
    assert states(cache) == before
    scores = nm.evaluate({"one": family.base, "two": family.base}, family.task, limit=2, progress=False)
    assert list(scores.table["model"]) == ["one", "two"]
