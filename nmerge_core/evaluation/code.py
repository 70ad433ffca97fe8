r"""The score of generated code in lm-evaluation-harness: a filter that runs it in the sandbox, and pass@1.

A code task's YAML names both:

    unsafe_code: true
    filter_list:
      - name: sandbox
        filter:
          - {function: run_code, program: "{{prompt}}{{body}}\n\n{{tests}}\n"}
          - {function: take_first}
    process_results: !function nmerge_core.evaluation.code.pass_at_1
    metric_list: [{metric: pass@1, aggregation: mean, higher_is_better: true}]

`program` is the Jinja template of what runs: it has the document's fields, `completion` (what the model wrote) and
`body` (of it, the lines up to the first that is not indented: where the function of the prompt ends). What the template
has after the last of those are the tests. They run in a process of their own and use the program's functions from there
(`bridge.py`), so that nothing a model writes can read them or decide how they end.
"""

import secrets
from collections.abc import Mapping, Sequence
from contextvars import ContextVar
from typing import Any, Self

from lm_eval.api.filter import Filter
from lm_eval.api.registry import register_filter

from nmerge_core.errors import InputError
from nmerge_core.evaluation.sandbox import Outcome, Program, run_programs
from nmerge_core.evaluation.templates import apply_template
from nmerge_core.progress import Progress, silent

# lm-eval makes and calls filters itself, so the report of progress (and with it, cancel) cannot be an argument.
code_progress: ContextVar[Progress] = ContextVar("code_progress", default=silent)


def function_body(completion: str) -> str:
    """Return the completion up to the first line that is neither empty nor indented."""
    lines = completion.splitlines()
    end = next((number for number, line in enumerate(lines) if line and not line[0].isspace()), len(lines))
    return "\n".join(lines[:end])


def run_once(programs: Sequence[Program], progress: Progress = silent) -> list[Outcome]:
    """Run programs, but for those that ended before: merges of one family often write the very same.

    One that had no more time is run again. See `run_programs` for what is raised.
    """
    found = {program: _ended[program] for program in programs if program in _ended}
    new = [program for program in dict.fromkeys(programs) if program not in found]
    found |= zip(new, run_programs(new, progress=progress) if new else [], strict=True)
    _ended.update((program, found[program]) for program in new if not found[program].stopped)
    while len(_ended) > _REMEMBERED:
        _ended.pop(next(iter(_ended)))
    return [found[program] for program in programs]


_REMEMBERED = 10_000  # programs, of some kilobytes each
_ended: dict[Program, Outcome] = {}


class Verdict(int):
    """Whether a program and its tests ran to their end, 1 or 0, and the last that they wrote."""

    output: str

    def __new__(cls, outcome: Outcome) -> Self:
        """Take it from how the program ended."""
        verdict = super().__new__(cls, outcome.passed)
        verdict.output = outcome.output
        return verdict


@register_filter("run_code")
class RunCode(Filter):
    """Turns each completion into the verdict on its program."""

    def __init__(self, program: str) -> None:
        """Take the template of the program."""
        self._program = program

    def apply(self, resps: Sequence[Sequence[str]], docs: Sequence[dict[str, Any]]) -> list[list[Verdict]]:
        """Run all completions (documents, repeats); see `run_programs` for what is raised."""
        programs = [self._parted(doc, text) for doc, texts in zip(docs, resps, strict=True) for text in texts]
        outcomes = iter(run_once(programs, code_progress.get()))
        return [[Verdict(next(outcomes)) for _ in texts] for texts in resps]

    def _parted(self, doc: Mapping[str, Any], text: str) -> Program:
        """Fill in the template; whatever comes after the last of the completion, which alone is foreign, are tests."""
        marker = secrets.token_hex(16)
        _, found, tests = apply_template(self._program, {**doc, "completion": marker, "body": marker}).rpartition(
            marker
        )
        whole = apply_template(self._program, {**doc, "completion": text, "body": function_body(text)})
        if not found or not whole.endswith(tests):
            raise InputError(
                f"filter run_code, program {self._program!r}: expected {{{{completion}}}} or {{{{body}}}} and after it "
                "tests that are the same whatever it says; found none of them, or others"
            )
        return Program(whole[: len(whole) - len(tests)], tests)


def pass_at_1(doc: dict[str, Any], results: Sequence[int]) -> dict[str, float]:
    """Return the score of one document: 1 if its first completion passed, else 0."""
    return {"pass@1": float(results[0])}
