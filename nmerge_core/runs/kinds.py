"""The kinds of run, each declared once: what it does, its parameters, and the version of what computes it."""

from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cached_property
from typing import Any

from nmerge_core.calibration import store as statistics
from nmerge_core.checkpoints import open_checkpoint
from nmerge_core.errors import InputError
from nmerge_core.inputs import Places
from nmerge_core.labelling import prompts
from nmerge_core.labelling.parameter import BY, KEY_FROM
from nmerge_core.merging.recipe_parameter import RecipeParameter
from nmerge_core.number_format import choose_format
from nmerge_core.parameters import settings
from nmerge_core.parameters.inputs import Model
from nmerge_core.parameters.parameter import Parameter
from nmerge_core.parameters.settings import DEVICE, RUN_DTYPE
from nmerge_core.reports.budget import BUDGET
from nmerge_core.reports.parameter import FamilyParameter
from nmerge_core.search.parameter import SweepParameter


@dataclass(frozen=True)
class Kind:
    """A kind of run: `version` is raised when its results change; a run that was killed goes on if `resumable`.

    One that is `paused` when it is cancelled keeps what it has then, too, and when it fails.
    """

    name: str
    help: str
    parameters: tuple[Parameter, ...]
    version: int = 1
    resumable: bool = False
    paused: bool = False

    @cached_property
    def by_name(self) -> Mapping[str, Parameter]:
        """Its parameters by their names."""
        return {parameter.name: parameter for parameter in self.parameters}

    def check(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Return the values of all parameters, checked, defaults filled in for those that are unset or None.

        Raises:
            InputError: a parameter is not known (the nearest is named), missing, of another kind or out of range.
        """
        for name in given:
            if name not in self.by_name:
                near = get_close_matches(name, self.by_name, 1)
                hint = f"did you mean {near[0]!r}?" if near else f"expected {', '.join(self.by_name)}"
                raise InputError(f"{self.name}: unknown parameter {name!r}; {hint}")
        values = {}
        for name, parameter in self.by_name.items():
            value = parameter.default if given.get(name) is None else given[name]
            if parameter.required and (value is None or (isinstance(value, str | list | tuple) and not value)):
                raise InputError(f"{self.name}: the parameter {name!r} is missing; expected {parameter.expected}")
            values[name] = parameter.check(value, f"{self.name}, {name}")
        return values

    def content(self, values: Mapping[str, Any], places: Places) -> tuple[dict[str, Any], dict[str, str]]:
        """Return checked values with all that they name in full, and the fingerprint of everything that is read.

        Where models run, the number format of each is among them: it decides the results.
        """
        full, found = {}, dict[str, str]()
        for name, parameter in self.by_name.items():
            full[name], inputs = parameter.content(values[name], places)
            found.update(inputs)
            found.update(parameter.formats(full[name], values.get(DEVICE.name) or DEVICE.default))
        if RUN_DTYPE.name in self.by_name and DEVICE.name in self.by_name:
            for parameter in self.parameters:
                named = full[parameter.name] if isinstance(parameter, Model) else ()
                for model in [named] if isinstance(named, str) else named:
                    chosen = choose_format(open_checkpoint(model), full[RUN_DTYPE.name], full[DEVICE.name])
                    found[f"{model} runs in"] = chosen.name
        return full, found


RECIPE = RecipeParameter(name="recipe", required=True, help="A YAML file, as mergekit has them and more.")
SWEEP = SweepParameter(name="sweep", required=True, help="A YAML file: recipe, search, tasks and strategy.")
FAMILY = FamilyParameter(name="family", required=True, help="A family's YAML file, or demo.")
_SHARED = (settings.SEED, DEVICE)
_MEASURED = (  # of kinds that measure a model with neurons off
    settings.LISTS.with_(
        help='Lists of neurons beside the categories: {"NAME": [[layer, neuron], …]}, or a file each.'
    ),
    settings.TASK.with_(required=False),
    settings.LOSS,
    settings.REPEATS,
    settings.SEED,
    settings.LIMIT_EACH,
    settings.RUN_CODE,
    settings.ALLOW_TASK_CODE,
    DEVICE,
    RUN_DTYPE,
)

KINDS: Mapping[str, Kind] = {
    kind.name: kind
    for kind in (
        Kind(
            "classify",
            "give every neuron of a model a category",
            (
                settings.MODEL,
                settings.CORPUS,
                settings.TOP_K,
                settings.MARGIN,
                settings.MAX_LENGTH,
                settings.COLLECT_BATCH,
                settings.CATEGORIES,
                settings.SKIP_FIRST,
                settings.STATISTICS,
                settings.LAYERWISE,
                DEVICE,
                RUN_DTYPE,
            ),
            resumable=True,
        ),
        Kind(
            "cosine",
            "cosine similarity of neuron weights between a base and its fine-tunes, and of what these changed",
            (settings.BASE, settings.FINE_TUNES),
            version=4,
        ),
        Kind(
            "interference",
            "where fine-tunes get in each other's way, matrix by matrix",
            (settings.BASE, settings.FINE_TUNES),
        ),
        Kind(
            "inherited",
            "what each neuron of a merge kept of what its fine-tunes changed",
            (settings.MODEL.with_(name="merge", help="A merge of the fine-tunes."), settings.BASE, settings.FINE_TUNES),
        ),
        Kind(
            "knockout",
            "scores with a category's neurons silenced, or kept alone, against random neurons",
            (
                settings.MODEL,
                settings.CLASSIFICATION.with_(required=True),
                settings.CATEGORY,
                settings.LAYERS,
                settings.PROPORTIONS,
                settings.KEEP_ONLY,
                *_MEASURED,
            ),
            version=5,
            resumable=True,
            paused=True,
        ),
        Kind(
            "effects",
            "what each category's neurons of each layer do: silenced, against random ones",
            (
                settings.MODEL,
                settings.CLASSIFICATION.with_(required=True),
                settings.CATEGORIES.with_(help="Categories, and names of lists, to knock out; all by default."),
                settings.LAYERS,
                *_MEASURED,
            ),
            version=3,
            resumable=True,
            paused=True,
        ),
        Kind(
            "label",
            "what a language model would call neurons, beside the categories of their texts",
            (
                settings.MODEL.with_(help="The model that was classified."),
                settings.CLASSIFICATION.with_(required=True, help="What classify wrote for it."),
                BY,
                settings.NEURONS_LABELLED,
                settings.EACH_CATEGORY,
                settings.LISTS.with_(
                    help='Lists of neurons in place of a draw: {"NAME": [[layer, neuron], …]}, or a file each.'
                ),
                settings.SEED,
                KEY_FROM,
                settings.ANSWER_TOKENS,
                DEVICE,
            ),
            version=prompts.VERSION,
            resumable=True,
            paused=True,
        ),
        Kind(
            "linearity",
            "non-linearity of fine-tuning per submodule and neuron group",
            (
                settings.BASE,
                settings.FINE_TUNES,
                settings.CORPUS,
                settings.CLASSIFICATION.with_(help="What classify wrote for the base: adds its groups."),
                settings.CATEGORIES.with_(
                    help="The category of each fine-tune in turn: SubModule Linearity's coefficients are solved too."
                ),
                settings.SAMPLES,
                settings.RANDOM_GROUPS,
                *_SHARED,
            ),
            version=3,
        ),
        Kind(
            "coefficients",
            "SubModule Linearity's coefficients, which merges go by",
            (
                settings.BASE,
                settings.FINE_TUNES,
                settings.CORPUS,
                settings.CATEGORIES.with_(required=True, help="The category of each fine-tune in turn."),
                settings.CLASSIFICATION,
                settings.TOP_K.with_(default=None),
                settings.MARGIN.with_(default=None),
                settings.GROUPING,
                settings.LISTS,
                settings.GROUPS,
                settings.TOGETHER,
                settings.SAMPLES,
                *_SHARED,
            ),
            version=2,
        ),
        Kind(
            "statistics",
            "Fisher information or Gram matrices of a model, for merging",
            (
                settings.MODEL,
                settings.CORPUS,
                settings.STATISTICS_KIND,
                settings.CATEGORIES.with_(help="Categories whose texts are taken; all by default."),
                settings.STATISTICS_SAMPLES,
                settings.MAX_LENGTH,
                *_SHARED,
            ),
            version=statistics.VERSION,
        ),
        Kind("merge", "merge models as a recipe says", (RECIPE, DEVICE), resumable=True),
        Kind("combine", "a LoRA adapter of several of one base, merged in their core space", (RECIPE, DEVICE)),
        Kind(
            "extract",
            "a LoRA adapter that makes a merge or fine-tune of its base",
            (settings.BASE, settings.MODEL.with_(help="What was made of the base."), settings.RANK, DEVICE),
        ),
        Kind(
            "evaluate",
            "scores of models on tasks",
            (
                settings.MODELS,
                settings.TASKS,
                settings.LIMIT,
                settings.SHOTS,
                settings.CHAT_TEMPLATE,
                settings.DECODING,
                settings.EVALUATE_BATCH,
                settings.EVALUATE_SEED,
                settings.RUN_CODE,
                settings.ALLOW_TASK_CODE,
                DEVICE,
                RUN_DTYPE,
                settings.BACKEND,
            ),
            version=6,
        ),
        Kind(
            "loss",
            "loss of models on the held-out texts of a corpus",
            (settings.MODELS, settings.CORPUS, settings.MAX_LENGTH, DEVICE, RUN_DTYPE),
            version=2,
        ),
        Kind(
            "sweep",
            "search recipe parameters: every trial is merged and evaluated",
            (SWEEP, settings.RUN_CODE, settings.ALLOW_TASK_CODE, DEVICE),
            version=5,
            resumable=True,
            paused=True,
        ),
        Kind(
            "report",
            "every figure and table of both papers of a family, beside the papers' own",
            (FAMILY, BUDGET, settings.RUN_CODE, settings.ALLOW_TASK_CODE, DEVICE),
            version=4,
            resumable=True,
            paused=True,
        ),
    )
}
