"""River objects as bytes, and back through an allow-list: stored state is a trust boundary.

Format: ``b"SAPK"``, one version byte, then msgpack of the River and Python versions and the pickle (protocol 4).

What a pickle may do is written down below, by name. Everything else is refused before it is called:

- classes of River (never its functions, nor its packages that open files or sockets), containers, numpy arrays;
- a *call* only of containers, of River's own Rust types and of the constructors in :data:`GUARDED`;
- a *bound method* only of those named in :data:`METHODS`;
- never a change to a class: a hostile pickle must not alter River for the rest of the process.

It does not bound memory or time: a pickle of a gigabyte is still a gigabyte.
"""

import functools
import io
import pickle
import platform
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

EXCLUDED = frozenset({"api", "bandit", "checks", "compat", "datasets", "evaluate", "stream", "test"})
"""Packages of River that read files, download, or wrap other libraries."""


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
        raise CheckpointError(f"stored object was made by River {envelope.river}, this is River {RIVER}")
    try:
        return _Unpickler(io.BytesIO(envelope.pickle)).load()
    except CheckpointError:
        raise
    except Exception as error:  # a damaged pickle may raise anything
        raise CheckpointError(f"stored object cannot be read: {type(error).__name__}: {error}") from error


def _refuse(what: str) -> CheckpointError:
    return CheckpointError(f"stored object names {what}, which is not allowed")


def _module(thing: object) -> str:
    return str(getattr(thing, "__module__", ""))


def _name(thing: object) -> str:
    return str(getattr(thing, "__qualname__", type(thing).__qualname__))


def _getattr(obj: object, name: str) -> object:
    owner = type(obj)
    if f"{owner.__module__}.{owner.__qualname__}.{name}" not in METHODS:
        raise _refuse(f"the attribute {name!r} of {owner.__module__}.{owner.__qualname__}")
    return getattr(obj, name)


def _partial(func: object) -> "functools.partial[Any]":
    if not isinstance(func, type) and f"{_module(func)}.{_name(func)}" not in FUNCTIONS:
        raise _refuse(f"functools.partial of {_module(func)}.{_name(func)}")
    return functools.partial(cast("Callable[..., Any]", func))


def _dtype(code: object, align: bool = False, copy: bool = False) -> "np.dtype[Any]":
    if (
        align
        or not isinstance(code, str)
        or code not in {"b1", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f4", "f8", "O8"}
    ):
        raise _refuse(f"numpy.dtype {code!r}")
    return np.dtype(code, copy=copy)


def _array(kind: type, shape: tuple[int, ...], code: bytes) -> Any:
    if kind is not np.ndarray or shape != (0,) or code != b"b":
        raise _refuse(f"an array of {kind!r}")
    return np.ndarray((0,), dtype=np.int8)


def _scalar(dtype: "np.dtype[Any]", data: bytes) -> Any:
    if not isinstance(dtype, np.dtype) or dtype.hasobject or len(data) != dtype.itemsize:
        raise _refuse("a numpy scalar that is no number")
    return np.frombuffer(data, dtype)[0]


def _bit_generator(kind: object = "MT19937") -> Any:
    if kind is not np.random.MT19937 and kind != "MT19937":
        raise _refuse(f"the bit generator {kind!r}")
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


# The pure Python one: only it lets a subclass look at what is called and what is built. It is slower (a detector
# 0.04 ms, a large forest seconds), and it runs at restores only. It is not in the type stubs as it is.
_Base: Any = pickle._Unpickler


class _Unpickler(_Base):  # type: ignore[misc]
    dispatch: ClassVar[dict[int, Callable[[Any], None]]] = dict(_Base.dispatch)

    def find_class(self, module: str, name: str) -> Any:
        full = f"{module}.{name}"
        if full in GUARDED:
            return GUARDED[full]
        if full in CLASSES or full in FUNCTIONS:
            return super().find_class(module, name)
        packages = module.split(".")
        if packages[0] != "river" or EXCLUDED.intersection(packages) or "__" in full:
            raise _refuse(full)
        found = super().find_class(module, name)
        # A name can also be an alias of something imported there: only what is defined under this name counts.
        if not isinstance(found, type) or found.__module__ != module or found.__qualname__ != name:
            raise _refuse(full)
        return found

    def load_reduce(self) -> None:
        func = self.stack[-2]
        if not (_makes(func) if isinstance(func, type) else any(func is call for call in _CALLS)):
            raise _refuse(f"a call of {_module(func)}.{_name(func)}")
        _Base.load_reduce(self)

    def load_build(self) -> None:
        _check_build(self.stack[-2], self.stack[-1])
        _Base.load_build(self)

    def load_forbidden(self) -> None:
        raise _refuse("an object by a way that no stored object uses")

    dispatch[pickle.REDUCE[0]] = load_reduce
    dispatch[pickle.BUILD[0]] = load_build
    for _code in (pickle.INST, pickle.OBJ, pickle.EXT1, pickle.EXT2, pickle.EXT4, pickle.PERSID, pickle.BINPERSID):
        dispatch[_code[0]] = load_forbidden


def _makes(kind: type) -> bool:
    """Return whether a class may be called: River's own build state without it."""
    if kind.__module__.split(".")[0] != "river":
        return True  # in CLASSES, or find_class would have refused it
    return kind.__module__.startswith("river._river_rust") or issubclass(kind, _CONTAINERS)


def _check_build(target: object, state: object) -> None:
    """Refuse a state that does more than fill an object of ours."""
    if isinstance(target, functools.partial):
        if not (isinstance(state, tuple) and len(state) == 4 and state[0] is target.func and not state[3]):
            raise _refuse("a functools.partial that changes its function")
    elif isinstance(target, np.dtype):
        if not (isinstance(state, tuple) and len(state) == 8 and state[2:7] == (None, None, None, -1, -1)):
            raise _refuse("a numpy.dtype that is no plain number")
    elif isinstance(target, type) or type(target).__name__ in ("function", "method", "builtin_function_or_method"):
        raise _refuse(f"a change to {_module(target)}.{_name(target)}")
    for part in state if isinstance(state, tuple) else (state,):
        if isinstance(part, dict) and any(isinstance(key, str) and key.startswith("__") for key in part):
            raise _refuse(f"special attributes of {_name(target)}")
