"""Code that task files bring: found before it runs, refused without the switch, and templates kept in a sandbox."""

import contextlib
import importlib.util
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from jinja2.sandbox import SecurityError
from lm_eval.api.registry import metric_registry
from transformers.utils.chat_template_utils import render_jinja_template

from nmerge_core.cache import BENCHMARKS
from nmerge_core.cli import main
from nmerge_core.errors import InputError
from nmerge_core.evaluation.tasks import load_task
from nmerge_core.evaluation.templates import UnsafeTemplate, apply_template
from nmerge_core.loading import load_model
from nmerge_core.runs.kinds import KINDS
from nmerge_core.runs.request import Request
from nmerge_core.task_yaml.code import METRICS, own_code, runs_code
from tests.evaluation.test_tasks import DOCS, SUMS, documents, write_task
from tests.tiny import tiny_model

BESIDE = """from pathlib import Path
Path(__file__).with_name("ran").touch()
def shown(*anything, **more):
    return [0.0]
"""
LM_EVAL = Path(importlib.util.find_spec("lm_eval").submodule_search_locations[0])
Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Write the task sums with something more in its YAML, beside a Python file that leaves a mark when imported."""
    (tmp_path / "beside.py").write_text(BESIDE)
    task = Path(write_task(tmp_path, SUMS, DOCS))

    def write(more: str, **instead: str) -> Path:
        kept = yaml.safe_dump({key: value for key, value in SUMS.items() if key not in instead})
        task.write_text(kept + "".join(f"{key}: {value}\n" for key, value in instead.items()) + more)
        return task

    return write


def ran(task: Path) -> bool:
    return (task.parent / "ran").exists()


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ("process_results: !function beside.shown\n", "process_results: !function beside.shown"),
        ("process_docs: !function beside.shown\n", "!function beside.shown"),
        ("custom_dataset: !function subprocess.check_output\nmetadata: {args: [touch, ran]}\n", "check_output"),
        ("class: !function beside.Task\n", "class: !function beside.Task"),
        ("fewshot_config: {sampler: first_n, samples: !function beside.shown}\n", "samples: !function beside.shown"),
        ("filter_list: [{name: a, filter: [{function: custom, filter_fn: !function beside.shown}]}]\n", "filter_fn: "),
        ("anchor: &a [[{deep: !function beside.shown}]]\n? *a\n: 1\n", "!function beside.shown"),
        ("? !function beside.shown\n: 1\n", "!function beside.shown"),
        ("custom_dataset: !!python/name:os.system\n", "python/name:os.system"),
        ("custom_dataset: !!python/object/apply:os.system [touch ran]\n", "python/object/apply:os.system"),
        ("use_prompt: promptsource:*\n", "use_prompt: promptsource"),
        ("use_prompt: prompts.yaml:one\n", "use_prompt: prompts.yaml"),
        ("generation_kwargs: {custom_generate: ., trust_remote_code: true}\n", "custom_generate: ., a script"),
    ],
)
def test_code_of_a_task_is_refused_with_its_place(write: Write, more: str, said: str) -> None:
    task = write(f"# a line of its own\n{more}")
    line = task.read_text().splitlines().index("# a line of its own") + 2
    with pytest.raises(InputError) as refused:
        load_task(str(task), run_code=True)
    message = str(refused.value)
    assert message.startswith(f"task '{task}': it brings code of its own: {task}, line {line}: ") and said in message
    assert "--allow-task-code" in message and "allow_task_code=True" in message and "\n" not in message
    assert not ran(task)


@pytest.mark.parametrize(
    "metrics", ["[{metric: ./beside.py}]", "[{metric: accuracy}]", "[{metric: exact_match, hf_evaluate: true}]"]
)
def test_a_metric_that_is_a_script_is_code(write: Write, metrics: str) -> None:
    task = write("", metric_list=metrics)
    with pytest.raises(InputError, match="brings code of its own: .*sums.yaml, line .* script of Hugging Face"):
        load_task(str(task), run_code=True)
    assert frozenset(metric_registry.keys()) == METRICS


def test_a_group_cannot_hide_the_script(write: Write) -> None:
    """What the group sets for its members undoes what made the metric harmless; only lm-eval puts both together."""
    task = write("process_results: x\n", metric_list="[{metric: ./beside.py}]")
    (task.parent / "all.yaml").write_text("group: all\ntask: [sums]\nprocess_results: null\n")
    assert own_code(task.parent / "all.yaml") == []
    with pytest.raises(InputError, match="its metric './beside.py' is not one of lm-eval's.*--allow-task-code"):
        load_task(str(task.parent / "all.yaml"), run_code=True)
    assert not ran(task)


@pytest.mark.parametrize(
    "files", ["{test: 'reference://x'}", "{test: 'zip://a.jsonl::reference://x'}", "[python://x]", "'::x'"]
)
def test_data_come_from_files_and_the_web(write: Write, files: str) -> None:
    task = write("", dataset_kwargs=f"{{data_files: {files}}}")
    assert "fetched by other means" in str(own_code(task)[0])
    assert own_code(write("", dataset_kwargs="{data_files: {test: 'https://example.org/a.jsonl'}}")) == []
    assert own_code(write("", dataset_kwargs="{storage_options: {fo: x}, data_files: data/sums.jsonl}"))


@pytest.mark.parametrize(
    "more",
    ["metadata: &a [*a]\n", f"metadata: {'[' * 60}{']' * 60}\n", f"#{'x' * 1_000_000}\n"],
    ids=["recursive", "deep", "large"],
)
def test_what_holds_too_much_to_be_looked_at_counts_as_code(write: Write, more: str) -> None:
    """In a file that another includes, of whatever name."""
    task = write("include: more.txt\n")
    (task.parent / "more.txt").write_text(f"{more}process_docs: !function beside.shown\n")
    with pytest.raises(InputError):
        load_task(str(task), run_code=True)
    assert own_code(task)[0].file == task.parent / "more.txt" and not ran(task)


@pytest.mark.parametrize("said", ["unsafe_code: true\n", "unsafe_code: Yes # é\n", '"unsafe_code" : on\n'])
def test_generated_code_is_told_however_it_is_written(write: Write, said: str) -> None:
    """By the task's file, one that it includes, or a member of a group."""
    task = write(f"# caf\u00e9\n{said}")
    folder = task.parent
    (folder / "around.yaml").write_text("include: sums.yaml\ntask: around\n")
    (folder / "all.yaml").write_text("group: all\ntask: [sums]\n")
    (folder / "plain.yaml").write_bytes("task: plain\ndescription: caf\u00e9, unsafe_code: true\n".encode("latin-1"))
    assert [runs_code(str(folder / f"{name}.yaml")) for name in ("sums", "around", "all", "plain")] == [True] * 3 + [
        False
    ]


