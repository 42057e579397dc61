"""What torch.save wrote, understood without being run. Imports no torch, and nothing that a file names.

Such files are programs for a small stack machine whose one dangerous instruction calls what the file names. Here is a machine of
our own that knows the instructions of data alone. A name in the file stays a name: those by which torch says "here is a tensor"
are understood, those of training programs' own objects are kept as names and never as more, every other name is refused. Nothing
is imported, called or decoded; containers become plain lists and dictionaries whose keys are text.
"""

import math
import re
import struct
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from langevin.header import WIDTHS

LIMIT = 64 * 2**20
"""Bytes that a program may have: those of published files have some thousands, of training states some millions."""
STORAGES = {
    "DoubleStorage": "F64", "FloatStorage": "F32", "HalfStorage": "F16", "BFloat16Storage": "BF16", "LongStorage": "I64",
    "IntStorage": "I32", "ShortStorage": "I16", "CharStorage": "I8", "ByteStorage": "U8", "BoolStorage": "BOOL",
    "ComplexFloatStorage": "C64", "UntypedStorage": "U8",
}  # fmt: skip
DTYPES = {
    "float64": "F64", "float32": "F32", "float16": "F16", "bfloat16": "BF16", "int64": "I64", "int32": "I32", "int16": "I16",
    "int8": "I8", "uint8": "U8", "bool": "BOOL", "complex64": "C64", "uint16": "U16", "uint32": "U32", "uint64": "U64",
    "float8_e4m3fn": "F8_E4M3", "float8_e5m2": "F8_E5M2", "float8_e4m3fnuz": "F8_E4M3FNUZ", "float8_e5m2fnuz": "F8_E5M2FNUZ",
    "float8_e8m0fnu": "F8_E8M0",
}  # fmt: skip
_INERT = re.compile(
    r"(pytorch_lightning|lightning|lightning_fabric|omegaconf|argparse|pathlib|typing|enum|datetime|torch\.optim|torch\.nn)\.[\w.]+"
    r"|numpy\.(_?core\.(multiarray\.(scalar|_reconstruct)|numeric\._frombuffer)|dtype|ndarray|bool_|u?int\d+|float\d+)"
    r"|collections\.(defaultdict|Counter|deque)|_codecs\.encode|torch\.(device|Size|dtype|Generator)"
    r"|(builtins|__builtin__)\.(set|frozenset|list|dict|tuple|slice|range|complex|bytearray|bytes|int|float|str|bool|object)"
)
"""Objects of training programs that stand beside weights; as anything else they stay names."""
_NAME = re.compile(r"[\w.<>]{1,300}")
_LONGEST = 512
_DEEPEST = 24
_NODES = 1_000_000


@dataclass(frozen=True, eq=False)
class Named:
    """Something that the file names and that stays a name."""

    name: str

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True)
class Storage:
    """Bytes of a file by its key: `count` values of a dtype."""

    key: str
    dtype: str
    count: int

    @property
    def size(self) -> int:
        return self.count * WIDTHS[self.dtype]


@dataclass(frozen=True, eq=False)
class View:
    """A tensor: values of a storage, `offset` values from its beginning, in steps of `stride` values."""

    storage: Storage
    dtype: str
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]

    @property
    def reach(self) -> int:
        """How many values lie from its first to its last."""
        return 0 if 0 in self.shape else 1 + sum((n - 1) * s for n, s in zip(self.shape, self.stride, strict=True))

    @property
    def dense(self) -> bool:
        """Whether its values stand one behind the other."""
        step = 1
        for n, s in zip(reversed(self.shape), reversed(self.stride), strict=True):
            if n != 1 and s != step:
                return False
            step *= n
        return True


class _Mark:
    pass


_MARK = _Mark()


