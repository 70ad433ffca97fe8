import json
import os
import random
import re
import subprocess
import sys
import textwrap
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

import nmerge_core.family
from nmerge_core.errors import InputError
from nmerge_core.family import Family, Member, demo_family, families, load_family, save_family

LEAST = "base: b\nmodels: {math: m}\n"


def written(folder: Path, text: str) -> Path:
    file = folder / "mine.yaml"
    file.write_text(text, encoding="utf-8")
    return file


def test_a_whole_family_is_read(tmp_path: Path) -> None:
    text = (
        "base: lab/base\nmodels:\n  math: lab/math\n  code: {model: lab/coder+lab/lora, label: coder}\n"
        "corpus: texts[:-60]\ntasks: [math, gsm8k]\nprompts: ['2 + 2 =', \"a\\nb\"]\n"
        "neurons:\n  loud: [[0, 17], [1, 3]]\n  none: []\nneuron_notes: [[0, 17, 'digits: ?']]\n"
        "notes: |\n  First.\n  Second.\n"
    )
    assert load_family(written(tmp_path, text)) == Family(
        name="mine",
        base="lab/base",
        models=(Member("lab/math", "math", "math"), Member("lab/coder+lab/lora", "coder", "code")),
        corpus="texts[:-60]",
        tasks=("math", "gsm8k"),
        prompts=("2 + 2 =", "a\nb"),
        neurons={"loud": ((0, 17), (1, 3)), "none": ()},
        neuron_notes={(0, 17): "digits: ?"},
        notes="First.\nSecond.\n",
    ).in_full(tmp_path)


def test_the_example_of_the_docs_is_a_family(tmp_path: Path) -> None:
    told = (Path(__file__).parents[1] / "docs" / "recipes.md").read_text(encoding="utf-8")
    text = told.partition("## Families")[2].partition("```yaml\n")[2].partition("```")[0]
    assert textwrap.indent(text, "    ") in nmerge_core.family.__doc__
    assert load_family(written(tmp_path, text)) == Family(
        name="mine",
        base="base",
        models=(Member("math", "math", "math"), Member("lab/coder-0.5b", "coder", "code")),
        corpus="corpus[:-60]",
        tasks=("math", "tasks/own.yaml"),
        prompts=("What is 3 + 4?",),
        neurons={"loud": ((0, 17),)},
        neuron_notes={(0, 17): "fires on digits"},
        notes="anything",
    ).in_full(tmp_path)


def test_only_base_and_models_are_needed_and_a_blank_key_is_left_out(tmp_path: Path) -> None:
    least = Family("mine", "b", (Member("m", "math", "math"),))
    assert load_family(written(tmp_path, LEAST)) == least.in_full(tmp_path)
    assert load_family(
        str(written(tmp_path, f"{LEAST}corpus:\ntasks:\nneurons:\nneuron_notes:\nnotes:\n"))
    ) == least.in_full(tmp_path)
    assert least.categories == ["general", "math"] and least.labels == {"b": "base", "m": "math"}


def test_a_list_tells_models_without_a_category_or_with_the_same(tmp_path: Path) -> None:
    text = "base: b\nmodels: [x/a, y/a, {model: z, category: law}, {model: w, category: law, label: law 2}, v+u]\n"
    assert load_family(written(tmp_path, text)).models == (
        Member("x/a", "x/a"),  # as far as it takes to tell them apart
        Member("y/a", "y/a"),
        Member(str(tmp_path / "z"), "law", "law"),
        Member(str(tmp_path / "w"), "law 2", "law"),
        Member(f"{tmp_path}/v+{tmp_path}/u", "v+u"),
    )


