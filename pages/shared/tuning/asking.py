"""What a merge that was never written is asked, and the models beside it, and which answer that is."""

import json
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import streamlit as st

from nmerge_core.cache import cache_root
from nmerge_core.inputs import Places
from nmerge_core.merging.recipe.recipe import Recipe
from nmerge_core.progress import Progress
from nmerge_core.runs import client
from pages.shared.frame.family import content_of
from pages.shared.tuning.listening import Listening, leave_others, listen

SECONDS = 3600.0  # that an answer may take: the first one reads the family, and says how far it is
ASKED = "merge_asked"  # the key of what the merge is asked, while answers are looked at
HEARD = "merge_heard"  # the key that tells a page which is drawn as all answers are over from one that somebody changed
FOLLOWED = "merge_followed"  # the key of the recipe that was answered last
LIVE = "merge_live"  # the key of the switch that has the merge answer as its controls move


@dataclass(frozen=True)
class Asked:
    """A prompt, the tokens of an answer at most, and the fields of `answers.Manner` that are no defaults."""

    prompt: str
    length: int
    manner: tuple[tuple[str, Any], ...]

    @property
    def key(self) -> str:
        """What the log keeps an answer under."""
        return json.dumps([self.prompt, self.length, dict(self.manner)])

    @property
    def question(self) -> dict[str, Any]:
        """What the worker is told of it."""
        return {"prompt": self.prompt, "manner": dict(self.manner)}


@dataclass(frozen=True)
class Spoken:
    """What is heard of an answer, and which it is."""

    key: str
    heard: Listening


def visitor() -> str:
    """Who asks: one tab of a browser, whose newer question takes the place of an older one."""
    name: str = st.session_state.setdefault("visitor", secrets.token_hex(8))
    return name


def ask_ahead(recipe: Recipe) -> None:
    """Have the merge of a recipe asked what the one before was asked, while the page is drawn up to its answer."""
    asked: Asked | None = st.session_state.get(ASKED)
    if asked is not None and st.session_state.get(FOLLOWED) != recipe.yaml and HEARD not in st.session_state:
        inputs = inputs_of(recipe)
        leave_others([merge_key(recipe, inputs, asked)])
        said_by_merge(recipe, inputs, asked)


def merge_key(recipe: Recipe, inputs: Sequence[str], asked: Asked) -> str:
    """Which answer it is that the merge of a recipe gives."""
    return json.dumps(["merge", recipe.yaml, inputs, asked.key])


def said_by_merge(recipe: Recipe, inputs: Sequence[str], asked: Asked) -> Spoken:
    """What the merge of a recipe says."""
    session, content = visitor(), dict(recipe.content)

    def part(said: Sequence[int], more: int, progress: Progress) -> dict[str, Any]:
        what = {**asked.question, "said": list(said), "more": more, "recipe": content}
        found: dict[str, Any] = client.ask("live", timeout=SECONDS, session=session, progress=progress, **what)
        return found

    key = merge_key(recipe, inputs, asked)
    return Spoken(key, listen(key, part, asked.length))


def member_key(reference: str, asked: Asked) -> str:
    """Which answer it is that a model of the family gives."""
    return json.dumps(["member", content_of(reference), asked.key])


def said_by_member(reference: str, asked: Asked) -> Spoken:
    """What a model of the family says."""

    def part(said: Sequence[int], more: int, progress: Progress) -> dict[str, Any]:
        what = {**asked.question, "said": list(said), "more": more, "model": reference}
        found: dict[str, Any] = client.ask("speak", timeout=SECONDS, progress=progress, **what)
        return found

    key = member_key(reference, asked)
    return Spoken(key, listen(key, part, asked.length))


def prompt_of(key: str) -> str:
    """The prompt of what the log keeps an answer under."""
    try:
        return str(json.loads(key)[0])
    except (ValueError, LookupError, TypeError):
        return key


def inputs_of(recipe: Recipe) -> list[str]:
    """The content of all that a recipe reads, its models among it: a changed file makes another merge of it."""
    _, found = recipe.in_full(Places(cache_root()))
    return [f"{name} {content}" for name, content in found.items()]


def named(recipe: Recipe) -> list[str]:
    """The base of a recipe, where it has one, and its models."""
    return [*([recipe.base_model] if recipe.base_model else []), *recipe.references]
