"""The two ways work ends early that are not our failure: wrong input, and the user's cancel."""


class InputError(Exception):
    """The input is wrong; the message names the file, tensor or key, what was expected, what was found, what to do."""


class Cancelled(Exception):
    """The user asked to stop; raised from a progress report, so that every reporting step can be cancelled."""
