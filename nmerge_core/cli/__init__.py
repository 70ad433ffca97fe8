"""The command line: results on stdout, progress and messages on stderr, and the exit status says how it ended."""

import os
import sys
import traceback
from argparse import Namespace
from collections.abc import Sequence
from typing import NoReturn

from nmerge_core.cli.parser import build_parser
from nmerge_core.cli.streams import standard_streams
from nmerge_core.errors import DISK_ERRORS, PATH_ERRORS, Cancelled, InputError, ProcessLost, out_of_memory
from nmerge_core.interrupts import interruptible, telling_failures
from nmerge_core.runs.failure import sentence

DONE, FAILED, WRONG_INPUT, INTERRUPTED = 0, 1, 2, 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status: 0 done, 1 a failure of ours, 2 wrong input, 130 interrupted.

    A wrong command line ends in argparse's SystemExit(2).
    """
    with standard_streams(), interruptible():
        return _run(build_parser().parse_args(arguments))


def end_with_status() -> NoReturn:
    """Run this process's command line, and end the process with its status.

    One that is interrupted ends at once: a library's thread may be computing still, and where Python ends such a thread
    in the midst of C++ the process is aborted (terminate called without an active exception).
    """
    status = main()
    if status == INTERRUPTED:
        os._exit(status)
    sys.exit(status)


def _run(parsed: Namespace) -> int:
    try:
        with telling_failures():
            parsed.command(parsed)
            sys.stdout.flush()
        return DONE
    except InputError as error:
        _say(f"error: {error}")
        return WRONG_INPUT
    except (KeyboardInterrupt, Cancelled):
        _say("interrupted")
        return INTERRUPTED
    except ProcessLost as error:
        _say(f"failed: {error}")
        return FAILED
    except Exception as error:
        if isinstance(error, OSError) and error.errno in DISK_ERRORS:
            where = error.filename or "writing"
            _say(f"error: {where}: {error.strerror}; check that the disk has room and can be written")
            return WRONG_INPUT
        if isinstance(error, OSError) and error.errno in PATH_ERRORS:
            _say(f"error: {sentence(error)}")
            return WRONG_INPUT
        if os.environ.get("NMERGE_DEBUG"):
            traceback.print_exc()
        hint = "" if out_of_memory(error) else "; run again with NMERGE_DEBUG=1 for the traceback"
        _say(f"failed: {sentence(error)}{hint}")
        return FAILED


def _say(message: str) -> None:
    clear = "\r\x1b[K" if sys.stderr.isatty() else ""  # a line of progress may stand there
    print(f"{clear}nmerge: {' '.join(message.split())}", file=sys.stderr)
