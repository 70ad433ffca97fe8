"""A server on this machine that takes what the Hugging Face Hub does."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Seen = list[tuple[str, str, bytes]]  # the path, the token and the body of each request


@contextmanager
def serve_hub() -> Iterator[tuple[str, Seen]]:
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
