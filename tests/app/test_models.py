from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from streamlit.testing.v1 import AppTest

from nmerge_core.errors import InputError
from nmerge_core.family import Family, Member, check_readable, delete_family, load_family, save_family
from nmerge_core.figures import style
from pages.shared.frame.family import category_colours, member_colours
from tests.app.conftest import OpenPage, at, vary_family
from tests.tiny import D_FFN, D_MODEL, LAYERS, write_corpus


def test_facts_of_the_tiny_family(open_page: OpenPage) -> None:
    app = open_page("pages/1_Models.py")
    assert [metric.value for metric in app.metric] == ["qwen2", str(LAYERS), str(D_FFN), str(D_MODEL), "4 / 2", "257"]
    table = app.dataframe[0].value
    assert list(table["model"]) == ["base", "math", "code"]
    # Vectors: two norms of 32 a layer and the final norm (5 × 32 = 160); biases of q (32), k and v (16 each) a layer
    # (2 × 64 = 128); all others are in matrices.
    expected = 100 * (160 + 128) / table["parameters"][0]
    assert table["point (%)"][0] == pytest.approx(expected)
    assert table["neuronal (%)"][0] == pytest.approx(100 - expected)
    assert "can be merged" in app.success[0].value


def test_a_fine_tune_of_another_shape_is_refused_in_a_sentence(empty_cache: Path, tmp_path: Path) -> None:
    from transformers import LlamaConfig

    from tests.tiny import tiny_model

    base = tiny_model(tmp_path / "models" / "base")
    other = tiny_model(tmp_path / "models" / "other", config=LlamaConfig)
    save_family(Family("odd", base, (Member(other, "other", "math"),)), empty_cache / "families")
    app = at("pages/1_Models.py")
    app.query_params["family"] = "odd"
    app.run()
    assert not app.exception
    assert not app.success
    assert any("model_type" in error.value for error in app.error)
    app = at("pages/7_Merge.py")
    app.query_params["family"], app.query_params["merge_method"] = "odd", "TIES-Merging"
    app.run()
    assert app.multiselect(key="merge_models").options == []
    assert any(caption.value.startswith("**other** is left out") for caption in app.caption)


def test_a_family_of_a_base_and_its_adapter(empty_cache: Path, tmp_path: Path) -> None:
    from tests.peft_adapters import random_adapter
    from tests.tiny import tiny_model

    base = tiny_model(tmp_path / "models" / "base")
    random_adapter(base, tmp_path / "lora", r=2, target_modules=["q_proj"])
    family = Family("lora", base, (Member(f"{base}+{tmp_path / 'lora'}", "math", "math"),))
    assert not family.missing
    save_family(family, empty_cache / "families")
    app = at("pages/1_Models.py")
    app.query_params["family"] = "lora"
    app.run()
    assert not app.exception
    assert "can be merged" in app.success[0].value
    absent = Family("away", base, (Member(f"lab/law+{tmp_path / 'gone'}", "law"),))
    assert absent.missing == ["lab/law", str(tmp_path / "gone")]


def test_another_vocabulary_is_explained(empty_cache: Path, tmp_path: Path) -> None:
    from tests.merging.vocabularies import make_family

    grown = make_family(tmp_path / "models")
    members = tuple(Member(model, Path(model).name, "") for model in grown.models)
    save_family(Family("grown", grown.base, members), empty_cache / "families")
    app = at("pages/1_Models.py")
    app.query_params["family"] = "grown"
    app.run()
    assert not app.exception and not app.error and not app.success
    assert any("whose tokenizer the merge has" in info.value for info in app.info)
    told = [warning.value for warning in app.warning if "its vocabulary is not the base's" in warning.value]
    assert [text.split(":")[0] for text in told] == ["math", "code"]


def test_demo_with_one_click(empty_cache: Path) -> None:
    app = at("pages/1_Models.py").run()
    assert not app.metric
    app.button(key="models_use_demo").click().run()
    assert not app.exception
    assert (empty_cache / "demo" / "base" / "model.safetensors").exists()
    assert list(app.dataframe[0].value["model"]) == ["base", "math", "code", "translation"]
    assert "can be merged" in app.success[0].value


