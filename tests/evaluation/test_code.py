"""From completions to programs to pass@1."""

import pytest

from nmerge_core.errors import InputError
from nmerge_core.evaluation.code import RunCode, function_body, pass_at_1


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


def test_score_is_of_the_first_completion() -> None:
    assert pass_at_1({}, [True, False]) == {"pass@1": 1.0}
    assert pass_at_1({}, [False]) == {"pass@1": 0.0}
