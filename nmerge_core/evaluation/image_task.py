"""A task of images as lm-evaluation-harness has tasks: asked, judged and logged by it, answered by `ImageHarness`."""

import random
from collections.abc import Callable
from typing import Any

from lm_eval.api.instance import Instance
from lm_eval.api.metrics import mean
from lm_eval.api.task import Task
from lm_eval.config.task import TaskConfig
from lm_eval.filters import build_filter_ensemble

from nmerge_core.evaluation.image_file import ImageFile

CLASSIFY_IMAGE = "classify_image"  # what such a task asks: lm-eval calls the method of this name


class ImageTask(Task):
    """Each problem is an image, the answer the number of a class, and the metric top-1 accuracy."""

    VERSION = 1
    OUTPUT_TYPE: Any = CLASSIFY_IMAGE

    def __init__(self, file: ImageFile) -> None:
        """Take what the task's YAML says."""
        self.file = file
        self._config = TaskConfig(task=file.name, num_fewshot=0, output_type=self.OUTPUT_TYPE)
        self._filters = [build_filter_ensemble("none", [["take_first", None]])]
        self._instances = None
        self.fewshot_rnd: random.Random | None = None
        pictures = enumerate(file.pictures)
        self._docs = [{"place": place, "image": each.name, "label": each.label} for place, each in pictures]

    def has_training_docs(self) -> bool:
        """Nothing is learned from."""
        return False

    def has_validation_docs(self) -> bool:
        """All images are for the test."""
        return False

    def has_test_docs(self) -> bool:
        """All images are for the test."""
        return True

    def test_docs(self) -> list[dict[str, Any]]:
        """Return the images by their names, with their places in the file and their classes' numbers."""
        return self._docs

    def doc_to_text(self, doc: dict[str, Any]) -> str:
        """Return the image's name."""
        return str(doc["image"])

    def doc_to_target(self, doc: dict[str, Any]) -> str:
        """Return the name of the image's class."""
        return self.file.classes[doc["label"]]

    def construct_requests(self, doc: dict[str, Any], ctx: str, **kwargs: Any) -> Instance:
        """Ask what is on an image."""
        return Instance(self.OUTPUT_TYPE, doc, (ctx, self), 0, metadata=kwargs["metadata"])

    def process_results(self, doc: dict[str, Any], results: list[int]) -> dict[str, float]:
        """Return whether the class is the image's."""
        return {"acc": float(results[0] == doc["label"])}

    def aggregation(self) -> dict[str, Callable[[list[float]], float]]:
        """Return how the metric is made of its problems'."""
        return {"acc": mean}

    def higher_is_better(self) -> dict[str, bool]:
        """More is better."""
        return {"acc": True}
