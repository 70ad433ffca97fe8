"""A folder goes to the Hub: the real program and client, and a server that takes what the Hub does."""

import base64
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

from tests.hub import Seen


def push(address: str, folder: Path, token: str, home: Path) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "nmerge_core.publishing", str(folder), "me/merge"]
    environment = {**os.environ, "HF_ENDPOINT": address, "HF_HOME": str(home), "HF_HUB_OFFLINE": "0"}
    return subprocess.run(command, input=f"{token}\n", capture_output=True, text=True, env=environment, timeout=120)


def test_what_is_in_the_folder_arrives_and_the_token_stays_nowhere(hub: tuple[str, Seen], tmp_path: Path) -> None:
    address, seen = hub
    folder, home = tmp_path / "merged", tmp_path / "home"
    folder.mkdir()
    (folder / "README.md").write_text("a card\n")
    (folder / "config.json").write_text("{}\n")
    done = push(address, folder, "right", home)
    assert (done.returncode, done.stdout) == (0, f"{address}/me/merge\n"), done.stderr
    made = next(json.loads(body) for path, _, body in seen if path == "/api/repos/create")
    assert made["visibility"] == "private", made
    lines = next(body for path, _, body in seen if "/commit/" in path).decode().splitlines()
    files = [each["value"] for each in map(json.loads, lines) if each["key"] == "file"]
    assert {each["path"]: base64.b64decode(each["content"]).decode() for each in files} == {
        "README.md": "a card\n", "config.json": "{}\n"
    }  # fmt: skip
    kept = [file for file in tmp_path.rglob("*") if file.is_file() and b"right" in file.read_bytes()]
    assert not kept


def test_what_the_hub_refuses_is_said_in_a_line(hub: tuple[str, Seen], tmp_path: Path) -> None:
    address, _ = hub
    (tmp_path / "config.json").write_text("{}\n")
    done = push(address, tmp_path, "wrong", tmp_path / "home")
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert "me/merge: the Hub did not take it (" in done.stderr and "check the name, the token" in done.stderr


def test_without_a_hub_or_with_no_token_it_says_so(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}\n")
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{closed.getsockname()[1]}"
    for token, said in (("right", "the Hub did not take it ("), ("ключ", "the token: expected letters")):
        done = push(address, tmp_path, token, tmp_path / "home")
        assert done.returncode == 2 and said in done.stderr and "Traceback" not in done.stderr