class Machine:
    """Runs the data of a file.

    Args:
        raw: the program. what: the file, for messages.
        ignored: names that may stand in the file beside those known here; they stay names.

    Attributes:
        passed: those of `ignored` that were met, and would have been refused.
    """

    def __init__(self, raw: bytes, what: str, ignored: Collection[str] = ()) -> None:
        self.raw, self.what, self.ignored = raw, what, frozenset(ignored)
        self.passed: set[str] = set()
        self.at = 0
        self.storages: dict[str, Storage] = {}
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}
        self.copied = 0

    def run(self) -> Any:
        """The next object; the machine then stands behind it.

        Raises:
            ValueError: naming the file, and what in it is no data.
        """
        self.stack, self.memo = [], {}
        try:
            while (code := self._take(1)[0]) != _STOP:
                step = _STEPS.get(code)
                if step is None:
                    raise self._wrong(f"has the instruction {chr(code) if 32 < code < 127 else hex(code)}, which no weights need")
                step(self)
            value = self._pop()
        except (IndexError, TypeError, UnicodeDecodeError, struct.error, OverflowError):
            raise self._wrong("is damaged: what it says makes no sense") from None
        if self.stack or isinstance(value, _Mark):
            raise self._wrong("is damaged: it ends in the middle")
        return value

    # The file

    def _wrong(self, why: str) -> ValueError:
        return ValueError(f"{self.what} {why}.")

    def _take(self, count: int) -> bytes:
        made = self.raw[self.at : self.at + count]
        if len(made) != count or count < 0:
            raise self._wrong("is damaged: it breaks off, or is larger than any file of weights")
        self.at += count
        return made

    def _number(self, kind: str) -> Any:
        return struct.unpack("<" + kind, self._take(struct.calcsize("<" + kind)))[0]

    def _line(self) -> str:
        end = self.raw.find(b"\n", self.at, self.at + _LONGEST)
        if end < 0:
            raise self._wrong("is damaged: it breaks off, or holds a name that is too long")
        made = self._take(end - self.at)
        self.at += 1
        return made.decode()

    # The stack

    def _push(self, value: Any) -> None:
        self.stack.append(value)

    def _pop(self) -> Any:
        return self.stack.pop()

    def _value(self) -> Any:
        made = self._pop()
        if isinstance(made, _Mark):
            raise TypeError
        return made

    def _marked(self) -> list[Any]:
        """What stands above the last mark."""
        for i in range(len(self.stack) - 1, -1, -1):
            if self.stack[i] is _MARK:
                made = self.stack[i + 1 :]
                del self.stack[i:]
                return made
        raise TypeError

    def _top(self) -> Any:
        return self.stack[-1]

    def _tuple(self, count: int) -> None:
        made = tuple(self._value() for _ in range(count))[::-1]
        self._push(made)

    def _keep(self, place: int) -> None:
        if isinstance(self._top(), _Mark):
            raise TypeError
        self.memo[place] = self._top()

    def _recall(self, place: int) -> None:
        if place not in self.memo:
            raise TypeError
        self._push(self.memo[place])

    # Containers

    def _add(self, values: list[Any]) -> None:
        into = self._top()
        if isinstance(into, list):
            into.extend(values)
        elif not isinstance(into, Named):  # a training program's own list
            raise TypeError

    def _set(self, values: list[Any]) -> None:
        into = self._top()
        if len(values) % 2:
            raise TypeError
        if isinstance(into, Named):
            return
        if not isinstance(into, dict):
            raise TypeError
        for key, value in zip(values[::2], values[1::2], strict=True):
            if isinstance(key, (str, int, float, Named)) or key is None:
                name = str(key)
            else:
                name = f"{type(key).__name__} {len(into)}"
            if name in into and not isinstance(key, str):
                raise self._wrong(f"is damaged: it holds {name[:80]!r} twice")
            into[name] = value

    # Names

    def _global(self, module: Any, name: Any) -> None:
        if not isinstance(module, str) or not isinstance(name, str):
            raise TypeError
        full = f"{module}.{name}"
        if not _NAME.fullmatch(full):
            raise self._wrong(f"names {full[:80]!r}, which is no name")
        place, _, last = full.rpartition(".")
        known = full in _CALLS or (place == "torch" and (last in STORAGES or last in DTYPES))
        known = known or full in ("torch.storage.UntypedStorage", "torch.storage.TypedStorage", "torch.Tensor")
        if not (known or _INERT.fullmatch(full)):
            if full not in self.ignored:
                raise self._wrong(
                    f"names {full[:160]}, which was not run; weights need no such thing, and --ignore {full[:160]} passes it over"
                )
            self.passed.add(full)
        self._push(Named(full))

    def _stacked_global(self) -> None:
        name, module = self._value(), self._value()
        self._global(module, name)

    def _call(self) -> None:
        arguments, called = self._value(), self._value()
        if not isinstance(called, Named) or not isinstance(arguments, tuple):
            raise TypeError
        self._push(self._called(called.name, arguments))

    def _called(self, name: str, arguments: tuple[Any, ...]) -> Any:
        """What torch's own words for tensors mean; of anything else, its name."""
        call = _CALLS.get(name)
        return Named(name) if call is None else call(self, arguments)

    def _build(self) -> None:
        """The state of an object: of dictionaries and tensors it says nothing of weights."""
        self._value()
        if not isinstance(self._top(), (dict, Named, View)):
            raise TypeError

    # Tensors

    def _storage(self) -> None:
        told = self._value()
        if not isinstance(told, tuple) or len(told) not in (5, 6) or told[0] != "storage" or (len(told) == 6 and told[5]):
            raise self._wrong("refers to something outside itself that is no storage of values")
        _, kind, key, _, count = told[:5]
        dtype = STORAGES.get(kind.name.rpartition(".")[2]) if isinstance(kind, Named) else None
        if dtype is None or not isinstance(key, str) or not re.fullmatch(r"[\w.-]{1,100}", key):
            raise self._wrong(f"has a storage {_said(key)} of the kind {_said(kind)}, which no safetensors file holds")
        if type(count) is not int or not 0 <= count < 2**60:
            raise self._wrong(f"has a storage {key!r} of {_said(count)} values")
        made = Storage(key, dtype, count)
        if self.storages.setdefault(key, made).size != made.size:
            raise self._wrong(f"is damaged: it gives storage {key!r} two sizes")
        self._push(made)

    def _tensor(self, arguments: tuple[Any, ...], dtype: str | None = None) -> View:
        storage, offset, shape, stride = (arguments[i] for i in range(4))
        if not isinstance(storage, Storage) or not isinstance(shape, tuple) or not isinstance(stride, tuple):
            raise TypeError
        numbers = (offset, *shape, *stride)
        if len(shape) != len(stride) or len(shape) > 64 or not all(type(n) is int and 0 <= n < 2**60 for n in numbers):
            raise self._wrong("has a tensor whose shape or steps are no numbers, or too large")
        made = View(storage, dtype or storage.dtype, offset, shape, stride)
        there = storage.size // WIDTHS[made.dtype]
        if offset + made.reach > there or math.prod(shape) > there:
            raise self._wrong(f"has a tensor of shape {shape} that does not fit its storage of {there} values")
        return made

    def _tensor_of(self, arguments: tuple[Any, ...]) -> View:
        kind = arguments[6]
        place, _, last = kind.name.rpartition(".") if isinstance(kind, Named) else ("", "", "")
        if place != "torch" or last not in DTYPES:
            raise self._wrong(f"has a tensor of {_said(kind)}, which no safetensors file holds")
        return self._tensor(arguments, DTYPES[last])

    def _parameter(self, arguments: tuple[Any, ...]) -> View:
        if not isinstance(arguments[0], View):
            raise TypeError
        return arguments[0]

    def _subclass(self, arguments: tuple[Any, ...]) -> View:
        how, inner = arguments[0], arguments[2]
        made = self._called(how.name, inner) if isinstance(how, Named) and isinstance(inner, tuple) else None
        if not isinstance(made, View):
            raise TypeError
        return made

    def _ordered(self, arguments: tuple[Any, ...]) -> dict[str, Any]:
        made: dict[str, Any] = {}
        for pair in arguments[0] if arguments else ():
            self.copied += 1  # a list that is said once may be copied often
            if not isinstance(pair, (list, tuple)) or len(pair) != 2 or self.copied > len(self.raw):
                raise TypeError
            self.stack.append(made)
            self._set(list(pair))
            self.stack.pop()
        return made


