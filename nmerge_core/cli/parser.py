"""The commands and their options: those of runs follow from how each kind of run declares its parameters."""

import argparse
import os
import re
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from os.path import exists, expanduser, isdir
from pathlib import Path
from typing import Any, NoReturn

from nmerge_core.cli import analysis, commands
from nmerge_core.errors import shown
from nmerge_core.parameters.inputs import Model, Several
from nmerge_core.parameters.parameter import Parameter
from nmerge_core.parameters.settings import CORPUS, DEVICE, FINE_TUNES, MARGIN, MODEL, MODELS, TASKS, TOP_K
from nmerge_core.parameters.values import Choice, Flag, Numbers
from nmerge_core.runs.kinds import FAMILY, KINDS, RECIPE, SWEEP
from nmerge_core.version import __version__

_LONGEST_NAME, _LONGEST_PATH = 200, 2000  # bytes; Linux' own bounds leave room for the names of unfinished files

Command = Callable[[argparse.Namespace], None]


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


class _Waiving(argparse.Action):
    """A switch beside which another argument may be left out.

    Were that optional by itself (`nargs="?"`), argparse would not find it behind an option: `merge RECIPE --device cpu
    OUT`.
    """

    def __init__(self, option_strings: Sequence[str], dest: str, waived: argparse.Action, help: str) -> None:
        """`waived` is that other argument."""
        super().__init__(option_strings, dest, nargs=0, default=False, help=help)
        self._waived = waived

    def __call__(self, parser: Any, namespace: argparse.Namespace, values: Any, option_string: Any = None) -> None:
        """Switch it on."""
        setattr(namespace, self.dest, True)
        self._waived.required = False


def build_parser() -> argparse.ArgumentParser:
    """Return the parser; the command chosen is the function `command` of what it parses."""
    parser = Parser(
        prog="nmerge",
        description="Neuron analysis and neuron-level merging of language models.",
        epilog="Exit status: 0 done, 1 a failure of ours, 2 wrong input, 130 interrupted.",
    )
    parser.add_argument("--version", action="version", version=__version__)
    names = parser.add_subparsers(required=True, metavar="COMMAND", parser_class=Parser)

    def add(name: str, command: Command, help: str) -> argparse.ArgumentParser:
        added = names.add_parser(name, help=help, description=f"{help[0].upper()}{help[1:]}.")
        added.set_defaults(command=command)
        return added

    def add_run(kind: str, command: Command) -> argparse.ArgumentParser:
        added = add(kind, command, KINDS[kind].help)
        for parameter in KINDS[kind].parameters:
            _argument(added, parameter)
        return added

    demo = add("demo", commands.demo, "write the demo family: base, three fine-tunes, corpus and tasks")
    demo.add_argument("--out", type=_path, metavar="DIR", help="where to (default: demo/ of the cache)")
    demo.add_argument(
        "--retrain", action="store_true", help="train it anew (default DIR: demo-retrained/ of the cache)"
    )
    _argument(demo, DEVICE)

    add("compile", commands.compile_loops, "compile the loops of merging for this processor: no first merge then waits")

    inspect = add("inspect", commands.inspect, "architecture and sizes of models, and whether they can be merged")
    _argument(inspect, MODELS.with_(help=f"{MODEL.help} The first is the base."))
    inspect.add_argument("--json", action="store_true", help="print JSON")

    methods = add("methods", commands.methods, "what each merge method does, its parameters and what it needs")
    methods.add_argument("name", nargs="?", metavar="NAME", help="one method (default: all)")
    methods.add_argument("--json", action="store_true", help="print JSON")

    classify = add_run("classify", analysis.classify)
    classify.add_argument("--out", required=True, type=_path, metavar="DIR", help="the folder to write; must be new")

    compare = add("compare", analysis.compare, "neurons per category in each model, and those it has in every model")
    compare.add_argument("folders", nargs="+", type=_path, metavar="DIR", help="what classify wrote, the base's first")
    _argument(compare, TOP_K.with_(default=None, help="Vote again with this many exemplars."))
    _argument(compare, MARGIN.with_(default=None, help="Vote again with this margin."))
    _out(compare)
    _out(compare, "--neurons", "also write each neuron's category, and how sure it is: its lead and its support")
    _out(compare, "--agreement", "also write how far each agrees with the first, whose corpus may be another")
    _out(compare, "--statistics", "also write what each neuron is like over all tokens, if it was classified so")

    cosine = add_run("cosine", analysis.cosine)
    _out(cosine)
    _out(cosine, "--moved", "also write the neurons of lowest cosine")
    _out(cosine, "--neurons", "also write each neuron's cosine, change and parallel share in each fine-tune")
    _out(cosine, "--between", "also write of each neuron how every two fine-tunes' changes agree: cosine and signs")
    _out(cosine, "--conflicts", "also write the means over every two fine-tunes, the neurons most in conflict first")

    _out(add_run("interference", analysis.interference))

    _out(add_run("inherited", analysis.inherited), what="also write the table of all neurons")

    knockout = add_run("knockout", analysis.knockout)
    _out(knockout)
    _out(knockout, "--effects", "also write how much more the category's neurons matter than random ones")

    _out(add_run("effects", analysis.effects))

    label = add_run("label", analysis.label)
    _out(label)
    _out(label, "--matrix", "also write how many neurons of each category have which label")

    linearity = add_run("linearity", analysis.linearity)
    _out(linearity)
    _out(linearity, "--by-chance", "also write neuron groups beside random ones, with intervals")
    _out(linearity, "--coefficients", "also solve the coefficients of SubModule Linearity and write them")

    statistics = add_run("statistics", analysis.statistics)
    statistics.add_argument("--out", required=True, type=_path, metavar="DIR", help="the folder to write; must be new")

    merge = add_run("merge", commands.merge)
    told = "the folder to write; must be new (with --dry-run it may be left out)"
    out = merge.add_argument("out", type=_path, metavar="OUT", help=told)
    told = "check everything, print the cost, write nothing"
    merge.add_argument("--dry-run", action=_Waiving, waived=out, help=told)

    combine = add_run("combine", commands.combine)
    combine.add_argument("out", type=_path, metavar="OUT", help="the adapter's folder; must be new")

    extract = add_run("extract", commands.extract)
    extract.add_argument("out", type=_path, metavar="OUT", help="the adapter's folder; must be new")

    evaluate = add("evaluate", commands.evaluate, KINDS["evaluate"].help)
    for parameter in KINDS["evaluate"].parameters:
        _argument(evaluate, parameter.with_(required=False) if parameter == TASKS else parameter)
    about = (
        "Also the loss on the held-out texts of each category of this corpus; in place of tasks where there are none."
    )
    _argument(evaluate, CORPUS.with_(name="loss", required=False, help=about))
    evaluate.add_argument(
        "--compare", metavar="MODEL", help="also compare every other model with this one, by paired tests"
    )
    evaluate.add_argument(
        "--samples", type=_path, metavar="DIR", help="also write DIR/MODEL.jsonl: prompt, answer, reference, verdict"
    )
    _out(evaluate)

    sweep = add_run("sweep", commands.sweep)
    sweep.add_argument("out", type=_path, metavar="OUT", help="the folder to write, or one to go on with")

    report = add_run("report", commands.report)
    report.add_argument("--out", required=True, type=_path, metavar="DIR", help="the folder to write, or to go on with")

    app = add("app", commands.app, "serve the app")
    app.add_argument("--port", type=int, help="default: $PORT, or 8501")
    return parser