def test_relative_paths_count_from_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home, elsewhere = tmp_path / "home", tmp_path / "elsewhere"
    for folder in ("base", "math", "lora", "texts", "general"):
        (home / folder).mkdir(parents=True)
    (home / "own.yaml").touch()
    for folder in ("base", "law"):
        (elsewhere / folder).mkdir(parents=True)
    text = (
        "base: base\nmodels: {math: ./math, lora: base+lora, law: law, hub: lab/law, far: ../elsewhere/law}\n"
        "corpus: texts[:-2]\ntasks: [own.yaml, absent.yaml, general]\n"
    )
    monkeypatch.chdir(elsewhere)
    found = load_family(written(home, text))
    assert found.base == str(home / "base")  # not that of the working directory
    far = str(elsewhere / "law")
    law = str(home / "law")  # which is not there, and is no other folder's of that name
    assert found.references == [str(home / "math"), f"{home}/base+{home}/lora", law, "lab/law", far]
    assert found.corpus == f"{home / 'texts'}[:-2]"
    assert found.missing == [law, "lab/law"]
    tasks = (str(home / "own.yaml"), str(home / "absent.yaml"), "general")  # a task's name is no path
    assert found.tasks == tasks
    assert load_family(Path("../home/mine.yaml")) == found


def test_what_is_not_here_is_missing(tmp_path: Path) -> None:
    for folder in ("base", "lora"):
        (tmp_path / folder).mkdir()
    found = load_family(written(tmp_path, "base: base\nmodels: [base+lora, lab/law+lora]\ncorpus: texts[-3:]\n"))
    assert found.missing == ["lab/law", str(tmp_path / "texts")]
    assert replace(found, corpus=None).missing == ["lab/law"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "",
            "{file}: expected a mapping with base, models, .*, prompts, neurons, neuron_notes, notes; found nothing",
        ),
        ("[1]", "{file}: expected a mapping with .*; found list"),
        ("base: {", r"{file}: not readable as YAML \(.*line \d, column \d\)"),
        ("notes: !!bool maybe", r"{file}: not readable as YAML \(a value is not of its kind: KeyError: 'maybe'\)"),
        ("base: a\nbase: b\n", r"{file}: .*found the key 'base' a second time \(keep one\) in line 2"),
        ("base: b\nmodels: {math: m, math: n}", r"{file}: .*the key 'math' a second time \(keep one\).*line 2"),
        (f"{LEAST}corpora: c", "{file}: unknown key 'corpora'; did you mean 'corpus'?"),
        (f"{LEAST}zzz: c", "{file}: unknown key 'zzz'; known keys: base, models, corpus, tasks, prompts, neurons, neu"),
        ("models: {math: m}", "{file}, key 'base': expected the folder or Hub id of a model; found nothing"),
        ("base: [b]\nmodels: {math: m}", r"{file}, key 'base': expected the folder .*; found \['b'\]"),
        ("base: ' '\nmodels: {math: m}", "{file}, key 'base': expected the folder .*; found ' '"),
        ("base: b", "{file}, key 'models': expected {category: model}, or a list of models and of .*; found nothing"),
        ("base: b\nmodels: m", "{file}, key 'models': expected {category: model}, or a list .*; found 'm'"),
        ("base: b\nmodels: {}", "{file}, key 'models': expected at least one fine-tune, found none"),
        ("base: b\nmodels: []", "{file}, key 'models': expected at least one fine-tune, found none"),
        ("base: b\nmodels: {math: 3}", "{file}, key 'models.math': expected .*, or {model, label}; found 3"),
        ("base: b\nmodels: [3]", r"{file}, key 'models\[0\]': expected .*, or {model, label, category}; found 3"),
        ("base: b\nmodels: {math: }", "{file}, key 'models.math': expected .*; found nothing"),
        (
            "base: b\nmodels: {math: {label: x}}",
            "{file}, key 'models.math.model': expected the folder .*; found nothing",
        ),
        ("base: b\nmodels: {math: {model: m, lable: x}}", "{file}, key 'models.math': unknown key 'lable'; .*'label'"),
        ("base: b\nmodels: {math: {model: m, category: x}}", "{file}, key 'models.math': unknown key 'category'"),
        ("base: b\nmodels: {math: {model: m, label: 3}}", "{file}, key 'models.math.label': expected a short name; f"),
        ("base: b\nmodels: {no: m}", "{file}, key 'models.False.category': expected .* in quotes if need be; found F"),
        ("base: b\nmodels: [m, {model: n, category: 1}]", r"{file}, key 'models\[1\].category': expected the name of"),
        ("base: b\nmodels: {math: m, code: {model: n, label: math}}", "{file}, .*: two models are called 'math'; give"),
        ("base: b\nmodels: [{model: m, label: base}]", "{file}, key 'models': two models are called 'base'; give each"),
        ("base: b\nmodels: {math: m, code: m}", "{file}, key 'models': .*/m is there twice; leave one out"),
        (
            "base: b\nmodels: {layer: m}",
            "{file}, key 'models': a model is called 'layer', as a column of",
        ),
        (f"{LEAST}corpus: 3", r"{file}, key 'corpus': expected a folder of <category>.jsonl files or .*; found 3"),
        (f"{LEAST}tasks: math", "{file}, key 'tasks': expected a list of texts; found 'math'"),
        (f"{LEAST}tasks: [math, 3]", r"{file}, key 'tasks\[1\]': expected a text; found 3"),
        (f"{LEAST}prompts: [x, ]\nnotes: 3", "{file}, key 'notes': expected a text; found 3"),
        (f"{LEAST}prompts: [[x]]", r"{file}, key 'prompts\[0\]': expected a text; found \['x'\]"),
        (f"{LEAST}neurons: [[0, 1]]", r"{file}, key 'neurons': expected {name: \[\[layer, neuron\], …\]}; found"),
        (f"{LEAST}neurons: {{1: []}}", "{file}, key 'neurons': expected the name of a list, in quotes if need be; f"),
        (f"{LEAST}neurons: {{loud: [0, 1]}}", r"{file}, key 'neurons.loud': expected a list of \[layer, neuron\], w"),
        (f"{LEAST}neurons: {{loud: [[0, 1, 2]]}}", "{file}, key 'neurons.loud': expected"),
        (f"{LEAST}neurons: {{loud: [[0, -1]]}}", "{file}, key 'neurons.loud': expected"),
        (f"{LEAST}neurons: {{loud: [[0, yes]]}}", "{file}, key 'neurons.loud': expected"),
        (
            f"{LEAST}neuron_notes: {{a: b}}",
            r"{file}, key 'neuron_notes': expected a list of \[layer, neuron, text\], w",
        ),
        (f"{LEAST}neuron_notes: [[0, 1]]", "{file}, key 'neuron_notes': expected"),
        (f"{LEAST}neuron_notes: [[0, -1, x]]", "{file}, key 'neuron_notes': expected"),
        (f"{LEAST}neuron_notes: [[0, 1, 2]]", "{file}, key 'neuron_notes': expected"),
    ],
)
def test_a_mistake_is_named_with_its_file_and_key(tmp_path: Path, text: str, message: str) -> None:
    file = written(tmp_path, text)
    with pytest.raises(InputError, match="^" + message.replace("{file}", re.escape(str(file)))):
        load_family(file)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"away\.yaml: cannot be read \(No such file"):
        load_family(tmp_path / "away.yaml")
    (tmp_path / "mine.yaml").write_bytes(b"notes: caf\xe9\n")
    with pytest.raises(InputError, match=r"mine\.yaml: not readable as YAML \(.*UTF-8"):
        load_family(tmp_path / "mine.yaml")


