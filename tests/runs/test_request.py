import json
import shutil
import subprocess
import sys
from dataclasses import replace
from importlib.metadata import version

import pytest
import torch
from safetensors.numpy import load_file, save_file

from nmerge_core import number_format
from nmerge_core.classification.classification import classify
from nmerge_core.errors import InputError
from nmerge_core.inputs import Places
from nmerge_core.runs.client import find_or_create
from nmerge_core.runs.folder import list_runs
from nmerge_core.runs.lock import transitions
from nmerge_core.runs.request import check_unchanged, resolve
from tests.tiny import tiny_model
from tests.tiny_family import make_family


@pytest.fixture(scope="module")
def family(tmp_path_factory):
    return make_family(tmp_path_factory.mktemp("family"))


def test_defaults_and_ways_to_write_a_path_make_no_difference(family, tmp_path, monkeypatch):
    asked = resolve(tmp_path, "classify", {"model": family.base, "corpus": family.corpus})
    monkeypatch.chdir(family.root)
    same = resolve(tmp_path, "classify", {"corpus": "corpus/", "model": "./base", "top_k": 10, "device": "auto"})
    assert same == asked and same.id.startswith("classify-") and len(same.key) == 12
    assert asked.parameters["model"] == family.base and asked.title == "classify base"
    assert resolve(tmp_path, "classify", {"model": family.base, "corpus": family.corpus, "top_k": 9}).id != asked.id


def test_a_run_is_found_whatever_its_manner_and_made_anew_in_another_until_it_is_done(family, tmp_path):
    asked = {"model": family.base, "corpus": family.corpus}
    plain, layered = (resolve(tmp_path, "classify", {**asked, "layerwise": layerwise}) for layerwise in (False, True))
    assert plain.id == layered.id and layered.parameters["layerwise"]
    with transitions(tmp_path):
        first = find_or_create(tmp_path, plain, "")
        assert find_or_create(tmp_path, plain, "").created == first.created
        described = json.loads((first.folder / "run.json").read_text())
        del described["parameters"]["layerwise"], described["digest"]
        (first.folder / "run.json").write_text(json.dumps(described))  # of a version that knew no such parameter
        assert "layerwise" not in find_or_create(tmp_path, plain, "").parameters
        run = find_or_create(tmp_path, layered, "")
        assert run.id == first.id and run.parameters["layerwise"] and run.status().state == "queued"
        assert check_unchanged(run).id == run.id
        run.results.mkdir()
        run.write_status(replace(run.status(), state="done"))
        assert find_or_create(tmp_path, plain, "").parameters["layerwise"]


def test_a_run_s_parameters_lead_to_that_run_again(family, tmp_path):
    """A method whose parts are other methods names their versions, whether they are said or the default ones."""
    models = [{"model": str(family.root / name)} for name in ("math", "code")]
    recipe = {"merge_method": "neuronmerge", "base_model": family.base, "models": models}
    asked = resolve(tmp_path, "merge", {"recipe": {**recipe, "parameters": {"corpus": family.corpus}}})
    assert resolve(tmp_path, "merge", asked.parameters).id == asked.id


def test_a_changed_input_makes_another_run(family, tmp_path):
    parameters = {"models": [family.base], "tasks": [family.task]}
    before = resolve(tmp_path, "evaluate", parameters).id
    data = family.root / "plain.jsonl"  # not named by the parameters, but by the task's YAML
    content = data.read_text()
    data.write_text(content + json.dumps({"text": "more"}) + "\n")
    after = resolve(tmp_path, "evaluate", parameters).id
    data.write_text(content)
    assert after != before and resolve(tmp_path, "evaluate", parameters).id == before

    corpus = {"model": family.base, "corpus": family.corpus}
    before = resolve(tmp_path, "classify", corpus).id
    held_out = resolve(tmp_path, "classify", {**corpus, "corpus": f"{family.corpus}[:-2]"})
    assert held_out.id != before and held_out.parameters["corpus"] == f"{family.corpus}[:-2]"
    math = family.root / "corpus" / "math.jsonl"
    content = math.read_text()
    math.write_text(content.replace("math text 0", "math text zero"))
    after = resolve(tmp_path, "classify", corpus).id
    math.write_text(content)
    assert after != before


def test_only_files_are_inputs_of_what_a_yaml_file_s_text_may_name(tmp_path):
    task = tmp_path / "task.yaml"
    task.write_text(f"data: '*.v1'\nlong: {'数' * 150} {'数' * 150}/*.v1\nfilter: !function {'m' * 300}.f\n")
    find = Places(tmp_path).task
    assert find(str(task))[0] == str(task)
    (tmp_path / "folder.v1").mkdir()
    alone = find(str(task))
    (tmp_path / "file.v1").write_text("one")
    (tmp_path / "file.v2").write_text("one")
    named = find(str(task))
    (tmp_path / "file.v2").write_text("other")
    assert find(str(task)) == named != alone
    (tmp_path / "file.v1").write_text("another")
    assert find(str(task)) != named


