"""Stages that are computed when they are read: the bytes of written ones, and which these are."""

import json
import os
import random
import signal
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from nmerge_core.checkpoints import Checkpoint, fingerprint, open_checkpoint
from nmerge_core.checkpoints.header import DTYPE_BYTES
from nmerge_core.checkpoints.rows import read_into
from nmerge_core.errors import Cancelled, InputError
from nmerge_core.files.kept_files import write_text
from nmerge_core.merging import engine
from nmerge_core.merging.compute import stream
from nmerge_core.merging.computed import computed
from nmerge_core.merging.pipeline import merge, merge_opened
from nmerge_core.merging.plan.opened import open_recipe
from nmerge_core.merging.recipe.reading import load_recipe
from nmerge_core.merging.recipe.registry import named
from nmerge_core.merging.recipe.staged_recipe import StagedRecipe, read_staged
from nmerge_core.merging.stage_folders import RECIPE, StageFolders
from tests.families import FAMILIES
from tests.merging import checkpoints, vocabularies
from tests.merging.write.test_process_group import ended, start

Content = dict[str, Any]


def merged_by(method: str, *models: str, base: str | None = None, **more: Any) -> Content:
    """What stands in a recipe; the models have weights 0.5, 0.4, … where the method takes some."""
    weighed = any(parameter.name == "weight" for parameter in named(method).parameters)
    entries: list[Content] = [{"model": model} for model in models]
    for index, entry in enumerate(entries if weighed else ()):
        entry["parameters"] = {"weight": 0.5 - 0.1 * index}
    return {"merge_method": method, "models": entries, **({"base_model": base} if base else {}), **more}


def layers(*sources: tuple[str, int, int]) -> Content:
    """A stack of layers."""
    slices = [{"sources": [{"model": model, "layer_range": [first, last]}]} for model, first, last in sources]
    return {"merge_method": "passthrough", "slices": slices}


def chain(stages: Mapping[str, Content], **last: Any) -> StagedRecipe:
    return read_staged({"stages": stages, **last}, None)


def by_hand(recipe: StagedRecipe, root: Path) -> Path:
    """Make each stage by a recipe and a merge of its own, and return the last one's folder."""
    root.mkdir()
    for name, own in recipe.each:
        merge(own.renamed(lambda each: str(root / each) if (root / each).exists() else each), root / (name or "last"))
    return root / "last"


