"""YAML files that people write: read with each key once and none unknown, and written to be read by people."""

from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from io import StringIO
from os import PathLike, fspath
from pathlib import Path
from typing import Any

import yaml

from nmerge_core.errors import InputError


class _Loader(yaml.SafeLoader):
    """Refuses a mapping that has a key twice, where YAML's own takes the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        known: set[tuple[str, str]] = set()
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            if (key.tag, key.value) in known:
                problem = f"found the key '{key.value}' a second time (keep one)"
                raise yaml.MarkedYAMLError(problem=problem, problem_mark=key.start_mark)
            known.add((key.tag, key.value))
        return super().construct_mapping(node, deep)


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
        InputError: it cannot be read, is not YAML, has a key twice, or holds no mapping.
    """
    where = str(source) if isinstance(source, Path) else name
    try:
        with source.open(encoding="utf-8") if isinstance(source, Path) else StringIO(source) as stream:
            content = yaml.load(stream, _Loader)
    except OSError as error:
        raise InputError(f"{where}: cannot be read ({error.strerror})") from error
    except (
        yaml.YAMLError,
        ValueError,
    ) as error:  # the latter of bytes and dates that cannot be
        raise InputError(f"{where}: not readable as YAML ({' '.join(str(error).split())})") from error
    if not isinstance(content, Mapping):
        raise InputError(f"{where}: expected a mapping with {', '.join(keys)}; found {type(content).__name__}")
    return dict(content)


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
            raise InputError(f"{where}: unknown key '{key}'; {hint}")


def yaml_text(content: Mapping[str, Any]) -> str:
    """Write a mapping as YAML, its keys in the order given; reading it gives the same content."""
    return yaml.dump(content, Dumper=_Dumper, sort_keys=False, allow_unicode=True, default_flow_style=None, width=100)
