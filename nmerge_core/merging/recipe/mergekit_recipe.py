"""Recipes with `engine: mergekit`: mergekit's YAML as it is written, which mergekit runs where it is installed."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from importlib.metadata import version
from importlib.util import find_spec
from typing import Any

import yaml

from nmerge_core.checkpoints.reference import labels
from nmerge_core.errors import InputError, shown, unknown
from nmerge_core.inputs import Places
from nmerge_core.merging.recipe.tokenizer_choice import BASE, UNION

ENGINE = "mergekit"
INSTALL = "pip install mergekit==0.1.5"  # as requirements-mergekit.txt pins it
# Of the pinned version, told here so that they are known where it is not installed, and without importing it.
METHODS: tuple[str, ...] = (
    "arcee_fusion",
    "breadcrumbs",
    "breadcrumbs_ties",
    "dare_linear",
    "dare_ties",
    "della",
    "della_linear",
)
METHODS += ("karcher", "linear", "model_stock", "multislerp", "nearswap", "nuslerp", "passthrough", "ram")
METHODS += ("ramplus_tl", "sce", "slerp", "task_arithmetic", "ties")
KEYS: tuple[str, ...] = (
    "merge_method",
    "base_model",
    "models",
    "slices",
    "modules",
    "parameters",
    "dtype",
    "out_dtype",
)
KEYS += ("tokenizer", "tokenizer_source", "chat_template")
# Keys of recipes for its other commands and versions, and its options, and what to do with one of those.
OF_OTHERS: dict[str, str] = dict.fromkeys(
    ("experts", "gate_mode", "experts_per_token", "shared_experts"),
    "of a recipe for mergekit-moe, which makes a mixture of experts; that command reads it. Here models become one of "
    "their own kind: name them under 'models', with a merge_method",
)
OF_OTHERS |= {
    "name": "of one of several recipes in a file, divided by `---`, that others name as a model; leave it out",
    "genome": "of a recipe for mergekit-evolve, which searches; write a sweep with `strategy: cma` (`nmerge sweep`)",
    "random_seed": "an option of mergekit's command; write 'seed'",
    "embed_slerp": "of older versions of mergekit, for the rows of tokens; leave it out: they are merged as all rows",
    "tokens": "a part of 'tokenizer'; write `tokenizer: {source: union, tokens: …}`",
}
OF_OTHERS |= dict.fromkeys(
    ("allow_crimes", "async_write", "clone_tensors", "copy_tokenizer", "cuda", "device", "gpu_rich", "lazy_unpickle")
    + ("lora_merge_cache", "lora_merge_dtype", "low_cpu_memory", "multi_gpu", "num_threads", "out_shard_size", "quiet")
    + ("read_to_gpu", "safe_serialization", "transformers_cache", "trust_remote_code", "write_model_card"),
    "an option of mergekit's command and no part of a recipe; leave it out",
)
_OURS = ("engine", "seed")
_TOKENIZERS = ("tokenizer", "tokenizer_source", "source")  # keys that name a model, or whose tokens by a word


@dataclass(frozen=True)
class MergekitRecipe:
    """A recipe for mergekit: `given` is what it reads, `seed` that of its random masks."""

    given: Mapping[str, Any]
    seed: int = 0

    @property
    def merge_method(self) -> str:
        """The method's name in mergekit."""
        return str(self.given["merge_method"])

    @property
    def base_model(self) -> str | None:
        """The recipe's base, if it names one."""
        return self.given.get("base_model")

    @property
    def references(self) -> tuple[str, ...]:
        """Every model that the recipe names, in its order; the base is not among them."""
        return tuple(name for name in named_models(self.given) if name != self.base_model)

    def renamed(self, name: Callable[[str], str]) -> "MergekitRecipe":
        """Return the recipe with other names of the models."""
        return MergekitRecipe(renamed(self.given, name), self.seed)

    @property
    def runs_models(self) -> bool:
        """Whether models are run on texts or tasks before they are merged."""
        return False

    @property
    def content(self) -> dict[str, Any]:
        """What stands in its YAML."""
        return {"engine": ENGINE, **self.given, "seed": self.seed}

    @property
    def yaml(self) -> str:
        """The recipe as YAML; reading it again gives the same merge."""
        return write_yaml(self.content)

    def title(self, names: Mapping[str, str], family: Collection[str] = ()) -> str:
        """Name the merge by its method, and by its models unless they are the whole family."""
        short = labels(self.references)
        called = [names.get(reference, own) for reference, own in zip(self.references, short, strict=True)]
        return f"{self.merge_method} by mergekit" + ("" if set(called) == set(family) else f" of {', '.join(called)}")

    def in_full(self, places: Places) -> tuple["MergekitRecipe", dict[str, str]]:
        """Return the recipe with its models named in full, and the fingerprint of each and mergekit's version.

        Raises:
            InputError: a model is not there.
        """
        found = {"mergekit": version("mergekit")}

        def model(reference: str) -> str:
            full, found[full] = places.model(reference)
            return full

        return self.renamed(model), found


