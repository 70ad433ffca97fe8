"""The ways work ends early that are not our failure: wrong input, the user's cancel, and a process that was lost."""

import errno

DISK_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG}  # a disk's: wrong surroundings, no failure of ours


class InputError(Exception):
    """The input is wrong; the message names the file, tensor or key, what was expected, what was found, what to do."""


class Cancelled(Exception):
    """The user asked to stop; raised from a progress report, so that every reporting step can be cancelled."""


class ProcessLost(Exception):
    """Another process of the same work ended before it was done; the message says which."""
