"""Python programs forked from a process that has made their imports, which take longer than what tests have them do.

`python -S forked.py SOCKET` stands for `python` before `-m MODULE ARGUMENT…` or `-c CODE ARGUMENT…`: its streams,
folder, environment, signals and exit status are the program's. `serve` is the process with the imports.
"""

import gc
import importlib
import json
import os
import runpy
import select
import signal
import socket
import sys
from contextlib import suppress


def serve(path: str, *modules: str) -> None:
    """Import the modules and fork a program for every command that connects; end with stdin."""
    gc.disable()
    for module in modules:
        importlib.import_module(module)
    gc.freeze()  # what is imported stays: programs share its memory and need not look through it
    gc.enable()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for those who wait for the programs
    server = socket.create_server(path, family=socket.AF_UNIX)
    print("ready", flush=True)
    while server in select.select([server, sys.stdin], [], [])[0]:
        connection, _ = server.accept()
        if os.fork() == 0:
            server.close()
            return _supervise(connection)
        connection.close()


def _supervise(connection: socket.socket) -> None:
    """Fork the program, pass signals on to it, and send its status; it is killed when the command is."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    content, streams, _, _ = socket.recv_fds(connection, 1 << 20, 3)
    asked = json.loads(content)
    program = os.fork()
    if program == 0:
        connection.close()
        return _become(asked, streams)
    for stream in (*streams, 0, 1, 2):
        os.close(stream)
    ended = os.pidfd_open(program)
    while ended not in select.select([connection.fileno(), ended], [], [])[0]:
        number = connection.recv(1)
        os.kill(program, number[0] if number else signal.SIGKILL)
    status = os.waitstatus_to_exitcode(os.waitpid(program, 0)[1])
    with suppress(OSError):
        connection.send(status.to_bytes(2, signed=True))
    os._exit(0)


def _become(asked: dict, streams: list[int]) -> None:
    """Run a module or code as the program that was asked for."""
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    sys.stdin, sys.stdout = open(0, closefd=False), open(1, "w", closefd=False)
    sys.stderr = open(2, "w", buffering=1, errors="backslashreplace", closefd=False)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    os.environ.clear()
    os.environ.update(asked["environment"])
    os.chdir(asked["folder"])
    kind, content, *arguments = asked["arguments"]
    sys.argv = [kind, *arguments]
    sys.path[:0] = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    if kind == "-m":
        runpy.run_module(content, run_name="__main__", alter_sys=True)
    else:
        exec(content, {"__name__": "__main__"})


def main(path: str, *arguments: str) -> int:
    """Have a program forked that takes over streams, folder and environment, and end as it ends."""
    asked = {"arguments": arguments, "folder": os.getcwd(), "environment": dict(os.environ)}
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(path)
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda number, _: connection.send(bytes([number])))
        socket.send_fds(connection, [json.dumps(asked).encode()], [0, 1, 2])
        for stream in range(3):  # they end when the program closes them
            os.dup2(os.open(os.devnull, os.O_RDWR), stream)
        status = int.from_bytes(connection.recv(2), signed=True)
    if status < 0:
        signal.signal(-status, signal.SIG_DFL)
        os.kill(os.getpid(), -status)
    return status


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
