"""Templates of tasks in Jinja's sandbox: lm-eval renders them with full access to Python, and anybody can write one."""

from collections.abc import Mapping
from typing import Any

import lm_eval.utils
from jinja2 import BaseLoader, StrictUndefined
from jinja2.sandbox import ImmutableSandboxedEnvironment, SecurityError
from lm_eval.utils import regex_replace

from nmerge_core.errors import InputError

_PLAIN = (str, bytes, int, float, complex, list, tuple, dict, set, frozenset)
_SHOWN = 200


class UnsafeTemplate(InputError):
    """A template reached for more than the fields of its document."""

    def __init__(self, template: str, reason: str) -> None:
        """Say so; `template` is kept for who knows where it stands."""
        shown = template if len(template) <= _SHOWN else template[:_SHOWN] + "…"
        super().__init__(f"the template {shown!r} may use fields of the document and plain text only; found: {reason}")
        self.template = template


class _Sandbox(ImmutableSandboxedEnvironment):
    """Calls methods of plain data and Jinja's own helpers only: a document may hold an image, which can save itself."""

    def is_safe_callable(self, obj: Any) -> bool:
        owner = getattr(obj, "__self__", None)
        known = owner is None or isinstance(owner, _PLAIN) or type(owner).__module__.startswith("jinja2.")
        return known and super().is_safe_callable(obj)


_sandbox = _Sandbox(loader=BaseLoader(), undefined=StrictUndefined, keep_trailing_newline=True)
_sandbox.filters["regex_replace"] = regex_replace


def apply_template(template: str, doc: Mapping[str, Any]) -> str:
    """Render a template with the fields of a document; raises UnsafeTemplate where it wants more than them."""
    try:
        return str(_sandbox.from_string(template).render(**doc))
    except SecurityError as error:
        raise UnsafeTemplate(template, str(error)) from error


lm_eval.utils.env = _sandbox  # chat templates that a server names are made with it
lm_eval.utils.apply_template = apply_template
