"""How tests use a program that runs in another process: what its names stand for there, they use from here.

The judge's process executes the tests. A name that they do not define is looked up in the program's process: plain data
come as a copy, anything else (functions, classes, their instances, generators) as a `Distant`, which passes on whatever
is done to it. So the tests, what they expect and the verdict are never where the program could read or change them, and
the program sees of them what its functions are called with.

The judge reads the program's answers with a pickle reader that makes plain data only. The program's side reads
anything: what it is told comes from the tests. Only the standard library may be imported here, as in `jail.py`.
"""

import ast
import builtins
import contextlib
import importlib
import io
import linecache
import operator
import os
import pickle
import struct
import sys
import traceback
import types
from collections.abc import Callable
from typing import Any, NoReturn

VALUE, ERROR, CALL = "value", "error", "call"
LENGTH = struct.Struct("<Q")
SCALARS = (bool, int, float, complex, str, bytes)
PLAIN = {type(None), *SCALARS, bytearray, list, tuple, dict, set, frozenset, range, slice}
MAKERS = {"int": int, "float": float, "complex": complex, "str": str, "bytes": bytes, "bytearray": bytearray}
MAKERS |= {"range": range, "slice": slice}
MUTABLE = (list, dict, set, bytearray)


class Ended(Exception):
    """The process at the other end is gone."""


class Link:
    """Messages to and from the other process, and the objects that it holds by number."""

    def __init__(self, reader: int, writer: int) -> None:
        """Take the ends of two pipes."""
        self._reader, self._writer = open(reader, "rb"), open(writer, "wb")  # noqa: SIM115 — they stay open
        self.lent: list[Any] = []

    def send(self, message: Any) -> None:
        """Send a tuple of values."""
        buffer = io.BytesIO()
        self.pickler(buffer).dump(message)
        try:
            self._writer.write(LENGTH.pack(buffer.tell()))
            self._writer.write(buffer.getbuffer())
            self._writer.flush()
        except BrokenPipeError:
            raise Ended from None

    def receive(self) -> Any:
        """Return the next message; raises Ended when there is none."""
        head = self._reader.read(LENGTH.size) or b""  # None, where the program has set its end not to wait
        length = LENGTH.unpack(head)[0] if len(head) == LENGTH.size else 0
        body = self._reader.read(length) or b""
        if not length or len(body) < length:
            raise Ended
        return self.unpickler(io.BytesIO(body)).load()

    def lend(self, value: Any) -> int:
        """Return the number by which the other process will call an object."""
        self.lent.append(value)
        return len(self.lent) - 1

    def pickler(self, buffer: io.BytesIO) -> pickle.Pickler:
        """Return what writes this side's messages."""
        raise NotImplementedError

    def unpickler(self, buffer: io.BytesIO) -> pickle.Unpickler:
        """Return what reads the other side's."""
        raise NotImplementedError


class ProgramLink(Link):
    """The program's end: it does what it is asked, and may call functions of the tests that it was handed."""

    def pickler(self, buffer: io.BytesIO) -> pickle.Pickler:
        """Return a writer of plain data; other objects are lent, with the builtin type that they are most like."""
        link, makers = self, {id(maker) for maker in MAKERS.values()}

        class Writer(pickle.Pickler):
            def persistent_id(self, obj: Any) -> Any:
                if isinstance(obj, Borrowed):
                    return "yours", obj.number, ""
                if type(obj) in PLAIN or isinstance(obj, SCALARS) or id(obj) in makers:
                    return None
                like = next(base.__name__ for base in type(obj).__mro__ if base.__module__ == "builtins")
                return "mine", link.lend(obj), like

            def reducer_override(self, obj: Any) -> Any:
                kind = next((kind for kind in SCALARS if isinstance(obj, kind) and type(obj) is not kind), None)
                return (kind, (kind(obj),)) if kind else NotImplemented

        return Writer(buffer, protocol=5)

    def unpickler(self, buffer: io.BytesIO) -> pickle.Unpickler:
        """Return a reader of anything."""
        link = self

        class Reader(pickle.Unpickler):
            def persistent_load(self, pid: Any) -> Any:
                whose, number = pid
                return link.lent[number] if whose == "yours" else Borrowed(link, number)

        return Reader(buffer)

    def serve(self, module: dict[str, Any]) -> Any:
        """Do what the tests ask until one of them answers a question of ours, and return the answer."""
        while True:
            kind, *rest = self.receive()
            if kind == VALUE:
                return rest[0]
            if kind == ERROR:
                raise RuntimeError(rest[0])
            function, arguments, named = rest
            answer: tuple[Any, ...]
            try:
                value = module[arguments[0]] if function is None else function(*arguments, **named)
                after = [each for each in arguments if type(each) in MUTABLE] if function is not None else []
                answer = (VALUE, value, after)
            except BaseException as error:
                names = [base.__name__ for base in type(error).__mro__ if base.__module__ == "builtins"]
                answer = (ERROR, names[0], type(error).__name__, str(error))
            try:
                sys.stdout.flush()
            finally:
                self.send(answer)


