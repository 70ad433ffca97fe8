"""A sentence for the user about an exception that is not an `InputError`."""


def out_of_memory(error: BaseException) -> bool:
    """Tell whether `error` says that memory of the machine or of the accelerator ran out."""
    # torch's own class is looked up by name: the command line and the pages do not import torch to see an error
    names = {kind.__name__ for kind in type(error).__mro__}
    return bool(names & {"MemoryError", "OutOfMemoryError"}) or "can't allocate memory" in str(error)


def sentence(error: BaseException) -> str:
    """Return one sentence: what to lower if memory ran out, else that the failure is ours, with its first line."""
    if out_of_memory(error):
        return "Out of memory: lower the batch size or the maximum length, or choose fewer or smaller models."
    first = (str(error).splitlines() or [""])[0]
    return f"Internal error ({type(error).__name__}: {first})"
