"""Pickles that do what no stored object does: run something, ask for the whole memory, or lie to C code.

``python -m tests.hostile.pickles FOLDER`` reads each, in an address space of limited size, and prints what it said.
"""

import asyncio
import bdb
import codecs
import copyreg
import ctypes
import functools
import importlib
import io
import json
import marshal
import operator
import os
import pathlib
import pickle
import random
import resource
import runpy
import shutil
import struct
import subprocess
import sys
import timeit
from collections import Counter, OrderedDict, deque
from typing import Any

import msgspec
import numpy as np
from river import drift, linear_model, preprocessing, stats
from river._river_rust import drift as rust_drift
from river._river_rust import stats as rust_stats

from streamapp.core import pickling
from streamapp.errors import CheckpointError

ADDRESS_SPACE = 3 << 30
TEN_GIGABYTES = 10**10


def stored(pickled: bytes, river: str = pickling.RIVER) -> bytes:
    """Return an envelope of ours around somebody's pickle."""
    return b"SAPK\x01" + msgspec.msgpack.encode({"river": river, "python": "3.11", "pickle": pickled})


class Call:
    """Pickles as a call of *func*, and then as what sets *state*."""

    def __init__(self, func: Any, *args: Any, state: Any = None) -> None:
        self.parts = (func, args) if state is None else (func, args, state)

    def __reduce__(self) -> Any:
        return self.parts


class New:
    """Pickles as ``kind.__new__(kind, *args)``."""

    def __init__(self, kind: type, *args: Any, state: Any = None) -> None:
        self.parts = (copyreg.__newobj__, (kind, *args), state)  # type: ignore[attr-defined]

    def __reduce_ex__(self, _: Any) -> Any:
        return self.parts


_Base: Any = pickle._Pickler  # type: ignore[attr-defined]


class _Pickler(_Base):  # type: ignore[misc]
    def save_reduce(self, *args: Any, obj: Any = None, **more: Any) -> None:
        """Write whatever an object says of itself, also that it is of another class."""
        super().save_reduce(*args, **more)


def dumped(thing: Any) -> bytes:
    """Return a thing as a pickle of protocol 4."""
    file = io.BytesIO()
    _Pickler(file, protocol=4).dump(thing)
    return file.getvalue()


# What runs something. Each would make the file *canary*.


def running(canary: str) -> dict[str, bytes]:
    """Return pickles that make a file if they get their way."""
    touch = f"touch {canary}"
    source = f"open({canary!r}, 'w')"
    calls: dict[str, Any] = {
        "os.system": Call(os.system, touch),
        "os.popen": Call(os.popen, touch),
        "os.mkdir": Call(os.mkdir, canary),
        "subprocess.Popen": Call(subprocess.Popen, ["touch", canary]),
        "subprocess.check_output": Call(subprocess.check_output, ["touch", canary]),
        "eval": Call(eval, source),
        "exec": Call(exec, source),
        "compile": Call(compile, source, "x", "exec"),
        "open": Call(open, canary, "w"),
        "io.open": Call(io.open, canary, "w"),
        "codecs.open": Call(codecs.open, canary, "w"),
        "pathlib": Call(pathlib.Path.touch, pathlib.PurePosixPath(canary)),
        "shutil": Call(shutil.copy, "/etc/hostname", canary),
        "timeit": Call(timeit.timeit, source),
        "bdb": Call(bdb.Bdb.run, New(bdb.Bdb), source),
        "runpy": Call(runpy.run_path, canary),
        "import": Call(importlib.import_module, "antigravity"),
        "ctypes": Call(ctypes.CDLL, canary),
        "marshal": Call(marshal.loads, marshal.dumps(compile(source, "x", "exec"))),
        "asyncio": Call(asyncio.run, None),
        "a pickle in a pickle": Call(pickle.loads, pickle.dumps(Call(os.system, touch))),
        "numpy's pickles": Call(np.load, canary),
        "operator": Call(operator.methodcaller("__reduce__"), 1),
        "partial": Call(functools.partial, os.system, touch),
        "getattr": Call(getattr, linear_model.LogisticRegression(), "__class__"),
        "setattr": Call(setattr, drift.ADWIN, "update", os.system),
    }
    system = calls["os.system"]
    hidden = {
        "in an array of objects": np.array([1, {"a": [system]}], dtype=object),
        "in an array in an array": np.array([np.array([system, 1], dtype=object), None], dtype=object),
        "as a key": {(1, "a"): {"x": system}},
        "in a deque": deque([system], maxlen=2),
        "in a set's place": [frozenset({1}), system],
        "in a model": _within(linear_model.LogisticRegression(), "optimizer", system),
        "in a scaler's counts": _within(preprocessing.StandardScaler(), "counts", system),
        "in a detector": _within(drift.PageHinkley(), "delta", system),
        "as the state of a model": New(linear_model.LogisticRegression, state=system),
        "as the state of a generator": Call(random.Random, state=system),
        "as a default": Call(functools.partial, set, state=(os.system, (touch,), {}, None)),
    }
    names = ["os\nsystem", "posix\nsystem", "builtins\neval", "collections\n_sys.modules", "functools\nos.system"]
    names += [
        "river.drift.adwin\nADWIN.__init__.__globals__",
        "river.drift.kswin\nrandom._os.system",
        "statistics\nsys",
    ]
    names += ["streamapp.core.pickling\npickle.loads", "streamapp.core.learning.learned\nimportlib.import_module"]
    names += [
        "river.drift\x00\nADWIN",
        "river..drift\nADWIN",
        "\nsystem",
        "river\nbase.Base.__subclasses__",
        "numpy\nf2py",
    ]
    dotted = {f"the name {name!r}": _named(name, touch) for name in names}
    code = touch.encode()
    old = {
        "GLOBAL of protocol 0": b"cos\nsystem\n(S'" + code + b"'\ntR.",
        "INST": b"(S'" + code + b"'\nios\nsystem\n.",
        "OBJ": b"(cos\nsystem\nS'" + code + b"'\no.",
        "a persistent id": b"Pos.system\n.",
        "a binary persistent id": b"\x80\x04\x8c\x01aQ.",
        "an extension code": b"\x80\x02\x82\xf0(X" + struct.pack("<I", len(code)) + code + b"tR.",
        "a long extension code": b"\x80\x02\x84\xf0\x00\x00\x00.",
        "NEWOBJ_EX": b"\x80\x04cos\nsystem\n)}\x92.",
    }
    every = {**calls, **hidden}
    return {**{name: dumped(thing) for name, thing in every.items()}, **dotted, **old}