class Borrowed:
    """A function of the tests, in the program's process."""

    def __init__(self, link: ProgramLink, number: int) -> None:
        """Remember its number."""
        self.link, self.number = link, number

    def __call__(self, *arguments: Any) -> Any:
        """Call it."""
        self.link.send((CALL, self.number, arguments))
        return self.link.serve(sys.modules["__main__"].__dict__)


class JudgeLink(Link):
    """The tests' end: it asks, and believes nothing but plain data."""

    def pickler(self, buffer: io.BytesIO) -> pickle.Pickler:
        """Return a writer of all that pickle can write; functions of the tests are lent."""
        link = self

        class Writer(pickle.Pickler):
            def persistent_id(self, obj: Any) -> Any:
                if type(obj) is Distant:
                    return "yours", object.__getattribute__(obj, "_number")
                own = getattr(type(obj) if not isinstance(obj, type | types.FunctionType) else obj, "__module__", "")
                if own == "__main__" or isinstance(obj, types.GeneratorType | types.MethodType | types.ModuleType):
                    return "mine", link.lend(obj)
                return None

        return Writer(buffer, protocol=5)

    def unpickler(self, buffer: io.BytesIO) -> pickle.Unpickler:
        """Return a reader of plain data; what else the program has is a `Distant`."""
        link = self

        class Reader(pickle.Unpickler):
            def find_class(self, module: str, name: str) -> Any:
                if module != "builtins" or name not in MAKERS:
                    raise pickle.UnpicklingError(f"{module}.{name} is no plain data")
                return MAKERS[name]

            def persistent_load(self, pid: Any) -> Any:
                whose, number, like = pid
                if whose == "mine":
                    return Distant(link, int(number), str(like))
                lent = link.lent[number]
                return lambda *arguments: lent(*arguments)  # the reader could set attributes of the function itself

        return Reader(buffer)

    def ask(self, function: Any, *arguments: Any, **named: Any) -> Any:
        """Return what a function gives in the program's process, or raise what it raises."""
        self.send((CALL, function, arguments, named))
        while True:
            kind, *rest = self.receive()
            if kind == VALUE:
                value, after = rest
                changed = zip([each for each in arguments if type(each) in MUTABLE], after, strict=False)
                for ours, theirs in changed:
                    if type(theirs) is type(ours) and theirs != ours:
                        ours.clear()
                        (ours.extend if isinstance(ours, list | bytearray) else ours.update)(theirs)
                return value
            if kind == ERROR:
                builtin, name, text = (str(each) for each in rest)
                error: Any = getattr(builtins, builtin, None)
                known = isinstance(error, type) and issubclass(error, Exception)
                if not known or (error is StopIteration and function is not next):  # it would end a loop of the tests
                    raise RuntimeError(f"the program raised {name}: {text}")
                try:
                    raised = error(text)
                except TypeError:  # it takes more than a text
                    raised = RuntimeError(f"{name}: {text}")
                raise raised
            number, given = rest
            try:
                self.send((VALUE, self.lent[number](*given)))
            except Ended:
                raise
            except Exception as error:
                self.send((ERROR, f"{type(error).__name__}: {error}"))


class Distant:
    """An object of the program, which does whatever is done to this."""

    __slots__ = ("_like", "_link", "_number")

    def __init__(self, link: JudgeLink, number: int, like: str) -> None:
        """Remember its number, and the builtin type that it is an instance of."""
        for name, value in (("_link", link), ("_number", number), ("_like", like)):
            object.__setattr__(self, name, value)

    @property  # type: ignore[misc]
    def __class__(self) -> type:
        """The builtin type that it is an instance of: so that isinstance knows a dict from a list."""
        like = object.__getattribute__(self, "_like")
        kind = getattr(builtins, like, object)
        return kind if isinstance(kind, type) and like != "object" else Distant

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        """Call it."""
        return object.__getattribute__(self, "_link").ask(self, *arguments, **named)

    def __getattr__(self, name: str) -> Any:
        """Return its attribute."""
        return object.__getattribute__(self, "_link").ask(getattr, self, name)

    def __setattr__(self, name: str, value: Any) -> None:
        """Set its attribute."""
        object.__getattribute__(self, "_link").ask(setattr, self, name, value)


