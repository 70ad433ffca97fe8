"""The process that mergekit runs in: it plans a merge, says what it will write, and merges when told to go on.

The request comes as a line of JSON on stdin, answers go out as lines of JSON on stdout, what libraries print goes to
stderr. When stdin closes, nobody waits for the merge any more, and the process ends.
"""

import json
import os
import sys
import threading
import traceback
from collections.abc import Mapping
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import mergekit.merge
from mergekit import merge_methods
from mergekit.common import dtype_from_name
from mergekit.config import MergeConfiguration
from mergekit.io.tasks import LoaderCache
from mergekit.options import MergeOptions
from mergekit.plan import MergePlanner

from nmerge_core.checkpoints.header import TensorInfo
from nmerge_core.checkpoints.pickled import reader
from nmerge_core.machine import peak_memory
from nmerge_core.merging.recipe.mergekit_recipe import named_models


class Configuration(MergeConfiguration):
    """mergekit's configuration with its models in a given order: mergekit's own comes from a set."""

    order: list[str]

    def referenced_models(self) -> list[Any]:
        """Return the models; without a base the first gives configuration and tokenizer."""
        return sorted(super().referenced_models(), key=lambda model: self.order.index(str(model)))


def check_names(content: Any, parsed: Any, parameters: list[str], where: str = "recipe") -> None:
    """Raise ValueError for a key that mergekit would pass over: it ignores what it does not know."""
    fields = getattr(type(parsed), "model_fields", None)  # of a pydantic model
    if fields and isinstance(content, Mapping):
        _known(content, list(fields), where)
        for key, value in content.items():
            if key == "parameters":
                _known(value or {}, parameters, f"{where}.{key}")
            check_names(value, getattr(parsed, key), parameters, f"{where}.{key}")
    elif isinstance(parsed, Mapping) and isinstance(content, Mapping):
        for key, value in content.items():
            check_names(value, parsed[key], parameters, f"{where}.{key}")
    elif isinstance(parsed, list) and isinstance(content, list):
        for index, (value, inner) in enumerate(zip(content, parsed, strict=True)):
            check_names(value, inner, parameters, f"{where}[{index}]")


def _known(content: Mapping[str, Any], names: list[str], where: str) -> None:
    for key in content:
        if key not in names:
            near = get_close_matches(str(key), names, 1, 0.5)
            hint = f"did you mean '{near[0]}'?" if near else f"known keys: {', '.join(names) or 'none'}"
            raise ValueError(f"{where}: unknown key '{key}'; {hint}")


def filters(content: Any) -> set[str]:
    """Return every filter in a recipe."""
    if isinstance(content, Mapping):
        own = {content["filter"]} if isinstance(content.get("filter"), str) else set()
        return own.union(*map(filters, content.values()))
    return set().union(*map(filters, content)) if isinstance(content, list) else set()


def planned(planner: MergePlanner) -> dict[str, int]:
    """Return the sizes of a planned merge, from headers.

    Raises:
        ValueError: a tensor is missing in a model, shapes do not fit together, or a filter is part of no name.
    """
    config, read, names = planner.config, 0, set()
    sizes = []  # (elements, bytes) of each tensor that is written
    for weight, task in planner._tensors:
        by_token = planner._tokenizer_task is not None and weight.vocabulary_axis is not None
        gather = task.gather_tensors.gather_tensors if by_token else task.gather_tensors
        sources = {model: _find(model, source) for model, source in gather.weight_info.items()}
        found = {model: info for model, info in sources.items() if info}
        shapes = {model: _shape(info, weight.vocabulary_axis if by_token else None) for model, info in found.items()}
        if len(set(shapes.values())) > 1:
            told = ", ".join(f"{list(info.shape)} in {model}" for model, info in found.items())
            hint = "; `tokenizer_source: union` matches rows by token" if weight.vocabulary_axis is not None else ""
            raise ValueError(f"tensor {weight.name}: expected one shape in every model, found {told}{hint}")
        names |= {weight.name, *(source.name for source in gather.weight_info.values())}
        read += sum(info.bytes for info in found.values())
        if found:
            info = next(iter(found.values()))
            dtype = dtype_from_name(weight.force_dtype or config.out_dtype or config.dtype)
            sizes.append((info.elements, info.elements * dtype.itemsize if dtype else info.bytes))
    for text in filters(config.model_dump()):
        if text != "*" and not any(text in name for name in names):
            raise ValueError(f"filter '{text}': expected a part of a tensor's name, found in none of them")
    elements, written = map(sum, zip(*sizes, strict=True))
    return {"tensors": len(sizes), "parameters": elements, "bytes_read": read, "bytes_written": written}


