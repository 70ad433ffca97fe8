"""Mutated recipes, sweeps, families, corpora and tasks, read as the commands read them."""

import codecs
import shutil
from collections.abc import Callable
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any

import yaml

from nmerge_core.cache import cache_root
from nmerge_core.checkpoints import open_checkpoint
from nmerge_core.corpus.corpus import load_corpus
from nmerge_core.inputs import Places
from nmerge_core.search.reading import load_sweep
from tests.fuzz.mutate import mutated, mutated_bytes
from tests.fuzz.outcome import Outcome, command, reading

BOMB = b"a: &a [x,x,x,x,x,x,x,x,x]\n" + b"".join(
    b"%c: &%c [%s]\n" % (98 + n, 98 + n, b",".join([b"*%c" % (97 + n)] * 9)) for n in range(14)
)
SNIPPETS: tuple[bytes, ...] = (
    b"\t",
    b"\r",
    b"\0",
    b"\xff",
    b"\xef\xbb\xbf",
    b"\xc3(",
    b"---\n",
    b"...\n",
    b"&a ",
    b"*a ",
    b"<<: *a\n",
    b"? ",
)
SNIPPETS += (b"!!binary ", b"!!bool x", b"!!int x", b"!!float x", b"!!timestamp x", b"!!set {a}", b"!!omap [a]", b"!x ")
SNIPPETS += (
    b"!!python/object/apply:os.system [true]",
    b"!function a.b",
    b"!!pairs [a]",
    b"!!null x",
    b"!!str [a]",
    b"%YAML 9\n",
)
SNIPPETS += (
    b"9" * 5_000,
    b"0x" + b"f" * 5_000,
    b"1" * 4_000,
    b"1:" * 900 + b"1",
    b"2024-13-45",
    b"0001-01-01T00:00:00+23:59",
)
SNIPPETS += (
    b"[" * 3_000,
    b"{a: " * 500,
    b"- " * 2_000,
    b"&a [*a]",
    b"1e400",
    b"1.0e+400",
    b".inf",
    b".nan",
    b"~nobody/x",
)
SNIPPETS += (
    b"a" * 5_000,
    b"'",
    b'"',
    b"|\n",
    b">\n",
    b"{",
    b"}",
    b"[",
    b"]",
    b": ",
    b", ",
    b"#",
    b"@",
    b"`",
    b"\n\n",
    BOMB,
)
SNIPPETS += (
    b'"\\ud800"',
    b'"\\0"',
    b"=",
    b"0o7",
    b"1_000",
    b"1e-1",
    b"yes",
    b"~",
    b"0b",
    b"0x",
    b"2024-01-02",
    b"? [a]\n: b\n",
)


def recipes(family: SimpleNamespace) -> list[dict[str, Any]]:
    """Return recipes of every shape: methods, gradients, filters, parts, tokenizers, steps, stages."""
    base, models = family.base, [{"model": family.math}, {"model": family.code}]
    weighted = [{**each, "parameters": {"weight": 0.5, "density": 0.4}} for each in models]
    common = {"base_model": base, "models": models}
    return [
        {"merge_method": "linear", "models": weighted[:1] + models, "parameters": {"weight": [0.2, 0.8]}, "seed": 3},
        {"merge_method": "task_arithmetic", **common, "parameters": {"weight": 0.5, "lambda": 2}, "dtype": "bfloat16"},
        {
            "merge_method": "ties",
            "base_model": base,
            "models": [{"model": base}, *weighted],
            "parameters": {"normalize": True, "weight": [{"filter": "mlp", "value": 0.5}, {"value": [0, 1]}]},
        },
        {"merge_method": "dare_ties", "base_model": base, "models": weighted, "tokenizer": "union"},
        {
            "merge_method": "neuromerging",
            **common,
            "parameters": {"mask_ratio": 0.15, "lambda_2": "auto", "merge_function": "elect_mean"},
        },
        {
            "merge_method": "neuronmerge",
            **common,
            "parameters": {
                "corpus": family.corpus,
                "lists": {"loud": [[0, 17], [1, 3]]},
                "general": "task_arithmetic",
                "specific": {
                    "math": "own",
                    "code": {"method": "ties", "density": 0.3},
                    "loud": {"method": "own", "of": "code"},
                },
                "others": {"method": "dare_linear", "density": 0.4},
            },
        },
        {"merge_method": "fisher", "models": models, "parameters": {"corpus": family.corpus, "samples": 4}},
        {
            "merge_method": "task_arithmetic",
            **common,
            "out_dtype": "float16",
            "tokenizer": {"source": "base", "tokens": {"a": {"source": family.math, "force": True}}},
        },
        {"engine": "mergekit", "merge_method": "slerp", **common, "parameters": {"t": [0, 0.5, 1]}},
        {
            "merge_method": "ties",
            **common,
            "then": ["svc", {"method": "aim", "omega": 0.5, "corpus": family.corpus, "category": "general"}],
        },
        {
            "stages": {
                "both": {"merge_method": "linear", "models": models},
                "more": {"merge_method": "ties", **common},
            },
            "merge_method": "slerp",
            "base_model": "more",
            "models": [{"model": "both"}],
        },
    ]  # fmt: skip


