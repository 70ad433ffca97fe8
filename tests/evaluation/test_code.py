"""From completions to programs to pass@1."""

from functools import partial

import pytest

from nmerge_core.errors import InputError
from nmerge_core.evaluation import code
from nmerge_core.evaluation.code import RunCode, function_body, pass_at_1, run_once
from nmerge_core.evaluation.sandbox import Program, run_programs


def test_the_body_ends_at_the_first_unindented_line() -> None:
    completion = "    if n:\n        return 1\n\n    return 0\nprint(3)\n    return 2"
    assert function_body(completion) == "    if n:\n        return 1\n\n    return 0"
    assert function_body("return 1") == ""
    assert function_body("\n    pass") == "\n    pass"


def test_completions_are_run_against_the_tests_of_their_document() -> None:
    """Two documents, two completions each; the tail after the body must not run."""
    docs = [
        {"prompt": "def double(n):\n", "tests": "assert double(4) == 8"},
        {"prompt": "def first(text):\n", "tests": "assert first('ab') == 'a'\nassert first('') == ''"},
    ]
    completions = [
        ["    return n * 2\nraise ValueError", "    return n + 2"],
        ["    return text[0]", "    return text[:1]"],
    ]
    passed = RunCode(program="{{prompt}}{{body}}\n\n{{tests}}\n").apply(completions, docs)
    assert passed == [[True, False], [False, True]]


def test_the_template_may_take_the_whole_completion() -> None:
    docs = [{"checks": ["assert f(1) == 2", "assert f(2) == 3"]}]
    template = RunCode(program="{{completion}}\n{{checks | join('\n')}}\n")
    assert template.apply([["def f(n):\n    return n + 1"]], docs) == [[True]]


def test_a_completion_cannot_swallow_its_tests() -> None:
    """A text that it leaves open would reach into theirs; and they are not to follow from what it says."""
    docs = [{"tests": "assert f(1) == 2\n'''text'''\nassert True"}]
    completions = [["def f(n):\n    return n\n'''"]]
    assert RunCode(program="{{completion}}\n{{tests}}\n").apply(completions, docs) == [[False]]
    with pytest.raises(InputError, match="run_code.*after it tests that are the same"):
        RunCode(program="{{body}}{% if 'pass' in completion %}pass{% else %}assert 0{% endif %}").apply(
            [["pass"]], docs
        )


def test_the_very_same_program_is_run_once_unless_it_had_no_more_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(code, "run_programs", partial(run_programs, seconds=1))
    tell = "import time\nprint(time.time_ns(), flush=True)\n"
    passes, fails, hangs = Program(tell), Program(tell, "assert False"), Program(f"{tell}while True: pass")
    first, again = run_once([passes, hangs, passes, fails]), run_once([fails, passes, hangs])
    assert [each.passed for each in first] == [True, False, True, False]
    assert first[0] == first[2] == again[1] and first[3] == again[0]
    assert first[1].stopped and again[2].stopped and first[1].output != again[2].output


def test_score_is_of_the_first_completion() -> None:
    assert pass_at_1({}, [True, False]) == {"pass@1": 1.0}
    assert pass_at_1({}, [False]) == {"pass@1": 0.0}
