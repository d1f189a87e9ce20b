"""River objects as bytes, and back through an allow-list: stored state is a trust boundary.

Format: ``b"SAPK"``, one version byte, then msgpack of the River and Python versions and the pickle (protocol 4).

What a pickle may do is written down below, by name. Everything else is refused before it is called:

- classes of River (never its functions, nor its packages that open files or sockets), containers, numpy arrays;
- a *call* only of what :data:`CALLED` names, of River's own Rust types and of the constructors in :data:`GUARDED`;
- a *bound method* only of those named in :data:`METHODS`;
- never a change to a class: a hostile pickle must not alter River for the rest of the process;
- never a state that C code would take for what it is not: an array of addresses, a generator beyond its own table.

Calls ask for no more memory than :data:`MEMORY` and :data:`GROWTH` times the size of the pickle, whose plain parts take
some hundred times their size at worst; a pickle whose tuples would take forever to hash is refused. Time is bounded by
nothing else, nor is what a model asks for when it is used: somebody who may write checkpoints can make one that is
merely useless.
"""

import functools
import io
import math
import pickle
import platform
import random
from collections import Counter, OrderedDict, UserList, defaultdict, deque
from collections.abc import Callable
from typing import Any, ClassVar, cast

import msgspec
import numpy as np
from river.__version__ import __version__ as RIVER

from streamapp.errors import CheckpointError

MAGIC = b"SAPK"
VERSION = 1

CLASSES = frozenset(
    {f"builtins.{name}" for name in ("bool", "float", "int", "complex", "str", "bytearray", "range", "slice")}
    | {f"builtins.{name}" for name in ("dict", "frozenset", "list", "set", "tuple")}
    | {"statistics.NormalDist", "random.Random"}
    | {f"collections.{name}" for name in ("Counter", "OrderedDict", "defaultdict", "deque")}
    | {f"datetime.{name}" for name in ("date", "datetime", "time", "timedelta", "timezone")}
    | {"numpy.ndarray", "numpy.random._mt19937.MT19937"}
    | {"streamapp.core.learning.learned.LearnedModel"}
)
"""Classes outside River that may be made."""

FUNCTIONS = frozenset(
    {
        "copy.deepcopy",
        "river._river_rust.vectordict.euclidean_distance_dict",
        "river._river_rust.vectordict.euclidean_distance_tuple",
        "river.forest.online_extra_trees.ExtraTrees._detection_mode_all",
        "river.metrics.mutual_info._average_arithmetic",
        "river.naive_bayes.gaussian.GaussianNB._make_gaussian",
        "river.tree.splitter.ebst_splitter.EBSTNode._update_estimator_univariate",
        "river.tree.splitter.nominal_splitter_reg.NominalSplitterReg._update_estimator_univariate",
        "river.utils.math.minkowski_distance",
    }
)
"""Functions that River's models hold as values: arithmetic and copies, never called while a pickle is read."""

METHODS = frozenset(
    {f"river.drift.page_hinkley.PageHinkley._test_{mode}" for mode in ("increase", "decrease", "both")}
    | {f"river.drift.dummy.DummyDriftDetector._{method}_trigger" for method in ("fixed", "random")}
    | {f"river.linear_model.pa.PA{kind}._calc_tau_{mode}" for kind in ("Classifier", "Regressor") for mode in (1, 2)}
    | {
        f"river.ensemble.bagging.LeveragingBaggingClassifier._leveraging_{method}"
        for method in ("bag", "me", "half", "wt", "subag")
    }
    | {"river.preprocessing.random_projection.GaussianRandomProjector._rand_gauss"}
    | {"river.preprocessing.random_projection.SparseRandomProjector._rand_weights_for_feature"}
)
"""Bound methods that River's objects hold of themselves."""

CALLED = frozenset(
    {"bytearray", "complex", "range", "slice"}
    | {"Counter", "OrderedDict", "defaultdict", "deque"}
    | {"date", "datetime", "time", "timedelta", "timezone"}
    | {"Random"}
)
"""Of :data:`CLASSES`, those that a pickle may call; most others are named only, as what makes a default value."""

MADE = frozenset({"statistics.NormalDist", "streamapp.core.learning.learned.LearnedModel"})
"""Of :data:`CLASSES`, those that a pickle may make without a call."""

EXCLUDED = frozenset({"api", "bandit", "checks", "compat", "datasets", "evaluate", "stream", "test"})
"""Packages of River that read files, download, or wrap other libraries."""