def write_yaml(content: Mapping[str, Any]) -> str:
    """Write a recipe of either engine as YAML."""
    return yaml.safe_dump(dict(content), sort_keys=False, allow_unicode=True, default_flow_style=None, width=100)


def installed() -> bool:
    """Tell whether mergekit can be imported, without importing it."""
    return find_spec("mergekit") is not None


def read_mergekit(content: Mapping[str, Any]) -> MergekitRecipe:
    """Check what can be checked of a recipe without mergekit itself, which checks the rest before it starts.

    Raises:
        InputError: mergekit is not installed, a key or the method is unknown, or no model is named.
    """
    if not installed():
        raise InputError(
            f"recipe, key 'engine': mergekit is not installed; `{INSTALL}` in NMerge's environment adds it"
        )
    for key in content:
        if key not in (*KEYS, *_OURS):
            near = get_close_matches(str(key), (*KEYS, *_OURS), 1, 0.5)
            hint = f"did you mean '{near[0]}'?" if near else f"known keys: {', '.join((*KEYS, *_OURS))}"
            raise InputError(f"recipe (mergekit): unknown key {shown(key)}; {hint}")
    method = content.get("merge_method")
    if method not in METHODS:
        raise InputError(f"recipe, key 'merge_method' (mergekit): {unknown(str(method), METHODS)}")
    seed = content.get("seed", 0)
    if not isinstance(seed, int) or isinstance(seed, bool) or not 0 <= seed < 2**32:
        raise InputError(f"recipe, key 'seed' (mergekit): expected a whole number in [0, 2³²), found {shown(seed)}")
    recipe = MergekitRecipe({key: content[key] for key in content if key not in _OURS}, seed)
    if not recipe.references:
        raise InputError("recipe (mergekit): expected models under 'models', 'slices' or 'modules', found none")
    return recipe


def elsewhere() -> str:
    """Say how a recipe gets what only mergekit has."""
    return "write `engine: mergekit` in the recipe" + ("" if installed() else f" and install mergekit (`{INSTALL}`)")


def named_models(content: Mapping[str, Any]) -> list[str]:
    """Return the models that a recipe names, for either engine, in its order and each once."""
    found: list[str] = []

    def collect(name: str) -> str:
        found.append(name)
        return name

    renamed(content, collect)
    return list(dict.fromkeys(found))


def renamed(content: Any, name: Callable[[str], str]) -> Any:
    """Return what stands in a recipe, for either engine, with other names of its models."""
    if isinstance(content, list):
        return [renamed(each, name) for each in content]
    if not isinstance(content, Mapping):
        return content
    return {key: value if key == "parameters" else _named(key, value, name) for key, value in content.items()}


def reference(value: Any, key: str) -> str:
    """Return what names a model; raises InputError where it is no text, saying how mergekit's long form is written."""
    if isinstance(value, str):
        return value
    expected = f"recipe, key '{key}': expected a folder, a Hub id, or MODEL+ADAPTER, found {shown(value)}"
    named = [_path(value.get(each)) for each in ("model", "lora")] if isinstance(value, Mapping) else []
    short = "+".join(each for each in named if each)
    raise InputError(f"{expected}; write `{key.rpartition('.')[2]}: {short}`" if short else expected)


def _path(given: Any) -> str:
    path = given.get("path", given.get("model")) if isinstance(given, Mapping) else given
    return path if isinstance(path, str) else ""


def _named(key: str, value: Any, name: Callable[[str], str]) -> Any:
    if key in ("model", "base_model") and value is not None:
        return name(reference(value, key))
    if key in _TOKENIZERS and isinstance(value, str):
        return value if value in (BASE, UNION) else name(value)
    return renamed(value, name)