def others(family: SimpleNamespace) -> dict[str, dict[str, Any]]:
    """Return a valid file of every other kind of YAML that people write."""
    recipe = recipes(family)[1]
    return {
        "sweep": {
            "recipe": recipe,
            "search": {
                "parameters.lambda": {"low": 0.1, "high": 1, "log": True},
                "models[0].parameters.weight": [0, 1],
            },
            "strategy": "random",
            "trials": 2,
            "tasks": [family.task],
            "objective": {"plain": 1},
            "limit": 2,
        },
        "family": {
            "base": family.base,
            "models": {"math": family.math, "code": {"model": family.code, "label": "coder"}},
            "corpus": f"{family.corpus}[:-2]",
            "tasks": [family.task],
            "prompts": ["1 + 1"],
            "neurons": {"loud": [[0, 17]]},
            "notes": "some",
        },
        "corpus": {
            "general": {"path": "general.jsonl", "count": 2},
            "math": {"path": "math.jsonl", "split": "train", "column": "text", "count": 2},
        },
        "task": yaml.safe_load(Path(family.task).read_text()),
    }


def mutated_yaml(content: Any, random: Random) -> bytes:
    """Return the YAML of changed content, or changed YAML."""
    if random.random() < 0.5:
        text = yaml.dump(mutated(content, random), sort_keys=False, allow_unicode=True).encode("utf-8", "surrogatepass")
    else:
        text = mutated_bytes(yaml.safe_dump(content, sort_keys=False).encode(), random, SNIPPETS)
    encoding = random.choice(("", "", "", "", "", "", "utf-16", "utf-8-sig", "latin-1", "utf-32"))
    if not encoding:
        return text
    return codecs.encode(text.decode("utf-8", "replace"), encoding, "replace")


def one(family: SimpleNamespace, folder: Path, random: Random) -> tuple[bytes, Outcome]:
    """Read one mutated file in `folder`; return it, and how that ended."""
    kind = random.choice(("recipe",) * 6 + ("sweep", "family", "corpus", "task"))
    file, out = folder / f"{kind}.yaml", folder / "out"
    if kind == "recipe":
        file.write_bytes(mutated_yaml(random.choice(recipes(family)), random))
        text = file.read_bytes()
        found = command("merge", str(file), str(out), "--dry-run")
        cheap = not any(word in text for word in (b"neuronmerge", b"fisher", b"mergekit"))
        if found.status == 0 and cheap and random.random() < 0.3:
            found = command("merge", str(file), str(out))
            if found.status == 0 and not open_checkpoint(str(out)).tensors:
                found = Outcome(1, "an output without tensors", found.seconds)
        shutil.rmtree(out, ignore_errors=True)
        return text, found
    file.write_bytes(text := mutated_yaml(others(family)[kind], random))
    places = Places(cache_root(), folder)
    read: dict[str, Callable[[], object]] = {
        "sweep": lambda: load_sweep(file).inputs,
        "corpus": lambda: (places.corpus(str(file)), load_corpus(str(file))),
        "task": lambda: places.task(str(file)),
    }
    return text, command("inspect", str(file)) if kind == "family" else reading(read[kind])
