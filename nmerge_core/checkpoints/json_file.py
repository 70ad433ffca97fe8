"""The JSON files beside weights: read, or refused by name."""

import json
from pathlib import Path
from typing import Any

from nmerge_core.errors import InputError


def read_json(file: Path, why: str) -> dict[str, Any]:
    """Read a JSON object; raises InputError, with `why` the file should be there, where it is none."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{file}: missing; {why}") from None
    except (OSError, ValueError) as error:
        raise InputError(f"{file}: not readable as JSON ({error})") from error
    if not isinstance(content, dict):
        raise InputError(f"{file}: expected a JSON object, found {type(content).__name__}")
    return content


def write_json(file: Path, content: object) -> None:
    """Write JSON as it stands beside weights."""
    file.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
