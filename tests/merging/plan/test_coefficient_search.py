"""Coefficients that are searched with whole candidates: what is measured, what is found, what is written."""

import io
import json
import os
import signal
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch.func import functional_call
from transformers import AutoModelForCausalLM, AutoTokenizer

from nmerge_core.corpus.text_samples import Batch, pack
from nmerge_core.errors import Cancelled, InputError
from nmerge_core.evaluation import evaluate
from nmerge_core.merging.pipeline import merge
from nmerge_core.merging.plan.candidate import Candidate, load_candidate
from nmerge_core.merging.plan.coefficient_search import load_evaluator, search
from nmerge_core.merging.plan.context import Context
from nmerge_core.merging.plan.estimate import estimate
from nmerge_core.merging.plan.learning import Entropy, entropy, learn
from nmerge_core.merging.plan.opened import open_recipe
from nmerge_core.merging.plan.trail import Trail
from nmerge_core.merging.recipe.reading import load_recipe
from nmerge_core.merging.recipe.recipe import Recipe
from nmerge_core.merging.recipe.values import Values
from nmerge_core.progress import silent
from tests.merging.write.test_staging import in_child
from tests.tiny_family import make_family

TEXTS = {"math": ["2 + 2 = 4", "7 x 8"], "code": ["def f(x): return x", "a"]}


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """The tiny family, whose math model has learnt the corpus's math texts; the code model is noise."""
    made = make_family(tmp_path_factory.mktemp("family"))
    tokenizer = AutoTokenizer.from_pretrained(made.base)
    lines = (Path(made.corpus) / "math.jsonl").read_text().splitlines()
    ids = tokenizer([json.loads(line)["text"] for line in lines], padding=True, return_tensors="pt")["input_ids"]
    model = AutoModelForCausalLM.from_pretrained(made.base)
    adam = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(20):
        adam.zero_grad()
        model(ids, labels=ids).loss.backward()
        adam.step()
    model.save_pretrained(made.math)
    return made


def recipe_of(family: SimpleNamespace, method: str, **parameters: object) -> Recipe:
    models = [{"model": family.math}, {"model": family.code}]
    return load_recipe({"merge_method": method, "base_model": family.base, "models": models, "parameters": parameters})


def batches_of(family: SimpleNamespace, texts: dict[str, list[str]]) -> list[Batch]:
    tokenizer = AutoTokenizer.from_pretrained(family.base)
    return [batch for category, own in texts.items() for batch in pack(category, tokenizer(own)["input_ids"], 32)]


def states(family: SimpleNamespace) -> list[dict[str, torch.Tensor]]:
    models = (family.base, family.math, family.code)
    return [AutoModelForCausalLM.from_pretrained(model).state_dict() for model in models]


def merged_state(family: SimpleNamespace, coefficients: list[float]) -> dict[str, torch.Tensor]:
    base, *models = states(family)
    return {
        name: value + sum(c * (own[name] - value) for c, own in zip(coefficients, models, strict=True))
        for name, value in base.items()
    }


def ticks() -> None:
    pass


def test_a_candidate_is_the_merge_in_memory(family: SimpleNamespace) -> None:
    stream = open_recipe(recipe_of(family, "lorahub"), "cpu").stream
    candidate = load_candidate(stream, list(stream.donor.tensors), None, "auto")
    candidate.fill(lambda block: 0.5 * block.deltas[0] - 0.25 * block.deltas[1], ticks)
    expected = merged_state(family, [0.5, -0.25])
    for name, value in candidate.language_model.model.state_dict().items():
        torch.testing.assert_close(value, expected[name], atol=1e-6, rtol=1e-5)


def test_a_candidate_has_the_weights_that_would_be_written_whatever_it_runs_in(family: SimpleNamespace) -> None:
    stream = open_recipe(recipe_of(family, "lorahub"), "cpu").stream
    candidate = load_candidate(stream, list(stream.donor.tensors), "bfloat16", "float32")
    candidate.fill(lambda block: 0.5 * block.deltas[0] - 0.25 * block.deltas[1], ticks)
    expected = merged_state(family, [0.5, -0.25])
    for name, value in candidate.language_model.model.state_dict().items():
        assert value.dtype == torch.float32
        assert torch.equal(value, value.bfloat16().float())
        torch.testing.assert_close(value, expected[name], atol=1e-6, rtol=2**-8)


