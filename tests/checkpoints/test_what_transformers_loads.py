"""A checkpoint is what transformers loads from its folder: compared with `from_pretrained`, tensor by tensor."""

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers.models.gemma import GemmaConfig
from transformers.models.qwen2_vl import Qwen2VLConfig, Qwen2VLForConditionalGeneration

from nmerge_core.checkpoints import inspect_family, open_checkpoint
from nmerge_core.checkpoints.checkpoint import Checkpoint
from nmerge_core.checkpoints.conversion import conversion_of
from nmerge_core.checkpoints.matching import as_family
from nmerge_core.errors import InputError
from nmerge_core.merging.pipeline import merge
from nmerge_core.merging.plan.estimate import estimate
from nmerge_core.merging.recipe.reading import load_recipe
from tests.families import FAMILIES, Family
from tests.tiny import tiny_model

Weights = dict[str, torch.Tensor]
HEAD, EMBEDDINGS = "lm_head.weight", "model.embed_tokens.weight"
INDEX = "model.safetensors.index.json"


def loaded(folder: str | Path, auto: Any = transformers.AutoModelForCausalLM) -> Weights:
    """The parameters of the model that transformers loads, tied ones once, and the numbers it keeps beside them."""
    model, info = auto.from_pretrained(folder, output_loading_info=True)
    assert not info["missing_keys"]
    kept = {name: value for name, value in model.named_buffers() if name in model.state_dict()}
    return dict(model.named_parameters()) | {n: value for n, value in kept.items() if value.is_floating_point()}


def resolved(checkpoint: Checkpoint) -> Weights:
    """What we read, put together as transformers does: experts are stacked."""
    conversion = conversion_of(checkpoint.folder)
    assert conversion
    found = {}
    for name, stored in conversion.sources(checkpoint.tensors).items():
        parts = [checkpoint.read(each) for each in stored.names]
        found[name] = parts[0] if len(parts) == 1 else torch.cat([part.flatten() for part in parts])
    return found


def assert_same(checkpoint: Checkpoint, expected: Mapping[str, torch.Tensor]) -> None:
    found = resolved(checkpoint)
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        torch.testing.assert_close(found[name].flatten().to(values.dtype), values.detach().flatten(), rtol=0, atol=0)


@pytest.mark.parametrize("family", FAMILIES, ids=[family.title for family in FAMILIES])
def test_every_family_is_what_transformers_loads(family: Family, made_family) -> None:
    models = made_family(family)
    assert_same(open_checkpoint(models.math), loaded(models.math, models.auto))


def change(folder: Path, rewrite: Callable[[Weights], Weights] = lambda weights: weights, **config: Any) -> None:
    file = folder / "model.safetensors"
    save_file({name: value.contiguous() for name, value in rewrite(load_file(file)).items()}, file, {"format": "pt"})
    settings = json.loads((folder / "config.json").read_text()) | config
    kept = {key: value for key, value in settings.items() if value is not None}
    (folder / "config.json").write_text(json.dumps(kept))


def stale_index(folder: Path) -> None:
    """Shards of an earlier save lie beside model.safetensors, with their index and other values."""
    weights = {name: value + 1 for name, value in load_file(folder / "model.safetensors").items()}
    save_file(weights, folder / "model-00001-of-00001.safetensors", {"format": "pt"})
    index = {"weight_map": dict.fromkeys(weights, "model-00001-of-00001.safetensors")}
    (folder / INDEX).write_text(json.dumps(index))


def stale_index_alone(folder: Path) -> None:
    (folder / INDEX).write_text('{"weight_map": {"a": "model-00001-of-00002.safetensors"}}')


def other_files(folder: Path) -> None:
    foreign = {"layers.0.attention.wq.weight": torch.ones(3, 3)}
    for name in ("consolidated.safetensors", "optimizer.safetensors", "adapter_model.safetensors", "0.safetensors"):
        save_file(foreign, folder / name)
    save_file(
        {name: value.half() for name, value in load_file(folder / "model.safetensors").items()},
        folder / "model.fp16.safetensors",
    )


def next_tokens(folder: Path) -> None:
    """DeepSeek-V3's and Qwen3-Next's heads for tokens beyond the next."""
    own = {"model.layers.2.eh_proj.weight": torch.ones(4, 8), "model.layers.2.mlp.up_proj.weight": torch.ones(48, 32)}
    change(folder, lambda weights: weights | own | {"mtp.fc.weight": torch.ones(2, 2)})


def own_head(folder: Path) -> None:
    change(folder, lambda weights: weights | {HEAD: weights[EMBEDDINGS] + 1}, tie_word_embeddings=True)