def files_of(folder: Path) -> dict[str, bytes]:
    """All but what tells of a merge."""
    told = ("README.md", "nmerge_report.json", "nmerge_recipe.yaml")
    return {file.name: file.read_bytes() for file in folder.iterdir() if file.name not in told}


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every matrix have several blocks."""
    monkeypatch.setattr(stream, "BLOCK_ELEMENTS", 32)
    monkeypatch.setattr(stream, "_RUN", 3)


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """Models with vocabularies of their own, heads untied."""
    return vocabularies.make_family(tmp_path_factory.mktemp("words"))


@pytest.fixture(scope="module")
def tied(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """A base that ties its head, and a model that does not."""
    root, tokens = tmp_path_factory.mktemp("tied"), vocabularies.TRAINED
    base, _ = vocabularies.with_tokens(root / "base", 0, tokens, tied=True)
    math, _ = vocabularies.with_tokens(root / "math", 1, tokens, tied=True)
    weights = checkpoints.fine_tuned(checkpoints.random_weights(0), 2)
    weights["model.embed_tokens.weight"] = weights["model.embed_tokens.weight"][: len(tokens)]
    weights["lm_head.weight"] = 2 * weights["model.embed_tokens.weight"]
    vocabularies.write_tokenizer(root / "code", tokens)
    code = checkpoints.write(root / "code", weights, vocab_size=len(tokens), tie_word_embeddings=False)
    return SimpleNamespace(base=base, models=[math, code])


def three_stages(family: SimpleNamespace) -> tuple[StagedRecipe, set[str]]:
    """Two entrywise ones, which TIES reads twice."""
    math, code, translation = family.models
    skills = merged_by("task_arithmetic", math, code, base=family.base, dtype="bfloat16")
    all_ = merged_by("dare_linear", "skills", translation, base=family.base, dtype="float16", seed=3)
    last = merged_by("ties", "all", math, base=family.base)
    return chain({"skills": skills, "all": all_}, **last), {"skills", "all"}


def stacked_layers(family: SimpleNamespace) -> tuple[StagedRecipe, set[str]]:
    """Layers of two models, which are stacked once more, with their base beside them."""
    math, code, _ = family.models
    stages = {"mixed": layers((math, 1, 2), (code, 0, 2)), "plain": layers((family.base, 0, 2), (family.base, 1, 2))}
    sources = [{"model": "mixed", "layer_range": [0, 3]}, {"model": "plain", "layer_range": [0, 3]}]
    slices = [{"sources": sources, "parameters": {"weight": 0.7}}]
    last = {"merge_method": "task_arithmetic", "base_model": "plain", "slices": slices}
    return chain(stages, **last), {"mixed", "plain"}


def among_written(family: SimpleNamespace) -> tuple[StagedRecipe, set[str]]:
    """One that needs thresholds is written, read by one that is computed, which a spectral one reads, and a third."""
    math, code, translation = family.models
    stages = {
        "trimmed": merged_by("ties", math, code, base=family.base, dtype="float16"),
        "mean": merged_by("linear", "trimmed", translation),
        "turned": {"merge_method": "slerp", "base_model": "mean", "models": [{"model": math}]},
    }
    return chain(stages, **merged_by("iso_c", "turned", "trimmed", base=family.base)), {"mean"}


def other_tokens(words: SimpleNamespace) -> tuple[StagedRecipe, set[str]]:
    """A union of vocabularies, without padding, whose tokenizer the last stage takes."""
    math, code, plain = words.models
    stages = {"both": merged_by("linear", math, code, tokenizer={"source": "union"})}
    last = merged_by("task_arithmetic", "both", plain, base=words.base, tokenizer={"source": "both"})
    return chain(stages, **last), {"both"}


def tied_heads(tied: SimpleNamespace) -> tuple[StagedRecipe, set[str]]:
    """The first stage ties its head, the second has one of its own."""
    math, code = tied.models
    stages = {
        "one": merged_by("task_arithmetic", math, base=tied.base),
        "two": merged_by("linear", "one", code),
    }
    return chain(stages, **merged_by("task_arithmetic", "two", "one", base=tied.base)), {"one", "two"}


CHAINS: dict[str, Callable[[Any], tuple[StagedRecipe, set[str]]]] = {
    each.__name__: each for each in (three_stages, stacked_layers, among_written, other_tokens, tied_heads)
}


@pytest.mark.parametrize("name", CHAINS)
def test_the_bytes_are_those_of_written_stages(
    name: str, family, words, tied, small_blocks: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if name == "among_written":
        monkeypatch.setattr("nmerge_core.checkpoints.writer.SHARD_BYTES", 2000)
    recipe, expected = CHAINS[name]({"other_tokens": words, "tied_heads": tied}.get(name, family))
    assert recipe.computed == expected
    engine.merge(recipe, tmp_path / "out")
    assert files_of(tmp_path / "out") == files_of(by_hand(recipe, tmp_path / "hand"))
    assert {path.name for path in tmp_path.iterdir()} == {"out", "hand"}
    told = json.loads((tmp_path / "out/nmerge_report.json").read_text())["facts"]["stages"]
    assert {stage for stage, each in told.items() if each["weights"].startswith("computed")} == expected
    engine.merge(engine.load(tmp_path / "out/nmerge_recipe.yaml"), tmp_path / "again")
    assert files_of(tmp_path / "again") == files_of(tmp_path / "out")


def occupied(folder: Path) -> int:
    """Bytes that files with weights have on the disk."""
    return sum(512 * file.stat().st_blocks for file in folder.rglob("*.safetensors"))


@pytest.mark.parametrize("name", ["three_stages", "among_written"])
def test_what_is_computed_takes_no_room(name: str, family, tmp_path: Path) -> None:
    """At no time is more on the disk than the output, and the written stage that is being read."""
    recipe, _ = CHAINS[name](family)
    most = 0

    def look(stage: str, done: float, total: float, unit: str = "") -> None:
        nonlocal most
        most = max(most, occupied(tmp_path))

    written = engine.estimate(recipe, tmp_path / "out").bytes_written
    engine.merge(recipe, tmp_path / "out", progress=look)
    outputs = sum(name not in recipe.computed for name, _ in recipe.each)
    assert most <= 4096 * outputs + written and written < 3.1 * occupied(tmp_path / "out")
    assert (most < 1.5 * occupied(tmp_path / "out")) == (outputs == 1)


@pytest.mark.parametrize("at", ["stage 'trimmed'", "stage 'turned'", "last stage"])
def test_a_chain_that_is_killed_goes_on_to_the_same_bytes(family, tmp_path: Path, at: str) -> None:
    recipe, _ = among_written(family)

    def kill(stage: str, done: float, total: float, unit: str = "") -> None:
        if stage == f"{at}: Merging" and done > total / 2:
            os.kill(os.getpid(), signal.SIGKILL)

    pid = os.fork()
    if pid == 0:
        try:
            engine.merge(recipe, tmp_path / "out", progress=kill)
        finally:
            os._exit(1)
    assert ended(pid) == -signal.SIGKILL and not (tmp_path / "out").exists()
    begun: list[str] = []
    engine.merge(recipe, tmp_path / "out", progress=lambda told, *_: begun.append(told.partition(":")[0]))
    assert begun[0] == at
    assert files_of(tmp_path / "out") == files_of(by_hand(recipe, tmp_path / "hand"))
    assert {path.name for path in tmp_path.iterdir()} == {"out", "hand"}


def test_two_processes_merge_a_chain(family, tmp_path: Path) -> None:
    recipe, _ = among_written(family)
    assert [ended(pid) for pid in start(2, lambda rank: engine.merge(recipe, tmp_path / "out"))] == [0, 0]
    assert files_of(tmp_path / "out") == files_of(by_hand(recipe, tmp_path / "hand"))
    assert {path.name for path in tmp_path.iterdir()} == {"out", "hand"}


def stored_otherwise(root: Path) -> tuple[str, str]:
    """A model with a transposed matrix, transposed experts in one tensor, a counter and a number; and another."""
    shapes = {
        "h.0.mlp.c_fc.weight": (5, 12),
        "h.0.mlp.c_fc.bias": (12,),
        "h.0.mlp.experts.gate_up_proj": (3, 4, 12),
        "h.0.mlp.experts.down_proj": (3, 6, 4),
        "h.0.scale": (),
        "wte.weight": (7, 5),
    }
    written = []
    for seed in (0, 1):
        generator = torch.Generator().manual_seed(seed)
        weights = {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
        folder = root / str(seed)
        folder.mkdir()
        save_file({**weights, "h.0.batches": torch.tensor(seed + 41)}, folder / "model.safetensors")
        (folder / "config.json").write_text(json.dumps({"model_type": "of a test"}))
        written.append(str(folder))
    return written[0], written[1]


def bytes_of(checkpoint: Checkpoint, name: str, runs: list[tuple[int, int]], part: tuple[int, int]) -> bytes:
    """Runs of entries of a part of a tensor, (first, number)."""
    own = {**checkpoint.tensors, **checkpoint.carried}[name]
    size = DTYPE_BYTES[own.dtype]
    changed = {**vars(own), "name": "part", "shape": (part[1],), "offset": own.offset + part[0] * size}
    buffer = bytearray(sum(count for _, count in runs) * size)
    read_into(type(own)(**changed), runs, memoryview(buffer))
    return bytes(buffer)


@pytest.mark.parametrize("dtype", [None, "bfloat16"])
def test_any_runs_of_entries_are_those_of_the_file(dtype: str | None, small_blocks: None, tmp_path: Path) -> None:
    base, math = stored_otherwise(tmp_path)
    recipe = load_recipe(merged_by("dare_linear", math, base=base) | ({"dtype": dtype} if dtype else {}))
    merge(recipe, tmp_path / "written")
    merge_opened(opened := open_recipe(recipe), tmp_path / "computed", weights=False)
    assert not list((tmp_path / "computed").glob("*.safetensors"))
    made, written = computed(opened, tmp_path / "computed"), open_checkpoint(str(tmp_path / "written"))
    assert made.architecture.matrix("h.0.mlp.c_fc.weight").transposed
    assert made.architecture.matrix("h.0.mlp.experts.down_proj").stack == 3
    drawn = random.Random(0)
    for name, own in {**written.tensors, **written.carried}.items():
        first = drawn.randrange(own.elements)
        part = (first, drawn.randint(1, own.elements - first))  # as where a stack of experts is cut
        for of in ((0, own.elements), part):
            ends = [sorted(drawn.randint(0, of[1]) for _ in range(2)) for _ in range(4)]
            runs = [(0, of[1]), *((start, stop - start) for start, stop in ends)]
            assert bytes_of(made, name, runs, of) == bytes_of(written, name, runs, of)
        assert bytes_of(made, name, [(0, 0)], part) == b""
    assert {*written.carried} == {*made.carried} == {"h.0.batches"}


@pytest.mark.parametrize("which", ["apart", "stacked"])
def test_experts_of_a_stage_meet_a_base_that_stores_them_otherwise(which: str, made_family, tmp_path: Path) -> None:
    by_title = {family.title: family for family in FAMILIES}
    kind, as_stacked = by_title["Qwen3-MoE"], by_title["Qwen3-MoE, experts stacked"]
    families = {"apart": made_family(kind)}
    families["stacked"] = made_family(replace(as_stacked, title="stacked", settings=kind.settings))
    own, other = families.pop(which), *families.values()
    mean = merged_by("linear", str(own.math), str(own.base))
    recipe = chain({"mean": mean}, **merged_by("task_arithmetic", "mean", str(other.math), base=str(other.base)))
    assert recipe.computed == {"mean"}
    cost = engine.expected(recipe, tmp_path / "out")
    engine.merge(recipe, tmp_path / "out")
    assert files_of(tmp_path / "out") == files_of(by_hand(recipe, tmp_path / "hand"))
    model = sum(tensor.bytes for tensor in open_checkpoint(str(own.base)).tensors.values())
    assert cost.bytes_read == 4 * model


def test_what_decides_a_computed_model_tells_it_from_any_other(family, tmp_path: Path) -> None:
    def key(weight: float) -> str:
        content = merged_by("task_arithmetic", base=family.base)
        content["models"] = [{"model": family.models[0], "parameters": {"weight": weight}}]
        opened = open_recipe(load_recipe(content))
        folder = tmp_path / str(weight)
        if not folder.exists():
            merge_opened(opened, folder, weights=False)
        return fingerprint(computed(opened, folder))

    assert key(0.5) == key(0.5) != key(0.25)


def staged(family, last: Content, **stages: Content) -> frozenset[str]:
    return chain(stages, **last).computed


def test_which_stages_are_computed(family) -> None:
    """Every entry by itself, read twice at most, by what goes by weights alone."""
    math, code, _ = family.models
    base, mean = family.base, merged_by("linear", math, code)
    assert staged(family, merged_by("linear", "mean", math), mean=mean) == {"mean"}
    assert staged(family, merged_by("slerp", "mean", base=base), mean=mean) == {"mean"}  # read twice
    assert not staged(family, merged_by("neuromerging", "mean", math, base=base), mean=mean)  # three times
    assert staged(family, merged_by("linear", "mean", "mean"), mean=mean) == {"mean"}
    assert not staged(family, merged_by("linear", "mean", "mean", "mean"), mean=mean)
    again = merged_by("task_arithmetic", "mean", "mean", base=base)
    # TIES reads `again` twice, for which `mean` would be merged four times.
    assert staged(family, merged_by("ties", "again", base=base), mean=mean, again=again) == {"again"}
    for method in ("ties", "slerp", "della", "iso_c"):
        single = merged_by(method, math, base=base)
        assert not staged(family, merged_by("linear", "one", math), one=single), method
    stepped = merged_by("task_arithmetic", math, base=base, then=["svc"])
    assert not staged(family, merged_by("linear", "one", math), one=stepped)
    for method, more in (("regmean", {"corpus": "c"}), ("sublin", {"calibration": "c"})):
        last = {**merged_by(method, base=base), "models": [{"model": "mean"}, {"model": math}], "parameters": more}
        assert not staged(family, last, mean=mean), method


def test_what_changes_between_two_that_read_it_is_named(
    family, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A written stage would have stayed what it was."""
    weights = {name: value.clone() for name, value in family.tunes["math"].items()}
    math = checkpoints.write(tmp_path / "math", weights)
    stages = {"mean": merged_by("linear", math, family.models[1]), "flat": merged_by("iso_c", "mean", base=family.base)}
    recipe, drop = chain(stages, **merged_by("linear", "flat", "mean")), StageFolders.drop
    assert recipe.computed == {"mean"}

    def drop_and_change(folders: StageFolders) -> None:
        drop(folders)
        if folders.folder("flat").exists():
            save_file(weights, Path(math) / "model.safetensors", {"format": "pt"})

    monkeypatch.setattr(StageFolders, "drop", drop_and_change)
    with pytest.raises(InputError, match=r"last stage: .*math: .*was changed while it was being merged"):
        engine.merge(recipe, tmp_path / "out")