def form(app: AppTest) -> list[object]:
    """What the form says of base, fine-tunes, corpus, tasks and name."""
    boxes = app.selectbox(key="models_base"), app.multiselect(key="models_tuned"), app.selectbox(key="models_corpus")
    return [box.value for box in (*boxes, app.multiselect(key="models_tasks"), app.text_input(key="models_name"))]


def test_own_family_is_saved_and_chosen(open_page: OpenPage, tiny_cache: Path) -> None:
    app = open_page("pages/1_Models.py", family="demo")
    models = tiny_cache / "models"
    assert form(app) == [None, [], None, [], ""]  # nothing of the demo's
    app.selectbox(key="models_base").select(str(models / "base"))
    app.multiselect(key="models_tuned").select(str(models / "code"))
    app.text_input(key="models_name").input("only-code").run()
    app.button(key="models_save").click().run()
    assert not app.exception
    file = tiny_cache / "families" / "only-code.yaml"
    saved = load_family(file)
    file.unlink()
    assert saved == Family("only-code", str(models / "base"), (Member(str(models / "code"), "code", "code"),))
    assert app.selectbox(key="family").value == "only-code"


def test_the_form_changes_the_chosen_family_and_keeps_what_it_does_not_ask(
    open_page: OpenPage, tiny_cache: Path
) -> None:
    models, corpus = tiny_cache / "models", f"{tiny_cache / 'corpus'}[:-1]"
    rest = {"corpus": corpus, "prompts": ("2 + 2 =",), "neurons": {"loud": ((0, 7),)}, "notes": "mine"}
    relabelled = (Member(str(models / "math"), "sums", "math"), Member(str(models / "code"), "code"))
    file = vary_family(tiny_cache, "own", models=relabelled, **rest)
    before = load_family(file)
    app = open_page("pages/1_Models.py", family="own")
    assert form(app) == [
        str(models / "base"),
        [str(models / "math"), str(models / "code")],
        corpus,
        [],
        "own",
    ]
    app.multiselect(key="models_tasks").select("math").run()
    app.button(key="models_save").click().run()
    assert not app.exception
    assert load_family(file) == replace(before, tasks=("math",))
    app.selectbox(key="models_corpus").set_value(None).run()
    app.button(key="models_save").click().run()
    assert load_family(file) == replace(before, tasks=("math",), corpus=None)
    app.selectbox(key="family").set_value("demo").run()
    assert form(app) == [None, [], None, [], ""]
    file.unlink()


def test_a_wrong_form_is_refused_in_a_sentence(open_page: OpenPage, tiny_cache: Path) -> None:
    app = open_page("pages/1_Models.py", family="demo")
    app.button(key="models_save").click().run()
    assert "a base and at least one fine-tune" in app.error[0].value
    models = tiny_cache / "models"
    app.selectbox(key="models_base").select(str(models / "code"))
    app.multiselect(key="models_tuned").select(str(models / "base")).run()
    app.button(key="models_save").click().run()
    assert "The family's name is “”" in app.error[0].value
    app.text_input(key="models_name").input("turned").run()
    app.button(key="models_save").click().run()
    assert "two models are called 'base'; give each its own label" in app.error[0].value


def test_a_family_is_renamed_and_deleted_and_no_other_is_overwritten(open_page: OpenPage, tiny_cache: Path) -> None:
    old = vary_family(tiny_cache, "old")
    app = open_page("pages/1_Models.py", family="old")
    app.text_input(key="models_name").input("tiny").run()
    app.button(key="models_rename").click().run()
    assert "There is a family “tiny” already" in app.error[0].value
    app.text_input(key="models_name").input("new").run()
    app.button(key="models_rename").click().run()
    new = old.with_name("new.yaml")
    assert not old.exists() and load_family(new).references == load_family(old.with_name("tiny.yaml")).references
    assert app.selectbox(key="family").value == "new"
    assert not app.error
    app.button(key="models_delete").click().run()
    assert not app.exception and not new.exists() and app.selectbox(key="family").value == "demo"


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"corpus": "models"}, "models"),
        ({"corpus": "sources.yaml"}, "general, row 1: no string under 'words', found keys text"),
        ({"tasks": ("corpus/math.jsonl",)}, "expected the name of a task"),
        ({"tasks": ("other.yaml",)}, "expected the YAML of a task, with the key 'task'"),
        ({"tasks": ("none.yaml",)}, "no such task"),
        ({"base": "corpus"}, "corpus"),
    ],
)
def test_what_no_run_could_read_is_told(
    tiny_cache: Path, changed: dict[str, Any], told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tiny_cache)
    Path("other.yaml").write_text("name: not a task\n")
    Path("sources.yaml").write_text("general: {path: corpus/general.jsonl, column: words}\n")
    careful = replace(load_family(tiny_cache / "families" / "tiny.yaml"), name="careful", **changed).in_full()
    with pytest.raises(InputError, match=told):
        check_readable(careful)


