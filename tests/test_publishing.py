"""A folder goes to the Hub: the real program and client, and a server that takes what the Hub does."""

import base64
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

Seen = list[tuple[str, str, bytes]]  # the path, the token and the body of each request


@pytest.fixture
def hub() -> Iterator[tuple[str, Seen]]:
    """A server on this machine, and what it was asked; it knows one token."""
    seen: Seen = []

    class Handler(BaseHTTPRequestHandler):
        def _answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            token = self.headers.get("Authorization", "")
            seen.append((self.path, token, body))
            known = token == "Bearer right"
            content: dict[str, Any] = {"error": "Invalid username or password."}
            if known and "preupload" in self.path:
                files = json.loads(body)["files"]
                content = {
                    "files": [{"path": each["path"], "uploadMode": "regular", "shouldIgnore": False} for each in files]
                }
            elif known:
                content = {"url": f"{address}/me/merge", "commitUrl": f"{address}/me/merge/commit/1", "commitOid": "1"}
                content |= {"id": "me/merge", "siblings": []}
            said = json.dumps(content).encode()
            self.send_response(200 if known else 401)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(said)))
            self.end_headers()
            self.wfile.write(said)

        do_GET = do_POST = _answer

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    address = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield address, seen
    server.shutdown()
    server.server_close()


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