def lines(file, *texts):
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))


@pytest.mark.parametrize("named", ["my data/more.jsonl", "ds", "~/home.jsonl"])
def test_what_a_corpus_yaml_names_is_an_input_and_what_it_does_not_name_is_none(named, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    at = {"my data/more.jsonl": "my data/more.jsonl", "ds": "ds/data/train.jsonl", "~/home.jsonl": "home/home.jsonl"}
    corpus, read = tmp_path / "corpus.yaml", tmp_path / at[named]
    corpus.write_text(json.dumps({"general": {"path": named, "count": 1}, "math": {"path": "lab/on-the-hub"}}))
    lines(read, "one")
    find = Places(tmp_path).corpus
    before, sliced = find(str(corpus)), find(f"{corpus}[:-1]")
    assert sliced == (f"{corpus}[:-1]", before[1])
    lines(tmp_path / "elsewhere.jsonl", "one")
    lines(tmp_path / "ds/.cache/hidden.jsonl", "one")
    assert find(str(corpus)) == before
    lines(read, "another")
    assert find(str(corpus))[1] != before[1]


def test_where_a_file_lies_in_a_data_set_s_folder_counts(tmp_path):
    corpus = tmp_path / "corpus.yaml"
    corpus.write_text("general: {path: ds}\n")
    for split in ("test", "train"):
        lines(tmp_path / "ds" / split / "0.jsonl", split)
    before = Places(tmp_path).corpus(str(corpus))
    lines(tmp_path / "ds/test/1.jsonl", "train")
    (tmp_path / "ds/train/0.jsonl").unlink()
    moved = Places(tmp_path).corpus(str(corpus))
    (tmp_path / "ds/test/1.jsonl").rename(tmp_path / "ds/train/1.jsonl")
    assert len({before, moved, Places(tmp_path).corpus(str(corpus))}) == 3


@pytest.mark.parametrize("content", ["general: 3\n", "general: {path: a.jsonl, colour: text}\n", "general: [\n"])
def test_a_corpus_yaml_that_is_none_is_told_of_before_the_run(content, tmp_path):
    (tmp_path / "corpus.yaml").write_text(content)
    with pytest.raises(InputError, match="corpus.yaml"):
        Places(tmp_path).corpus(str(tmp_path / "corpus.yaml"))


@pytest.mark.parametrize(
    "changed",
    ["my data/test.jsonl", "deep/a/b.jsonl", "shared/parts.yaml", "helper.py", "package/helper.py", "ds/a/0.txt"],
)
def test_what_a_task_yaml_leads_to_is_an_input(changed, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    task = tmp_path / "tasks" / "own.yaml"
    code = "process_docs: !function utils.load\nprocess_results: !function package.scores.of\n"
    for name in (
        "my data/test.jsonl",
        "deep/a/b.jsonl",
        "utils.py",
        "helper.py",
        "package/scores.py",
        "package/helper.py",
    ):
        lines(task.parent / name, "one")
    lines(tmp_path / "ds/a/0.txt", "one")
    (task.parent / "notes.txt").write_text("one")
    (task.parent / "shared").mkdir()
    # data files that an included YAML names count from the folder of the task
    (task.parent / "shared/parts.yaml").write_text(
        'dataset_kwargs: {data_files: ["my data/*.jsonl", deep/**/*.jsonl]}\n'
    )
    task.write_text(f"task: own\ninclude: shared/parts.yaml\ndataset_path: ds\n{code}")
    find = Places(tmp_path).task
    before = find(str(task))
    (task.parent / "notes.txt").write_text("other")
    assert find(str(task)) == before
    file = tmp_path / changed if changed.startswith("ds") else task.parent / changed
    file.write_text(file.read_text() + "\n# more\n")
    assert find(str(task))[1] != before[1]


def test_all_that_travels_with_a_model_s_tokenizer_is_an_input(family, tmp_path):
    model = tmp_path / "model"
    shutil.copytree(family.base, model)
    (model / "tokenizer_old").mkdir()
    (model / "README.md").write_text("about")
    found = [Places(tmp_path).model(str(model))[1]]
    (model / "README.md").write_text("more about")
    assert Places(tmp_path).model(str(model))[1] == found[0]
    names = ("generation_config.json", "tokenizer_config.json", "vocab.json", "merges.txt", "special_tokens_map.json")
    for name in (*names, "added_tokens.json", "chat_template.jinja", "tokenizer_old/tokenizer.json"):
        (model / name).write_text("{}")
        found.append(Places(tmp_path).model(str(model))[1])
    assert len(set(found)) == len(found)


def test_what_a_classification_votes_again_with_is_an_input_and_how_long_it_took_is_none(family, tmp_path):
    neurons, categories = tmp_path / "neurons", ["general", "math", "code"]
    classify(family.base, family.corpus, neurons, categories=categories, top_k=3)
    find = Places(tmp_path).classification
    before = find(str(neurons))
    meta = json.loads((neurons / "meta.json").read_text())
    (neurons / "meta.json").write_text(json.dumps({**meta, "seconds": 1e6, "version": "0", "model": "elsewhere"}))
    assert find(str(neurons)) == before
    (neurons / "meta.json").write_text(json.dumps({**meta, "exemplar_categories": meta["exemplar_categories"][::-1]}))
    other_labels = find(str(neurons))
    (neurons / "meta.json").write_text(json.dumps(meta))
    top = load_file(neurons / "top.safetensors")
    save_file({**top, "ids": top["ids"][:, :, ::-1].copy()}, neurons / "top.safetensors")
    assert len({before, other_labels, find(str(neurons))}) == 3
    for name in ("meta.json", "top.safetensors"):
        (neurons / name).unlink()
    assert find(str(neurons))[0] == str(neurons)  # what a merge leaves of the groups that it used


def test_a_recipe_s_models_are_inputs_and_its_paths_absolute(family, tmp_path, monkeypatch):
    monkeypatch.chdir(family.root)
    recipe = {"merge_method": "task_arithmetic", "base_model": "base", "models": [{"model": "math"}]}
    request = resolve(tmp_path, "merge", {"recipe": recipe})
    assert request.parameters["recipe"]["base_model"] == family.base
    assert request.parameters["recipe"]["models"][0]["model"] == family.math
    assert request.inputs.keys() == {family.base, family.math, "engine", "method task_arithmetic"}
    assert request.title == "Task arithmetic of math"


def test_a_recipe_s_tokenizer_is_absolute_too(family, tmp_path, monkeypatch):
    monkeypatch.chdir(family.root)
    recipe = {"merge_method": "task_arithmetic", "base_model": "base", "models": [{"model": "math"}]}
    united = resolve(tmp_path, "merge", {"recipe": {**recipe, "tokenizer": "union"}})
    based = resolve(tmp_path, "merge", {"recipe": {**recipe, "tokenizer": "base"}})  # the word, not the folder
    assert [r.parameters["recipe"]["tokenizer"] for r in (united, based)] == ["union", "base"]
    tokens = {"<a>": {"source": "math"}, "<b>": {"source": {"kind": "model_token", "model": "base", "token": "c"}}}
    request = resolve(tmp_path, "merge", {"recipe": {**recipe, "tokenizer": {"source": "math", "tokens": tokens}}})
    tokenizer = request.parameters["recipe"]["tokenizer"]
    assert tokenizer["source"] == tokenizer["tokens"]["<a>"]["source"] == family.math
    assert tokenizer["tokens"]["<b>"]["source"]["model"] == family.base
    assert resolve(tmp_path, "merge", request.parameters) == request
    assert len({united.id, based.id, request.id}) == 3


@pytest.mark.mergekit
def test_a_recipe_for_mergekit_is_resolved_like_ours(family, tmp_path, monkeypatch):
    monkeypatch.chdir(family.root)
    sources = [{"model": "base", "layer_range": [0, 2]}, {"model": "math", "layer_range": [0, 2]}]
    recipe = {"engine": "mergekit", "merge_method": "slerp", "slices": [{"sources": sources, "base_model": "base"}]}
    request = resolve(tmp_path, "merge", {"recipe": {**recipe, "parameters": {"t": 0.5}, "tokenizer_source": "math"}})
    found = request.parameters["recipe"]
    assert [source["model"] for source in found["slices"][0]["sources"]] == [family.base, family.math]
    assert found["slices"][0]["base_model"] == family.base and found["tokenizer_source"] == family.math
    assert found["seed"] == 0 and request.title.startswith("slerp by mergekit of ")
    assert request.inputs.keys() == {family.base, family.math, "mergekit"}  # another version makes another run
    assert resolve(tmp_path, "merge", request.parameters) == request


@pytest.fixture(scope="module")
def halves(tmp_path_factory):
    """A recipe of bfloat16 models."""
    root = tmp_path_factory.mktemp("halves")
    base, tuned = (tiny_model(root / name, seed=seed, dtype=torch.bfloat16) for seed, name in enumerate(("base", "a")))
    return {"base_model": base, "models": [{"model": tuned}]}


@pytest.fixture
def native(monkeypatch):
    """Processors that multiply in these formats, beside an accelerator that does in all."""

    def become(*flags):
        monkeypatch.setattr(number_format, "cpu_flags", lambda: frozenset(flags))

    monkeypatch.setattr(number_format, "choose_device", lambda name: name if name == "cuda:1" else "cpu")
    become()
    return become


def test_the_format_that_trials_run_in_tells_sweeps_apart(family, halves, native, tmp_path):
    recipe = {"merge_method": "task_arithmetic", **halves}
    search = {"parameters.lambda": [0.5, 1.0], "dtype": ["bfloat16", "float16"]}
    sweep = {"recipe": recipe, "search": search, "tasks": [family.task]}

    def found(device="cpu", **more):
        request = resolve(tmp_path, "sweep", {"sweep": {**sweep, **more}, "device": device})
        assert resolve(tmp_path, "sweep", request.parameters) == request
        return request.inputs["trials run in"]

    assert found() == "float32" and found(run_dtype="float16") == "float16"
    assert found("cuda:1") == "bfloat16, float16"
    native("avx512_bf16")
    assert found() == "bfloat16, float32"
    assert found(search={"parameters.lambda": [0.5, 1.0]}) == "bfloat16"


def test_the_formats_that_its_models_run_in_tell_reports_apart(halves, native, tmp_path):
    family = {"base": halves["base_model"], "models": {"math": halves["models"][0]["model"]}}
    found = {resolve(tmp_path, "report", {"family": family}).id}
    native("avx512_bf16")
    request = resolve(tmp_path, "report", {"family": family})
    assert request.inputs[f"{family['base']} runs in"] == "bfloat16" and request.id not in found


def test_the_format_that_a_merge_has_models_run_in_is_that_of_its_device(family, halves, native, tmp_path):
    def found(device, **recipe):
        inputs = resolve(tmp_path, "merge", {"recipe": {**halves, **recipe}, "device": device}).inputs
        return {name: format for name, format in inputs.items() if name.endswith(" run in")}

    searching = {"merge_method": "pcb_es", "parameters": {"tasks": [family.task]}, "dtype": "float16"}
    assert found("cpu", **searching) == {"candidates run in": "float32"}
    assert found("cuda:1", **searching) == {"candidates run in": "float16"}
    parts = {"corpus": family.corpus, "general": "task_arithmetic", "others": "task_arithmetic"}
    classifying = {"merge_method": "neuronmerge", "parameters": parts, "dtype": "float16"}
    assert found("cpu", **classifying) == {"models run in": "float32"}
    assert found("cuda:1", **classifying) == {"models run in": "bfloat16"}
    assert found("cuda:1", merge_method="task_arithmetic") == {}


def test_a_resolved_request_resolves_to_itself(family, tmp_path):
    entry = {"model": family.math, "parameters": {"weight": 0.5}}
    for method in ("task_arithmetic", "ties", "neuromerging"):
        models = [entry if method == "task_arithmetic" else {"model": family.math}]
        recipe = {"merge_method": method, "base_model": family.base, "models": models}
        request = resolve(tmp_path, "merge", {"recipe": recipe})
        assert resolve(tmp_path, "merge", request.parameters) == request
    request = resolve(tmp_path, "evaluate", {"models": [family.base], "tasks": [family.task]})
    assert resolve(tmp_path, "evaluate", request.parameters) == request


@pytest.mark.parametrize(
    ("kind", "parameters", "expected"),
    [
        ("clasify", {}, "expected one of classify"),
        ("classify", {"modl": "x"}, "did you mean 'model'"),
        ("classify", {"model": "x"}, "'corpus' is missing"),
        ("cosine", {"base": "nowhere", "models": ["x"]}, "nowhere: no such folder"),
        ("merge", {"recipe": {"merge_method": "tyes"}}, "did you mean 'ties'"),
    ],
)
def test_wrong_requests_say_what_is_expected(kind, parameters, expected, tmp_path):
    with pytest.raises(InputError, match=expected):
        resolve(tmp_path, kind, parameters)


def test_a_path_of_a_user_who_is_not_known_leads_nowhere(tmp_path):
    places, named = Places(tmp_path), "~nobody-here/x.yaml"
    for find in (places.corpus, places.classification, places.statistics, places.file):
        with pytest.raises(InputError, match="~nobody-here/x.yaml: "):
            find(named)
    assert places.task(named) == (named, f"lm-eval {version('lm_eval')}")  # which may have one of that name


def test_folders_that_are_not_runs_are_passed_over(tmp_path):
    for name, content in {"a": "{", "b": "[]", "c": '{"id": "c"}', "d": None}.items():
        folder = tmp_path / "runs" / name
        folder.mkdir(parents=True)
        (folder / "status.json").write_text("{}")
        if content is not None:
            (folder / "run.json").write_text(content)
    assert list_runs(tmp_path) == []


def test_the_page_s_side_imports_no_torch():
    program = (
        "import sys, nmerge_core.runs.client, nmerge_core.runs.operations, nmerge_core.runs.short_questions\n"
        "assert not {'torch', 'transformers', 'streamlit'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
