"""An image model as lm-evaluation-harness wants one: it answers image tasks, and reports progress."""

from collections.abc import Sequence
from typing import Any

import torch
from lm_eval.api.instance import Instance
from torch import Tensor

from nmerge_core.errors import InputError, out_of_memory
from nmerge_core.evaluation.image_heads import Head, find_head
from nmerge_core.evaluation.image_task import ImageTask
from nmerge_core.kinds import BODY, CLASSIFIER, PAIR, PROJECTED
from nmerge_core.loading import ImageModel
from nmerge_core.machine import CPU
from nmerge_core.parallel import in_order
from nmerge_core.pictures import Picture
from nmerge_core.progress import Progress

_BATCH, _CPU_BATCH = 128, 32  # images that a batch found by itself begins with


class ImageHarness:
    """lm-eval's view of an image model; a batch that does not fit in memory is halved."""

    rank, world_size = 0, 1  # lm-eval's names of the process and of their number

    def __init__(self, model: ImageModel, batch_size: int | str, stage: str, progress: Progress) -> None:
        """Wrap the model; `stage` is the name under which progress is reported."""
        largest = _CPU_BATCH if model.device.type == CPU else _BATCH
        self.batch_size = largest if isinstance(batch_size, str) else batch_size
        self.stage, self.progress, self._model = stage, progress, model
        self._heads: dict[str, Head] = {}  # by the name of the task

    def check_room(self, requests: Sequence[Instance]) -> None:
        """Raise an InputError where the model cannot tell the classes of a task apart."""
        self._head(requests[0].args[1])

    def classify_image(self, requests: Sequence[Instance]) -> list[int]:
        """Return the number of the class that each image most likely is of.

        Raises:
            InputError: an image cannot be read, or the model's output is not finite.
        """
        task: ImageTask = requests[0].args[1]
        head, found = self._head(task), list[int]()
        while len(found) < len(requests):
            self.progress(self.stage, len(found), len(requests), "images")
            chosen = requests[len(found) : len(found) + self.batch_size]
            pictures = [task.file.pictures[request.doc["place"]] for request in chosen]
            try:
                found += self._classes(pictures, head)
            except (RuntimeError, MemoryError) as error:
                if not out_of_memory(error):
                    raise
                if self.batch_size == 1:
                    raise InputError(
                        f"{self.stage}: a single image does not fit in the memory of {self._model.device}"
                    ) from None
                self.batch_size //= 2
                torch.cuda.empty_cache()
        self.progress(self.stage, len(found), len(requests), "images")
        return found

    def _head(self, task: ImageTask) -> Head:
        if task.file.name not in self._heads:
            self._heads[task.file.name] = find_head(self._model, task.file)
        return self._heads[task.file.name]

    @torch.inference_mode()
    def _classes(self, pictures: Sequence[Picture], head: Head) -> list[int]:
        model = self._model
        pixels = torch.cat(list(in_order(model.prepared, pictures)))  # (B, 3, height, width)
        features = image_features(model, pixels.to(model.device, model.model.dtype)).float()  # (B, d)
        logits = head.logits(features)  # (B, classes)
        if not logits.isfinite().all():
            raise InputError(f"{model.label}: its output is not finite in {model.run_dtype}; lower weights and lambda")
        classes: list[int] = logits.argmax(dim=1).tolist()
        return classes


def image_features(model: ImageModel, pixels: Tensor) -> Tensor:
    """Return what a model makes of prepared images, (B, d): of a classifier the logits of all of its classes."""
    running: Any = model.model
    if model.kind == PAIR:
        found = running.get_image_features(pixel_values=pixels).pooler_output
    elif model.kind == PROJECTED:
        found = running(pixel_values=pixels).image_embeds
    elif model.kind == CLASSIFIER:
        found = running(pixel_values=pixels).logits
    elif model.kind == BODY:
        found = running(pixel_values=pixels).last_hidden_state[:, 0]  # what its classifier would read
    else:
        found = running(pixel_values=pixels).pooler_output
    features: Tensor = found
    return features
