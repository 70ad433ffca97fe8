"""Each kind of parameter checks itself, reads itself from text, describes itself, and tells its content."""

from array import array
from pathlib import Path

import numpy as np
import pytest

from nmerge_core.errors import InputError
from nmerge_core.family import Member
from nmerge_core.inputs import Places
from nmerge_core.parameters.inputs import Corpus, File, Model, Models, Tasks
from nmerge_core.parameters.values import Choice, Flag, Names, Number, Numbers, Solved, Text
from nmerge_core.runs.kinds import KINDS
from tests.tiny import TEXTS, tiny_model, write_corpus

SHARE = Number(name="share", help="A share.", low=0, high=1, above_low=True, varies=True)
COUNT = Number(name="count", help="A count.", low=1, whole=True, unit="texts")
SCALE = Number(name="lambda_2", help="A scale.", low=0, high=10, open_end=True, auto=True, default="auto")
LAYERS = Numbers(name="layers", help="Layers.", low=0, whole=True)


@pytest.mark.parametrize(
    ("parameter", "value", "expected"),
    [
        (SHARE, 1, 1.0),
        (COUNT, 3, 3),
        (SCALE, "auto", "auto"),
        (SCALE, 27.6, 27.6),  # beyond the slider's end
        (LAYERS, 2, [2]),
        (LAYERS, (1, 3), [1, 3]),
        (Choice(name="c", help="", choices=("a", "b")), "b", "b"),
        (Flag(name="f", help=""), True, True),
        (Names(name="n", help=""), "math", ("math",)),
        (Names(name="n", help=""), ["math", "code"], ("math", "code")),
        (Model(name="m", help=""), Path("a/b"), "a/b"),
        (Models(name="m", help=""), "a", ("a",)),
        (Tasks(name="t", help=""), [Path("t.yaml"), "math"], ("t.yaml", "math")),
        (SHARE, [0.2, 1], [0.2, 1.0]),
        (SHARE, [{"filter": "mlp", "value": 1}, {"value": 0.5}], [{"filter": "mlp", "value": 1.0}, {"value": 0.5}]),
        (SHARE, (0.2, 1), [0.2, 1.0]),
        (SHARE, None, None),
        (SHARE, np.float32(0.25), 0.25),
        (SHARE, np.linspace(0.5, 1, 2), [0.5, 1.0]),
        (COUNT, np.int64(3), 3),
        (COUNT, 2**63, 2**63),
        (SCALE, (2 - 2**-23) * 2.0**127, (2 - 2**-23) * 2.0**127),  # the largest number of float32
        (LAYERS, np.array([0, 1]), [0, 1]),
        (LAYERS, [np.int32(0), 1], [0, 1]),
        (LAYERS, np.int64(2), [2]),
        (LAYERS, range(1, 4), [1, 2, 3]),
        (LAYERS, array("i", [4]), [4]),
        (Flag(name="f", help=""), np.bool_(True), True),
        (Names(name="n", help=""), np.array(["math", "code"]), ("math", "code")),
        (Models(name="m", help=""), np.array(["a", "b"]), ("a", "b")),
        (Models(name="m", help=""), (Member("a/b", "b"), Path("c")), ("a/b", "c")),
        (Solved(name="s", help=""), {"math": (np.float64(0.5), Path("a"))}, {"math": [0.5, "a"]}),
    ],
)
def test_a_right_value_gets_the_parameters_own_type(parameter, value, expected):
    found = parameter.check(value, "place")
    assert found == expected and type(found) is type(expected)
    if isinstance(found, list | tuple):
        assert [type(each) for each in found] == [type(each) for each in expected]


@pytest.mark.parametrize(
    ("parameter", "value", "message"),
    [
        (SHARE, 20, r"place: expected a number in \(0, 1\], found 20"),
        (SHARE, 0, r"expected a number in \(0, 1\], found 0"),
        (SHARE, float("nan"), "found nan"),
        (SHARE, True, "found True"),
        (SHARE, np.bool_(True), "found True"),
        (SHARE, np.array([0.5, 3]), r"place\[1\]: expected a number in"),
        (SCALE, float("inf"), "found inf .float32 holds finite numbers"),
        (SCALE, 1e39, r"found 1e\+39 .float32 holds finite numbers up to 3.4e38"),
        (SCALE.with_(low=None), float("-inf"), "found -inf"),
        (SCALE, np.float32("nan"), "found nan"),
        (COUNT, np.float64(3), "expected a whole number from 1, found 3.0"),
        (LAYERS, np.array([]), "expected a list, each a whole number from 0"),
        (LAYERS, np.array([0, -1]), "expected a list, each a whole number from 0"),
        (LAYERS, np.array([True]), "expected a list, each a whole number from 0"),
        (COUNT, 0, "expected a whole number from 1, found 0"),
        (COUNT, 1.5, "expected a whole number from 1, found 1.5"),
        (SCALE, -1, r"expected a number in \[0, ∞\), or auto, found -1"),
        (LAYERS, [], "expected a list, each a whole number from 0"),
        (LAYERS, [1, -2], "found"),
        (Choice(name="c", help="", choices=("a", "b")), "d", "expected one of a, b, found 'd'"),
        (Flag(name="f", help=""), 2, "expected true or false, found 2"),
        (Text(name="t", help=""), "", "expected text, found ''"),
        (Names(name="n", help=""), ["a", 3], "expected a list of names"),
        (Model(name="m", help=""), 3, "expected a model folder or Hub id"),
        (Models(name="m", help=""), [], "expected a list, each a model folder"),
        (SHARE, [0.2, {"value": 1}], "expected a list of numbers"),
        (SHARE, [{"filter": "mlp"}], "expected {filter: part of a name, value: …}"),
        (SHARE, [0.5, 3], "place.1.: expected a number in"),
    ],
)
def test_a_wrong_value_is_named_with_what_was_expected(parameter, value, message):
    with pytest.raises(InputError, match=message):
        parameter.check(value, "place")


