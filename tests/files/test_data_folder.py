"""What is looked through for data has bounds, whoever reads it."""

from collections.abc import Callable
from pathlib import Path

import pytest

from nmerge_core.cache import cache_root
from nmerge_core.checkpoints.companions import companions
from nmerge_core.corpus.corpus import load_corpus
from nmerge_core.errors import InputError
from nmerge_core.evaluation.tasks import load_task
from nmerge_core.files import data_folder
from nmerge_core.files.data_folder import files_in, walk
from nmerge_core.inputs import Places
from nmerge_core.task_yaml.code import own_code


def test_files_are_those_of_a_folder_and_below_without_hidden_ones_and_folders_that_are_links(tmp_path):
    for name in ("b.txt", "a/b/c.txt", "a/.hidden", ".git/x", "a/.git/b/x"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "here").symlink_to(tmp_path)
    (tmp_path / "c.txt").symlink_to("b.txt")
    (tmp_path / "gone").symlink_to("nowhere")
    assert [str(each.relative_to(tmp_path)) for each in files_in(tmp_path)] == ["a/b/c.txt", "b.txt", "c.txt"]
    assert len(files_in(tmp_path / "here")) == 3 and len(files_in(tmp_path / ".git")) == 1
    assert files_in(tmp_path / "b.txt") == [tmp_path / "b.txt"] and files_in(tmp_path / "nowhere") == []


def test_a_folder_with_more_in_it_or_deeper_ones_than_data_have_is_refused(tmp_path, monkeypatch):
    (tmp_path / "/".join("abcdefghij")).mkdir(parents=True)  # ten deep
    assert files_in(tmp_path) == []
    (tmp_path / "/".join("abcdefghijk")).mkdir()
    with pytest.raises(InputError, match=r"at most 10 folders deep; found .*/j/k; name one that holds the data alone"):
        files_in(tmp_path)
    for here, folders, _ in walk(tmp_path):  # what is taken out is not looked into
        folders[:] = [] if here.name == "c" else folders
    monkeypatch.setattr(data_folder, "MOST", 3)
    for number in range(4):
        (tmp_path / "a" / f"{number}").touch()
        (tmp_path / "a" / "b" / f"{number}").touch()
    with pytest.raises(InputError, match="expected a folder of data, at most 3 files and folders; found more"):
        files_in(tmp_path)


GROUP = "group: g\ntask: [t]\n"
TASK = "task: t\ndataset_path: {}\noutput_type: multiple_choice\ntest_split: train\ndoc_to_text: x\n"
PATTERN = "task: t\ndataset_path: json\ndataset_kwargs: {{{{data_files: {}}}}}\n"
IMAGES = "task: t\nkind: image_classification\ndata: {}\n"


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("general: {{path: large}}", lambda file, places: places.corpus(str(file))),
        ("general: {{path: large}}", lambda file, places: load_corpus(str(file))),
        (TASK, lambda file, places: places.task(str(file))),
        (PATTERN.format("large/**"), lambda file, places: places.task(str(file))),
        (
            TASK.format("json") + "dataset_kwargs: {{data_files: '*/*/*.x'}}",
            lambda file, places: places.task(str(file)),
        ),
        (GROUP, lambda file, places: places.task(str(file))),
        (GROUP, lambda file, places: load_task(str(file), run_code=False, allow_task_code=True)),
        (IMAGES, lambda file, places: places.task(str(file))),
        (IMAGES, lambda file, places: load_task(str(file), run_code=False)),
        (IMAGES.format("{{path: large}}"), lambda file, places: load_task(str(file), run_code=False)),
    ],
)
def test_whoever_reads_a_folder_refuses_one_that_is_too_large(
    text: str, read: Callable[[Path, Places], object], tmp_path, monkeypatch
):
    monkeypatch.setattr(data_folder, "MOST", 20)
    (tmp_path / "large" / "class").mkdir(parents=True)
    for number in range(21):
        (tmp_path / "large" / "class" / f"{number}.x").touch()
    file = tmp_path / "named.yaml"
    file.write_text(text.format(tmp_path / "large"))
    with pytest.raises(InputError, match="at most 20 files and folders; found more; name"):
        read(file, Places(cache_root(), tmp_path))


def test_a_group_in_a_folder_that_is_too_large_may_run_anything(tmp_path, monkeypatch):
    file = tmp_path / "group.yaml"
    file.write_text(GROUP)
    assert own_code(file) == []
    monkeypatch.setattr(data_folder, "MOST", 0)
    assert "any member in its folder" in str(own_code(file)[0])


def test_companions_of_modules_are_bounded_too(tmp_path, monkeypatch):
    (tmp_path / "modules.json").write_text('[{"path": "1_Pooling"}]')
    (tmp_path / "1_Pooling").mkdir()
    (tmp_path / "1_Pooling" / "config.json").touch()
    assert len(companions(tmp_path)) == 2
    monkeypatch.setattr(data_folder, "MOST", 0)
    with pytest.raises(InputError, match="found more"):
        companions(tmp_path)