def test_the_shortest_form_is_written() -> None:
    by_category = (Member("m", "math", "math"), Member("c", "coder", "code"))
    assert yaml.safe_load(Family("f", "b", by_category).to_yaml()) == {
        "base": "b",
        "models": {"math": "m", "code": {"model": "c", "label": "coder"}},
    }
    listed = (Member("x/m", "m"), Member("x/n", "en"), Member("x/o", "law", "law"), Member("x/p", "p", "law"))
    assert yaml.safe_load(Family("f", "b", listed, "c[:-5]", ("t",), notes="One\ntwo").to_yaml()) == {
        "base": "b",
        "models": [
            "x/m",
            {"model": "x/n", "label": "en"},
            {"model": "x/o", "category": "law"},
            {"model": "x/p", "label": "p", "category": "law"},
        ],
        "corpus": "c[:-5]",
        "tasks": ["t"],
        "notes": "One\ntwo",
    }
    assert "notes: |-\n  One\n  two\n" in Family("f", "b", listed, notes="One\ntwo").to_yaml()


def random_family(rng: random.Random) -> Family:
    """A family of anything that its fields can hold."""

    def text() -> str:
        letters = "ab1:#-'\"{}[],&*!|>%@`?~\\ \n\t\r\x07\x85\u2028\ufeffé😀"
        start = rng.choice(["", "no", "1", "~", "lab/", "2026-01-01"])
        return start + "".join(rng.choices(letters, k=rng.randint(0, 9)))

    def name(index: int) -> str:
        return f"{text()}n{index}"

    def few() -> range:
        return range(rng.randint(0, 2))

    categories = ["", "law", name(0), name(1)]
    models: list[Member] = []
    for index in range(rng.randint(1, 4)):
        reference, category = f"lab/{name(index)}", rng.choice(categories)
        taken = {"base", *(model.label for model in models)}
        usual = [label for label in (reference.rpartition("/")[2], category) if label and label not in taken]
        models.append(Member(reference, rng.choice([*usual, name(9 + index)]), category))
    corpus = rng.choice([None, name(0), f"{name(0)}[:-3]"])
    return Family(
        name="mine",
        base=name(20),
        models=tuple(models),
        corpus=corpus,
        tasks=tuple(map(name, few())),
        prompts=tuple(map(name, few())),
        neurons={name(index): tuple((rng.randrange(9), index) for _ in few()) for index in few()},
        neuron_notes={(rng.randrange(9), index): f"{name(0)}\n{name(1)}" for index in few()},
        notes=text(),
    )


