"""YAML files that people write: read with each key once and none unknown, and written to be read by people.

What is read is bounded: a file of a few hundred bytes can stand for more values than memory holds.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from difflib import get_close_matches
from os import PathLike, fspath
from pathlib import Path
from typing import Any

import yaml

from nmerge_core.errors import InputError, short, shown
from nmerge_core.files.small_file import read_small

LARGEST = 1_000_000  # bytes: many times a recipe with thousands of solved coefficients
_MOST = 100_000  # values, those that aliases repeat counted as often as they are repeated
_DEEPEST = 50  # lists and mappings inside one another
_MERGE, _TIME = "tag:yaml.org,2002:merge", "tag:yaml.org,2002:timestamp"


class Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]  # C's where PyYAML has it
    """Reads plain values; a date, which nothing here takes, is the text as it is written."""

    yaml_implicit_resolvers = {
        first: [each for each in resolvers if each[0] != _TIME]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def construct_text(self, node: yaml.ScalarNode) -> str:
        """Read a text; escapes can write what no name of a file and no file in UTF-8 has: a NUL, half a character."""
        text: str = super().construct_yaml_str(node)
        if "\0" in text or text.encode(errors="ignore").decode() != text:
            raise yaml.MarkedYAMLError(problem="found a NUL, or half a character", problem_mark=node.start_mark)
        return text

    def construct_whole(self, node: yaml.ScalarNode) -> int:
        """Read a whole number of 64 bits at most: what takes numbers takes no larger ones."""
        if len(node.value) <= 80:
            number: int = super().construct_yaml_int(node)
            if number.bit_length() <= 64:
                return number
        raise yaml.MarkedYAMLError(problem="found a whole number beyond 64 bits", problem_mark=node.start_mark)


Loader.add_constructor("tag:yaml.org,2002:str", Loader.construct_text)
Loader.add_constructor("tag:yaml.org,2002:int", Loader.construct_whole)


class _Loader(Loader):
    """Refuses a mapping that has a key twice, where YAML's own takes the last."""

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        """Check the keys as they are written, before those of `<<` are put among them: of these the own ones count."""
        checked = self.__dict__.setdefault("_checked", set())
        if id(node) not in checked:
            checked.add(id(node))
            known = set()
            for key, _ in node.value:
                if isinstance(key, yaml.ScalarNode):
                    value = key.value if key.tag == _MERGE else self.construct_object(key)
                    if value in known:
                        problem = f"found the key {shown(value)} a second time (keep one)"
                        raise yaml.MarkedYAMLError(problem=problem, problem_mark=key.start_mark)
                    known.add(value)
        super().flatten_mapping(node)


class _Dumper(yaml.SafeDumper):
    """Writes texts of several lines as blocks, and in quotes what YAML would not read back."""

    def represent_text(self, text: str) -> yaml.ScalarNode:
        lines = text.split("\n")
        printable = all(line.isprintable() for line in lines)
        style = '"' if not printable else "|" if len(lines) > 1 else None
        return self.represent_scalar("tag:yaml.org,2002:str", text, style)


_Dumper.add_representer(str, _Dumper.represent_text)


def read_mapping(source: Path | str, keys: Iterable[str], name: str = "text") -> dict[Any, Any]:
    """Read a file that holds a mapping, or YAML text called `name`; `keys` are those it may have, for the error.

    Raises:
        InputError: it cannot be read, is not YAML, holds too much, has a key twice, or holds no mapping.
    """
    (content,) = _read(source, keys, name, lambda text, where: [load(text, where, _Loader)])
    return content


def read_mappings(source: Path | str, keys: Iterable[str], name: str = "text") -> list[dict[Any, Any]]:
    """Read a mapping or several, divided by `---`, as `read_mapping` does."""
    found = _read(source, keys, name, lambda text, where: load(text, where, _Loader, every=True))
    return found


def _read(
    source: Path | str, keys: Iterable[str], name: str, read: Callable[[str | bytes, str], list[Any]]
) -> list[dict[Any, Any]]:
    where = short(str(source)) if isinstance(source, Path) else name
    text = read_small(source, LARGEST) if isinstance(source, Path) else source
    try:
        contents = read(text, where)
    except yaml.YAMLError as error:
        raise InputError(f"{where}: not readable as YAML ({_told(error)})") from error
    for content in contents or [None]:
        if not isinstance(content, Mapping):
            found = "nothing" if content is None else type(content).__name__
            raise InputError(f"{where}: expected a mapping with {', '.join(keys)}; found {found}")
    return [dict(content) for content in contents]


