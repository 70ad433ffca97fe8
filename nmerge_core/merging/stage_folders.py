"""What stages leave while they are merged: a folder beside the output, and in it one for each stage's model."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nmerge_core.files.kept_files import remove, write_text
from nmerge_core.files.yaml_file import read_mapping
from nmerge_core.merging.recipe.mergekit_recipe import write_yaml
from nmerge_core.merging.recipe.recipe import Recipe
from nmerge_core.merging.recipe.staged_recipe import StagedRecipe, named_by

RECIPE, REPORT, CARD = "nmerge_recipe.yaml", "nmerge_report.json", "README.md"
_SECTION = "\n## Stages\n\n"


def how_made(written: int) -> str:
    """Say how the weights of a stage came to be, of which so many bytes are written."""
    return f"written once, {written / 1e6:,.1f} MB, and removed" if written else "computed when read, never written"


@dataclass(frozen=True)
class StageFolders:
    """What is in progress: a folder `hidden`, and in it what each stage has made, by its key.

    A stage that is computed when it is read has all in its folder but files of weights.
    """

    recipe: StagedRecipe
    hidden: Path
    out: str  # the name of the output
    keys: Mapping[str | None, str]

    @property
    def stages(self) -> dict[str | None, Recipe]:
        """Every stage by its name, the last one's None."""
        return dict(self.recipe.each)

    def folder(self, name: str | None) -> Path:
        """Return where a stage's model lies."""
        return self.hidden / self.keys[name] / (name or self.out)

    def needs(self, name: str | None) -> list[str]:
        """Return the stages that one names as models."""
        return [each for each in dict.fromkeys(named_by(self.stages[name])) if each in self.recipe.stages]

    def clear(self) -> None:
        """Remove what other recipes left."""
        for left in self.hidden.iterdir() if self.hidden.exists() else ():
            if left.name.removesuffix(".json") not in self.keys.values():
                remove(left)

    def note(self, name: str) -> None:
        """Keep what a stage was made of, beside its folder."""
        notes, folder = self._notes(name), self.folder(name)
        if not notes.exists():
            read = {"recipe": read_mapping(folder / RECIPE, ()), "report": json.loads(_text(folder / REPORT))}
            write_text(notes, json.dumps(read))

    def drop(self) -> None:
        """Remove the models of written stages that no stage reads that is yet to be written."""
        written = [name for name in self.stages if name not in self.recipe.computed]
        made = {name for name in written if self.folder(name).exists()}
        gone = {name for name in written if name is not None and name not in made and self._notes(name).exists()}
        needed = {each for name in written if name not in made | gone for each in self._read_by(name)}
        for name in made - needed - {None}:
            remove(self.folder(name).parent)

    def tell(self) -> None:
        """Tell of the stages, by their names, in the last one's recipe, report and card, as their folders go."""
        last = self.folder(None)
        content, report = read_mapping(last / RECIPE, ()), self._named(json.loads(_text(last / REPORT)))
        if "stages" not in content:  # else told before a kill
            stages = {name: self._named(json.loads(_text(self._notes(name)))) for name in self.recipe.stages}
            made = {name: how_made(each["report"]["bytes_written"]) for name, each in stages.items()}
            report["facts"]["stages"] = {name: {**stages[name]["report"], "weights": made[name]} for name in stages}
            write_text(last / REPORT, json.dumps(report, indent=1) + "\n")
            recipes = {name: each["recipe"] for name, each in stages.items()}
            card = self._named(_text(last / CARD)).partition(_SECTION)[0]
            listed = "".join(f"- {name}: {self.recipe.stages[name].method.title}; {made[name]}.\n" for name in stages)
            write_text(last / CARD, f"{card}{_SECTION}{listed}\nTheir recipes stand in `{RECIPE}`.\n")
            write_text(last / RECIPE, write_yaml({"stages": recipes, **self._named(content)}))

    def _read_by(self, name: str | None) -> set[str]:
        """Return the written stages that one reads, itself or through what is computed."""
        needed = self.needs(name)
        through = [each for each in needed if each in self.recipe.computed]
        return {*needed}.difference(through).union(*map(self._read_by, through))

    def _notes(self, name: str) -> Path:
        return self.hidden / f"{self.keys[name]}.json"

    def _named(self, content: Any) -> Any:
        """Return a text, or what has texts in it, with stages' names in place of their folders."""
        if isinstance(content, Mapping):
            return {self._named(key): self._named(each) for key, each in content.items()}
        if isinstance(content, list):
            return [self._named(each) for each in content]
        if isinstance(content, str):
            for name in self.recipe.stages:
                content = content.replace(str(self.folder(name)), name)
        return content


def _text(file: Path) -> str:
    return file.read_text(encoding="utf-8")