def test_what_no_run_could_read_is_not_saved(open_page: OpenPage, tiny_cache: Path) -> None:
    file = vary_family(tiny_cache, "careful", tasks=("/none.yaml",))
    app = open_page("pages/1_Models.py", family="careful")
    app.text_input(key="models_name").input("copy").run()
    app.button(key="models_save").click().run()
    assert "no such task" in app.error[0].value and not file.with_name("copy.yaml").exists()
    file.unlink()


def test_a_family_s_file_with_a_mistake_is_named_on_every_page(open_page: OpenPage, tiny_cache: Path) -> None:
    file = tiny_cache / "families" / "wrong.yaml"
    file.write_text("bse: base\n")
    for page in ("app.py", "pages/1_Models.py", "pages/2_Neurons.py"):
        app = open_page(page, family="wrong")
        assert [error.value for error in app.error] == [f"{file}: unknown key 'bse'; did you mean 'base'?"]
        assert app.selectbox(key="family").value == "wrong"
    file.unlink()


def test_colours_follow_the_categories() -> None:
    family = Family("mine", "b", (Member("m", "mathe", "math"), Member("x", "law", "law"), Member("y", "why")))
    law, why, tax = style.FURTHER[:3]
    base, math = style.base_colour(), style.COLOURS["math"]
    assert member_colours(family) == {"base": base, "mathe": math, "law": law, "why": why}
    assert category_colours(family, ["tax", "law"])["tax"] == tax


def test_models_under_the_roots_are_found_and_runs_in_progress_are_not(
    empty_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for folder in ("a/one", "runs/merge-1/results/merged", "runs/merge-2/results.part/merged", ".hidden/two"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "config.json").touch()
    monkeypatch.setenv("NMERGE_MODEL_ROOTS", str(tmp_path))
    found = at("pages/1_Models.py").run()
    assert found.selectbox(key="models_base").options == [
        str(tmp_path / "a/one"),
        str(tmp_path / "runs/merge-1/results/merged"),
    ]


def test_what_of_a_corpus_to_look_at_is_told(open_page: OpenPage, tiny_cache: Path, tmp_path: Path) -> None:
    texts = {"general": ["the cat sat", "the  cat sat"], "math": ["7", "What is one and two and three and four?"]}
    task = tmp_path / "sums.yaml"
    task.write_text("task: sums\ndataset_path: json\ndataset_kwargs: {data_files: {test: sums.jsonl}}\n")
    (tmp_path / "sums.jsonl").write_text('{"q": "what is one and two and three and four"}\n')
    corpus = write_corpus(tmp_path / "corpus", texts)
    family = load_family(vary_family(tiny_cache, "doubtful", corpus=corpus, tasks=(str(task),)))
    try:
        app = open_page("pages/1_Models.py", family="doubtful")
        table = app.dataframe[1].value
        assert table["category"].tolist() == ["general", "math"] and table["in sums"].tolist() == [0, 1]
        assert table["tokens"].tolist() == [11 + 12, 1 + 39]  # a token a byte
        mark = ":material/warning: "
        told = [text.value.removeprefix(mark) for text in app.caption if text.value.startswith(mark)]
        assert told[:2] == [
            "1 of 4 texts are there before: each votes once more for its category; keep one of them.",
            "1 of 4 texts have fewer than 8 tokens: they say little of their category; leave them out.",
        ]
        assert told[2].startswith("Parts of problems stand in the 4 texts, of sums in 1: models that were trained on")
    finally:
        delete_family(family.name, tiny_cache)