def load(text: str | bytes, where: str, loader: type[Loader] = Loader, *, every: bool = False) -> Any:
    """Return what YAML text holds; with `every` a list of what each of its documents does, but empty ones.

    Raises:
        InputError: it holds more than a file that somebody wrote, told as that of `where`.
        yaml.YAMLError: it is no YAML.
    """
    if len(text) > LARGEST:
        raise InputError(f"{where}: expected YAML of at most {LARGEST:,} bytes, found {len(text):,}")
    try:
        _check_bounds(text, where, loader)
        if every:
            return [each for each in yaml.load_all(text, loader) if each is not None]
        return yaml.load(text, loader)
    except (ValueError, TypeError, LookupError, ArithmeticError, AttributeError) as error:
        # `!!bool maybe`, bytes that are no text: PyYAML passes on what Python says of a value.
        raise yaml.YAMLError(f"a value is not of its kind: {type(error).__name__}: {error}") from error


def compose(text: bytes, where: str, loader: type[Any]) -> yaml.Node | None:
    """Return the nodes of YAML text, of which nothing is made; raises as `load` does."""
    _check_bounds(text, where, loader)
    return yaml.compose(text, loader)


def _told(error: yaml.YAMLError) -> str:
    """Say in a line what is wrong and where; the text has no other name than the file's."""
    if isinstance(error, yaml.composer.ComposerError) and "single document" in str(error.context):
        return f"expected one document, found another in line {error.problem_mark.line + 1}; write each to its own file"
    return short(re.sub(r'in "<[a-z ]+>", ', "in ", " ".join(str(error).split())), 500)


def _check_bounds(text: str | bytes, where: str, loader: type[Any]) -> None:
    """Count values and depth before anything is made of them."""
    count = 0
    sizes: dict[str | None, int] = {}  # how many values an anchor names
    around: list[tuple[str | None, int]] = []  # of each list and mapping that is open: its anchor, the count before it
    for event in yaml.parse(text, loader):
        if isinstance(event, yaml.AliasEvent):
            if event.anchor not in sizes:
                line = event.start_mark.line + 1
                raise InputError(
                    f"{where}: found the alias {shown(event.anchor)} of nothing that ends before it in line {line}"
                )
            count += sizes[event.anchor]
        elif isinstance(event, yaml.ScalarEvent):
            count += 1
            sizes[event.anchor] = 1
        elif isinstance(event, yaml.CollectionStartEvent):
            around.append((event.anchor, count))
            count += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, before = around.pop()
            sizes[anchor] = count - before
        if count > _MOST:
            raise InputError(f"{where}: expected at most {_MOST:,} values, found more (aliases repeat what they name)")
        if len(around) > _DEEPEST:
            raise InputError(f"{where}: expected lists and mappings at most {_DEEPEST} deep, found them deeper")


def plain(value: Any) -> Any:
    """Return a value as YAML has it: paths as text, sequences and arrays as lists, their numbers Python's own."""
    if isinstance(value, PathLike):
        return fspath(value)
    if hasattr(value, "tolist"):  # of an array or a number of numpy, which is not imported for it
        value = value.tolist()
    if isinstance(value, Mapping):
        return {key: plain(each) for key, each in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return [plain(each) for each in value]
    return value


def check_keys(content: Iterable[Any], known: Iterable[str], where: str) -> None:
    """Raise InputError for the first key that is not known, naming the nearest that is."""
    known = tuple(known)
    for key in content:
        if key not in known:
            near = get_close_matches(str(key), known, 1, 0.5)
            hint = f"did you mean '{near[0]}'?" if near else f"known keys: {', '.join(known)}"
            raise InputError(f"{where}: unknown key {shown(key)}; {hint}")


def yaml_text(content: Mapping[str, Any]) -> str:
    """Write a mapping as YAML, its keys in the order given; reading it gives the same content."""
    return yaml.dump(content, Dumper=_Dumper, sort_keys=False, allow_unicode=True, default_flow_style=None, width=100)