def _passed_on(function: Callable[..., Any], *, swapped: bool = False) -> Callable[..., Any]:
    def method(self: Distant, *arguments: Any) -> Any:
        link = object.__getattribute__(self, "_link")
        return link.ask(function, *arguments, self) if swapped else link.ask(function, self, *arguments)

    return method


_ALONE = (bool, len, str, repr, hash, iter, next, reversed, int, float, complex, round, abs, format, divmod)
_DOUBLE = "eq ne lt le gt ge getitem setitem delitem contains neg pos invert index"
_ARITHMETIC = "add sub mul truediv floordiv mod pow matmul and_ or_ xor lshift rshift"
for _function in (*_ALONE, *(getattr(operator, name) for name in _DOUBLE.split())):
    setattr(Distant, f"__{_function.__name__}__", _passed_on(_function))
for _name in _ARITHMETIC.split():
    _function, _bare = getattr(operator, _name), _name.rstrip("_")
    setattr(Distant, f"__{_bare}__", _passed_on(_function))
    setattr(Distant, f"__r{_bare}__", _passed_on(_function, swapped=True))


class _Names(dict[str, Any]):
    """The names of the tests: their own, and of the program's those that are neither builtins nor used as modules.

    Only where the tests name nothing else of it are such names the program's: it may be asked for a function `sum`.
    """

    def __init__(self, link: JudgeLink, tests: ast.Module) -> None:
        super().__init__(__name__="__main__")
        nodes = list(ast.walk(tests))
        named = [node for node in nodes if isinstance(node, ast.Name)]
        defined = {node.id for node in named if not isinstance(node.ctx, ast.Load)}
        defined |= {str(getattr(node, "name", None) or getattr(node, "arg", None)) for node in nodes}
        bare = {id(node) for node in named} - {id(node.value) for node in nodes if isinstance(node, ast.Attribute)}
        called = {node.id for node in named if id(node) in bare}
        foreign = {node.id for node in named} - defined
        self._link = link
        self._modules = {name for name in foreign & sys.stdlib_module_names if name not in called}
        self._shadowed = bool(foreign) and all(hasattr(builtins, name) or name in self._modules for name in foreign)

    def __missing__(self, name: str) -> Any:
        if hasattr(builtins, name) and not self._shadowed:
            raise KeyError(name)
        value = self._link.ask(None, name)
        return importlib.import_module(name) if name in self._modules and not self._shadowed else value


def run_program(code: str, reader: int, writer: int) -> NoReturn:
    """Execute a program as the main module, then do what its tests ask."""
    module = types.ModuleType("__main__")
    sys.modules["__main__"] = module
    link = ProgramLink(reader, writer)
    try:
        exec(_compiled(code, code, "<program>"), module.__dict__)
    except SystemExit as stopped:
        print(f"the program left early: SystemExit({stopped.code})", file=sys.stderr)
    except BaseException as error:
        _tell(error)
    else:
        sys.stdout.flush()
        with contextlib.suppress(Ended):  # the tests are over
            link.send((VALUE, None, []))
            link.serve(module.__dict__)
    os._exit(1)


def passes(tests: str, reader: int, writer: int) -> bool:
    """Wait for the program to run to its end, execute its tests, and return whether they did as well."""
    link = JudgeLink(reader, writer)
    try:
        if link.receive()[0] != VALUE:
            return False
        parsed = ast.parse(tests)
        exec(_compiled(parsed, tests, "<tests>"), _Names(link, parsed))
    except Ended:
        print("the program ended before its tests did", file=sys.stderr)
        return False
    except BaseException as error:
        _tell(error)
        return False
    return True


def _compiled(source: str | ast.Module, text: str, name: str) -> types.CodeType:
    """Compile what has a text, whose lines errors are then told with."""
    linecache.cache[name] = len(text), None, text.splitlines(keepends=True), name
    return compile(source, name, "exec")


def _tell(error: BaseException) -> None:
    """Write an error and where it arose, without the lines of this file, which are not the program's."""
    told = traceback.TracebackException.from_exception(error)
    ours = _tell.__code__.co_filename
    told.stack = traceback.StackSummary.from_list([each for each in told.stack if each.filename != ours])
    print("".join(told.format()), end="", file=sys.stderr)
