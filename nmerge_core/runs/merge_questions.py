"""Short questions about a merge in memory: how it differs from the models that it is made of, and where."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from nmerge_core.errors import InputError
from nmerge_core.runs.models import LiveMerges, LoadedModels

if TYPE_CHECKING:
    from nmerge_core.loading import LanguageModel

Rows = list[dict[Any, Any]]
Recipe = Mapping[str, Any]
# The methods import what they need: the page process knows their names without importing torch.


class MergeQuestions:
    """The questions, each of which brings its recipe, which the merge in memory is first made to follow."""

    def __init__(self, models: LoadedModels, live: LiveMerges) -> None:
        """Ask these models and merges."""
        self._models, self._live = models, live

    @property
    def by_name(self) -> dict[str, Callable[..., Any]]:
        """Each question by its name."""
        asked = (self.spread, self.merged_spread, self.changes, self.divergence, self.next_tokens, self.moved_neurons)
        return {question.__name__: question for question in asked}

    def spread(self, model: str, texts: Sequence[str]) -> Rows:
        """Return effective rank and variance of a model's hidden states on texts, {"layer", "rank", "variance"}."""
        from nmerge_core.activations.spread import spread

        return spread(self._models.get(model), texts).to_dict("records")

    def merged_spread(self, recipe: Recipe, texts: Sequence[str]) -> Rows:
        """Return the same of a merge."""
        from nmerge_core.activations.spread import spread

        return spread(self._merge(recipe), texts).to_dict("records")

    def changes(self, recipe: Recipe, base: str) -> dict[str, Rows]:
        """Return the tables "layers" and "models" of `resident.health.Changes`.

        They are measured from the recipe's base, or from `base` where it names none.
        """
        from nmerge_core.resident.health import changes

        found = changes(self._live.follow(recipe)[0], base)
        return {"layers": found.layers.to_dict("records"), "models": found.models.to_dict("records")}

    def divergence(self, recipe: Recipe, models: Sequence[str], text: str, max_length: int) -> dict[str, Any]:
        """Return at each token of a text how far a merge is from some models.

        Returns:
            "tokens", the pieces of the text; "models", for each {"values": KL(merge ‖ model) in nats, of what comes
            after each token}, or {"refused": why it cannot be compared}.
        """
        from nmerge_core.resident.departure import divergence, log_probabilities, read_alike

        merge = self._merge(recipe)
        read = read_alike([merge], text, max_length)
        ours, found = log_probabilities(merge, read.ids), Rows()
        for model in models:
            try:
                loaded = self._models.get(model)
                read_alike([merge, loaded], text, max_length)
                found.append({"values": divergence(ours, log_probabilities(loaded, read.ids)).tolist()})
            except InputError as error:
                found.append({"refused": str(error)})
        return {"tokens": read.pieces, "models": found}

    def next_tokens(
        self, recipe: Recipe, models: Sequence[str], text: str, token: int, likeliest: int, max_length: int
    ) -> Rows:
        """Return what a merge and some models expect after one token of a text.

        Returns:
            {"token": text, "probabilities": of the merge and of each model} of every token that is among the
            `likeliest` of any of them, what the merge finds likeliest first.
        """
        from nmerge_core.resident.departure import likeliest_next, read_until

        several = [self._merge(recipe), *map(self._models.get, models)]
        ids = read_until(several, text, token, max_length)
        return [asdict(each) for each in likeliest_next(several, ids, likeliest)]

    def moved_neurons(self, recipe: Recipe, model: str, text: str, token: int, neurons: int, max_length: int) -> Rows:
        """Return each layer's `neurons` that a merge and a model activate most differently at one token of a text.

        Returns:
            {"layer", "neuron", "merge", "model"} each, with φ of either.
        """
        from nmerge_core.resident.departure import moved_neurons, read_until

        merge, other = self._merge(recipe), self._models.get(model)
        ids = read_until([merge, other], text, token, max_length)
        return moved_neurons(merge, other, ids, neurons).to_dict("records")

    def _merge(self, recipe: Recipe) -> "LanguageModel":
        return self._live.follow(recipe)[0].language_model
