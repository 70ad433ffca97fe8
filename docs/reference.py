"""The reference of the public functions and of what they return, from their signatures and docstrings."""

import ast
import inspect
import re
from textwrap import dedent
from types import ModuleType
from typing import Any

from nmerge_core import face
from nmerge_core.face import (
    classifications,
    knockouts,
    losses,
    reports,
    results,
    scores,
    single_neurons,
    tuning,
    votes,
    weights,
)
from nmerge_core.family import Family, Member
from nmerge_core.merging.mergekit.process import Plan
from nmerge_core.merging.plan.estimate import Estimate


def document() -> str:
    """Write the made part of docs/python.md."""
    lines = ["## Functions", ""]
    for name in face.__all__:
        lines += _function(getattr(face, name))
    lines += ["## What they return", ""]
    for found in (
        *_classes(votes),
        *_classes(single_neurons),
        *_classes(classifications),
        *_classes(results),
        *_classes(weights),
        *_classes(knockouts),
        *_classes(scores),
        *_classes(losses),
        *_classes(reports),
        *_classes(tuning),
        Family,
        Member,
        Estimate,
        Plan,
    ):
        lines += _class(found)
    return "\n".join(lines)


def _function(function: Any) -> list[str]:
    """Write a function: how it is called, what it does, its arguments, its errors."""
    tree = _parsed(function, ast.FunctionDef)
    summary, sections = _sections(inspect.getdoc(function) or "")
    signature = inspect.signature(function)
    lines = [f"### {tree.name}", "", f"`nm.{tree.name}{_call(signature)} → {_returned(tree)}`", "", summary, ""]
    annotations = {each.arg: each.annotation for each in (*tree.args.args, *tree.args.kwonlyargs)}
    helps = {"progress": "whether it is shown."} | dict(sections.get("Args", []))
    if signature.parameters:
        lines += ["| argument | type | default | |", "|---|---|---|---|"]
    for name, parameter in signature.parameters.items():
        default = "" if parameter.default is parameter.empty else f"`{parameter.default!r}`"
        lines.append(f"| `{name}` | {_cell(annotations[name])} | {default} | {helps[name]} |")
    for error, reason in sections.get("Raises", []):
        lines += ["", f"Raises `{error}`: {reason}"]
    return [*lines, ""] if lines[-1] else lines


def _call(signature: inspect.Signature) -> str:
    """Write the arguments without their types: those that must be given by name after `*`."""
    written: list[str] = []
    named = False
    for name, parameter in signature.parameters.items():
        if parameter.kind is parameter.KEYWORD_ONLY and not named:
            written, named = [*written, "*"], True
        written.append(name if parameter.default is parameter.empty else f"{name}={parameter.default!r}")
    return f"({', '.join(written)})"


def _class(found: type) -> list[str]:
    """Write what a result is, and each of its attributes and methods."""
    tree = _parsed(found, ast.ClassDef)
    bases = [base.__name__ for base in found.__bases__ if base is not object]
    heading = f"### {tree.name}" + (f" ({', '.join(bases)})" if bases else "")
    lines = [heading, "", *(inspect.getdoc(found) or "").split("\n"), ""]
    for member in tree.body:
        if isinstance(member, ast.AnnAssign):
            lines.append(f"- `{ast.unparse(member.target)}`: `{ast.unparse(member.annotation)}`")
        elif isinstance(member, ast.FunctionDef) and not member.name.startswith("_"):
            summary, sections = _sections(ast.get_docstring(member) or "")
            lines.append(f"- `{member.name}{_arguments(found, member)}` → `{_returned(member)}`: {summary}")
            lines += [f"  Raises `{error}`: {reason}" for error, reason in sections.get("Raises", [])]
    return [*lines, ""] if lines[-1] else lines


def _arguments(found: type, method: ast.FunctionDef) -> str:
    """Write the arguments of a method with their types; nothing of what is read without a call."""
    if not inspect.isfunction(inspect.getattr_static(found, method.name)):
        return ""
    return f"({re.sub('^self(, )?', '', ast.unparse(method.args)).replace('=', ' = ')})"


def _sections(documentation: str) -> tuple[str, dict[str, list[tuple[str, str]]]]:
    """Part a docstring into what comes first and its sections, each a list of names with their text."""
    first, *rest = re.split(r"^(Args|Raises):\n", documentation, flags=re.MULTILINE)
    sections = {}
    for title, body in zip(rest[::2], rest[1::2], strict=True):
        items = re.findall(r"^(\w+): (.*(?:\n[ \t]+.*)*)", dedent(body), flags=re.MULTILINE)
        sections[title] = [(name, " ".join(text.split())) for name, text in items]
    return " ".join(first.split()), sections


def _parsed(found: Any, kind: type[Any]) -> Any:
    [tree] = ast.parse(dedent(inspect.getsource(found))).body
    assert isinstance(tree, kind)
    return tree


def _returned(tree: ast.FunctionDef) -> str:
    return ast.unparse(tree.returns).strip("'") if tree.returns else "None"


def _cell(annotation: ast.expr | None) -> str:
    return f"`{ast.unparse(annotation)}`".replace("|", "\\|") if annotation else ""


def _classes(module: ModuleType) -> list[type]:
    """Return the classes that a module defines, in its order."""
    return [found for found in vars(module).values() if inspect.isclass(found) and found.__module__ == module.__name__]
