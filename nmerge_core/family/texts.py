"""What is in the corpus of a family, by its base's tokenizer and beside the problems of its tasks."""

from os.path import expanduser
from pathlib import Path

import pandas as pd

from nmerge_core.cache import task_data, task_file
from nmerge_core.checkpoints import open_checkpoint
from nmerge_core.corpus.corpus import is_on_disk, load_corpus
from nmerge_core.corpus.facts import SHORT, corpus_facts, image_facts, problem_texts
from nmerge_core.errors import InputError
from nmerge_core.family.family import Family
from nmerge_core.task_yaml.files import task_files


def corpus_of(family: Family, root: Path) -> pd.DataFrame | None:
    """Return `corpus_facts` of a family's corpus, of images `image_facts`; None without one, or of one of the Hub.

    Tasks whose problems lie in no file of this machine, as those of the Hub, are left out.

    Args:
        family: the family.
        root: the cache, which holds the demo's tasks.

    Raises:
        InputError: the corpus cannot be read.
    """
    if not family.corpus or not is_on_disk(family.corpus):
        return None
    corpus = load_corpus(family.corpus, images=True)
    if corpus.images:
        return image_facts(corpus)
    try:
        tokenizer = open_checkpoint(family.base).folder
    except InputError:  # the page and `inspect` say what it lacks
        tokenizer = None
    data = {task: _data(task, root) for task in family.tasks}
    problems = {Path(task).stem: problem_texts(files) for task, files in data.items() if files}
    return corpus_facts(corpus, tokenizer, problems)


def warnings_of(frame: pd.DataFrame) -> list[str]:
    """Return in words what of a corpus harms a classification, or a score, in which way, and what to do."""
    said, kind = [], "texts" if "texts" in frame else "images"
    for column, what, so in (
        ("repeated", "are there before", "each votes once more for its category; keep one of them"),
        ("short", f"have fewer than {SHORT} tokens", "they say little of their category; leave them out"),
    ):
        if column in frame and (count := int(frame[column].sum())):
            said.append(f"{count:,} of {frame[kind].sum():,} {kind} {what}: {so}")
    columns = frame.columns[frame.columns.str.startswith("in ")]
    shared = [f"of {name.removeprefix('in ')} in {n:,}" for name in columns if (n := int(frame[name].sum()))]
    if shared:
        said.append(
            f"parts of problems stand in the {frame['texts'].sum():,} texts, {', '.join(shared)}: models that were "
            "trained on them, and merges that go by them, may score higher there than on problems that they have not "
            "seen; leave these texts out of the corpus, or judge by other problems"
        )
    return said


def _data(task: str, root: Path) -> list[Path]:
    """The files with the problems of a task."""
    _, given = task_data(task)
    if given:
        return [Path(expanduser(given))]
    file = task_file(task, root)
    return sorted(each for each in task_files([file]) if each.suffix == ".jsonl") if file else []