def test_cross_entropy_weighs_categories_not_tokens(family: SimpleNamespace) -> None:
    stream = open_recipe(recipe_of(family, "lorahub"), "cpu").stream
    candidate = load_candidate(stream, list(stream.donor.tensors), None, "auto")
    model = AutoModelForCausalLM.from_pretrained(family.base)
    tokenizer = AutoTokenizer.from_pretrained(family.base)
    means = []
    for texts in TEXTS.values():  # one text at a time, without padding
        losses = []
        for text in texts:
            ids = torch.tensor([tokenizer(text)["input_ids"]])
            losses.append(F.cross_entropy(model(ids).logits[0, :-1], ids[0, 1:], reduction="none"))
        means.append(torch.cat(losses).mean().item())
    batches = batches_of(family, TEXTS)
    assert len(batches) > 2 and any(not batch.real.all() for batch in batches)
    assert candidate.cross_entropy(batches, ticks) == pytest.approx(sum(means) / 2, rel=1e-5)


def entropy_of(family: SimpleNamespace, granularity: str) -> tuple[Entropy, dict[str, int], list[Batch]]:
    stream = open_recipe(recipe_of(family, "adamerging"), "cpu").stream
    names = list(stream.donor.tensors)
    layers = {name: stream.donor.architecture.layer_of(name) for name in names}
    groups = {name: 0 if granularity == "task" else 2 if layer is None else layer for name, layer in layers.items()}
    batches = batches_of(family, TEXTS)
    return Entropy(load_candidate(stream, names, "float32", "float32"), groups, batches), groups, batches


@pytest.mark.parametrize(("granularity", "rows"), [("task", 1), ("layer", 3)])
def test_the_streamed_gradient_is_autograds(family: SimpleNamespace, granularity: str, rows: int) -> None:
    streamed, groups, batches = entropy_of(family, granularity)
    coefficients = torch.linspace(0.1, 0.7, 2 * rows, dtype=torch.float64).view(rows, 2)
    for _ in range(2):  # a second time from the same state
        loss, gradient = streamed.gradient(coefficients, ticks)

    base, *models = states(family)
    leaf = coefficients.float().requires_grad_()
    weights = {
        name: base[name] + sum(leaf[group, t] * (own[name] - base[name]) for t, own in enumerate(models))
        for name, group in groups.items()
    }
    model = AutoModelForCausalLM.from_pretrained(family.base)
    expected = torch.zeros(())
    for category in TEXTS:
        own = [batch for batch in batches if batch.category == category]
        entropies = [entropy(functional_call(model, weights, (b.tokens,)).logits[b.real]) for b in own]
        expected = expected + torch.cat(entropies).mean()
    expected.backward()
    assert loss == pytest.approx(expected.item(), rel=1e-5)
    torch.testing.assert_close(gradient, leaf.grad.double(), rtol=2e-4, atol=1e-7)
    assert (gradient != 0).all()


def test_entropy_of_a_known_distribution() -> None:
    # (1/2, 1/4, 1/4): ½ ln 2 + 2 · ¼ ln 4 = 1.5 ln 2
    found = entropy(torch.tensor([[0.5, 0.25, 0.25]]).log())
    assert found.item() == pytest.approx(1.5 * 0.693147, rel=1e-5)


def test_entropy_falls_while_coefficients_are_learnt(family: SimpleNamespace) -> None:
    streamed, _, _ = entropy_of(family, "layer")
    start = torch.full((3, 2), 0.3, dtype=torch.float64)
    told: list[int] = []
    coefficients, history = learn(streamed, start, steps=6, rate=0.1, trail=Trail(io.BytesIO()), progress=told.append)
    assert history[-1] < history[0] and len(history) == 6
    assert all(0 <= value <= 1 for row in coefficients for value in row)
    assert told[0] == 0 and told[-1] == 6
    assert (start == 0.3).all()


def test_coefficients_stop_at_their_bounds(family: SimpleNamespace) -> None:
    streamed, _, _ = entropy_of(family, "task")
    start = torch.full((1, 2), 0.3, dtype=torch.float64)
    trail = Trail(io.BytesIO())
    coefficients, _ = learn(streamed, start, steps=2, rate=5.0, trail=trail, progress=lambda done: None)
    assert {value for row in coefficients for value in row} <= {0.0, 1.0}


