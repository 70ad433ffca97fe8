"""`engine: mergekit`: what is said without it, and merges by mergekit itself where it is installed."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml
from safetensors.torch import load_file

from nmerge_core.checkpoints import fingerprint, open_checkpoint
from nmerge_core.cli import main
from nmerge_core.errors import Cancelled, InputError
from nmerge_core.merging.engine import load, merge
from nmerge_core.merging.recipe import mergekit_recipe as mergekit
from nmerge_core.merging.recipe.reading import load_recipe
from nmerge_core.merging.recipe.recipe import Recipe
from tests import peft_adapters
from tests.merging import checkpoints, vocabularies

PROJECT = Path(__file__).parents[3]
NAME = "model.layers.0.mlp.down_proj.weight"


@pytest.fixture
def without(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mergekit, "find_spec", lambda name: None)


@pytest.fixture
def there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mergekit, "find_spec", lambda name: object())


def recipe(family: SimpleNamespace, method: str = "slerp", **more: object) -> dict[str, object]:
    models = [{"model": family.models[0]}, {"model": family.models[1]}]
    content = {"engine": "mergekit", "merge_method": method, "base_model": family.models[0], "models": models}
    return {**content, "parameters": {"t": 0.25}, **more}


MODULES = {
    "merge_method": "passthrough",
    "modules": {"text": {"slices": [{"sources": [{"model": "math", "layer_range": [0, 2]}]}]}},
}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"merge_method": "ramplus_tl", "models": []}, "'ramplus_tl' is one of mergekit's methods; write `engine"),
        (MODULES, "key 'modules' is mergekit's own; write `engine: mergekit` in the recipe"),
        ({"merge_method": "ties", "engine": "mergkit"}, "expected nmerge or mergekit, found 'mergkit'"),
        ({"merge_method": "ties", "out_dtype": "bf16"}, "key 'base_model'"),
        ({"merge_method": "linear", "models": [{"model": "a"}], "out_dtype": "bf16"}, "key 'out_dtype': expected one"),
        (
            {"merge_method": "linear", "models": [{"model": "a"}], "name": "x"},
            "'name' is of one of several recipes",
        ),
    ],
)
def test_what_only_mergekit_has_is_named(content: dict, message: str) -> None:
    with pytest.raises(InputError) as error:
        load(content)
    assert message in str(error.value)


def test_what_to_install_is_said(without: None) -> None:
    install = f"pip install {(PROJECT / 'requirements-mergekit.txt').read_text().splitlines()[-1]}"
    with pytest.raises(InputError, match="mergekit is not installed") as error:
        load({"engine": "mergekit", **MODULES})
    assert install in str(error.value)
    with pytest.raises(InputError, match="and install mergekit") as error:
        load({"merge_method": "ramplus_tl", "models": []})
    assert install in str(error.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"outdtype": "float32"}, "unknown key 'outdtype'; did you mean 'out_dtype'?"),
        ({"merge_method": "slrp"}, "did you mean 'slerp' or 'nuslerp'?"),
        ({"seed": -1}, "key 'seed' (mergekit)"),
        ({"base_model": None, "models": []}, "expected models under 'models', 'slices' or 'modules'"),
        ({"base_model": 7}, "key 'base_model': expected a folder, a Hub id, or MODEL+ADAPTER, found 7"),
    ],
)
def test_what_is_wrong_is_named_before_it_starts(
    there: None, family: SimpleNamespace, change: dict, message: str
) -> None:
    with pytest.raises(InputError) as error:
        load(recipe(family, **change))
    assert message in str(error.value)


def test_models_are_found_wherever_a_recipe_names_them(there: None) -> None:
    content = {
        "engine": "mergekit",
        "merge_method": "slerp",
        "base_model": "base",
        "slices": [{"base_model": "a", "sources": [{"model": "b", "parameters": {"model": 1}}, {"model": "a"}]}],
        "tokenizer": {"source": "base", "tokens": {"<x>": {"source": {"kind": "model_token", "model": "c"}}}},
        "seed": 3,
    }
    read = load(content)
    assert (
        isinstance(read, mergekit.MergekitRecipe) and read.references == ("a", "b", "c") and read.base_model == "base"
    )
    named = read.renamed(str.upper).given
    assert named["base_model"] == "BASE" and named["tokenizer"]["source"] == "base"  # the word stays, the folder not
    assert named["slices"][0]["sources"][0] == {"model": "B", "parameters": {"model": 1}}
    assert load(read.yaml) == read and read.seed == 3


def test_the_own_engine_can_be_named(family: SimpleNamespace) -> None:
    content = {"merge_method": "linear", "models": [{"model": family.models[0]}]}
    assert isinstance(load({**content, "engine": "nmerge"}), Recipe)
    assert load({**content, "engine": "nmerge"}) == load_recipe(content)


@pytest.fixture(scope="module")
def merged(family: SimpleNamespace, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The command's merge by SLERP."""
    root = tmp_path_factory.mktemp("slerp")
    (root / "recipe.yaml").write_text(yaml.safe_dump(recipe(family)))
    assert main(["merge", str(root / "recipe.yaml"), str(root / "merged")]) == 0
    assert sorted(path.name for path in root.iterdir()) == ["merged", "recipe.yaml"]
    return root / "merged"


