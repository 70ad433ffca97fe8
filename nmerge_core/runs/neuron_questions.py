"""Short questions about single neurons: what they react to, what they write, and which are like them."""

from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

from nmerge_core.runs.answering import heed
from nmerge_core.runs.models import LoadedModels

Rows = list[dict[Any, Any]]
# The methods import what they need: the page process knows their names without importing torch.


class NeuronQuestions:
    """The questions, to models that stay loaded or to their files."""

    def __init__(self, models: LoadedModels) -> None:
        """Ask these models."""
        self._models = models

    @property
    def by_name(self) -> dict[str, Callable[..., Any]]:
        """Each question by its name."""
        asked = (
            self.token_activations, self.image_activations, self.neuron_changes, self.neuron_lens, self.nearest_neurons,
            self.continued, self.strongest_neurons, self.token_divergence, self.tokens_of_texts,
        )  # fmt: skip
        return {question.__name__: question for question in asked}

    def token_activations(
        self, model: str, layer: int, neuron: int, texts: Sequence[str], max_length: int = 512
    ) -> list[dict[str, Any]]:
        """Return for each text its tokens and the activation of one neuron on each: {"tokens": […], "values": […]}."""
        from nmerge_core.activations.collect import token_activations

        found = token_activations(self._models.get(model), texts, layer, neuron, max_length)
        return [{"tokens": list(text.tokens), "values": [float(value) for value in text.values]} for text in found]

    def image_activations(self, neurons: str, layer: int, neuron: int, ids: Sequence[int]) -> list[list[float]]:
        """Return one neuron's activation at every token of some images of a classification, `neurons`."""
        from nmerge_core.activations.store import open_classification
        from nmerge_core.neuron.on_images import image_activations

        found = open_classification(neurons)
        return image_activations(self._models.get(found.meta["model"]), found, layer, neuron, ids)

    def neuron_changes(
        self, base: str, models: Sequence[str], merges: Sequence[str], layer: int, neuron: int
    ) -> dict[str, list[Any]]:
        """Return what fine-tunes and merges changed in one neuron: `inheritance.tables.NeuronChanges` as lists."""
        from nmerge_core.inheritance.measure import neuron_changes

        found = neuron_changes(base, models, merges, layer, neuron)
        return {name: numbers.tolist() for name, numbers in vars(found).items()}

    def neuron_lens(self, model: str, layer: int, neuron: int, count: int = 10) -> dict[str, list[tuple[str, float]]]:
        """Return the tokens that a neuron promotes and suppresses: `neuron.lens.Lens`."""
        from nmerge_core.neuron.lens import lens

        return asdict(lens(self._models.get(model), model, layer, neuron, count))

    def nearest_neurons(self, model: str, layer: int, neuron: int, count: int, everywhere: bool = False) -> Rows:
        """Return the neurons whose weights are nearest to one's, {"layer", "neuron", "cosine"}."""
        from nmerge_core.neuron.nearest import nearest

        found = nearest(model, layer, neuron, count=count, everywhere=everywhere, progress=heed)
        return found.to_dict("records")

    def continued(self, model: str, text: str, more: int = 0, max_length: int = 512) -> dict[str, Any]:
        """Return a text with what a model adds to it: `neuron.on_text.Continued`."""
        from nmerge_core.neuron.on_text import continued

        return asdict(continued(self._models.get(model), text, more, max_length))

    def strongest_neurons(
        self, model: str, neurons: str, ids: Sequence[int], names: Sequence[str], count: int
    ) -> list[Rows]:
        """Return for each token the strongest neurons, `neuron.on_text.Strong`; `neurons` is the classification."""
        from nmerge_core.activations.store import open_classification
        from nmerge_core.neuron.on_text import check_tokens, strongest

        asked = self._models.get(model)
        check_tokens(asked, ids, names)
        found = strongest(asked, open_classification(neurons), ids, count)
        return [[asdict(strong) for strong in token] for token in found]

    def token_divergence(self, model: str, other: str, ids: Sequence[int], names: Sequence[str]) -> list[float]:
        """Return KL(model ‖ other) of what comes after each token, in nats."""
        from nmerge_core.neuron.on_text import check_tokens
        from nmerge_core.resident.departure import divergence, log_probabilities

        found = []
        for each in (model, other):
            asked = self._models.get(each)
            check_tokens(asked, ids, names)
            found.append(log_probabilities(asked, ids))
        values: list[float] = divergence(*found).tolist()
        return values

    def tokens_of_texts(self, model: str, texts: Sequence[str], max_length: int = 512) -> list[list[str]]:
        """Return the pieces that a model's tokens cut each text into; no weights are read."""
        from nmerge_core.neuron.pieces import pieces_of_texts

        return pieces_of_texts(model, texts, max_length)
