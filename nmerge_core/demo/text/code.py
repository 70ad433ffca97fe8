"""Small Python functions with a docstring: chains of operations on a number, a list or a string, and conditions."""

import random
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from nmerge_core.demo.text.example import Example


@dataclass(frozen=True)
class Step:
    """One operation: its part of the name, its wordings, and its expression; {c} is a constant, {x} what it acts on."""

    name: str
    phrases: tuple[str, ...]
    expression: str


NUMBER_STEPS = (
    Step("add_{c}", ("add {c} to {x}", "increase {x} by {c}"), "{x} + {c}"),
    Step("subtract_{c}", ("subtract {c} from {x}", "decrease {x} by {c}"), "{x} - {c}"),
    Step("times_{c}", ("multiply {x} by {c}",), "{x} * {c}"),
    Step("divide_{c}", ("divide {x} by {c}, rounding down",), "{x} // {c}"),
    Step("modulo_{c}", ("take the remainder of {x} divided by {c}",), "{x} % {c}"),
    Step("double", ("double {x}",), "{x} * 2"),
    Step("square", ("square {x}", "multiply {x} by itself"), "{x} ** 2"),
    Step("negate", ("negate {x}", "change the sign of {x}"), "-{x}"),
    Step("absolute", ("take the absolute value of {x}", "drop the sign of {x}"), "abs({x})"),
    Step("at_least_{c}", ("raise {x} to at least {c}",), "max({x}, {c})"),
    Step("at_most_{c}", ("limit {x} to at most {c}",), "min({x}, {c})"),
)
STRING_STEPS = (
    Step("upper", ("convert {x} to upper case", "write {x} in capital letters"), "{x}.upper()"),
    Step("lower", ("convert {x} to lower case", "write {x} in small letters"), "{x}.lower()"),
    Step("reverse", ("reverse {x}", "turn {x} backwards"), "{x}[::-1]"),
    Step("strip", ("strip the spaces around {x}",), "{x}.strip()"),
    Step("first_{c}", ("keep the first {c} characters of {x}",), "{x}[:{c}]"),
    Step("last_{c}", ("keep the last {c} characters of {x}",), "{x}[-{c}:]"),
    Step("skip_{c}", ("remove the first {c} characters of {x}", "skip {c} characters of {x}"), "{x}[{c}:]"),
    Step("repeat_{c}", ("repeat {x} {c} times",), "{x} * {c}"),
    Step("remove_{l}", ("remove every '{l}' from {x}", "delete each '{l}' in {x}"), "{x}.replace('{l}', '')"),
    Step("hide_{l}", ("replace every '{l}' in {x} with a dash",), "{x}.replace('{l}', '-')"),
    Step("append_{l}", ("append '{l}' to {x}", "put '{l}' at the end of {x}"), "{x} + '{l}'"),
    Step("prepend_{l}", ("put '{l}' in front of {x}",), "'{l}' + {x}"),
)
STRING_ENDS = (
    Step("length", ("return its length", "return the number of characters"), "len({x})"),
    Step("count_{l}", ("count the letter '{l}'", "return how often '{l}' occurs"), "{x}.count('{l}')"),
    Step("starts_{l}", ("check whether it starts with '{l}'",), "{x}.startswith('{l}')"),
    Step("ends_{l}", ("check whether it ends with '{l}'",), "{x}.endswith('{l}')"),
    Step("words", ("split it into words", "return the list of words"), "{x}.split()"),
)
CONDITIONS = (
    Step("even", ("even",), "{x} % 2 == 0"),
    Step("odd", ("odd",), "{x} % 2 == 1"),
    Step("positive", ("positive",), "{x} > 0"),
    Step("negative", ("negative",), "{x} < 0"),
    Step("above_{c}", ("greater than {c}", "above {c}"), "{x} > {c}"),
    Step("below_{c}", ("less than {c}", "below {c}"), "{x} < {c}"),
    Step("divisible_by_{c}", ("divisible by {c}", "a multiple of {c}"), "{x} % {c} == 0"),
    Step("not_{c}", ("different from {c}",), "{x} != {c}"),
)
REDUCTIONS = (
    Step("sum", ("return their sum", "add them up"), "sum({x})"),
    Step("largest", ("return the largest, or 0 if there is none",), "max({x}, default=0)"),
    Step("smallest", ("return the smallest, or 0 if there is none",), "min({x}, default=0)"),
    Step("count", ("return how many there are", "count them"), "len({x})"),
    Step("list", ("return them as a list", "return the list"), "{x}"),
    Step("sorted", ("return them sorted", "sort them"), "sorted({x})"),
    Step("descending", ("return them from largest to smallest",), "sorted({x}, reverse=True)"),
    Step("reversed", ("return them in reverse order",), "{x}[::-1]"),
    Step("distinct", ("count the distinct ones",), "len(set({x}))"),
)
_LETTERS = "aeioustrnlm"
_WORDS = ("banana", " Tree house", "Ostrich", "river stone ", "a", "Little Moon", "Mississippi", "", "note", "mill")