@pytest.mark.mergekit
def test_slerp_is_computed_by_mergekit(family: SimpleNamespace, merged: Path) -> None:
    a, b = family.tunes["math"], family.tunes["code"]
    found = load_file(merged / "model.safetensors")
    assert found.keys() == a.keys()
    for name in found:
        x, y = a[name].flatten().double(), b[name].flatten().double()
        cosine = x @ y / (x.norm() * y.norm())
        angle = torch.arccos(cosine)
        expected = (torch.sin(0.75 * angle) * x + torch.sin(0.25 * angle) * y) / torch.sin(angle)
        if abs(cosine) > 0.9995:  # then it is linear
            expected = 0.75 * x + 0.25 * y
        torch.testing.assert_close(found[name].flatten(), expected.float(), rtol=1e-4, atol=1e-5)


@pytest.mark.mergekit
def test_a_merge_by_mergekit_is_a_checkpoint_like_ours(family: SimpleNamespace, merged: Path) -> None:
    report = json.loads((merged / "nmerge_report.json").read_text())
    assert report["method"] == "slerp" and report["facts"]["engine"]["mergekit"]
    sources = [report["base"], *report["models"]]
    assert [each["fingerprint"] for each in sources] == [fingerprint(open_checkpoint(m)) for m in family.models[:2]]
    assert report["tensors"] == len(family.weights) and report["peak_memory"] > 1e8
    assert report["bytes_written"] == (merged / "model.safetensors").stat().st_size
    assert (merged / "model.safetensors").stat().st_mode == (merged / "config.json").stat().st_mode
    resolved = load(merged / "nmerge_recipe.yaml")
    assert resolved.references == (family.models[1],) and resolved.base_model == family.models[0]
    assert "merged by slerp" in (merged / "README.md").read_text()


@pytest.mark.mergekit
def test_the_resolved_recipe_of_a_random_method_makes_the_same_bytes(
    family: SimpleNamespace, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    dare = recipe(family, "della", base_model=family.base, parameters={"weight": 0.5, "density": 0.5}, seed=5)
    merge(load(dare), tmp_path / "first")
    request.getfixturevalue("forked_mergekit")  # from another interpreter, which draws and orders the same
    merge(load(tmp_path / "first" / "nmerge_recipe.yaml"), tmp_path / "again")
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("first", "again")]
    assert weights[0] == weights[1]