def set_layer_types(planner: MergePlanner) -> None:
    """Give the merge's configuration each layer's kind of attention from the layer that it comes from.

    mergekit sets the number of layers alone, and transformers 5 saves no configuration where the two do not agree.
    """
    if len(planner.config.modules) == 1 and getattr(planner.out_model_config, "layer_types", None):
        (module,) = planner.config.modules.values()
        first = [output.sources[0] for output in module.slices]
        kinds = [kind for each in first for kind in each.model.config().layer_types[slice(*each.layer_range)]]
        planner.out_model_config.layer_types = kinds


@cache
def _header(file: Path) -> dict[str, TensorInfo]:
    return reader(file)(file)


def _find(model: Any, weight: Any) -> TensorInfo | None:
    index = LoaderCache().get(model).index
    for name in (weight.name, *(weight.aliases or ()), *(weight.tied_names or ())):
        if name in index.tensor_paths:
            return _header(Path(index.base_path) / index.tensor_paths[name])[name]
    if weight.optional:
        return None
    raise ValueError(f"{model}: has no tensor {weight.name}; is a layer_range beyond its layers?")


def _shape(info: TensorInfo, free_axis: int | None) -> tuple[int, ...]:
    return tuple(length for axis, length in enumerate(info.shape) if axis != free_axis)


def main() -> int:
    """Serve one merge; return 0, 2 if the recipe is wrong, 1 if mergekit failed while it merged."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    lines: SimpleQueue[str] = SimpleQueue()
    threading.Thread(target=_listen, args=(lines,), daemon=True).start()
    request = json.loads(lines.get())
    going = False

    def answer(**content: Any) -> None:
        answers.write(json.dumps(content) + "\n")
        answers.flush()

    class Planner(MergePlanner):
        def plan_to_disk(self, out_path: str) -> Any:
            nonlocal going
            tasks = super().plan_to_disk(out_path)
            set_layer_types(self)
            answer(**planned(self))
            lines.get()
            going = True
            return tasks

    mergekit.merge.MergePlanner = Planner
    try:
        content = request["content"]
        config = Configuration.model_validate({**content, "order": named_models(content)})
        spec = merge_methods.get(config.merge_method).spec
        check_names(content, config, [parameter.name for parameter in spec.parameters])
        mergekit.merge.run_merge(config, request["out"], MergeOptions(**request["options"]))
    except Exception as error:
        if going:
            traceback.print_exc()
            return 1
        answer(error=_sentence(error))
        return 2
    answer(peak_memory=peak_memory())
    return 0


def _listen(lines: "SimpleQueue[str]") -> None:
    for line in sys.stdin:
        lines.put(line)
    os._exit(1)


def _sentence(error: Exception) -> str:
    if hasattr(error, "errors"):  # pydantic's ValidationError
        places = [(".".join(map(str, each["loc"])), each["msg"]) for each in error.errors()]
        return "; ".join(f"{place}: {message}" for place, message in places[:3])
    return " ".join(str(error).split()) or type(error).__name__


if __name__ == "__main__":
    status = main()
    sys.stderr.flush()
    os._exit(status)  # an ordinary exit would wait for the thread that reads stdin
