"""Does a rule that goes by neurons win? Losses of merges on held-out texts, by neurons' functions and by chance.

    python -m benchmarks.rules demo                  # the demo family
    python -m benchmarks.rules gentle                # its base, fine-tuned in small steps (some minutes of training)
    python -m benchmarks.rules FAMILY CORPUS TEXTS   # folders: of models, base among them; of CATEGORY.jsonl; of
                                                     # MODEL.jsonl, a {"prompt", "answer"} a line

Every rule is merged in memory, by function and by `--draws` random groups of the same sizes, and judged by the mean
loss of the answers to held-out prompts, in nats a token. Intervals are of 95 % over texts, paired bootstrap. What was
measured is kept in the cache (benchmarks/rules-…): stopped, it goes on where it was.
"""

import argparse
import copy
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity, cross_entropy
from transformers import AutoModelForCausalLM, AutoTokenizer

from nmerge_core.activations.store import open_classification
from nmerge_core.cache import DEMO, cache_root
from nmerge_core.checkpoints import open_checkpoint
from nmerge_core.classification.classification import classify
from nmerge_core.comparison.paired import compare
from nmerge_core.demo.family import write_family
from nmerge_core.demo.text import distinct
from nmerge_core.demo.training import FINE_TUNES, train
from nmerge_core.loading import LanguageModel, load_model
from nmerge_core.merging.compute.stream import whole_tensors
from nmerge_core.merging.plan.neurons import group_neurons, neurons_of
from nmerge_core.merging.recipe.reading import load_recipe
from nmerge_core.nonlinearity import solve
from nmerge_core.resident import LiveMerge, hold_family

GENERAL, REFERENCE = "general", "SubLin"
TUNED = ("math", "code", "translation")
STEPS, LEARNING_RATE = 80, 5e-5  # of the gentle fine-tunes; the demo's: 280, 5e-4
SCALES = (0.3, 0.4, 0.5, 0.7, 1.0, 1.5)  # of task arithmetic
OTHERS = {"TIES": "ties", "NeuroMerging": "neuromerging", "TSV-M": "tsv_m"}
BATCH = 16  # texts


@dataclass(frozen=True)
class Subject:
    """A base and its fine-tunes by category, a corpus, and held-out (prompt, answer) pairs of each fine-tune's task."""

    base: Path
    models: Mapping[str, Path]
    corpus: Path
    texts: Mapping[str, Sequence[tuple[str, str]]]


def demo_family(folder: Path, models: Path, count: int) -> Subject:
    """Return the demo's base and corpus with fine-tunes of it, and problems that none of them saw."""
    texts = {name: [(e.prompt, e.text[len(e.prompt) :]) for e in distinct(name, "test", 0, count)] for name in TUNED}
    return Subject(folder / "base", {name: models / name for name in TUNED}, folder / "corpus", texts)


def own_family(family: Path, corpus: Path, texts: Path, count: int) -> Subject:
    """Return a family of folders, with the first prompts and answers of each fine-tune's file."""
    lines = {file.stem: file.read_text(encoding="utf-8").splitlines()[:count] for file in sorted(texts.glob("*.jsonl"))}
    pairs = {name: [(each["prompt"], each["answer"]) for each in map(json.loads, own)] for name, own in lines.items()}
    return Subject(family / "base", {name: family / name for name in pairs}, corpus, pairs)


def subject_named(given: Sequence[str], work: Path, count: int) -> tuple[str, Subject]:
    """Return the family that a command line names, and what it is called: demo, gentle, or three folders."""
    work.mkdir(parents=True, exist_ok=True)
    demo, name = write_family(cache_root() / DEMO), Path(given[0]).name
    if given not in (["demo"], ["gentle"]):
        family, corpus, texts = map(Path, given)
        return name, own_family(family, corpus, texts, count)
    if name == "gentle" and not (work / "gentle" / TUNED[-1]).exists():
        tune_gently(demo, work / "gentle")
    return name, demo_family(demo, demo if name == "demo" else work / "gentle", count)