MEMORY = 64 << 20
"""Bytes that calls may ask for, whatever the size of the pickle."""
GROWTH = 32
"""Bytes that they may ask for beyond that, for each byte of the pickle."""
WEIGHT = 1_000_000
"""Most that a tuple may hold, counting again what it holds several times."""
NAMED = 200
"""Characters of a name that a message shows."""


class _Envelope(msgspec.Struct, frozen=True):
    river: str
    python: str
    pickle: bytes


def dumps(obj: object) -> bytes:
    """Return *obj* as bytes that :func:`loads` takes, with the River version that made them."""
    data = pickle.dumps(obj, protocol=4)
    envelope = _Envelope(RIVER, platform.python_version(), data)
    return MAGIC + bytes([VERSION]) + msgspec.msgpack.encode(envelope)


def loads(data: bytes) -> object:
    """Return the object that :func:`dumps` was given.

    Raises:
        CheckpointError: The bytes are not ours, another River (major.minor) made them, they are damaged, or they
            name something that is not allowed; the message says which.
    """
    if data[:4] != MAGIC or len(data) < 6:
        raise CheckpointError(f"stored object must begin with {MAGIC!r}, got {bytes(data[:4])!r}")
    if data[4] != VERSION:
        raise CheckpointError(f"stored object has format {data[4]}, this streamapp reads {VERSION}")
    try:
        envelope = msgspec.msgpack.decode(memoryview(data)[5:], type=_Envelope)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise CheckpointError(f"stored object cannot be read: {error}") from error
    if envelope.river.split(".")[:2] != RIVER.split(".")[:2]:
        raise CheckpointError(f"stored object was made by River {envelope.river[:NAMED]}, this is River {RIVER}")
    try:
        return _Unpickler(envelope.pickle).load()
    except (CheckpointError, KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # a damaged pickle may raise anything, and a panic of Rust is no Exception
        text = f"{type(error).__name__}: {error}"
        raise CheckpointError(f"stored object cannot be read: {text[:NAMED]}") from error


def _refuse(what: str) -> CheckpointError:
    return CheckpointError(f"stored object names {what}, which is not allowed")


def _shown(thing: object) -> str:
    """Return a string as it is, of anything else its type: its repr could be endless."""
    return repr(thing[:NAMED]) if isinstance(thing, str) else type(thing).__name__


def _module(thing: object) -> str:
    return str(getattr(thing, "__module__", ""))


def _name(thing: object) -> str:
    return str(getattr(thing, "__qualname__", type(thing).__qualname__))


def _full(thing: object) -> str:
    return f"{_module(thing)}.{_name(thing)}"


def _getattr(obj: object, name: str) -> object:
    full = _full(type(obj))
    if f"{full}.{name}" not in METHODS:
        raise _refuse(f"the attribute {_shown(name)} of {full}")
    return getattr(obj, name)


def _partial(func: object) -> "functools.partial[Any]":
    if not isinstance(func, type) and _full(func) not in FUNCTIONS:
        raise _refuse(f"functools.partial of {_full(func)}")
    return functools.partial(cast("Callable[..., Any]", func))


def _dtype(code: object, align: bool = False, copy: bool = False) -> "np.dtype[Any]":
    if (
        align
        or not isinstance(code, str)
        or code not in {"b1", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f4", "f8", "O8"}
    ):
        raise _refuse(f"numpy.dtype {_shown(code)}")
    return np.dtype(code, copy=copy)


def _array(kind: type, shape: tuple[int, ...], code: bytes) -> Any:
    if kind is not np.ndarray or shape != (0,) or code != b"b":
        raise _refuse("an array by another way than numpy's own")
    return np.ndarray((0,), dtype=np.int8)


def _scalar(dtype: "np.dtype[Any]", data: bytes) -> Any:
    if not isinstance(dtype, np.dtype) or dtype.hasobject or len(data) != dtype.itemsize:
        raise _refuse("a numpy scalar that is no number")
    return np.frombuffer(data, dtype)[0]


def _bit_generator(kind: object = "MT19937") -> Any:
    if kind is not np.random.MT19937 and kind != "MT19937":
        raise _refuse(f"the bit generator {_shown(kind)}")
    return np.random.MT19937()


def _random_state(kind: object = "MT19937", *_: object) -> Any:
    return np.random.RandomState(kind if isinstance(kind, np.random.MT19937) else _bit_generator(kind))


GUARDED: dict[str, Callable[..., Any]] = {
    "builtins.getattr": _getattr,
    "functools.partial": _partial,
    "numpy.dtype": _dtype,
    "numpy._core.multiarray._reconstruct": _array,
    "numpy._core.multiarray.scalar": _scalar,
    "numpy.random._pickle.__bit_generator_ctor": _bit_generator,
    "numpy.random._pickle.__randomstate_ctor": _random_state,
}
"""What stands in for each function that River's pickles call."""

_CALLS = tuple(GUARDED.values())
_CONTAINERS = (dict, list, tuple, deque, UserList, defaultdict, Counter, OrderedDict)
_SIZES = {random.Random: 3000, _bit_generator: 3500, _random_state: 4500, deque: 800}
"""Bytes of what is much larger than its place in a pickle."""


def _weighing(load: Callable[[Any], None]) -> Callable[[Any], None]:
    def load_and_weigh(self: Any) -> None:
        load(self)
        self.weigh(self.stack[-1])

    return load_and_weigh


def _filling(load: Callable[[Any], None], *kinds: type, many: bool = False) -> Callable[[Any], None]:
    def check_and_load(self: Any) -> None:
        # Where many are put in, the container lies below the mark.
        target = self.metastack[-1][-1] if many else self.stack[-2 if dict not in kinds else -3]
        if not isinstance(target, kinds):
            raise _refuse(f"something put into {_full(type(target))}")
        load(self)

    return check_and_load


# The pure Python one: only it lets a subclass look at what is called and what is built. It is slower (a detector
# 0.04 ms, a large forest seconds), and it runs at restores only. It is not in the type stubs as it is.
_Base: Any = pickle._Unpickler


class _Unpickler(_Base):  # type: ignore[misc]
    dispatch: ClassVar[dict[int, Callable[[Any], None]]] = dict(_Base.dispatch)

    def __init__(self, data: bytes) -> None:
        super().__init__(io.BytesIO(data))
        self._memory = MEMORY + GROWTH * len(data)
        self._weights: dict[int, int] = {}
        self._weighed: list[object] = []
        """Kept alive, so that no other takes its id."""

    def find_class(self, module: str, name: str) -> Any:
        full = f"{module}.{name}"
        if full in GUARDED:
            return GUARDED[full]
        if full in CLASSES or full in FUNCTIONS:
            return super().find_class(module, name)
        packages = module.split(".")
        if packages[0] != "river" or EXCLUDED.intersection(packages) or "__" in full:
            raise _refuse(full[:NAMED])
        found = super().find_class(module, name)
        # A name can also be an alias of something imported there: only what is defined under this name counts.
        if not isinstance(found, type) or found.__module__ != module or found.__qualname__ != name:
            raise _refuse(full[:NAMED])
        return found

    def load_reduce(self) -> None:
        func, args = self.stack[-2:]
        if not (_may_call(func) if isinstance(func, type) else any(func is call for call in _CALLS)):
            raise _refuse(f"a call of {_full(func)}")
        self._ask(func, args)
        _Base.load_reduce(self)

    def load_newobj(self) -> None:
        kind, args = self.stack[-2:]
        if not (isinstance(kind, type) and (_is_river(kind) or _full(kind) in MADE)):
            raise _refuse(f"a new {_full(kind)}")
        self._ask(kind, args)
        _Base.load_newobj(self)

    def load_build(self) -> None:
        target, state = self.stack[-2:]
        _check_build(target, state)
        if isinstance(target, functools.partial):
            self._ask(state[0], state[1])
        _Base.load_build(self)

    def _ask(self, func: Any, args: object) -> None:
        """Take from what may be asked for what a call will; refuse one that would make something endless."""
        if type(args) is not tuple or any(isinstance(arg, range) for arg in args):
            raise _refuse(f"a call of {_full(func)} with something that is not written out")
        if func is bytearray and not all(isinstance(arg, bytes) for arg in args):
            raise _refuse("a bytearray that is not written out")
        self._memory -= _SIZES.get(func, 0)
        if isinstance(func, type) and _is_rust(func):
            # Windows are reserved at once, and Rust ends the process where there is not enough memory.
            self._memory -= 16 * sum(max(0, arg) for arg in args if isinstance(arg, int))
        if self._memory < 0:
            raise _refuse("calls that ask for more memory than an object of its size needs")

    def weigh(self, made: "tuple[object, ...] | frozenset[object]") -> None:
        """Refuse a tuple that holds tuples that hold tuples ...: a hash of it would visit each again and again."""
        weight = sum(self._weights.get(id(item), 1) for item in made)
        if weight > WEIGHT:
            raise _refuse("a tuple that holds the same things too many times")
        self._weights[id(made)] = weight
        self._weighed.append(made)

    def load_forbidden(self) -> None:
        raise _refuse("an object by a way that no stored object uses")

    dispatch[pickle.REDUCE[0]] = load_reduce
    dispatch[pickle.NEWOBJ[0]] = load_newobj
    dispatch[pickle.BUILD[0]] = load_build
    for _code in (pickle.TUPLE, pickle.TUPLE1, pickle.TUPLE2, pickle.TUPLE3, pickle.FROZENSET):
        dispatch[_code[0]] = _weighing(_Base.dispatch[_code[0]])
    dispatch[pickle.APPEND[0]] = _filling(_Base.load_append, list, deque, UserList)
    dispatch[pickle.APPENDS[0]] = _filling(_Base.load_appends, list, deque, UserList, many=True)
    dispatch[pickle.SETITEM[0]] = _filling(_Base.load_setitem, dict)
    dispatch[pickle.SETITEMS[0]] = _filling(_Base.load_setitems, dict, many=True)
    dispatch[pickle.ADDITEMS[0]] = _filling(_Base.load_additems, set, many=True)
    for _code in (
        *(pickle.INST, pickle.OBJ, pickle.NEWOBJ_EX, pickle.EXT1, pickle.EXT2, pickle.EXT4),
        *(pickle.PERSID, pickle.BINPERSID, pickle.BYTEARRAY8, pickle.NEXT_BUFFER, pickle.READONLY_BUFFER),
    ):
        dispatch[_code[0]] = load_forbidden


def _is_river(kind: type) -> bool:
    return kind.__module__.split(".")[0] == "river"


def _is_rust(kind: type) -> bool:
    return kind.__module__.startswith("river._river_rust")


def _may_call(kind: type) -> bool:
    """Return whether a class may be called: River's own build state without it."""
    if _is_river(kind):
        return _is_rust(kind) or issubclass(kind, _CONTAINERS)
    return kind.__name__ in CALLED  # in CLASSES, or find_class would have refused it


def _check_build(target: object, state: object) -> None:
    """Refuse a state that does more than fill an object of ours."""
    if isinstance(target, functools.partial):
        if not (isinstance(state, tuple) and len(state) == 4 and state[0] is target.func and not state[3]):
            raise _refuse("a functools.partial that changes its function")
    elif isinstance(target, np.dtype):
        if state != target.__reduce__()[2]:
            raise _refuse("a numpy.dtype that is no plain number")
    elif isinstance(target, np.ndarray):
        _check_array(state)
    elif isinstance(target, np.random.MT19937 | np.random.RandomState):
        _check_generator(state[0] if isinstance(state, tuple) else state)
    elif isinstance(target, type) or type(target).__name__ in ("function", "method", "builtin_function_or_method"):
        raise _refuse(f"a change to {_full(target)}")
    for part in state if isinstance(state, tuple) else (state,):
        if isinstance(part, dict) and any(isinstance(key, str) and key.startswith("__") for key in part):
            raise _refuse(f"special attributes of {_name(target)}")


def _check_array(state: Any) -> None:
    """Refuse items that are not as many as the shape says, or bytes where there should be objects."""
    match state:
        case (1, tuple(shape), np.dtype() as dtype, bool(), list() | bytes() as items) if len(shape) <= 32:
            size = 1 if dtype.hasobject else dtype.itemsize
            sound = all(type(length) is int and length >= 0 for length in shape)
            if sound and isinstance(items, list) == dtype.hasobject and len(items) == math.prod(shape) * size:
                return
    raise _refuse("an array whose items are not what its shape and type say")


def _check_generator(state: Any) -> None:
    """Refuse a place outside of the generator's table: it would read whatever lies there."""
    match state:
        case {"state": {"key": np.ndarray(dtype=np.uint32, shape=(624,)), "pos": int(place)}} if 0 <= place <= 624:
            return
    raise _refuse("a state that is none of a random generator's")
