"""A sentence for the user about an exception that is not an `InputError`."""

from nmerge_core.errors import DISK_ERRORS, PATH_ERRORS, out_of_memory, short


def of_surroundings(error: BaseException) -> bool:
    """Tell whether memory or the disk ran out, or a file is closed to this user: a traceback would tell no more."""
    return out_of_memory(error) or (isinstance(error, OSError) and error.errno in DISK_ERRORS | PATH_ERRORS)


def sentence(error: BaseException) -> str:
    """Return one sentence: what to lower or to free if memory or the disk ran out, else that the failure is ours."""
    if out_of_memory(error):
        return "Out of memory: lower the batch size or the maximum length, or choose fewer or smaller models."
    if isinstance(error, OSError) and of_surroundings(error):
        where = short(str(error.filename or "The disk"))
        if error.errno in PATH_ERRORS:
            return f"{where}: cannot be read or written ({error.strerror}); check its name, and who may use it."
        return f"{where}: cannot be written ({error.strerror}); make room on that disk, and start again."
    first = (str(error).splitlines() or [""])[0]
    return f"Internal error ({type(error).__name__}: {first})"