def test_entries_that_do_not_fit_are_told_of_the_stage(family, tmp_path: Path) -> None:
    math, code, _ = family.models
    far = merged_by("passthrough", math, dtype="float16", parameters={"scale": 1e6})
    recipe = chain({"far": far}, **merged_by("linear", "far", code))
    with pytest.raises(InputError, match="last stage: far, which is computed .*F16 cannot hold"):
        engine.merge(recipe, tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_the_estimate_and_the_card_say_what_is_computed(family, tmp_path: Path) -> None:
    recipe, _ = three_stages(family)
    cost = engine.expected(recipe, tmp_path / "out")
    model = sum(weights.nbytes for weights in family.weights.values())  # float32
    # TIES reads base and math, and all: base, translation, and skills: base, math, code; twice.
    assert cost.bytes_read == 2 * (2 + 2 + 3) * model
    engine.merge(recipe, tmp_path / "out")
    out = tmp_path / "out"
    assert cost.bytes_written == (out / "model.safetensors").stat().st_size
    alone = engine.expected(
        recipe.last.renamed(lambda name: family.base if name == "all" else name), tmp_path / "alone"
    )
    assert alone.peak_memory < cost.peak_memory < 1.5 * alone.peak_memory and cost.seconds > alone.seconds
    card = (out / "README.md").read_text()
    assert "- skills: Task arithmetic; computed when read, never written." in card and ".stages" not in card
    assert {*load_file(out / "model.safetensors")} == {*family.weights}


def test_a_kill_while_stages_are_told_of_tells_of_none_twice(
    family, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, write = chain({"mean": merged_by("linear", *family.models)}, **merged_by("linear", "mean")), write_text

    def write_all_but_the_recipe(file: Path, content: str) -> None:
        if file.name == RECIPE:
            raise Cancelled
        write(file, content)

    with monkeypatch.context() as patched, pytest.raises(Cancelled):
        patched.setattr("nmerge_core.merging.stage_folders.write_text", write_all_but_the_recipe)
        engine.merge(recipe, tmp_path / "out")
    engine.merge(recipe, tmp_path / "out")
    assert (tmp_path / "out/README.md").read_text().count("- mean: Averaging; computed when read") == 1