_CALLS: dict[str, Callable[[Machine, tuple[Any, ...]], Any]] = {
    "torch._utils._rebuild_tensor": Machine._tensor,
    "torch._utils._rebuild_tensor_v2": Machine._tensor,
    "torch._utils._rebuild_tensor_v3": Machine._tensor_of,
    "torch._utils._rebuild_parameter": Machine._parameter,
    "torch._utils._rebuild_parameter_with_state": Machine._parameter,
    "torch._tensor._rebuild_from_type_v2": Machine._subclass,
    "collections.OrderedDict": Machine._ordered,
}

_STOP = ord(".")


def _said(value: Any) -> str:
    """A value in a message. Of containers only what they are: written out, one could be larger than memory."""
    return repr(str(value)[:60]) if isinstance(value, (str, int, float, Named)) else f"a {type(value).__name__}"


def _long(machine: Machine, length: int) -> int:
    if length > _LONGEST:
        raise machine._wrong("is damaged: it holds a number that is too long")
    return int.from_bytes(machine._take(length), "little", signed=True)


def _text(machine: Machine, kind: str) -> str:
    return machine._take(machine._number(kind)).decode("utf-8", "surrogatepass")


def _digits(machine: Machine) -> Any:
    line = machine._line()
    if line in ("00", "01"):
        return line == "01"
    if not re.fullmatch(r"-?\d{1,400}L?", line):
        raise TypeError
    return int(line.rstrip("L"))


def _decimal(machine: Machine) -> float:
    line = machine._line()
    if not re.fullmatch(r"[-+\d.eE]{1,60}|-?inf|nan", line):
        raise TypeError
    try:
        return float(line)
    except ValueError:
        raise TypeError from None


