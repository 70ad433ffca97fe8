"""The models that short questions have loaded, kept while there is room."""

from collections import OrderedDict
from typing import TYPE_CHECKING

from nmerge_core.checkpoints.opening import open_checkpoint
from nmerge_core.inputs import model_fingerprint
from nmerge_core.machine import total_memory
from nmerge_core.number_format import ITEM_BYTES, choose_format

if TYPE_CHECKING:
    from nmerge_core.loading import LanguageModel

_COUNT = 8
_MEMORY_SHARE = 0.25  # of the machine's memory: the rest is for the run that is going


class LoadedModels:
    """At most eight models and a quarter of the memory; the one not used for longest goes first."""

    def __init__(self) -> None:
        """Start with none."""
        self._models: OrderedDict[str, tuple[int, LanguageModel]] = OrderedDict()  # fingerprint → (bytes, model)

    def get(self, reference: str) -> "LanguageModel":
        """Return the model, loading it if none with its weights, configuration and tokenizer is loaded."""
        from nmerge_core.loading import load_model

        checkpoint = open_checkpoint(reference)
        key = model_fingerprint(checkpoint)
        if key not in self._models:
            size = checkpoint.parameters * ITEM_BYTES[choose_format(checkpoint).name]
            self._make_room(size)
            self._models[key] = (size, load_model(reference))
        self._models.move_to_end(key)
        return self._models[key][1]

    def _make_room(self, wanted: int) -> None:
        room = _MEMORY_SHARE * total_memory()
        while self._models and (
            len(self._models) >= _COUNT or sum(size for size, _ in self._models.values()) + wanted > room
        ):
            self._models.popitem(last=False)
