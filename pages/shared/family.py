"""The models one looks at together: a base, its fine-tunes, a corpus and the tasks to score them on."""

import json
import os
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import streamlit as st

from nmerge_core.cache import cache_root
from nmerge_core.checkpoints.reference import absolute, halves
from nmerge_core.errors import InputError
from nmerge_core.figures import style

DEMO = "demo"
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+$")


@dataclass(frozen=True)
class Member:
    """One model: its folder or Hub id, its short name, and the category it was tuned for ("" for the base)."""

    reference: str
    label: str
    category: str = ""


@dataclass(frozen=True)
class Family:
    """A base and its fine-tunes, with the corpus that classifies neurons and the tasks that score the models."""

    name: str
    base: str
    models: tuple[Member, ...]
    corpus: str
    tasks: tuple[str, ...] = ()

    @property
    def members(self) -> tuple[Member, ...]:
        """Base first, then the fine-tunes."""
        return (Member(self.base, "base"), *self.models)

    @property
    def references(self) -> list[str]:
        """The fine-tunes' folders or Hub ids."""
        return [model.reference for model in self.models]

    @property
    def labels(self) -> dict[str, str]:
        """The short name of each reference, the base's included."""
        return {member.reference: member.label for member in self.members}

    @property
    def categories(self) -> list[str]:
        """General first, then the categories of the fine-tunes, each once."""
        return list(dict.fromkeys(["general", *(model.category for model in self.models if model.category)]))

    @property
    def missing(self) -> list[str]:
        """The models and adapters that are not on this machine (yet), and the corpus if it is not."""
        named = dict.fromkeys(half for member in self.members for half in halves(member.reference))
        absent = [half for half in named if not on_this_machine(half)]
        return absent if Path(self.corpus).exists() else [*absent, self.corpus]

    def colours(self, dark: bool = False) -> dict[str, str]:
        """The colour of each model by its short name: the base's own, a fine-tune that of its category."""
        by_category = self.category_colours()
        tuned = {model.label: by_category[model.category or model.label] for model in self.models}
        return {"base": style.base_colour(dark), **tuned}

    def category_colours(self, corpus: Sequence[str] = ()) -> dict[str, str]:
        """The colour of each category: the family's own first, so that they are the same with any `corpus` of more."""
        untold = [model.label for model in self.models if not model.category]
        return style.category_colours([*self.categories, *untold, *corpus])


def demo_family() -> Family:
    """The family that comes with the program; its parts are `missing` until its files have been unpacked."""
    root = cache_root() / DEMO
    tuned = tuple(Member(str(root / name), name, name) for name in ("math", "code", "translation"))
    return Family(DEMO, str(root / "base"), tuned, str(root / "corpus"), ("math", "code", "translation", "general"))


def on_this_machine(reference: str) -> bool:
    """Whether a model or an adapter is a folder here or a Hub id whose weights were fetched; asks nobody."""
    if Path(reference).expanduser().is_dir():
        return True
    if not HUB_ID.match(reference):
        return False
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        folder = Path(snapshot_download(reference, local_files_only=True))
    except (HFValidationError, LocalEntryNotFoundError):
        return False
    return any(any(folder.glob(name)) for name in ("*.safetensors", "pytorch_model*.bin", "adapter_model.bin"))


def families() -> dict[str, Family]:
    """All families by name: the demo, then the saved ones in alphabetical order."""
    saved = sorted((cache_root() / "families").glob("*.json"))
    return {DEMO: demo_family()} | {path.stem: _read(path) for path in saved if path.stem != DEMO}


def save_family(family: Family) -> None:
    """Write `cache/families/<name>.json`, replacing a family of that name; local paths are written in full.

    Raises:
        InputError: the name is empty, the demo's, or not made of letters, digits, `-` and `_`.
    """
    if not re.fullmatch(r"[\w-]{1,40}", family.name) or family.name == DEMO:
        raise InputError(
            f"The family's name is “{family.name}”; expected 1 to 40 letters, digits, “-” or “_”, other than “{DEMO}”. "
            "Give it such a name."
        )
    folder = cache_root() / "families"
    folder.mkdir(parents=True, exist_ok=True)
    part = folder / f".{family.name}.part"
    part.write_text(json.dumps(asdict(_with_full_paths(family)), indent=2, ensure_ascii=False))
    os.replace(part, folder / f"{family.name}.json")


def chosen_family() -> Family:
    """The family chosen in the sidebar, which keeps it in the address (`?family=…`); the demo at first."""
    known = families()
    return known.get(st.session_state.get("family", DEMO), known[DEMO])


def _with_full_paths(family: Family) -> Family:
    """The same family wherever the app is started next; names of tasks are no paths."""
    models = tuple(replace(model, reference=absolute(model.reference)) for model in family.models)
    tasks = tuple(absolute(task) if task.endswith((".yaml", ".yml")) else task for task in family.tasks)
    return replace(family, base=absolute(family.base), models=models, corpus=absolute(family.corpus), tasks=tasks)


def _read(path: Path) -> Family:
    fields = json.loads(path.read_text())
    models = tuple(Member(**model) for model in fields.pop("models"))
    return Family(**fields | {"models": models, "tasks": tuple(fields["tasks"])})