_STEPS: dict[int, Callable[[Machine], None]] = {
    0x80: lambda m: _known(m, m._take(1)[0]),  # PROTO
    0x95: lambda m: _framed(m, m._number("Q")),  # FRAME
    ord("("): lambda m: m._push(_MARK),
    ord("0"): lambda m: _drop(m),
    ord("1"): lambda m: _nothing(m._marked()),  # POP_MARK
    ord("2"): lambda m: m._push(m._top()),
    ord("N"): lambda m: m._push(None),
    0x88: lambda m: m._push(True),
    0x89: lambda m: m._push(False),
    ord("I"): lambda m: m._push(_digits(m)),
    ord("L"): lambda m: m._push(_digits(m)),
    ord("F"): lambda m: m._push(_decimal(m)),
    ord("J"): lambda m: m._push(m._number("i")),
    ord("K"): lambda m: m._push(m._number("B")),
    ord("M"): lambda m: m._push(m._number("H")),
    0x8A: lambda m: m._push(_long(m, m._number("B"))),
    0x8B: lambda m: m._push(_long(m, m._number("I"))),
    ord("G"): lambda m: m._push(struct.unpack(">d", m._take(8))[0]),
    ord("X"): lambda m: m._push(_text(m, "I")),
    0x8C: lambda m: m._push(_text(m, "B")),
    0x8D: lambda m: m._push(_text(m, "Q")),
    # bytes, and the text of Python 2
    ord("C"): lambda m: m._push(m._take(m._number("B"))),
    ord("B"): lambda m: m._push(m._take(m._number("I"))),
    0x8E: lambda m: m._push(m._take(m._number("Q"))),
    ord("U"): lambda m: m._push(m._take(m._number("B")).decode("latin-1")),
    ord("T"): lambda m: m._push(m._take(m._number("i")).decode("latin-1")),
    # containers; a set is kept as a list
    ord("}"): lambda m: m._push({}),
    ord("]"): lambda m: m._push([]),
    ord(")"): lambda m: m._push(()),
    0x8F: lambda m: m._push([]),
    0x85: lambda m: m._tuple(1),
    0x86: lambda m: m._tuple(2),
    0x87: lambda m: m._tuple(3),
    ord("t"): lambda m: m._push(tuple(m._marked())),
    ord("l"): lambda m: m._push(m._marked()),
    0x91: lambda m: m._push(m._marked()),
    ord("d"): lambda m: _dict(m, m._marked()),
    ord("a"): lambda m: m._add([m._value()]),
    ord("e"): lambda m: m._add(m._marked()),
    0x90: lambda m: m._add(m._marked()),
    ord("s"): lambda m: m._set([m._value(), m._value()][::-1]),
    ord("u"): lambda m: m._set(m._marked()),
    # what was said before
    ord("q"): lambda m: m._keep(m._number("B")),
    ord("r"): lambda m: m._keep(m._number("I")),
    0x94: lambda m: m._keep(len(m.memo)),
    ord("h"): lambda m: m._recall(m._number("B")),
    ord("j"): lambda m: m._recall(m._number("I")),
    # names
    ord("c"): lambda m: m._global(m._line(), m._line()),
    0x93: lambda m: m._stacked_global(),
    ord("R"): lambda m: m._call(),
    0x81: lambda m: m._call(),
    ord("b"): lambda m: m._build(),
    ord("Q"): lambda m: m._storage(),
}
"""Instructions, by their byte. What is not here is refused."""


def _known(machine: Machine, protocol: int) -> None:
    if protocol > 5:
        raise machine._wrong(f"is of protocol {protocol}, and there are 0 to 5")


def _framed(machine: Machine, length: int) -> None:
    if length > len(machine.raw) - machine.at:
        raise machine._wrong("is damaged: it breaks off")


def _drop(machine: Machine) -> None:
    machine._pop()


def _nothing(values: list[Any]) -> None:
    pass


def _dict(machine: Machine, values: list[Any]) -> None:
    machine._push({})
    machine._set(values)


def leaves(tree: Any, what: str) -> Iterator[tuple[tuple[str, ...], Any]]:
    """What is no container, with the way to it. A file may refer to one container from many, and to itself: what that would
    become is bounded.

    Raises:
        ValueError: naming the file.
    """
    left = [_NODES]

    def walk(value: Any, way: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
        left[0] -= 1
        if len(way) > _DEEPEST or left[0] < 0:
            raise ValueError(f"{what} refers to itself, or nests more than any file of weights does.")
        if isinstance(value, Mapping):
            for key, inner in value.items():
                yield from walk(inner, (*way, key))
        elif isinstance(value, (list, tuple)):
            for i, inner in enumerate(value):
                yield from walk(inner, (*way, str(i)))
        else:
            yield way, value

    return walk(tree, ())