def searched(family: SimpleNamespace, method: str) -> Recipe:
    given: dict[str, dict[str, object]] = {
        "lorahub": {"calibration": family.corpus, "samples": 2, "evaluations": 15, "target": "math"},
        "adamerging": {"calibration": family.corpus, "samples": 2, "steps": 2, "learning_rate": 0.05},
        "pcb_es": {"tasks": [family.task], "limit": 2, "evaluations": 4},
    }
    return recipe_of(family, method, **given[method])


@pytest.mark.parametrize("method", ["lorahub", "adamerging", "pcb_es"])
def test_the_written_recipe_brings_what_was_found(
    family: SimpleNamespace, tmp_path: Path, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    stages: list[str] = []
    merge(searched(family, method), tmp_path / "one", progress=lambda stage, *_: stages.append(stage))
    assert any("coefficients" in stage for stage in stages)
    stages.clear()
    merge(load_recipe(tmp_path / "one/nmerge_recipe.yaml"), tmp_path / "two", progress=lambda s, *_: stages.append(s))
    assert not any("coefficients" in stage for stage in stages)
    killed_and_gone_on_with(searched(family, method), tmp_path / "again", monkeypatch)
    weights = [(tmp_path / out / "model.safetensors").read_bytes() for out in ("one", "two", "again")]
    assert weights[0] == weights[1] == weights[2] != (Path(family.base) / "model.safetensors").read_bytes()
    facts = json.loads((tmp_path / "one/nmerge_report.json").read_text())["facts"]
    assert len(facts["history"]) == {"lorahub": 15, "adamerging": 2, "pcb_es": 4}[method]
    if method == "adamerging":
        assert [(row["layer"], row["model"]) for row in facts["coefficients"]] == [
            (0, "math"), (0, "code"), (1, "math"), (1, "code"),
        ]  # fmt: skip
    else:
        assert set(facts["scales"]) == {"math", "code"}


def killed_and_gone_on_with(recipe: Recipe, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Merge with a cache of its own, killed within the search at its second point, and then to the end."""
    monkeypatch.setenv("NMERGE_CACHE", str(out.with_name("cache")))

    def kill(stage: str, done: float, total: float, unit: str = "") -> None:
        if stage.endswith("coefficients") and done == 1:
            os.kill(os.getpid(), signal.SIGKILL)

    assert in_child(lambda: merge(recipe, out, progress=kill)) == -signal.SIGKILL
    [trail] = out.with_name("cache").glob("searches/*.jsonl")
    kept = trail.read_bytes()
    trail.write_bytes(kept + b"[[0.")  # as where the kill came while it was written
    fills: list[int] = []
    with monkeypatch.context() as patch:
        fill = Candidate.fill
        patch.setattr(Candidate, "fill", lambda *arguments: fills.append(fill(*arguments) or 1))
        merge(recipe, out)
    found = trail.read_bytes()
    assert found.startswith(kept) and kept.count(b"\n") == 1
    assert len(fills) == found.count(b"\n") - 1


def test_the_number_of_threads_changes_nothing(
    family: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = {}
    before = torch.get_num_threads()
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            monkeypatch.setenv("NMERGE_CACHE", str(tmp_path / f"cache-{threads}"))  # else the search is not made again
            for method in ("lorahub", "adamerging"):
                merge(searched(family, method), tmp_path / f"{method}-{threads}")
                written[method, threads] = (tmp_path / f"{method}-{threads}/model.safetensors").read_bytes()
    finally:
        torch.set_num_threads(before)
    for method in ("lorahub", "adamerging"):
        assert written[method, 1] == written[method, 2]


def test_lorahub_fits_the_examples_better_than_its_start(family: SimpleNamespace, tmp_path: Path) -> None:
    merge(searched(family, "lorahub"), tmp_path / "out")
    facts = json.loads((tmp_path / "out/nmerge_report.json").read_text())["facts"]
    assert facts["loss"] == min(facts["history"]) < facts["history"][0]  # which is the base's: c = 0, no L1 term
    assert all(-1.5 <= value <= 1.5 for value in facts["scales"].values())
    assert facts["scales"]["math"] > 0.5 > abs(facts["scales"]["code"])  # one has learnt these texts, one is noise


def test_pcb_es_reports_what_its_output_scores(family: SimpleNamespace, tmp_path: Path) -> None:
    merge(searched(family, "pcb_es"), tmp_path / "out")
    facts = json.loads((tmp_path / "out/nmerge_report.json").read_text())["facts"]
    assert facts["objective"] == max(facts["history"])
    scores = evaluate([str(tmp_path / "out")], [family.task], limit=2)
    assert facts["objective"] == pytest.approx(-scores["value"][0])  # of bits per byte less is better


def test_a_task_s_name_is_no_folder_beside_the_recipe(
    family: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "math").mkdir()
    (tmp_path / "plain.yaml").write_text(Path(family.task).read_text())
    (tmp_path / "plain.jsonl").write_text('{"text": "some words"}')
    context = Context(replace(searched(family, "pcb_es"), folder=tmp_path), None, (), silent)
    shared = {"tasks": ("plain.yaml",), "limit": None, "run_code": False}
    assert load_evaluator(context, Values("pcb_es", shared, {})).names == ["plain"]
    own = load_evaluator(context, Values("pcb_es", shared | {"tasks": ("perplexity=plain.jsonl",)}, {}))
    assert own.names == ["perplexity"]
    asked: list[list[str]] = []
    monkeypatch.setattr("nmerge_core.evaluation.Evaluator", lambda tasks, **_: asked.append(tasks))
    load_evaluator(context, Values("pcb_es", shared | {"tasks": ("math",)}, {}))
    assert asked == [["math"]]


def test_a_search_without_a_number_is_an_error(family: SimpleNamespace) -> None:
    recipe = searched(family, "lorahub")
    context = Context(replace(recipe, seed=1), open_recipe(recipe, "cpu").stream, (), silent)
    with pytest.raises(InputError, match="expected texts or tasks on which some candidate scores a number"):
        search(context, context.recipe.values(), lambda *_: float("nan"), low=-1.0, high=1.0)


def test_pcb_es_starts_at_pcb(family: SimpleNamespace, tmp_path: Path) -> None:
    merge(recipe_of(family, "pcb_es", coefficients={"model": [1.0, 1.0]}), tmp_path / "es")
    merge(recipe_of(family, "pcb"), tmp_path / "pcb")
    assert (tmp_path / "es/model.safetensors").read_bytes() == (tmp_path / "pcb/model.safetensors").read_bytes()


@pytest.mark.parametrize(
    ("method", "parameters", "message"),
    [
        ("lorahub", {}, r"'parameters.calibration' \(lorahub\): expected the folder of a corpus"),
        ("adamerging", {}, r"'parameters.calibration' \(adamerging\): expected the folder of a corpus"),
        ("pcb_es", {}, r"'parameters.tasks' \(pcb_es\): expected at least one task"),
        ("pcb_es", {"tasks": 3}, r"'parameters.tasks': expected a list, each a task YAML"),
        (
            "lorahub",
            {"coefficients": {"model": [1.0]}},
            r"coefficients' \(lorahub\): expected 2 numbers, one per model",
        ),
        ("adamerging", {"coefficients": {"model": [1.0, 1.0]}}, "for each of embedding, 0, 1, norm"),
        ("lorahub", {"coefficients": {}}, "expected 2 numbers"),
    ],
)
def test_wrong_input_is_named(
    family: SimpleNamespace, tmp_path: Path, method: str, parameters: dict[str, object], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        merge(recipe_of(family, method, **parameters), tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_a_search_costs_passes_and_a_whole_model(family: SimpleNamespace, tmp_path: Path) -> None:
    done = estimate(recipe_of(family, "lorahub", coefficients={"model": [1.0, 1.0]}), tmp_path / "out")
    search = estimate(searched(family, "lorahub"), tmp_path / "out")
    assert (done.solving, search.solving) == (False, True)
    assert search.bytes_read == (1 + 15) * done.bytes_read  # 15 candidates, and the merge
    assert search.peak_memory == done.peak_memory + 4 * done.parameters
    learning = estimate(searched(family, "adamerging"), tmp_path / "out")
    assert learning.bytes_read == (1 + 2 * 3) * done.bytes_read  # in 2 steps, the merge and the changes of 2 tasks
    es = estimate(searched(family, "pcb_es"), tmp_path / "out")
    assert es.bytes_read == (3 + 4) * done.bytes_read


def test_a_search_can_be_cancelled(family: SimpleNamespace, tmp_path: Path) -> None:
    def stop(stage: str, done: float, total: float, unit: str = "") -> None:
        if stage == "Searching coefficients" and done >= 1:
            raise Cancelled

    with pytest.raises(Cancelled):
        merge(searched(family, "lorahub"), tmp_path / "out", progress=stop)
    assert list(tmp_path.iterdir()) == []
    merge(searched(family, "lorahub"), tmp_path / "out", progress=silent)