def _argument(parser: argparse.ArgumentParser, parameter: Parameter) -> None:
    """Add what a parameter is on the command line: a place for models, recipes and sweeps, an option for all else."""
    help_ = parameter.help[0].lower() + parameter.help[1:].rstrip(".")
    shown = _shown(parameter.default)
    options: dict[str, Any] = {"help": f"{help_} (default: {shown})".replace("%", "%%") if shown else help_}
    if isinstance(parameter, Flag):
        parser.add_argument(_option(parameter), action="store_true", **options)
        return
    if isinstance(parameter, Model) or parameter in (RECIPE, SWEEP, FAMILY):
        name = "model" if parameter.name == MODELS.name else parameter.name
        several = "*" if parameter == FINE_TUNES else "+"  # none beside a family's YAML, which stands for base and them
        options |= {"nargs": several} if isinstance(parameter, Several) else {"type": _reader(parameter)}
        parser.add_argument(parameter.name, metavar=name.upper(), **options)
        return
    if isinstance(parameter, Choice):
        options["choices"] = parameter.choices
    else:
        options["type"] = _reader(parameter)
    options |= {"required": True} if parameter.required else {"default": parameter.default}
    parser.add_argument(_option(parameter), **options)


def _option(parameter: Parameter) -> str:
    return f"--{parameter.name.replace('_', '-')}"


def _shown(default: Any) -> str:
    if default is None or default is False:
        return ""
    return ",".join(map(str, default)) if isinstance(default, tuple) else str(default)


def _reader(parameter: Parameter) -> Callable[[str], Any]:
    """Return what reads an option's text, saying what was expected where it cannot."""

    def read(text: str) -> Any:
        try:
            return parameter.from_text(text)
        except ValueError:
            example = {True: " such as 1,3-5", False: " such as 0.2,0.6,1.0"}
            such = example[parameter.whole] if isinstance(parameter, Numbers) else ""
            raise argparse.ArgumentTypeError(f"expected {parameter.expected}{such}, found {shown(text)}") from None

    return read


def _out(parser: argparse.ArgumentParser, name: str = "--out", what: str = "also write the table") -> None:
    parser.add_argument(name, type=_csv, metavar="FILE", help=f"{what} as CSV; an existing FILE is overwritten")


def _path(text: str) -> Path:
    """Return a path, of a user's folder in full: not every shell replaces the ~ in --out=~/scores.csv."""
    path = expanduser(text)
    if path.startswith("~"):
        user, _, _ = text.partition("/")
        raise argparse.ArgumentTypeError(f"{shown(text)}: there is no user {user}; a folder of that name is ./{user}")
    parts = [len(os.fsencode(part)) for part in Path(path).parts]
    if not exists(path) and (max(parts, default=0) > _LONGEST_NAME or sum(parts) > _LONGEST_PATH):
        raise argparse.ArgumentTypeError(f"{shown(text)}: expected names of at most {_LONGEST_NAME} bytes")
    return Path(path)


def _csv(text: str) -> Path:
    """Refuse a path that cannot be written now, not after the work."""
    path = _path(text)
    if isdir(path):
        raise argparse.ArgumentTypeError(f"{text} is a folder; expected the name of a CSV file")
    if not isdir(path.parent):
        raise argparse.ArgumentTypeError(f"there is no folder {path.parent}; make it first")
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise argparse.ArgumentTypeError(f"the folder {path.parent} cannot be written")
    return path