def test_what_is_written_reads_back_equal(tmp_path: Path) -> None:
    rng = random.Random(0)
    for _ in range(400):
        family = random_family(rng)
        assert load_family(written(tmp_path, family.to_yaml())) == family.in_full(tmp_path)


def test_a_saved_family_is_listed_and_reads_back_equal(tmp_path: Path) -> None:
    family = Family("mine", "b", (Member("m", "mathe", "math"),), "c", tasks=("math",), neurons={"x": ((0, 1),)})
    file = save_family(family, tmp_path / "families")
    assert families(tmp_path) == {"mine": file} == {"mine": tmp_path / "families" / "mine.yaml"}
    assert load_family(file) == family.in_full()
    changed = replace(family, notes="changed")
    assert load_family(save_family(changed, tmp_path / "families")) == changed.in_full()
    assert list((tmp_path / "families").iterdir()) == [file]


def test_a_saved_family_means_the_same_from_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for folder in ("base", "texts", "math"):
        (tmp_path / folder).mkdir()
    (tmp_path / "own.yaml").touch()
    monkeypatch.chdir(tmp_path)
    tasks = ("own.yaml", "math", "gsm8k=own.jsonl", "gsm8k=/its/own.jsonl")
    family = Family("mine", "base", (Member("lab/m", "m"),), "texts", tasks=tasks)
    found = load_family(save_family(family, tmp_path / "families"))
    assert (found.base, found.corpus) == (str(tmp_path / "base"), str(tmp_path / "texts"))
    files = (f"gsm8k={tmp_path / 'own.jsonl'}", "gsm8k=/its/own.jsonl")
    assert found.tasks == (str(tmp_path / "own.yaml"), "math", *files) and found.references == ["lab/m"]