def copied_head(folder: Path) -> None:
    change(folder, lambda weights: weights | {HEAD: weights[EMBEDDINGS].clone()}, tie_word_embeddings=True)


def untied_head(folder: Path) -> None:
    change(folder, lambda weights: weights | {HEAD: weights[EMBEDDINGS].clone()}, tie_word_embeddings=False)


def head_alone(folder: Path) -> None:
    """Of a tied pair the head is stored."""
    change(folder, lambda weights: {HEAD if name == EMBEDDINGS else name: weights[name] for name in weights})


def without_word(folder: Path) -> None:
    """The configuration does not say whether they are tied; Qwen2's default is that they are not."""
    change(folder, lambda weights: weights | {HEAD: weights[EMBEDDINGS] + 1}, tie_word_embeddings=None)


def named_file(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "mine.safetensors")
    settings = json.loads((folder / "config.json").read_text()) | {"transformers_weights": "mine.safetensors"}
    (folder / "config.json").write_text(json.dumps(settings))


KINDS = [stale_index, stale_index_alone, other_files, next_tokens, own_head, copied_head, untied_head, without_word]
KINDS += [named_file, head_alone]


@pytest.mark.parametrize("kind", KINDS, ids=[kind.__name__ for kind in KINDS])
def test_every_kind_of_folder_is_what_transformers_loads(kind: Callable[[Path], None], tmp_path: Path) -> None:
    folder = Path(tiny_model(tmp_path / "model"))
    kind(folder)
    assert_same(open_checkpoint(str(folder)), loaded(folder))


def test_gemma_s_default_is_a_tied_head(tmp_path: Path) -> None:
    """Its configuration need not say so; a stored copy of the embeddings is no parameter."""
    settings = {"hidden_size": 8, "intermediate_size": 12, "num_hidden_layers": 1, "head_dim": 4}
    model = transformers.AutoModelForCausalLM.from_config(
        GemmaConfig(vocab_size=16, num_attention_heads=2, num_key_value_heads=1, **settings)
    )
    model.save_pretrained(tmp_path)
    change(tmp_path, lambda w: w | {HEAD: w[EMBEDDINGS].clone()}, tie_word_embeddings=None)
    assert_same(open_checkpoint(str(tmp_path)), loaded(tmp_path))


def merged(base: Path, model: Path, out: Path, **more: Any) -> Weights:
    recipe = {"merge_method": "task_arithmetic", "base_model": str(base), "models": [{"model": str(model)}], **more}
    merge(load_recipe(recipe), out)
    return load_file(out / "model.safetensors")


def pair(tmp_path: Path) -> tuple[Path, Path]:
    return Path(tiny_model(tmp_path / "base")), Path(tiny_model(tmp_path / "tune", seed=1))


def test_layers_that_never_run_are_carried_from_the_base(tmp_path: Path) -> None:
    base, tune = pair(tmp_path)
    next_tokens(base)
    found = merged(base, tune, tmp_path / "out", parameters={"lambda": 1.0}, dtype="bfloat16")
    theirs = load_file(base / "model.safetensors")
    for name in ("model.layers.2.eh_proj.weight", "mtp.fc.weight"):
        assert torch.equal(found[name], theirs[name].bfloat16())
    assert len(open_checkpoint(str(base)).architecture.layers) == 2
    assert open_checkpoint(str(base)).parameters == open_checkpoint(str(tune)).parameters
    assert loaded(tmp_path / "out").keys() == loaded(tune).keys()
    assert merged(tune, base, tmp_path / "other").keys() == load_file(tune / "model.safetensors").keys()


def test_what_is_carried_is_in_an_estimate_and_has_to_fit(tmp_path: Path) -> None:
    """A million does not fit float16, and must not become infinite in silence; infinity itself may be carried."""
    base, tune = pair(tmp_path)
    own = {f"mtp.{name}.weight": torch.full((2, 2), value) for name, value in (("a", 1e6), ("b", torch.inf))}
    change(base, lambda weights: weights | own)
    recipe = {"merge_method": "task_arithmetic", "base_model": str(base), "models": [{"model": str(tune)}]}
    found = estimate(load_recipe(recipe), tmp_path / "out")
    assert (found.tensors, found.parameters) == (len(open_checkpoint(str(tune)).tensors) + 2, 8 + parameters_of(tune))
    with pytest.raises(InputError, match="tensor mtp.a.weight: rows 0 to 1 of the merge hold entries that F16 cannot"):
        merged(base, tune, tmp_path / "half", dtype="float16")
    assert merged(base, tune, tmp_path / "out")["mtp.b.weight"].isinf().all()


def parameters_of(folder: Path) -> int:
    return sum(value.numel() for value in load_file(folder / "model.safetensors").values())


