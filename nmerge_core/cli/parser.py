"""The commands and their options."""

import argparse
import os
import re
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NoReturn

from nmerge_core.cli import commands
from nmerge_core.number_format import AUTO, RUN_DTYPES
from nmerge_core.version import __version__

_MODEL = "a model folder or Hub id, or MODEL+ADAPTER with the folder or id of a LoRA"
_CORPUS = "a folder with one <category>.jsonl per category, or a YAML of datasets sources"
_TASKS = "a task YAML, a task of the demo family (math, code, translation, general), or an lm-eval name"


class Parser(argparse.ArgumentParser):
    """argparse that knows near misses, and says `nmerge: error:` like every other error here."""

    def __init__(self, **options: Any) -> None:
        """Options must be written out: abbreviations in scripts break when an option is added."""
        super().__init__(**options, allow_abbrev=False)

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Refuse unknown options here, where the command is known, and not in the main parser."""
        parsed, extra = super().parse_known_args(args, namespace)
        if extra:
            self.error(f"unrecognized arguments: {' '.join(extra)}")
        return parsed, extra

    def error(self, message: str) -> NoReturn:
        """Print usage and message to stderr and exit with status 2."""
        wrong = re.search(r"(?:unrecognized arguments: |invalid choice: ')([\w-]+)", message)
        known = re.findall(r"--[\w-]+", self.format_usage()) + re.findall(r"'([\w-]+)'", message)[1:]
        near = get_close_matches(wrong[1], known, 1) if wrong else []
        hint = f"; did you mean {near[0]}?" if near else ""
        self.exit(2, f"{self.format_usage()}nmerge: error: {message}{hint}\n")


def build_parser() -> argparse.ArgumentParser:
    """Return the parser; the command chosen is the function `command` of what it parses."""
    parser = Parser(
        prog="nmerge",
        description="Neuron analysis and neuron-level merging of language models.",
        epilog="Exit status: 0 done, 1 a failure of ours, 2 wrong input, 130 interrupted.",
    )
    parser.add_argument("--version", action="version", version=__version__)
    kinds = parser.add_subparsers(required=True, metavar="COMMAND", parser_class=Parser)

    def add(name: str, command: Callable[[argparse.Namespace], None], help: str) -> argparse.ArgumentParser:
        added = kinds.add_parser(name, help=help, description=f"{help[0].upper()}{help[1:]}.")
        added.set_defaults(command=command)
        return added

    demo = add("demo", commands.demo, "write the demo family: base, three fine-tunes, corpus and tasks")
    demo.add_argument("--out", type=Path, metavar="DIR", help="where to (default: demo/ of the cache)")
    demo.add_argument(
        "--retrain", action="store_true", help="train it anew (default DIR: demo-retrained/ of the cache)"
    )
    _device(demo)

    inspect = add("inspect", commands.inspect, "architecture and sizes of models, and whether they can be merged")
    inspect.add_argument("models", nargs="+", metavar="MODEL", help=f"{_MODEL}; the first is the base")
    inspect.add_argument("--json", action="store_true", help="print JSON")

    classify = add("classify", commands.classify, "give every neuron of a model a category")
    classify.add_argument("model", metavar="MODEL", help=_MODEL)
    classify.add_argument("--corpus", required=True, help=_CORPUS)
    classify.add_argument("--out", required=True, type=Path, metavar="DIR", help="the folder to write; must be new")
    classify.add_argument("--top-k", type=_positive, default=10, help="exemplars that vote on a neuron (default: 10)")
    classify.add_argument("--margin", type=_whole, default=1, help="votes to lead by, else General (default: 1)")
    classify.add_argument("--max-length", type=_positive, default=512, help="tokens of an exemplar read (default: 512)")
    classify.add_argument("--batch-size", type=_batch_size, default="auto", help="exemplars a batch (default: auto)")
    classify.add_argument("--categories", type=_names, help="categories to use besides general (default: all)")
    classify.add_argument("--skip-first", action="store_true", help="leave out the first token, an attention sink")
    _device(classify)
    _run_dtype(classify)

    compare = add("compare", commands.compare, "neurons per category in each model, and those it has in every model")
    compare.add_argument("folders", nargs="+", type=Path, metavar="DIR", help="what classify wrote, the base's first")
    compare.add_argument("--top-k", type=_positive, help="vote again with this many exemplars")
    compare.add_argument("--margin", type=_whole, help="vote again with this margin")
    _out(compare)

    cosine = add("cosine", commands.cosine, "cosine similarity of neuron weights between a base and its fine-tunes")
    _base_and_models(cosine)
    _out(cosine)
    _out(cosine, "--moved", "also write the neurons of lowest cosine")

    knockout = add("knockout", commands.knockout, "scores with a category's neurons silenced, against random neurons")
    knockout.add_argument("model", metavar="MODEL", help=_MODEL)
    knockout.add_argument("--neurons", required=True, type=Path, metavar="DIR", help="what classify wrote for MODEL")
    knockout.add_argument("--category", required=True, help="the category to silence")
    knockout.add_argument("--layers", required=True, type=layers, help="layers, such as 1,3-5")
    knockout.add_argument(
        "--proportions",
        type=_proportions,
        default=[0.2, 0.4, 0.6, 0.8, 1.0],
        help="shares of the category's neurons (default: 0.2,0.4,0.6,0.8,1.0)",
    )
    knockout.add_argument("--task", required=True, help=_TASKS)
    knockout.add_argument("--repeats", type=_positive, default=3, help="random draws of each (default: 3)")
    knockout.add_argument("--seed", type=_whole, default=0, help="of the draws (default: 0)")
    _evaluation(knockout)
    _device(knockout)
    _out(knockout)

    linearity = add("linearity", commands.linearity, "non-linearity of fine-tuning per submodule and neuron group")
    _base_and_models(linearity)
    linearity.add_argument("--corpus", required=True, help=_CORPUS)
    linearity.add_argument("--neurons", type=Path, metavar="DIR", help="what classify wrote for BASE: adds its groups")
    linearity.add_argument("--samples", type=_positive, default=30, help="texts of each category (default: 30)")
    linearity.add_argument("--seed", type=_whole, default=0, help="of the draw of texts (default: 0)")
    linearity.add_argument("--categories", type=_names, help="with --coefficients: the category of each MODEL in turn")
    _device(linearity)
    _out(linearity)
    _out(linearity, "--coefficients", "also solve the coefficients of SubModule Linearity and write them")

    statistics = add("statistics", commands.statistics, "Fisher information or Gram matrices of a model, for merging")
    statistics.add_argument("model", metavar="MODEL", help=_MODEL)
    statistics.add_argument("--corpus", required=True, help=_CORPUS)
    statistics.add_argument(
        "--kind", required=True, choices=("fisher", "gram"), help="fisher for the method fisher, gram for regmean"
    )
    statistics.add_argument("--out", required=True, type=Path, metavar="DIR", help="the folder to write; must be new")
    statistics.add_argument("--categories", type=_names, help="categories whose texts are taken (default: all)")
    statistics.add_argument("--samples", type=_positive, default=256, help="texts of each category (default: 256)")
    statistics.add_argument("--max-length", type=_positive, default=512, help="tokens of a text read (default: 512)")
    statistics.add_argument("--seed", type=_whole, default=0, help="of the draw of texts (default: 0)")
    _device(statistics)

    merge = add("merge", commands.merge, "merge models as a recipe says")
    merge.add_argument("recipe", type=Path, metavar="RECIPE", help="a YAML file, as mergekit has them and more")
    merge.add_argument("out", type=Path, metavar="OUT", help="the folder to write; must be new")
    merge.add_argument("--dry-run", action="store_true", help="check everything, print the cost, write nothing")
    _device(merge)

    extract = add("extract", commands.extract, "a LoRA adapter that makes a merge or fine-tune of its base")
    extract.add_argument("base", metavar="BASE", help=_MODEL)
    extract.add_argument("model", metavar="MODEL", help="what was made of BASE")
    extract.add_argument("out", type=Path, metavar="OUT", help="the adapter's folder; must be new")
    extract.add_argument("--rank", type=_positive, required=True, help="the rank of each linear layer's change")
    _device(extract)

    evaluate = add("evaluate", commands.evaluate, "scores of models on tasks")
    evaluate.add_argument("models", nargs="+", metavar="MODEL", help=_MODEL)
    evaluate.add_argument("--tasks", required=True, type=_names, help=f"separated by commas; each {_TASKS}")
    evaluate.add_argument("--batch-size", type=_positive, default=64, help="texts a batch (default: 64)")
    _evaluation(evaluate)
    _device(evaluate)
    _out(evaluate)

    sweep = add("sweep", commands.sweep, "search recipe parameters: every trial is merged and evaluated")
    sweep.add_argument("sweep", type=Path, metavar="SWEEP", help="a YAML file: recipe, search, tasks and strategy")
    sweep.add_argument("out", type=Path, metavar="OUT", help="the folder to write, or one to go on with")
    _run_code(sweep)
    _device(sweep)

    app = add("app", commands.app, "serve the app")
    app.add_argument("--port", type=int, help="default: $PORT, or 8501")
    return parser


def _base_and_models(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("base", metavar="BASE", help=_MODEL)
    parser.add_argument("models", nargs="+", metavar="MODEL", help="its fine-tunes")


def _device(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, … (default: auto)")


def _evaluation(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--limit", type=_positive, help="only the first problems of a task (default: all)")
    _run_code(parser)
    _run_dtype(parser)


def _run_dtype(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--run-dtype",
        choices=RUN_DTYPES,
        default=AUTO,
        help="number format the model runs in; auto is its own, on a CPU that computes in it slowly float32",
    )


def _run_code(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--run-code", action="store_true", help="allow running generated code, in a locked-down process"
    )


def _out(parser: argparse.ArgumentParser, name: str = "--out", what: str = "also write the table") -> None:
    parser.add_argument(name, type=_csv, metavar="FILE", help=f"{what} as CSV; an existing FILE is overwritten")


def _csv(text: str) -> Path:
    """Refuse a path that cannot be written now, not after the work."""
    path = Path(text)
    if path.is_dir():
        raise argparse.ArgumentTypeError(f"{text} is a folder; expected the name of a CSV file")
    if not path.parent.is_dir():
        raise argparse.ArgumentTypeError(f"there is no folder {path.parent}; make it first")
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise argparse.ArgumentTypeError(f"the folder {path.parent} cannot be written")
    return path


def _whole(text: str, least: int = 0) -> int:
    if not text.isdecimal() or int(text) < least:
        raise argparse.ArgumentTypeError(f"expected a whole number from {least}, found {text!r}")
    return int(text)


def _positive(text: str) -> int:
    return _whole(text, least=1)


def _batch_size(text: str) -> int | str:
    return text if text == "auto" else _positive(text)


def _names(text: str) -> list[str]:
    names = [name.strip() for name in text.split(",")]
    if not all(names):
        raise argparse.ArgumentTypeError(f"expected names separated by commas, found {text!r}")
    return names


def _proportions(text: str) -> list[float]:
    try:
        values = [float(part) for part in text.split(",")]
    except ValueError:
        values = []
    if not values or not all(0 < value <= 1 for value in values):
        raise argparse.ArgumentTypeError(f"expected shares in (0, 1] such as 0.2,0.6,1.0, found {text!r}")
    return values


def layers(text: str) -> Sequence[int]:
    """Return the layers that "1,3-5" means, each once, in ascending order."""
    found: set[int] = set()
    for part in text.split(","):
        ends = re.fullmatch(r"\s*(\d+)(?:-(\d+))?\s*", part)
        if not ends or int(ends[2] or ends[1]) < int(ends[1]):
            raise argparse.ArgumentTypeError(f"expected layers such as 1,3-5, found {text!r}")
        found.update(range(int(ends[1]), int(ends[2] or ends[1]) + 1))
    return sorted(found)