def _within(thing: Any, name: str, value: Any) -> Any:
    setattr(thing, name, value)
    return thing


def _named(name: str, touch: str) -> bytes:
    """Return a call of what a name leads to, by STACK_GLOBAL."""
    parts = b"".join(b"\x8c" + bytes([len(part)]) + part.encode() for part in name.split("\n"))
    return b"\x80\x04" + parts + b"\x93\x8c" + bytes([len(touch)]) + touch.encode() + b"\x85R."


# What asks for more than there is


def asking() -> dict[str, bytes]:
    """Return small pickles that ask for gigabytes, or for all the time there is."""
    lazy = range(TEN_GIGABYTES)
    rust = {
        "a window of a rolling quantile": New(rust_stats.RsRollingQuantile, 0.5, TEN_GIGABYTES),
        "a window that is called": Call(rust_stats.RsRollingQuantile, 0.5, 10**13),
        "buckets of ADWIN": New(rust_drift.AdaptiveWindowing, 0.002, 32, 10**13, 5, 10),
        "a window of a rolling area": New(rust_stats.RsRollingROCAUC, 1, TEN_GIGABYTES),
        "very many windows": [New(rust_stats.RsRollingQuantile, 0.5, 10**6 + n) for n in range(3000)],
        "a window in a partial": Call(functools.partial, stats.Mean, state=(stats.Mean, (lazy,), {}, None)),
    }
    things: dict[str, Any] = {
        **rust,
        "a bytearray by its length": Call(bytearray, TEN_GIGABYTES),
        "a tuple of a range": Call(tuple, lazy),
        "a new tuple of a range": New(tuple, lazy),
        "a list of a range": Call(list, lazy),
        "a set of a range": Call(set, lazy),
        "a frozenset of a range": New(frozenset, lazy),
        "a deque of a range": Call(deque, lazy),
        "a counter of a range": Call(Counter, lazy),
        "a dict of a range": Call(OrderedDict, lazy),
        "a generator seeded with a range": Call(random.Random, lazy),
        "a string of a number": Call(str, 10**4000),
        "a number of a string": Call(int, "9" * 100_000),
        "an array by its shape": Call(np.ndarray, (TEN_GIGABYTES,)),
        "a new array by its shape": New(np.ndarray, (TEN_GIGABYTES,)),
        "an array of objects by its shape": _array((TEN_GIGABYTES,), "O8", [None]),
        "an array of numbers by its shape": _array((TEN_GIGABYTES,), "f8", b""),
        "an array of no width": _array((TEN_GIGABYTES, 0), "f8", b"1234"),
        "a type of many bytes": Call(np.dtype, "V2000000000"),
        "a type of many items": Call(np.dtype, ("f8", (10**9,))),
    }
    bombs = {name: dumped(thing) for name, thing in things.items()}
    made = b"\x80\x04crandom\nRandom\nq\x00](" + b"h\x00)R" * 600_000 + b"e."
    bombs["very many generators"] = made
    bit = b"\x80\x04cnumpy.random._pickle\n__bit_generator_ctor\nq\x00]("
    bombs["very many bit generators"] = bit + b"h\x00)R" * 600_000 + b"e."
    bombs["a call with what is not written out"] = b"\x80\x04cbuiltins\nbytearray\n" + dumped(lazy)[2:-1] + b"R."
    bombs["BYTEARRAY8"] = b"\x80\x05\x96" + struct.pack("<Q", TEN_GIGABYTES) + b"."
    bombs["BINBYTES8"] = b"\x80\x04\x8e" + struct.pack("<Q", TEN_GIGABYTES) + b"."
    bombs["BINUNICODE8"] = b"\x80\x04\x8d" + struct.pack("<Q", 2**62) + b"."
    bombs["LONG4"] = b"\x80\x04\x8b" + struct.pack("<i", 2**31 - 1) + b"."
    bombs["LONG4 of negative length"] = b"\x80\x04\x8b" + struct.pack("<i", -5) + b"."
    bombs["FRAME"] = b"\x80\x04\x95" + struct.pack("<Q", 2**62) + b"."
    bombs["LONG_BINPUT"] = b"\x80\x04Nr\xff\xff\xff\xff0" + b"."
    bombs["a number of very many digits"] = b"I" + b"9" * 900_000 + b"\n."
    bombs["a stack that is empty"] = b"\x80\x04R."
    bombs["a tuple that takes forever to hash"] = b"\x80\x04}N" + b"2\x86" * 200 + b"Ns."
    bombs["a set that takes forever to hash"] = b"\x80\x04(N" + b"2\x86" * 200 + b"\x91."
    endless: list[Any] = []
    for _ in range(60):
        endless = [endless, endless]
    bombs["a message that would show a list without end"] = dumped(Call(np.dtype, endless))
    bombs["a name without end"] = b"\x80\x04X" + struct.pack("<I", 800_000) + b"x" * 800_000 + b"\x8c\x01y\x93."
    return bombs