def test_a_script_of_a_data_set_never_runs(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    task = write("", dataset_path="./beside.py")
    monkeypatch.chdir(task.parent)
    for allowed in (False, True):
        with pytest.raises(InputError, match="sums.yaml"):
            load_task(str(task), run_code=False, allow_task_code=allowed)
    assert not ran(task)


@pytest.mark.parametrize("member", ["gone", "{task: gone, num_fewshot: 0}", "{group: inner, task: [gone]}"])
def test_a_member_that_a_group_s_folder_does_not_have_is_named(write: Write, member: str) -> None:
    folder = write("").parent
    (folder / "all.yaml").write_text(f"group: all\ntask: [sums, {member}]\n")
    with pytest.raises(
        InputError, match=r"group '(all|all::inner)', key 'task': .* found 'gone', which is none of them"
    ):
        load_task(str(folder / "all.yaml"), run_code=False)


def test_what_is_included_counts_and_so_do_members(write: Write) -> None:
    """Through two files and over a group; a YAML beside them that is no member does not."""
    task = write("include: one.yaml\n")
    folder = task.parent
    (folder / "one.yaml").write_text("include: [two.yaml]\n")
    (folder / "two.yaml").write_text("\n\nprocess_docs: !function beside.shown\n")
    (folder / "all.yaml").write_text("group: all\ntask:\n  - {group: inner, task: [sums]}\n")
    (folder / "none.yaml").write_text("group: none\ntask: [other]\n")
    (folder / "other.yaml").write_text(yaml.safe_dump(SUMS | {"task": "other"}))
    for file in (task, folder / "all.yaml"):
        assert [(each.file, each.line) for each in own_code(file)] == [(folder / "two.yaml", 3)]
        with pytest.raises(InputError, match=r"code of its own: .*two.yaml, line 3"):
            load_task(str(file), run_code=False)
    assert own_code(folder / "none.yaml") == []
    assert list(load_task(str(folder / "none.yaml"), run_code=False)["tasks"]) == ["other"]
    assert not ran(task)


def test_the_switch_lets_it_run(write: Write) -> None:
    task = write("process_results: !function beside.shown\n")
    loaded = load_task(str(task), run_code=False, allow_task_code=True)
    assert documents(loaded) == DOCS and ran(task)


def test_trusted_is_what_lies_with_the_programs(write: Write) -> None:
    trusted = LM_EVAL / "tasks" / "drop" / "default.yaml"
    assert "!function" in trusted.read_text()
    task = write(f"include: {trusted}\n")
    link = task.with_name("link.yaml")
    link.symlink_to(trusted)
    assert own_code(trusted) == own_code(link) == own_code(BENCHMARKS / "humaneval.yaml") == []
    assert {each.file for each in own_code(task)} == {trusted.resolve()}  # how it is called is the user's
    copy = task.with_name("humaneval.yaml")
    copy.write_text((BENCHMARKS / "humaneval.yaml").read_text())
    assert own_code(copy) == []  # the one function that any code task may name
    shadow = task.parent / "nmerge_core" / "evaluation" / "code.py"
    shadow.parent.mkdir(parents=True)
    shadow.write_text(BESIDE)
    os.utime(copy, ns=(1, 1))
    assert "!function nmerge_core.evaluation.code.pass_at_1" in str(own_code(copy)[0])  # lm-eval looks there first


def test_runs_differ_by_the_switch_only_where_it_is_on() -> None:
    def key(**more: object) -> str:
        asked = {"models": ["m"], "tasks": ["hellaswag"], "run_code": False, **more}
        return Request("evaluate", asked, {}).key

    assert key() == key(allow_task_code=False) != key(allow_task_code=True)
    kinds = {name for name, kind in KINDS.items() if "allow_task_code" in kind.by_name}
    assert kinds == {name for name, kind in KINDS.items() if "run_code" in kind.by_name}
    assert kinds >= {"effects", "evaluate", "knockout", "sweep"}


ATTACKS = [
    "{{ cycler.__init__.__globals__.os.popen('touch ran').read() }}",
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{{ prompt['__class__'] }}{{ (prompt|attr('__class__')) }}",
    "{{ '{0.__class__.__init__}'.format(prompt) }}{{ ('{0.__class__}'|string).format_map({'0': 1}) }}",
    "{{ lipsum.__globals__['os'] }}",
    "{% for x in [1] %}{{ loop.__init__.__globals__ }}{% endfor %}",
    "{{ image.save('ran') }}",
    "{{ rows.append(1) }}",
]


@pytest.mark.parametrize("template", ATTACKS)
def test_templates_reach_for_nothing_but_the_document(template: str, tmp_path: Path) -> None:
    class Image:
        def save(self, path: str) -> str:
            (tmp_path / path).touch()
            return "saved"

    with pytest.raises(UnsafeTemplate, match="may use fields of the document and plain text only"):
        apply_template(template, {"prompt": "a", "image": Image(), "rows": [1]})
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("key", ["doc_to_text", "doc_to_target"])
def test_every_template_of_a_task_is_in_the_sandbox(write: Write, key: str) -> None:
    task = write("", **{key: f'"{ATTACKS[0]}"'})
    line = next(n for n, text in enumerate(task.read_text().splitlines(), 1) if text.startswith(key))
    with pytest.raises(InputError, match=f"task '.*sums.yaml': .*sums.yaml, line {line}: the template.*__init__"):
        load_task(str(task), run_code=False)


def test_templates_of_lm_eval_render_as_before() -> None:
    """What its own YAML files use: methods of text and lists, filters, loops, and a trailing newline that stays."""
    doc = {"text": " a b ", "choices": ["x", "y"], "answer": "y", "nested": {"deep": [1, 2]}}
    template = (
        "{{text.strip().split(' ')[0]|capitalize}}{% for c in choices %}{{loop.index}}{{c}}{% endfor %}"
        "{{choices.index(answer)}}{{nested.deep|join(',')}}{{text|regex_replace('a', 'z')}}\n"
    )
    assert apply_template(template, doc) == "A1x2y11,2 z b \n"


def test_chat_templates_are_in_a_sandbox_as_well() -> None:
    """A checkpoint's own is rendered by transformers, in its sandbox."""
    with pytest.raises(SecurityError):
        render_jinja_template(conversations=[[{"role": "user", "content": "a"}]], chat_template=ATTACKS[0])


@pytest.mark.parametrize(
    ("file", "own"),
    [
        ("config.json", {"AutoConfig": "own.Own", "AutoModelForCausalLM": "own.Own"}),
        ("tokenizer_config.json", {"AutoTokenizer": ["own.Own", "own.Own"]}),
    ],
)
def test_code_of_a_checkpoint_never_runs(write: Write, file: str, own: dict[str, object]) -> None:
    """Whatever the switches say: they are for tasks."""
    task = write("process_results: !function beside.shown\n", metric_list="[{metric: mine, aggregation: mean}]")
    checkpoint = task.parent / "model"
    tiny_model(checkpoint)
    described = json.loads((checkpoint / file).read_text())
    (checkpoint / file).write_text(json.dumps(described | {"auto_map": own}))
    (checkpoint / "own.py").write_text(BESIDE)
    with contextlib.suppress(InputError):
        load_model(str(checkpoint), "cpu")
    assert not ran(checkpoint / "own.py")


def test_the_command_says_which_switch_and_takes_it(
    write: Write, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    task = write("process_results: !function beside.shown\n", metric_list="[{metric: mine, aggregation: mean}]")
    (task.parent / "beside.py").write_text(BESIDE.replace("return [0.0]", "return {'mine': 1.0}"))
    monkeypatch.setenv("NMERGE_CACHE", str(task.parent / "cache"))
    command = ["evaluate", tiny_model(task.parent / "model"), "--tasks", str(task)]
    assert main(command) == 2
    line = next(n for n, text in enumerate(task.read_text().splitlines(), 1) if text.startswith("process_results"))
    assert f"line {line}: process_results: !function beside.shown" in capsys.readouterr().err and not ran(task)
    assert main([*command, "--allow-task-code"]) == 0
    assert "mine" in capsys.readouterr().out and ran(task)