def tune_gently(demo: Path, folder: Path) -> None:
    """Fine-tune the demo's base as its own fine-tunes were, in steps a tenth as large; print how far neurons turned."""
    tokenizer: Any = AutoTokenizer.from_pretrained(demo / "base")
    base: Any = AutoModelForCausalLM.from_pretrained(demo / "base", dtype=torch.float32, attn_implementation="eager")
    for phase in FINE_TUNES:
        model = copy.deepcopy(base)
        train(model, tokenizer, replace(phase, steps=STEPS, learning_rate=LEARNING_RATE))
        pairs = [
            (own, theirs) for own, theirs in zip(model.parameters(), base.parameters(), strict=True) if own.dim() == 2
        ]
        cosines = torch.cat([cosine_similarity(own, theirs, dim=1) for own, theirs in pairs]).detach()
        low = cosines.quantile(0.01)
        print(f"{phase.name}: cosine of rows with the base's {cosines.mean():.5f}, 99 % of them above {low:.5f}")
        model.save_pretrained(folder / phase.name)
        tokenizer.save_pretrained(folder / phase.name)


@torch.inference_mode()
def answer_losses(merged: LanguageModel, texts: Sequence[tuple[str, str]], longest: int = 256) -> list[float]:
    """Return the mean loss of each answer's tokens, given its prompt, in nats."""
    prompts, answers = (
        merged.tokenizer(list(each), add_special_tokens=False)["input_ids"] for each in zip(*texts, strict=True)
    )
    pairs = [(p[-longest // 2 :], a[: longest // 2]) for p, a in zip(prompts, answers, strict=True)]
    order = sorted(range(len(pairs)), key=lambda place: sum(map(len, pairs[place])))
    found = dict[int, float]()
    for start in range(0, len(order), BATCH):
        batch = order[start : start + BATCH]
        length = max(sum(map(len, pairs[place])) for place in batch)
        tokens = torch.zeros(len(batch), length, dtype=torch.long)
        told = torch.zeros(len(batch), length, dtype=torch.bool)
        for row, place in enumerate(batch):
            prompt, answer = pairs[place]
            tokens[row, : len(prompt) + len(answer)] = torch.tensor(prompt + answer)
            told[row, len(prompt) : len(prompt) + len(answer)] = True
        states = merged.model.get_decoder()(input_ids=tokens, use_cache=False).last_hidden_state  # padding comes last
        for row, place in enumerate(batch):
            own = told[row, 1:]  # what predicts a token stands one before it
            logits = merged.model.get_output_embeddings()(states[row, :-1][own])
            found[place] = float(cross_entropy(logits.float(), tokens[row, 1:][own]))
    return [found[place] for place in range(len(pairs))]


class Bench:
    """One family's merges, in memory, and the losses of each text, kept by rule and grouping."""

    def __init__(self, subject: Subject, samples: int, neurons: Path, kept: Path) -> None:
        """Hold the family, classifying its base first where `neurons` is not there yet; go on after what was `kept`."""
        self.subject, self.samples, self.neurons, self.kept = subject, samples, neurons, kept
        if not neurons.exists():
            classify(str(subject.base), str(subject.corpus), out=neurons)
        recipe = load_recipe(self.recipe("task_arithmetic", {}))
        self.live = LiveMerge(hold_family(recipe), recipe)
        lines = map(json.loads, kept.read_text().splitlines() if kept.exists() else [])
        self.losses = {(each["rule"], each["draw"]): np.array(each["losses"]) for each in lines}

    def recipe(self, method: str, parameters: Mapping[str, Any], seed: int = 0) -> dict[str, Any]:
        """Return a recipe of the family in float32."""
        models = [{"model": str(each), "parameters": {"category": name}} for name, each in self.subject.models.items()]
        known = {"category"} if method in ("neuronmerge", "sublin") else set()
        each = [{**model, "parameters": model["parameters"] if known else {}} for model in models]
        own = {"merge_method": method, "base_model": str(self.subject.base), "models": each, "seed": seed}
        return own | {"parameters": dict(parameters), "dtype": "float32"}

    def measure(self, rule: str, draw: int, method: str, **parameters: Any) -> None:
        """Merge by a recipe and keep the losses of its answers; draw 0 is by function, others are by chance."""
        if (rule, draw) in self.losses:
            return
        grouped = {"neurons": str(self.neurons), "grouping": "random" if draw else "functional"}
        told = parameters | (grouped if method == "neuronmerge" else {})
        self.live.follow(load_recipe(self.recipe(method, told, seed=draw)))
        self.keep(rule, draw)

    def keep(self, rule: str, draw: int) -> None:
        """Keep the losses of the merge as it is."""
        each = [answer_losses(self.live.language_model, own) for own in self.subject.texts.values()]
        self.losses[rule, draw] = np.concatenate(each)  # as many of each task: their mean is that of the tasks' means
        with self.kept.open("a") as file:
            file.write(json.dumps({"rule": rule, "draw": draw, "losses": self.losses[rule, draw].tolist()}) + "\n")

    def of_model(self, folder: Path) -> list[list[float]]:
        """Return the losses of a model as it is, by task."""
        model = load_model(str(folder), run_dtype="float32")
        return [answer_losses(model, own) for own in self.subject.texts.values()]

    def groups(self, draw: int) -> Any:
        """Return the neurons of each category of each layer."""
        grouping = "random" if draw else "functional"
        base, tasks = open_checkpoint(str(self.subject.base)), [*self.subject.models]
        voting: dict[str, Any] = {"top_k": None, "margin": None, "lists": None}
        frame = group_neurons(self.neurons, base, tasks, grouping=grouping, seed=draw, **voting)
        return neurons_of(frame, [GENERAL, *tasks])

    def coefficients(self, draw: int, *, together: bool) -> dict[str, dict[str, list[float]]]:
        """Solve SubLin's coefficients, as a recipe has them."""
        models = list(map(str, self.subject.models.values()))
        base, corpus, groups = str(self.subject.base), str(self.subject.corpus), self.groups(draw)
        shared: dict[str, Any] = {"groups": groups, "together": together, "samples": self.samples}
        solved = solve(base, models, corpus, [*self.subject.models], **shared)
        found: dict[str, dict[str, list[float]]] = {}
        for (layer, part), alphas in solved.values.items():
            found.setdefault(str(layer), {})[part] = list(alphas)
        return found

    def shares(self, draw: int) -> dict[int, Tensor]:
        """Return each task's share of the votes on each neuron of a layer, (d_ffn, T); by chance another neuron's."""
        found = dict[int, Tensor]()
        for layer, own in open_classification(self.neurons).neurons().groupby("layer"):
            votes = own.sort_values("neuron").filter(like="count_").to_numpy()
            names = [f"count_{name}" for name in self.subject.models]
            shares = own.sort_values("neuron")[names].to_numpy() / votes.sum(1, keepdims=True)
            order = np.random.default_rng([draw, int(str(layer))]).permutation(len(shares)) if draw else slice(None)
            found[int(str(layer))] = torch.tensor(shares[order], dtype=torch.float32)
        return found

    def amplify_softly(self, rule: str, draw: int, own: float, alphas: Mapping[str, Mapping[str, list[float]]]) -> None:
        """Add (own − 1) · share · α_t τ_t to SubLin's neurons, keep the losses, and take it away again."""
        if (rule, draw) in self.losses:
            return
        self.live.follow(load_recipe(self.recipe("sublin", {"coefficients": alphas})))
        stream, shares = self.live.family.opened.stream, self.shares(draw)
        parameters = dict(self.live.language_model.model.named_parameters())
        before = {}
        with torch.no_grad():
            for rows in whole_tensors(stream, self.live.family.names):
                block = stream.load(rows)
                if block.neurons is None or block.layer is None:
                    continue
                share = shares[block.layer][block.neurons]  # (rows, 1, T) or (1, columns, T)
                scale = share * torch.tensor(alphas[str(block.layer)]["mlp"]) * (own - 1)
                before[rows.name] = parameters[rows.name].clone()
                parameters[rows.name].add_(
                    torch.einsum("trc,rct->rc", block.deltas, scale.expand(*block.base.shape, -1))
                )
            self.keep(rule, draw)
            for name, weights in before.items():
                parameters[name].copy_(weights)


def measure_all(bench: Bench, draws: int) -> None:
    """Measure every rule."""
    for scale in SCALES:
        bench.measure(f"task arithmetic {scale:g}", 0, "task_arithmetic", weight=scale)
    for title, method in OTHERS.items():
        bench.measure(title, 0, method)
    for draw in range(1 + draws):
        apart, together = (bench.coefficients(draw, together=each) for each in (False, True))
        if not draw:
            bench.measure(REFERENCE, 0, "sublin", coefficients=apart)
        for title, specific in {"task neurons dropped (NeuronMerge₂)": "drop", "own": "own", "merge": "merge"}.items():
            bench.measure(title, draw, "neuronmerge", coefficients=apart, specific=specific)
        bench.measure("merge, `together`", draw, "neuronmerge", coefficients=together, specific="merge")
        for own, foreign in ((1.5, 1), (2, 0.7), (2, 1), (3, 1), ([3, 1], 1), ([1, 3], 1)):
            factors = {"method": "amplify", "own": own, "foreign": foreign}
            title = f"amplify, own {' to '.join(map(str, own)) + ' over depth' if isinstance(own, list) else own}"
            bench.measure(f"{title}, foreign {foreign}", draw, "neuronmerge", coefficients=apart, specific=factors)
        for factor in (2.0, 3.0):
            bench.amplify_softly(f"amplify by votes, own {factor:g}", draw, factor, apart)
        for title, method in {"task arithmetic 0.4": "task_arithmetic", **OTHERS}.items():
            weight = {"weight": 0.4} if method == "task_arithmetic" else {}
            parts = {"general": method, "others": method, "specific": {"method": "amplify", "own": 2, "by": method}}
            bench.measure(f"amplify, own 2, of {title}", draw, "neuronmerge", **parts, **weight)
        print(f"draw {draw} of {draws} done", flush=True)


def print_table(losses: Mapping[tuple[str, int], np.ndarray]) -> None:
    """Print a row per rule: its loss, against SubLin, by chance, and what function gains over chance."""
    print("| merge | loss | against SubLin | random groups | by function, against random |\n|---|---|---|---|---|")
    rules, draws = dict.fromkeys(rule for rule, _ in losses), max(draw for _, draw in losses)
    for rule in rules:
        own = losses[rule, 0]
        cells = [rule, f"{own.mean():.4f}", "" if rule == REFERENCE else difference(own, losses[REFERENCE, 0])]
        chance = [losses[rule, draw] for draw in range(1, 1 + draws) if (rule, draw) in losses]
        means = [each.mean() for each in chance]
        cells.append(f"{np.mean(means):.4f} ({min(means):.4f} to {max(means):.4f})" if chance else "")
        cells.append(difference(own, np.mean(chance, axis=0)) if chance else "")
        print(f"| {' | '.join(cells)} |", flush=True)


def difference(ours: np.ndarray, theirs: np.ndarray) -> str:
    """Write by how much a mean loss differs, with its interval over texts."""
    found = compare(ours, theirs)
    return f"{found.difference:+.4f} ({found.interval.low:+.4f} to {found.interval.high:+.4f})"


def main() -> None:
    """Measure the rules on a family and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("family", nargs="+", help="demo, gentle, or the folders of a family, its corpus and its texts")
    parser.add_argument("--texts", type=int, default=100, help="held-out texts of each task (100)")
    parser.add_argument(
        "--samples", type=int, default=30, help="texts of each task that coefficients are solved on (30)"
    )
    parser.add_argument("--draws", type=int, default=3, help="random groupings (3)")
    parser.add_argument("--threads", type=int, default=0, help="of torch; as it chooses, if left out")
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    work = cache_root() / "benchmarks"
    name, subject = subject_named(arguments.family, work, arguments.texts)
    bench = Bench(subject, arguments.samples, work / f"neurons-{name}", work / f"rules-{name}-{arguments.texts}.jsonl")
    print(f"base {np.mean(np.concatenate(bench.of_model(subject.base))):.4f}")
    measure_all(bench, arguments.draws)
    print_table(bench.losses)


if __name__ == "__main__":
    main()