def test_a_save_that_dies_leaves_the_old_file(tmp_path: Path) -> None:
    family = Family("mine", "b", (Member("m", "math", "math"),))
    file = save_family(family, tmp_path)
    before = file.read_text()
    program = (
        "import os, pathlib, sys\n"
        "from nmerge_core.family import load_family, save_family\n"
        "from dataclasses import replace\n"
        "write = pathlib.Path.write_text\n"
        "def dies(path, text, **how):\n"
        "    write(path, text[:9], **how)\n"
        "    os._exit(9)\n"
        "pathlib.Path.write_text = dies\n"
        "file = pathlib.Path(sys.argv[1])\n"
        "save_family(replace(load_family(file), notes='new'), file.parent)\n"
    )
    done = subprocess.run([sys.executable, "-c", program, str(file)], cwd=Path(__file__).parents[1])
    assert done.returncode == 9
    assert file.read_text() == before
    (tmp_path / "families").mkdir()
    for left in tmp_path.iterdir():
        if left.is_file():
            os.replace(left, tmp_path / "families" / left.name)
    assert [*families(tmp_path)] == ["mine"]  # what it left half-written is no family


def test_a_save_that_fails_leaves_nothing_behind(tmp_path: Path) -> None:
    blocked = tmp_path / "mine.yaml"
    blocked.mkdir()
    with pytest.raises(OSError):
        save_family(Family("mine", "b", (Member("m", "math", "math"),)), tmp_path)
    assert list(tmp_path.iterdir()) == [blocked]


@pytest.mark.parametrize("name", ["", "demo", "../up", "a b", "x" * 41])
def test_bad_names_of_a_family_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match="Give it such a name"):
        save_family(Family(name, "b", (Member("m", "math", "math"),)), tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("models", "message"),
    [
        ((), "family f, key 'models': expected at least one fine-tune, found none"),
        ((Member("m", "a"), Member("n", "a")), "family f, key 'models': two models are called 'a'; give each its own"),
        ((Member("m", "base"),), "family f, key 'models': two models are called 'base'; .*, other than 'base'"),
        ((Member("m", ""),), "family f, key 'models': a model has no label; give each its own"),
        ((Member("m", "a"), Member("m", "b")), "family f, key 'models': .*/m is there twice; leave one out"),
    ],
)
def test_what_could_not_be_read_again_is_not_saved(tmp_path: Path, models: tuple[Member, ...], message: str) -> None:
    with pytest.raises(InputError, match=f"^{message}"):
        save_family(Family("f", "b", models), tmp_path)
    assert not list(tmp_path.iterdir())


def test_families_of_earlier_versions_are_read_and_become_yaml(tmp_path: Path) -> None:
    tuned = [("m", "mathe", "math"), ("n", "new", "")]
    models = [dict(zip(("reference", "label", "category"), model, strict=True)) for model in tuned]
    described = {"name": "old", "base": "b", "models": models, "corpus": "c", "tasks": ["math"]}
    folder = tmp_path / "families"
    folder.mkdir()
    (folder / "old.json").write_text(json.dumps(described, indent=2, ensure_ascii=False))
    (folder / "demo.json").write_text(json.dumps(described))
    (folder / "a.yaml").write_text(LEAST)
    assert families(tmp_path) == {"a": folder / "a.yaml", "old": folder / "old.json"}
    family = load_family(families(tmp_path)["old"])
    old = Family("old", "b", (Member("m", "mathe", "math"), Member("n", "new")), "c", tasks=("math",))
    assert family == old.in_full(tmp_path / "families")
    save_family(family, folder)
    assert families(tmp_path) == {"a": folder / "a.yaml", "old": folder / "old.yaml"}
    assert not (folder / "old.json").exists()
    assert load_family(families(tmp_path)["old"]) == family


def test_the_demo_is_a_family_like_any_other(tmp_path: Path) -> None:
    demo = demo_family(tmp_path)
    assert demo.categories == ["general", "math", "code", "translation"]
    assert demo.missing == [str(tmp_path / "demo" / name) for name in ("base", "math", "code", "translation", "corpus")]
    assert load_family(written(tmp_path, demo.to_yaml())) == replace(demo, name="mine")
    assert families(tmp_path) == {}


def test_a_family_is_read_without_anything_heavy() -> None:
    program = "import sys, nmerge_core.family; print({'torch', 'pandas', 'streamlit'} & sys.modules.keys())"
    root = Path(__file__).parents[1]
    assert subprocess.check_output([sys.executable, "-c", program], cwd=root, text=True) == "set()\n"