@pytest.mark.parametrize(
    ("parameter", "text", "expected"),
    [
        (SHARE, "0.5", 0.5),
        (SCALE, "auto", "auto"),
        (LAYERS, "5,1,3-4,3", [1, 3, 4, 5]),
        (LAYERS, "0-7/3,1", [0, 1, 3, 6]),
        (Numbers(name="p", help="", low=0, high=1), "0.2,1.0", [0.2, 1.0]),
        (Names(name="n", help=""), "a, b", ("a", "b")),
        (Tasks(name="t", help=""), "math,code", ("math", "code")),
    ],
)
def test_options_are_read_from_text(parameter, text, expected):
    assert parameter.from_text(text) == expected


def test_a_comma_in_the_name_of_a_file_separates_no_tasks(tmp_path: Path) -> None:
    tasks = Tasks(name="t", help="")
    file, lines = tmp_path / "mine, too.yaml", tmp_path / "a,b,c.jsonl"
    text = f"math,{file}, gsm8k={lines} ,code"
    assert len(tasks.from_text(text)) == 7  # there are no such files
    file.touch()
    lines.touch()
    assert tasks.from_text(text) == ("math", str(file), f"gsm8k={lines}", "code")


@pytest.mark.parametrize(
    ("parameter", "text"),
    [(SHARE, "2"), (COUNT, "x"), *((LAYERS, wrong) for wrong in ("3-1", "0-99999999999", "1,,2", "0-7/0"))],
)
def test_options_that_cannot_be_read_are_refused(parameter, text):
    with pytest.raises(ValueError):
        parameter.from_text(text)


def test_a_parameter_says_what_it_is():
    assert SCALE.title == "λ2" and COUNT.with_(name="mask_ratio").title == "Mask ratio"
    assert COUNT.described() == {
        "kind": "number",
        "expected": "a whole number from 1",
        "name": "count",
        "help": "A count.",
        "low": 1,
        "unit": "texts",
        "whole": True,
    }


def test_the_content_of_what_is_named_counts_and_not_its_name(tmp_path, monkeypatch):
    places = Places(tmp_path, folder=tmp_path)
    (tmp_path / "scales.txt").write_text("1")
    parameter = File(name="anything", help="")
    full, before = parameter.content("scales.txt", places)  # beside the file that names it
    assert full == str(tmp_path / "scales.txt") and before.keys() == {full}
    (tmp_path / "scales.txt").write_text("2")
    assert parameter.content("scales.txt", places)[1] != before
    with pytest.raises(InputError, match="gone.txt: expected a file, found none"):
        parameter.content("gone.txt", places)
    corpus = write_corpus(tmp_path / "corpus", TEXTS)
    read = Corpus(name="texts", help="").content(corpus, places)
    (tmp_path / "corpus/math.jsonl").write_text('{"text": "other"}\n')
    assert Corpus(name="texts", help="").content(corpus, places) != read
    model = tiny_model(tmp_path / "model")
    monkeypatch.chdir(tmp_path)
    assert Models(name="m", help="").content(("./model",), Places(tmp_path))[0] == [model]


def test_a_run_takes_arrays_and_asks_for_what_is_missing():
    given = {"model": "m", "neurons": "n", "category": "math", "task": "math"}
    found = KINDS["knockout"].check({**given, "layers": np.array([0, 1]), "proportions": np.linspace(0.5, 1, 2)})
    assert found["layers"] == [0, 1] and found["proportions"] == [0.5, 1.0]
    nothing: tuple[object, ...] = (None, "", [], ())
    for missing in nothing:
        with pytest.raises(InputError, match="the parameter 'models' is missing"):
            KINDS["cosine"].check({"base": "b", "models": missing})


def test_every_kind_of_run_describes_its_parameters():
    for kind in KINDS.values():
        names = [parameter.name for parameter in kind.parameters]
        assert len(set(names)) == len(names) and kind.help
        for parameter in kind.parameters:
            assert parameter.help.rstrip("…").endswith((".", ", ")), (kind.name, parameter.name)
            assert parameter.required == (parameter.required and parameter.default is None)
            if parameter.default is not None:
                assert parameter.check(parameter.default, "") is not None