@pytest.mark.mergekit
@pytest.mark.usefixtures("forked_mergekit")
def test_slices_stack_layers(family: SimpleNamespace, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sources = [(family.models[0], [0, 2]), (family.models[1], [1, 2]), (family.models[1], [1, 2])]
    slices = [{"sources": [{"model": model, "layer_range": layers}]} for model, layers in sources]
    content = {"engine": "mergekit", "merge_method": "passthrough", "slices": slices, "dtype": "bfloat16"}
    file, out = tmp_path / "recipe.yaml", tmp_path / "merged"
    file.write_text(yaml.safe_dump(content))
    assert main(["merge", str(file), str(out), "--dry-run"]) == 0
    per_layer = sum(each.numel() for name, each in family.weights.items() if ".layers.1." in name)
    entries = sum(each.numel() for each in family.weights.values()) + 2 * per_layer
    assert f"parameters    {entries:>10,}" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == [file]
    assert main(["merge", str(file), str(out)]) == 0
    found = load_file(out / "model.safetensors")
    for layer, (tune, source) in enumerate([("math", 0), ("math", 1), ("code", 1), ("code", 1)]):
        name = "model.layers.{}.mlp.up_proj.weight"
        assert torch.equal(found[name.format(layer)], family.tunes[tune][name.format(source)].bfloat16())
    assert json.loads((out / "config.json").read_text())["num_hidden_layers"] == 4
    assert main(["merge", str(file), str(out)]) == 2
    assert "exists already" in capsys.readouterr().err


@pytest.mark.mergekit
@pytest.mark.usefixtures("forked_mergekit")
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"parameters": {"t": 0.5, "tt": 1}}, "unknown key 'tt'; did you mean 't'?"),
        ({"parameters": {}}, "Missing required parameter t"),
        ({"parameters": {"t": [{"filter": "mpl", "value": 1}, {"value": 0}]}}, "filter 'mpl'"),
        ({"dtype": "bf16"}, "bf16"),
    ],
)
def test_mergekit_itself_checks_before_it_merges(
    family: SimpleNamespace, tmp_path: Path, change: dict, message: str
) -> None:
    with pytest.raises(InputError, match="recipe .mergekit.: ") as error:
        merge(load(recipe(family, **change)), tmp_path / "out")
    assert message in str(error.value) and not list(tmp_path.iterdir())