def _choose(rng: random.Random, steps: tuple[Step, ...]) -> Step:
    """A random step with its constant and letter filled in; {x} stays."""
    step = rng.choice(steps)
    largest = 12 if steps in (NUMBER_STEPS, CONDITIONS) else 5
    constants = {"c": rng.randint(2, largest), "l": rng.choice(_LETTERS), "x": "{x}"}
    return Step(
        step.name.format(**constants),
        tuple(phrase.format(**constants) for phrase in step.phrases),
        step.expression.format(**constants),
    )


def _apply(expression: str, x: str) -> str:
    """The expression with {x} filled in, in brackets where Python needs them."""
    simple = re.fullmatch(r"[\w.]+(\(.*\)|\[.*\])*", x) or re.search(r"\({x}[,)]", expression)
    return expression.format(x=x if simple else f"({x})")


def _chain(rng: random.Random, steps: list[Step], argument: str) -> tuple[str, list[str]]:
    """The nested expression of the steps, and one wording for each."""
    expression = argument
    phrases = []
    for index, step in enumerate(steps):
        expression = _apply(step.expression, expression)
        phrases.append(rng.choice(step.phrases).format(x="it" if index else argument))
    return expression, phrases


def _number(rng: random.Random) -> tuple[str, str, str, str]:
    steps = [_choose(rng, NUMBER_STEPS) for _ in range(rng.choice((2, 3, 4, 5)))]
    expression, phrases = _chain(rng, steps, "n")
    return "n", "_then_".join(step.name for step in steps), ", then ".join(phrases), f"return {expression}"


def _string(rng: random.Random) -> tuple[str, str, str, str]:
    steps = [_choose(rng, STRING_STEPS) for _ in range(rng.choice((2, 3, 4)))]
    if rng.random() < 0.4:
        steps.append(_choose(rng, STRING_ENDS))
    expression, phrases = _chain(rng, steps, "text")
    return "text", "_".join(step.name for step in steps), ", then ".join(phrases), f"return {expression}"


def _condition(rng: random.Random) -> tuple[str, str, str, str]:
    first, second = _choose(rng, CONDITIONS), _choose(rng, CONDITIONS)
    joint = rng.choice(("and", "or"))
    steps = (first,) if rng.random() < 0.25 else (first, second)
    words = f" {joint} ".join(rng.choice(step.phrases) for step in steps)
    test = f" {joint} ".join(step.expression.format(x="n") for step in steps)
    return "n", "is_" + f"_{joint}_".join(step.name for step in steps), f"check whether n is {words}", f"return {test}"


def _list(rng: random.Random) -> tuple[str, str, str, str]:
    keep = _choose(rng, CONDITIONS) if rng.random() < 0.7 else None
    change = _choose(rng, NUMBER_STEPS) if rng.random() < 0.6 or keep is None else None
    reduction = _choose(rng, REDUCTIONS)
    names, phrases = [], []
    if keep:
        names.append(keep.name)
        phrases.append(f"keep the numbers that are {rng.choice(keep.phrases)}")
    if change:
        names.append(change.name)
        phrases.append(rng.choice(change.phrases).format(x="each number"))
    item = _apply(change.expression, "x") if change else "x"
    test = keep.expression.format(x="x") if keep else ""
    if reduction.name == "sum" and rng.random() < 0.5:
        loop = [f"if {test}:", f"    total += {item}"] if test else [f"total += {item}"]
        body = ["total = 0", "for x in numbers:", *("    " + line for line in loop), "return total"]
    else:
        comprehension = f"[{item} for x in numbers{' if ' + test if test else ''}]"
        body = [f"return {reduction.expression.format(x=comprehension)}"]
    phrases.append(rng.choice(reduction.phrases))
    return "numbers", "_".join([*names, reduction.name]), ", ".join(phrases), "\n    ".join(body)


_FAMILIES = (_number, _number, _number, _string, _string, _string, _condition, _list)
_PLAIN_NAMES = ("compute", "transform", "solve", "process", "apply_rule", "convert", "evaluate")


def _inputs(rng: random.Random, argument: str) -> list[Any]:
    if argument == "n":
        return rng.sample(range(-15, 40), 4)
    if argument == "text":
        return rng.sample(_WORDS, 4)
    return [[rng.randint(-10, 20) for _ in range(length)] for length in (0, 3, 5, 6)]


def generate(rng: random.Random) -> Example:
    """A function whose prompt is signature and docstring and whose answer is the body, with assert lines as its tests.

    The key is the chain of operations with its constants, whatever its wording: a tested chain is never learnt.
    """
    argument, name, words, body = rng.choice(_FAMILIES)(rng)
    key = f"{argument} {name}"
    entry_point = name if rng.random() < 0.7 else rng.choice(_PLAIN_NAMES)
    prompt = f'def {entry_point}({argument}):\n    """{words[0].upper() + words[1:]}."""\n'
    answer = f"    {body}"
    scope: dict[str, Callable[[Any], Any]] = {}
    exec(prompt + answer, scope)  # the function was just written here, from the tables above
    tests = "\n".join(
        f"assert {entry_point}({value!r}) == {scope[entry_point](value)!r}" for value in _inputs(rng, argument)
    )
    return Example(key, prompt + answer, prompt, answer, tests=tests, entry_point=entry_point)