def test_a_tied_head_is_told_whatever_the_configuration_leaves_out(tmp_path: Path) -> None:
    base, tune = pair(tmp_path)
    change(base, tie_word_embeddings=None)
    untied_head(tune)
    assert [model.tied for model in inspect_family(str(base), [str(tune)]).models] == [True, False]


@pytest.mark.parametrize("which", ["base", "tune"])
def test_a_head_of_one_s_own_meets_a_tied_one(which: str, tmp_path: Path) -> None:
    """λ = 1/2 between a tied model and one with a head: the merge's head is halfway from E to H, or the reverse."""
    base, tune = pair(tmp_path)
    own_head(base if which == "base" else tune)
    found = merged(base, tune, tmp_path / "out", parameters={"lambda": 0.5})
    ours, theirs = (load_file(each / "model.safetensors") for each in (base, tune))
    expected = (ours.get(HEAD, ours[EMBEDDINGS]) + theirs.get(HEAD, theirs[EMBEDDINGS])) / 2
    torch.testing.assert_close(found[HEAD], expected, rtol=1e-6, atol=1e-6)
    model: Any = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert torch.equal(model.lm_head.weight, found[HEAD])
    assert torch.equal(model.get_input_embeddings().weight, found[EMBEDDINGS])
    assert not model.config.tie_word_embeddings


@pytest.mark.parametrize("which", ["base", "tune"])
def test_a_copy_of_the_embeddings_is_no_head_of_its_own(which: str, tmp_path: Path) -> None:
    base, tune = pair(tmp_path)
    plain = merged(base, tune, tmp_path / "plain")
    untied_head({"base": base, "tune": tune}[which])
    found = merged(base, tune, tmp_path / "out")
    assert found.keys() == plain.keys() and all(torch.equal(found[name], plain[name]) for name in plain)
    model: Any = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert torch.equal(model.lm_head.weight, found[EMBEDDINGS])  # transformers draws one where the base's word was kept


def test_a_merge_does_not_name_the_base_s_file(tmp_path: Path) -> None:
    base, tune = pair(tmp_path)
    named_file(base)
    found = merged(base, tune, tmp_path / "out")
    assert loaded(tmp_path / "out").keys() == found.keys()


QWEN_VL: dict[str, Any] = {
    "text_config": {"vocab_size": 32, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2}
    | {
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "rope_parameters": {"rope_type": "default", "mrope_section": [1, 1, 2]},
    },
    "vision_config": {"depth": 1, "embed_dim": 16, "hidden_size": 16, "num_heads": 2, "patch_size": 2},
}


def old_names(weights: Weights) -> Weights:
    """As transformers 4 saved Qwen2-VL."""
    renamed = {
        name.replace("model.language_model.", "model.").replace("model.visual.", "visual."): each
        for name, each in weights.items()
    }
    assert renamed.keys() != weights.keys()
    return renamed


@pytest.mark.parametrize("which", ["base", "tune"])
def test_names_of_other_versions_are_matched(which: str, tmp_path: Path) -> None:
    folders: dict[str, Path] = {}
    for name in ("base", "tune"):
        torch.manual_seed(len(folders))
        model = Qwen2VLForConditionalGeneration(Qwen2VLConfig(**QWEN_VL))
        model.save_pretrained(folders.setdefault(name, tmp_path / name), save_original_format=False)
    plain = merged(folders["base"], folders["tune"], tmp_path / "plain")
    change(folders[which], old_names)
    found = merged(folders["base"], folders["tune"], tmp_path / "out")
    expected = old_names(plain) if which == "base" else plain
    assert found.keys() == expected.keys() and all(torch.equal(found[name], expected[name]) for name in expected)
    auto = transformers.AutoModelForImageTextToText
    assert_same(open_checkpoint(str(tmp_path / "out")), loaded(tmp_path / "out", auto))


@pytest.mark.parametrize("which", ["base", "tune"])
def test_experts_apart_meet_experts_stacked(which: str, made_family, tmp_path: Path) -> None:
    by_title = {family.title: family for family in FAMILIES}
    family, as_stacked = by_title["Qwen3-MoE"], by_title["Qwen3-MoE, experts stacked"]
    apart, stacked = map(made_family, (family, replace(as_stacked, title="stacked", settings=family.settings)))
    mine, other = (apart, stacked) if which == "base" else (stacked, apart)
    plain = merged(Path(mine.base), Path(mine.math), tmp_path / "plain")
    found = merged(Path(mine.base), Path(other.math), tmp_path / "out")
    assert found.keys() == plain.keys() and all(torch.equal(found[name], plain[name]) for name in plain)
    assert inspect_family(mine.base, [other.math]).mergeable


