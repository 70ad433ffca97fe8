"""What a family names, read before it is saved with what its runs read it by."""

from os.path import expanduser
from pathlib import Path

from nmerge_core.checkpoints import is_hub_id, on_this_machine, open_checkpoint
from nmerge_core.checkpoints.reference import halves
from nmerge_core.corpus.corpus import check_categories, is_on_disk, load_corpus
from nmerge_core.errors import InputError
from nmerge_core.family.family import Family
from nmerge_core.task_yaml.files import check_task

_YAML = (".yaml", ".yml")


def check_readable(family: Family) -> None:
    """Check that every model, the corpus and the tasks of a family are what they are named as.

    Of models headers are read, of a corpus every text, unless a source of it is on the Hub; what is there and not here
    yet is left to the run that fetches it, and so are the names of tasks.

    Raises:
        InputError: something is not there, or no run could read it.
    """
    for member in family.members:
        named = halves(member.reference)
        absent = [half for half in named if not on_this_machine(half)]
        for half in absent:
            if not is_hub_id(half):
                raise InputError(f"{half}: expected a model's folder with a config.json, or a Hub id; found none")
        if not absent:
            open_checkpoint(member.reference)
    if family.corpus:
        if is_on_disk(family.corpus):
            load_corpus(family.corpus, images=True)
        else:
            check_categories(family.corpus, ())
    for task in family.tasks:
        if task.endswith(_YAML):
            check_task(Path(expanduser(task)))
        elif "/" in task:
            raise InputError(f"{task}: expected the name of a task, or the path of its YAML, which ends in .yaml")