@pytest.mark.mergekit
@pytest.mark.usefixtures("forked_mergekit")
def test_models_that_do_not_fit_are_refused(family: SimpleNamespace, tmp_path: Path) -> None:
    grown = vocabularies.make_family(tmp_path / "grown")
    with pytest.raises(InputError, match="key 'tokenizer': missing, and these models do not have the base's"):
        merge(load(recipe(SimpleNamespace(models=grown.models[:2]))), tmp_path / "out")
    sources = [{"model": model, "layer_range": [0, 2]} for model in (family.models[0], grown.models[0])]
    stacked = {"engine": "mergekit", "merge_method": "slerp", "base_model": family.models[0]}
    stacked |= {"slices": [{"sources": sources}], "parameters": {"t": 0.5}}
    with pytest.raises(InputError, match="expected one shape in every model.*`tokenizer_source: union`"):
        merge(load(stacked), tmp_path / "out")
    wide = vocabularies.with_tokens(tmp_path / "wide", 0, ["a"], num_attention_heads=4)[0]
    with pytest.raises(InputError, match="key 'num_attention_heads': expected 2"):
        merge(load(recipe(SimpleNamespace(models=[family.models[0], wide]))), tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.mergekit
@pytest.mark.usefixtures("forked_mergekit")
def test_adapters_are_merged_first_and_leave_nothing(tmp_path: Path) -> None:
    model = peft_adapters.save_model(tmp_path / "model")
    adapted = peft_adapters.random_adapter(model, tmp_path / "lora", r=2, target_modules=["q_proj", "down_proj"])
    content = {"engine": "mergekit", "merge_method": "passthrough", "models": [{"model": f"{model}+{tmp_path}/lora"}]}
    merge(load(content), tmp_path / "out")
    expected, found = peft_adapters.merged(adapted).state_dict(), load_file(tmp_path / "out" / "model.safetensors")
    for name in found:
        torch.testing.assert_close(found[name], expected[name], rtol=1e-5, atol=1e-6)
    assert not torch.equal(found[NAME], load_file(f"{model}/model.safetensors")[NAME])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["lora", "model", "out"]
    assert load(tmp_path / "out" / "nmerge_recipe.yaml").references == (f"{model}+{tmp_path}/lora",)


@pytest.mark.mergekit
def test_an_interrupt_ends_mergekit_too(family: SimpleNamespace, tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe(family)))
    command = [sys.executable, "-m", "nmerge_core", "merge", str(tmp_path / "recipe.yaml"), str(tmp_path / "out")]
    with subprocess.Popen(command, cwd=PROJECT, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr and "Planning" in process.stderr.readline()
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        process.terminate()
        assert process.wait(20) == 130 and "interrupted" in process.stderr.read()
    assert children and not any(Path(f"/proc/{child}").exists() for child in children)
    assert [path.name for path in tmp_path.iterdir()] == ["recipe.yaml"]


@pytest.mark.mergekit
@pytest.mark.usefixtures("forked_mergekit")
def test_a_cancelled_merge_leaves_nothing(family: SimpleNamespace, tmp_path: Path) -> None:
    before = _children()

    def cancel(stage: str, done: float, total: float, unit: str = "") -> None:
        if stage.startswith("Merging"):
            assert len(_children()) == len(before) + 1
            raise Cancelled

    with pytest.raises(Cancelled):
        merge(load(recipe(family)), tmp_path / "out", progress=cancel)
    assert not list(tmp_path.iterdir()) and _children() == before


@pytest.mark.mergekit
@pytest.mark.usefixtures("forked_mergekit")
def test_what_fails_in_mergekit_says_what_it_printed(family: SimpleNamespace, tmp_path: Path) -> None:
    broken = recipe(family, chat_template="none", tokenizer_source="base")  # found out after the weights are written
    grown = vocabularies.make_family(tmp_path / "grown")
    broken |= {"models": [{"model": grown.models[2]}, {"model": grown.base}], "base_model": grown.base}
    with pytest.raises(RuntimeError, match="mergekit failed: RuntimeError: Invalid chat template: none\n") as error:
        merge(load(broken), tmp_path / "out")
    assert "Traceback" in str(error.value)
    assert [path.name for path in tmp_path.iterdir()] == ["grown"]


@pytest.mark.mergekit
def test_mergekit_ends_with_the_process_that_asked_it(
    family: SimpleNamespace, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    program = (
        "import os\nfrom pathlib import Path\nfrom nmerge_core.merging.engine import load, merge\n"
        "def end(stage, done, total, unit=''):\n"
        "    if stage.startswith('Merging'):\n"
        "        print(*Path(f'/proc/self/task/{os.getpid()}/children').read_text().split(), flush=True)\n"
        "        os.kill(os.getpid(), 9)\n"
        f"merge(load({recipe(family)!r}), Path({str(tmp_path / 'out')!r}), progress=end)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=PROJECT, capture_output=True, text=True)
    assert done.returncode == -9
    (child,) = map(int, done.stdout.split())
    until = time.monotonic() + 10
    while Path(f"/proc/{child}").exists():
        assert time.monotonic() < until
        time.sleep(0.05)
    request.getfixturevalue("forked_mergekit")
    merge(load(recipe(family)), tmp_path / "out")  # what the killed one left is no obstacle
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def _children() -> list[str]:
    return Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()


@pytest.mark.mergekit
@pytest.mark.usefixtures("forked_mergekit")
def test_pickled_models_are_merged_as_their_safetensors(
    family: SimpleNamespace, merged: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")  # which mergekit would heed
    pickled = []
    for shards, model in enumerate(map(Path, family.models[:2]), start=1):
        config = json.loads((model / "config.json").read_text())
        pickled.append(
            checkpoints.pickled(tmp_path / model.name, load_file(model / "model.safetensors"), shards, **config)
        )
    content = recipe(family) | {"base_model": pickled[0], "models": [{"model": model} for model in pickled]}
    merge(load(content), tmp_path / "pickled")
    found, expected = (load_file(folder / "model.safetensors") for folder in (tmp_path / "pickled", merged))
    assert found.keys() == expected.keys()
    assert all(torch.equal(value, expected[name]) for name, value in found.items())
