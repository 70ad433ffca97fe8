"""What the worker can do: one function per kind of run, and the short questions."""

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nmerge_core.errors import InputError
from nmerge_core.progress import Progress
from nmerge_core.runs.models import LiveMerges, LoadedModels
from nmerge_core.runs.perform import Operation

if TYPE_CHECKING:
    from nmerge_core.loading import LanguageModel

# The bodies import what they need: the page process knows these names without importing torch.


def classify(parameters: Mapping[str, Any], results: Path, progress: Progress) -> None:
    """Write a classification folder."""
    from nmerge_core.classification import classify

    classify(**parameters, out=results, progress=progress)


def cosine(parameters: Mapping[str, Any], results: Path, progress: Progress) -> None:
    """Write cosine.csv (mean, percentiles per model, layer and matrix) and moved.csv (the neurons that moved most)."""
    from nmerge_core.similarity import cosine

    found = cosine(parameters["base"], parameters["models"], progress=progress)
    found.summary.to_csv(results / "cosine.csv", index=False)
    found.moved.to_csv(results / "moved.csv", index=False)


def knockout(parameters: Mapping[str, Any], results: Path, progress: Progress) -> None:
    """Write knockout.csv."""
    from nmerge_core.ablation import knockout

    found = knockout(**{**parameters, "neurons": Path(parameters["neurons"])}, progress=progress)
    found.to_csv(results / "knockout.csv", index=False)


def linearity(parameters: Mapping[str, Any], results: Path, progress: Progress) -> None:
    """Write linearity.csv and, where each model's category is known, coefficients.csv."""
    from nmerge_core import nonlinearity

    shared = {name: parameters[name] for name in ("base", "models", "corpus", "samples", "seed", "device")}
    nonlinearity.measure(**shared, neurons=parameters["neurons"], progress=progress).to_csv(
        results / "linearity.csv", index=False
    )
    if parameters["categories"]:
        solved = nonlinearity.solve(**shared, categories=parameters["categories"], progress=progress)
        solved.to_frame().to_csv(results / "coefficients.csv", index=False)
        for warning in solved.warnings:
            logging.warning(warning)


def statistics(parameters: Mapping[str, Any], results: Path, progress: Progress) -> None:
    """Write a statistics folder."""
    from nmerge_core.calibration import collect

    collect(**parameters, out=results, progress=progress)


def merge(parameters: Mapping[str, Any], results: Path, progress: Progress) -> None:
    """Write merged/, a complete checkpoint; a killed merge continues where it stopped (mergekit's begins again)."""
    from nmerge_core.merging.engine import load, merge

    out = results / "merged"
    if not out.exists():  # else the process was killed between the end of the merge and the end of the run
        merge(load(parameters["recipe"]), out, device=parameters["device"], progress=progress)


def extract(parameters: Mapping[str, Any], results: Path, progress: Progress) -> None:
    """Write adapter/, which PEFT opens, and changes.csv."""
    from nmerge_core.lora.extract import extract

    extract(**parameters, out=results / "adapter", progress=progress).to_csv(results / "changes.csv", index=False)


def evaluate(parameters: Mapping[str, Any], results: Path, progress: Progress) -> None:
    """Write scores.csv."""
    from nmerge_core.evaluation import evaluate

    evaluate(**parameters, progress=progress).to_csv(results / "scores.csv", index=False)


def sweep(parameters: Mapping[str, Any], results: Path, progress: Progress) -> None:
    """Write trials.csv, best.yaml and what the sweep keeps; a stopped sweep goes on after its last trial."""
    from nmerge_core.search.plan import load_sweep
    from nmerge_core.search.trials_loop import sweep

    plan = load_sweep(parameters["sweep"])
    sweep(plan, results, **{name: value for name, value in parameters.items() if name != "sweep"}, progress=progress)


# Of the questions only: a run loads its own models, so that no question meets a run's hooks.
_MODELS, _LIVE = LoadedModels(), LiveMerges()


def _with_room(operation: Operation) -> Operation:
    """Free what a live merge holds before the run begins; the next question reads it again."""

    def run(parameters: Mapping[str, Any], results: Path, progress: Progress) -> None:
        _LIVE.release()
        operation(parameters, results, progress)

    return run


_RUNS = (classify, cosine, knockout, linearity, statistics, merge, extract, evaluate, sweep)
OPERATIONS: dict[str, Operation] = {operation.__name__: _with_room(operation) for operation in _RUNS}


def token_activations(
    model: str, layer: int, neuron: int, texts: list[str], max_length: int = 512
) -> list[dict[str, Any]]:
    """Return for each text its tokens and the activation of one neuron on each: {"tokens": […], "values": […]}."""
    from nmerge_core.activations.collect import token_activations

    found = token_activations(_MODELS.get(model), texts, layer, neuron, max_length)
    return [{"tokens": list(text.tokens), "values": [float(value) for value in text.values]} for text in found]


def generate(model: str, prompt: str, max_new_tokens: int = 64) -> str:
    """Return the greedy continuation of `prompt`, at most `max_new_tokens` tokens, without special tokens."""
    return _continuation(_MODELS.get(model), prompt, max_new_tokens)


def live(recipe: Mapping[str, Any], prompt: str, max_new_tokens: int = 64, likeliest: int = 5) -> dict[str, Any]:
    """Merge a recipe in memory and return how the merge continues `prompt`, and what it took.

    Returns:
        "answer" as `generate` gives it; "next" the likeliest next tokens, {"token": text, "probability": p}; "tensors"
        that were merged anew "of" all; "seconds" that merging took.
    """
    import torch

    merged, followed = _LIVE.follow(recipe)
    loaded = merged.language_model
    answer = _continuation(loaded, prompt, max_new_tokens)
    with torch.inference_mode():
        encoded = loaded.tokenizer(prompt, return_tensors="pt").to(loaded.device)
        logits = loaded.model(input_ids=encoded["input_ids"], use_cache=False).logits[0, -1]  # (vocabulary,)
        best = logits.float().softmax(dim=0).topk(likeliest)
    following = zip(best.indices.tolist(), best.values.tolist(), strict=True)
    return {
        "answer": answer,
        "next": [{"token": loaded.tokenizer.decode([token]), "probability": p} for token, p in following],
        "tensors": followed.tensors,
        "of": followed.of,
        "seconds": followed.seconds,
    }


def _continuation(loaded: "LanguageModel", prompt: str, max_new_tokens: int) -> str:
    import torch

    encoded = loaded.tokenizer(prompt, return_tensors="pt").to(loaded.device)
    length = encoded["input_ids"].shape[1]
    if not length:
        raise InputError("the prompt is empty: write some text for the model to continue")
    with torch.inference_mode():
        output = loaded.model.generate(  # type: ignore[operator]  # (1, length + new)
            input_ids=encoded["input_ids"],
            attention_mask=encoded["attention_mask"],
            max_new_tokens=max_new_tokens,
            do_sample=False,
            pad_token_id=loaded.tokenizer.pad_token_id or loaded.tokenizer.eos_token_id,
        )
    return str(loaded.tokenizer.decode(output[0, length:], skip_special_tokens=True))


QUESTIONS: dict[str, Callable[..., Any]] = {"token_activations": token_activations, "generate": generate, "live": live}
