"""A folder goes to the Hugging Face Hub: `python -m nmerge_core.publishing FOLDER NAME`, the token on standard input.

A process of its own, so that it can be stopped; the token is in no argument, no environment and no file.
"""

import argparse
import sys
from pathlib import Path

from nmerge_core.errors import InputError


def publish(folder: Path, name: str, token: str, *, private: bool = True) -> str:
    """Make a model repository on the Hub, unless it is there, and put a folder into it; return its address.

    Raises:
        InputError: the Hub refuses it, or cannot be reached.
    """
    if not (token.isascii() and token.isprintable()):
        raise InputError("the token: expected letters, digits and signs alone, as the Hub gives it; copy it again")
    from huggingface_hub import HfApi

    hub = HfApi(token=token)
    try:
        made = hub.create_repo(name, private=private, exist_ok=True)
        hub.upload_folder(repo_id=made.repo_id, folder_path=folder, commit_message="Add a merge made with NMerge")
    except Exception as error:  # of the client, its HTTP library and the network, each with errors of its own
        said = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise InputError(
            f"{name}: the Hub did not take it ({said}); check the name, the token and its rights"
        ) from error
    return str(made)


def main() -> int:
    """Publish what the command line says; print the address, or why not."""
    parser = argparse.ArgumentParser(prog="python -m nmerge_core.publishing", description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("name", help="OWNER/NAME")
    parser.add_argument("--public", action="store_true")
    asked = parser.parse_args()
    try:
        print(publish(asked.folder, asked.name, sys.stdin.readline().strip(), private=not asked.public))
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