def _array(shape: tuple[int, ...], code: str, items: Any, flags: int | None = None) -> Any:
    """Return an array whose shape or type says other things than its items."""
    kind: Any = np.dtype(code)
    if flags is not None:
        kind = Call(np.dtype, code, False, True, state=(3, "|", None, None, None, -1, -1, flags))
    make = np._core.multiarray._reconstruct  # type: ignore[attr-defined]
    return Call(make, np.ndarray, (0,), b"b", state=(1, shape, kind, False, items))


# What lies to C code, or breaks Rust


def lying() -> dict[str, bytes]:
    """Return pickles that would make C code read whatever lies in memory, or make Rust panic."""
    generator = np.random.MT19937()
    beyond = generator.state
    beyond["state"]["pos"] = 10**6
    before = np.random.MT19937().state
    before["state"]["pos"] = -5
    short = np.random.MT19937().state
    short["state"]["key"] = np.zeros(3, np.uint32)
    make = np.random._pickle.__bit_generator_ctor  # type: ignore[attr-defined]
    wrap = np.random._pickle.__randomstate_ctor  # type: ignore[attr-defined]
    adwin = rust_drift.AdaptiveWindowing(0.002, 32, 5, 5, 10).__getstate__()
    things = {
        "addresses for objects": _array((1,), "O8", b"\x41" * 8, flags=0),
        "objects for numbers": _array((1,), "f8", [1.0]),
        "bytes for objects": _array((1,), "O8", b"\x41" * 8),
        "a type of another order": Call(np.dtype, "f8", False, False, state=(3, ">", None, None, None, -1, -1, 0)),
        "a type with fields": Call(np.dtype, "f8", False, True, state=(3, "|", None, ("a",), {"a": 1}, 8, 1, 0)),
        "a generator beyond its table": Call(make, np.random.MT19937, state=(beyond, None)),
        "a generator before its table": Call(make, "MT19937", state=(before, None)),
        "a generator with a short table": Call(make, np.random.MT19937, state=(short, None)),
        "a random state beyond its table": Call(wrap, np.random.RandomState(3)._bit_generator, state=beyond),
        "a detector that makes Rust panic": New(rust_drift.AdaptiveWindowing, 0.002, 32, 5, 5, 10, state=adwin[:20]),
        "a quantile that makes Rust panic": New(rust_stats.RsQuantile, state=b"\xff" * 170),
        "something put into a model": linear_model.LogisticRegression(),
    }
    lies = {name: dumped(thing) for name, thing in things.items()}
    lies["something put into a model"] = lies["something put into a model"][:-1] + b"NNs."
    lies["something appended to a class"] = b"\x80\x04criver.drift.adwin\nADWIN\nNa."
    return lies


def main(folder: str) -> None:
    """Read each pickle, and print as JSON what was said of it; None where nothing was said."""
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE, ADDRESS_SPACE))
    copyreg.add_extension("os", "system", 0xF0)
    for name, pickled in {**running(os.path.join(folder, "canary")), **lying(), **asking()}.items():
        before = _peak()
        try:
            pickling.loads(stored(pickled))
        except CheckpointError as error:
            said: str | None = str(error)
        else:
            said = None
        print(json.dumps([name, said, len(pickled), _peak() - before]), flush=True)  # noqa: T201


def _peak() -> int:
    """Return the most memory that this process has had, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    main(sys.argv[1])