def test_an_adapter_changes_the_head_that_its_embeddings_are(tmp_path: Path) -> None:
    """Where another model has a head of its own, a tied model's head is its embeddings, adapter included."""
    base, tune = pair(tmp_path)
    own_head(tune)
    family = as_family(open_checkpoint(str(base)), [open_checkpoint(str(tune))])
    assert torch.equal(family[0].read(HEAD), family[0].read(EMBEDDINGS))
    assert [HEAD in each.tensors for each in family] == [True, True]


def test_the_base_by_another_spelling_is_no_fine_tune(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base, tune = pair(tmp_path)
    (tmp_path / "link").symlink_to(base)
    monkeypatch.chdir(tmp_path)
    for spelling in ("base", "base/", "./base", "link", f"{tmp_path}/tune/../base"):
        models = [{"model": spelling}, {"model": str(tune)}]
        recipe = load_recipe({"merge_method": "ties", "base_model": "base", "models": models})
        assert [entry.model for entry in recipe.models] == [str(tune)]


@pytest.mark.parametrize("rows", [250, 300])
def test_padding_rows_are_the_base_s(rows: int, tmp_path: Path) -> None:
    """257 tokens in 264 rows, and in 300 of a tune; of 250 some token has no row."""
    base, tune = pair(tmp_path)
    change(base, lambda w: w | {EMBEDDINGS: torch.cat([w[EMBEDDINGS], torch.full((7, 32), 5.0)])}, vocab_size=264)
    grown = lambda w: w | {EMBEDDINGS: torch.cat([w[EMBEDDINGS], torch.ones(50, 32)])[:rows]}  # noqa: E731
    change(tune, grown, vocab_size=rows)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tune / name).unlink()  # it is taken to have the base's
    if rows < 257:
        with pytest.raises(InputError, match="tune has no tokenizer.json"):
            merged(base, tune, tmp_path / "out")
        return
    found = merged(base, tune, tmp_path / "out", parameters={"lambda": 1.0})[EMBEDDINGS]
    assert torch.equal(found[257:], torch.full((7, 32), 5.0))
    torch.testing.assert_close(found[:257], load_file(tune / "model.safetensors")[EMBEDDINGS][:257])
    assert any("in 300 embedding rows" in warning for warning in inspect_family(str(base), [str(tune)]).warnings)
    assert len(loaded(tmp_path / "out")[EMBEDDINGS]) == 264


def lfs_pointer(folder: Path) -> str:
    (folder / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    return "a Git LFS pointer, not the file itself"


def adapter_beside(folder: Path) -> str:
    (folder / "adapter_config.json").write_text("{}")
    return "found one .config.json. and an adapter"


def shard_missing(folder: Path) -> str:
    (folder / "model.safetensors").unlink()
    stale_index_alone(folder)
    return "found model-00001-of-00002.safetensors missing"


def escaping_shard(folder: Path) -> str:
    (folder / "model.safetensors").rename(folder.parent / "outside.safetensors")
    (folder / INDEX).write_text('{"weight_map": {"a": "../outside.safetensors"}}')
    return "weight_map.a': expected the name of a file beside it, found '../outside.safetensors'"


REFUSED = [lfs_pointer, adapter_beside, shard_missing, escaping_shard]


@pytest.mark.parametrize("kind", REFUSED, ids=[kind.__name__ for kind in REFUSED])
def test_what_transformers_does_not_load_is_refused_as_what_it_is(kind: Callable[[Path], str], tmp_path: Path) -> None:
    folder = Path(tiny_model(tmp_path / "model"))
    message = kind(folder)
    with pytest.raises(InputError, match=message) as refused:
        open_checkpoint(str(folder))
    assert "\n" not in str(refused.value)


def test_what_does_not_fit_the_format_is_refused(tmp_path: Path) -> None:
    """2 · 40,000 is above float16's largest, 65,504."""
    base, tune = pair(tmp_path)
    norm = "model.norm.weight"
    change(base, lambda weights: weights | {norm: torch.zeros(32)})
    change(tune, lambda weights: weights | {norm: torch.full((32,), 4e4)})
    for method in ("task_arithmetic", "neuromerging"):
        recipe = {"merge_method": method, "base_model": str(base), "dtype": "float16", "models": [{"model": str(tune)}]}
        parameters = {"lambda": 2.0} if method == "task_arithmetic" else {"lambda_1": 2.0, "lambda_2": 2.0}
        with pytest.raises(InputError, match=r"model\.norm\.weight: .* F16 cannot hold"):
            merge(load_recipe({**recipe, "parameters": parameters}), tmp_path / method)
    merged(base, tune, tmp_path / "wide", dtype="bfloat16", parameters={"lambda": 2.0})
    shutil.rmtree(tmp_path / "wide")
