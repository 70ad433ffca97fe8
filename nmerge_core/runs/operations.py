"""What the worker can do: one function per kind of run, and the short questions."""

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from nmerge_core.errors import InputError
from nmerge_core.progress import Progress
from nmerge_core.runs.models import LoadedModels

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


OPERATIONS: dict[str, Callable[[Mapping[str, Any], Path, Progress], None]] = {
    "classify": classify,
    "cosine": cosine,
    "knockout": knockout,
    "linearity": linearity,
    "statistics": statistics,
    "merge": merge,
    "extract": extract,
    "evaluate": evaluate,
    "sweep": sweep,
}

_MODELS = LoadedModels()  # of the questions only: a run loads its own, so that no question meets a run's hooks


def token_activations(
    model: str, layer: int, neuron: int, texts: list[str], max_length: int = 512
) -> list[dict[str, Any]]:
    """Return for each text its tokens and the activation of one neuron on each: {"tokens": […], "values": […]}."""
    from nmerge_core.activations.collect import token_activations

    found = token_activations(_MODELS.get(model), texts, layer, neuron, max_length)
    return [{"tokens": list(text.tokens), "values": [float(value) for value in text.values]} for text in found]


def generate(model: str, prompt: str, max_new_tokens: int = 64) -> str:
    """Return the greedy continuation of `prompt`, at most `max_new_tokens` tokens, without special tokens."""
    import torch

    loaded = _MODELS.get(model)
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


QUESTIONS: dict[str, Callable[..., Any]] = {"token_activations": token_activations, "generate": generate}
