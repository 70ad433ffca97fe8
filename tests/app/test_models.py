import json
from pathlib import Path

import pytest

from nmerge_core.errors import InputError
from nmerge_core.figures import style
from pages.shared.family import Family, Member, families, on_this_machine, save_family
from tests.app.conftest import OpenPage, at
from tests.tiny import D_FFN, D_MODEL, LAYERS


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
    save_family(Family("odd", base, (Member(other, "other", "math"),), str(tmp_path)))
    app = at("pages/1_Models.py")
    app.query_params["family"] = "odd"
    app.run()
    assert not app.exception
    assert not app.success
    assert any("model_type" in error.value for error in app.error)


def test_a_family_of_a_base_and_its_adapter(empty_cache: Path, tmp_path: Path) -> None:
    from tests.peft_adapters import random_adapter
    from tests.tiny import tiny_model

    base = tiny_model(tmp_path / "models" / "base")
    random_adapter(base, tmp_path / "lora", r=2, target_modules=["q_proj"])
    family = Family("lora", base, (Member(f"{base}+{tmp_path / 'lora'}", "math", "math"),), str(tmp_path))
    assert not family.missing
    save_family(family)
    app = at("pages/1_Models.py")
    app.query_params["family"] = "lora"
    app.run()
    assert not app.exception
    assert "can be merged" in app.success[0].value
    absent = Family("away", base, (Member(f"lab/law+{tmp_path / 'gone'}", "law"),), str(tmp_path))
    assert absent.missing == ["lab/law", str(tmp_path / "gone")]


def test_another_vocabulary_is_explained(empty_cache: Path, tmp_path: Path) -> None:
    from tests.merging.vocabularies import make_family

    grown = make_family(tmp_path / "models")
    members = tuple(Member(model, Path(model).name, "") for model in grown.models)
    save_family(Family("grown", grown.base, members, str(tmp_path)))
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


def test_own_family_is_saved_and_chosen(open_page: OpenPage, tiny_cache: Path) -> None:
    app = open_page("pages/1_Models.py")
    models = tiny_cache / "models"
    app.selectbox(key="models_base").select(str(models / "base"))
    app.multiselect(key="models_tuned").select(str(models / "code"))
    app.text_input(key="models_name").input("only-code").run()
    app.button(key="models_save").click().run()
    assert not app.exception
    saved = json.loads((tiny_cache / "families" / "only-code.json").read_text())
    assert saved["models"] == [{"reference": str(models / "code"), "label": "code", "category": "code"}]
    assert app.selectbox(key="family").value == "only-code"
    (tiny_cache / "families" / "only-code.json").unlink()


@pytest.mark.parametrize("name", ["", "demo", "../up", "a b"])
def test_bad_names_of_a_family_are_refused(empty_cache: Path, name: str) -> None:
    with pytest.raises(InputError, match="Give it such a name"):
        save_family(Family(name, "base", (), "corpus"))
    assert list(families()) == ["demo"]


def test_a_saved_family_reads_back_equal(empty_cache: Path) -> None:
    family = Family("mine", "b", (Member("m", "mathe", "math"), Member("x", "law", "law")), "c", ("math",))
    save_family(family)
    assert families()["mine"] == family
    assert family.categories == ["general", "math", "law"]
    assert family.colours() == {"base": style.base_colour(), "mathe": style.COLOURS["math"], "law": style.FURTHER[0]}


def test_a_saved_family_means_the_same_from_another_folder(
    empty_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here/math").mkdir(parents=True)  # a model beside the task of that name
    (tmp_path / "here/sums.yaml").touch()
    monkeypatch.chdir(tmp_path / "here")
    save_family(Family("near", "lab/base", (Member("math", "math"),), ".", ("math", "sums.yaml")))
    saved, here = families()["near"], str(tmp_path / "here")
    assert (saved.base, saved.references, saved.corpus) == ("lab/base", [f"{here}/math"], here)
    assert saved.tasks == ("math", f"{here}/sums.yaml")


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


def test_a_hub_model_is_here_once_its_weights_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("socket.socket.connect", lambda *_: pytest.fail("asked the network"))
    repository = tmp_path / "models--lab--law"
    snapshot = repository / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0" * 40)
    (snapshot / "config.json").write_text("{}")
    assert not on_this_machine("lab/law")
    (snapshot / "my_model_args.bin").write_bytes(b"")
    assert not on_this_machine("lab/law")
    for name in ("model.safetensors", "pytorch_model.bin", "pytorch_model-00001-of-00002.bin", "adapter_model.bin"):
        (snapshot / name).write_bytes(b"")
        assert on_this_machine("lab/law")
        (snapshot / name).unlink()
    assert not on_this_machine("lab/other") and not on_this_machine("lab/--..")
