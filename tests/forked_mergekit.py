"""mergekit's process, forked from one that has imported mergekit: that takes much longer than to merge tiny models.

With the path of a socket this program is the command that stands for it; `serve` is the process with the imports.
"""

import json
import os
import signal
import socket
import sys
import threading
from select import select


def serve(path: str) -> None:
    """Fork a process of `nmerge_core.merging.mergekit.child` for every command that connects; end with stdin."""
    from nmerge_core.merging.mergekit import child

    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for them
    server = socket.create_server(path, family=socket.AF_UNIX)
    print("ready", flush=True)
    while server in select([server, sys.stdin], [], [])[0]:
        connection, _ = server.accept()
        environment, streams, _, _ = socket.recv_fds(connection, 1 << 20, 3)
        if os.fork() == 0:
            for number, stream in enumerate(streams):
                os.dup2(stream, number)
            os.environ.clear()
            os.environ.update(json.loads(environment))
            threading.Thread(target=_end_with, args=(connection,), daemon=True).start()
            connection.send(bytes([child.main()]))
            os._exit(0)
        for stream in (connection.detach(), *streams):
            os.close(stream)


def _end_with(connection: socket.socket) -> None:
    connection.recv(1)  # comes back when the command has ended
    os._exit(1)


def main(path: str) -> int:
    """Have a process forked that takes over streams and environment, and end with its status."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(path)
        socket.send_fds(connection, [json.dumps(dict(os.environ)).encode()], [0, 1, 2])
        for number in range(3):  # they end when the forked process closes them
            os.dup2(os.open(os.devnull, os.O_RDWR), number)
        (status,) = connection.recv(1) or b"\1"
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
