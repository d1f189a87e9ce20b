"""One partition of ``scored``: its models, and the checkpoint they continue from."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final
from urllib.parse import quote, unquote

import msgspec
from msgspec import Struct

from streamapp.core.events import Arrivals, Position, RetrainRequest, Scored, ScoredBatch, Signal, Tick
from streamapp.core.monitoring.clock import Clock
from streamapp.core.monitoring.model import ModelMonitor
from streamapp.core.monitoring.naming import digest
from streamapp.core.report import ModelReport
from streamapp.core.settings import Settings
from streamapp.errors import CheckpointError

VERSION: Final = 1
"""Format of the checkpoint."""
BUDGET: Final = 1 << 18
"""Bytes per :meth:`Monitor.take` after which models that caused no output wait for the next one."""
ENTRY_MAX: Final = 400_000
"""Bytes of one checkpoint entry; a larger value is spread over several."""


class _Meta(Struct, kw_only=True):
    """What the checkpoint says of the partition. Models not in ``behind`` are as of ``applied``."""

    version: int = VERSION
    identity: str = ""
    """Of this log, so that ids of outputs never repeat on another one."""
    applied: int = 0
    """Next offset."""
    clock: Clock
    behind: list[str] = []
    """Models whose entries are older: as of what their own entry says."""


class _Written(Struct):
    """How far a model's entries go."""

    born: int
    applied: int
    """Offset that they lack no message before."""
    clock: Clock
    """Before that message."""


class Monitor:
    """All models of one partition of ``scored``.

    Give it every message once, in order. What it returns, and every number it holds, follows from these messages alone.
    Ids of outputs are hashes of what caused them: of the log (its partition, and time and kind of its first
    message), the model, the group, the kind and the offset.

    Args:
        partition: Of ``scored``.
        settings: How models are watched.
    """

    def __init__(self, partition: int, settings: Settings) -> None:
        self._partition = partition
        self._settings = settings
        self._models: dict[str, ModelMonitor] = {}
        self._meta = _Meta(clock=Clock())
        self._next = 0
        self._behind: dict[str, _Written] = {}
        """Models that a restored monitor has to bring up to date first."""
        self._due: dict[str, bool] = {}
        """Models that have changed since they were written, longest first; whether they must be written."""
        self._reach: dict[str, tuple[int, Clock]] = {}
        """How far the entries of models go that had not changed by their newest message, or by which they did."""
        self._stored: dict[str, dict[bytes, None]] = {}
        """Keys of the checkpoint by model."""
        self._anew: set[str] = set()
        """Models of whose stored entries none is of use any more."""
        self._forgotten: list[tuple[str, str | None]] = []
        self._holding: dict[str, None] = {}
        """Models that hold messages, longest first."""
        self._said: list[tuple[int, int, Signal | RetrainRequest]] = []
        """What followed already, with the offset that caused it and that at which the model was born."""

    @property
    def applied(self) -> int:
        """Offset of the next message to apply: where to seek to after :meth:`restore`."""
        return self._next

    @property
    def format(self) -> int:
        """Format of the checkpoint that it was restored from, or writes."""
        return self._meta.version

    def apply(self, message: Scored, position: Position) -> tuple[Signal | RetrainRequest, ...]:
        """Take one message; return what follows from it and from what was held, oldest first.

        A message before :attr:`applied` changes nothing. After a restore, messages are shown again to those models that
        were written before them, and to no other.
        """
        self.hold(message, position)
        return self.release()

    def hold(self, message: Scored, position: Position) -> None:
        """Take one message, and leave what follows from it to :meth:`release`.

        That is quicker for many messages, and the same.
        """
        if position.offset < self._next:
            return
        self._next = position.offset + 1
        again = position.offset < self._meta.applied
        if not again:
            self._behind.clear()
            self._meta.applied = self._next
            if not self._meta.identity:
                kind = getattr(message, "model", type(message).__name__)
                self._meta.identity = digest(position.partition, position.offset, position.timestamp, kind)
        models = self._concerned(message, position, again=again)
        self._mark(models, position.offset)
        if not again:
            _look(self._meta.clock, message, position)
        else:
            for written in self._behind.values():
                if position.offset >= written.applied:
                    _look(written.clock, message, position)
        for model in models:
            self._show(model, message, position)

    def release(self) -> tuple[Signal | RetrainRequest, ...]:
        """Return what follows from all messages since the last time, oldest first."""
        for _ in self.relieve():
            pass
        # Models that say something at the same message do so in the order in which they appeared.
        said, self._said = sorted(self._said, key=lambda one: one[:2]), []
        return tuple(output for _, _, output in said)

    def relieve(self, most: int = 0) -> Iterator[None]:
        """Work out beforehand what :meth:`release` will say, until no more than *most* models hold messages.

        Yields after each model. Messages may be held and released meanwhile.
        """
        while len(self._holding) > most:
            name = next(iter(self._holding))
            del self._holding[name]
            if (model := self._models.get(name)) is not None:
                self._said += self._released(model)
            yield

    def take_forgotten(self) -> list[tuple[str, str | None]]:
        """Return what was dropped for its silence since the last time: models, each with a group or None for the whole.

        A model's groups come before it.
        """
        forgotten, self._forgotten = self._forgotten, []
        return forgotten

    def reset(self, name: str) -> bool:
        """Begin a model anew, as if its next message were its first; return whether there was such a model.

        Predictions that wait for their verdict stay counted, since the verdict will come.
        """
        model = self._models.get(name)
        if model is None:
            return False
        fresh = self._made(name, born=model.born)
        fresh.expect(model)
        if fresh.groups:
            self._models[name] = fresh
        else:
            del self._models[name]
        self._anew.add(name)
        self._due[name] = True
        return True

    def summary(self) -> dict[str, Any]:
        """Return the models' part of the summary, by model in the order in which they appeared."""
        return dict(self.summaries())

    def summaries(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield the same model by model. Messages may be applied between two of them."""
        for name in list(self._models):
            if (model := self._models.get(name)) is not None:
                yield name, model.summary()

    def report(self) -> tuple[ModelReport, ...]:
        """Return how the models stand, as a copy that later messages do not change."""
        return tuple(self.reports())

    def reports(self) -> Iterator[ModelReport]:
        """Yield the same model by model. Messages may be applied between two of them."""
        for name in list(self._models):
            if (model := self._models.get(name)) is not None:
                yield model.report(self._clock(name).now)

    def take(self, budget: int = BUDGET) -> dict[bytes, bytes | None]:
        """Return checkpoint entries to write with what was emitted since the last time; None deletes one.

        Models that caused an output are always among them; of the others that changed, as many as fit the budget, those
        that waited longest first. The rest is brought up to date from the log after a restore, from the first message
        on that one of them lacks: of a model that begins to wait it is written how far its entries go. Nothing may be
        held: what follows from it would be lost.

        Args:
            budget: Bytes.
        """
        if self._holding:
            raise RuntimeError("take: what was held must be released first, or what follows from it would be lost")
        entries: dict[bytes, bytes | None] = {}
        size = 0
        due, self._due = self._due, {}
        for name in sorted(due, key=lambda name: not due[name]):
            if not due[name] and size >= budget:
                self._due[name] = False
                entries.update(self._reached(name))
                continue
            found = self._entries(name)
            size += sum(len(data) for data in found.values() if data is not None)
            entries.update(found)
        self._meta.behind = sorted(
            {name for name in self._due if name in self._models}
            | {name for name, written in self._behind.items() if written.applied < self._meta.applied}
        )
        entries[b"meta"] = msgspec.msgpack.encode(self._meta)
        return entries

    @classmethod
    def restore(cls, partition: int, settings: Settings, entries: Mapping[bytes, bytes]) -> "Monitor":
        """Return the monitor that wrote these entries: every key with the newest value that :meth:`take` gave it.

        Raises:
            CheckpointError: An entry is missing, cannot be read, or has another format.
        """
        monitor = cls(partition, settings)
        if not entries:
            return monitor
        try:
            meta = msgspec.msgpack.decode(entries[b"meta"], type=_Meta)
        except (KeyError, msgspec.DecodeError) as error:
            raise CheckpointError(f"checkpoint of monitor {partition} cannot be read: {error!r}") from error
        if meta.version != VERSION:
            raise CheckpointError(f"checkpoint of monitor {partition} has format {meta.version}, expected {VERSION}")
        monitor._meta = meta
        monitor._load(entries)
        applied = [written.applied for written in monitor._behind.values()]
        monitor._next = min([*applied, meta.applied])
        return monitor

    def _load(self, entries: Mapping[bytes, bytes]) -> None:
        models: dict[str, dict[str, bytes]] = {}
        for key, data in _joined(entries).items():
            name, _, part = key.removeprefix("model/").partition("/")
            models.setdefault(unquote(name), {})[part or "written"] = data
        for stored in entries:
            if stored != b"meta":
                self._stored.setdefault(_model_of(stored), {})[stored] = None
        born = {}
        for name, parts in models.items():
            try:
                written = msgspec.msgpack.decode(parts["written"], type=_Written)
            except (KeyError, msgspec.DecodeError) as error:
                raise CheckpointError(f"state of model {name} cannot be read: {error!r}") from error
            born[name] = written.born
            if name in self._meta.behind:
                self._behind[name] = written
                self._due[name] = False
        for name in sorted(models, key=born.__getitem__):
            model = self._models[name] = self._made(name, born=born[name])
            model.load(models[name])

    def _concerned(self, message: Scored, position: Position, *, again: bool) -> list[ModelMonitor]:
        if isinstance(message, Tick):
            models = list(self._models.values())
        elif again:
            models = [self._models[message.model]] if message.model in self._models else []
        else:
            models = [self._model(message.model, position.offset)]
        if not again:
            return models
        return [
            model
            for model in models
            if model.name in self._behind and position.offset >= self._behind[model.name].applied
        ]

    def _model(self, name: str, offset: int) -> ModelMonitor:
        model = self._models.get(name)
        if model is None:
            model = self._models[name] = self._made(name, born=offset)
            # Once written, always: what is not written cannot be brought up to date.
            self._due[name] = True
        return model

    def _made(self, name: str, *, born: int) -> ModelMonitor:
        ticked = self._clock(name).ticked
        return ModelMonitor(name, self._settings.of(name), born=born, identity=self._meta.identity, ticked=ticked)

    def _clock(self, name: str) -> Clock:
        return self._behind[name].clock if name in self._behind else self._meta.clock

    def _mark(self, models: Iterable[ModelMonitor], offset: int) -> None:
        """Remember that the entries of models that have not changed since go up to the message at an offset."""
        names = [model.name for model in models if model.name not in self._due and model.name not in self._holding]
        if not names:
            return
        clock = self._meta.clock.copy()
        for name in names:
            behind = self._behind.get(name)
            self._reach[name] = offset, clock if behind is None else behind.clock.copy()

    def _show(self, model: ModelMonitor, message: Scored, position: Position) -> None:
        now = self._clock(model.name).now
        if isinstance(message, ScoredBatch):
            model.hold(message, position, now)
        elif isinstance(message, Arrivals):
            model.arrive(message, position, now)
        elif now is not None:
            if self._forget(model, now):
                return
            model.trim(now)
            model.advance(position, now)
        if model.changed:
            self._due.setdefault(model.name, False)
        if model.holds:
            self._holding[model.name] = None

    def _released(self, model: ModelMonitor) -> list[tuple[int, int, Signal | RetrainRequest]]:
        try:
            outputs = model.release()
        except Exception as error:
            error.add_note(f"while it was worked out what follows from messages about model {model.name}")
            raise
        if outputs or model.changed:
            self._due[model.name] = self._due.get(model.name, False) or bool(outputs)
        return [(offset, model.born, output) for offset, output in outputs]

    def _forget(self, model: ModelMonitor, now: float) -> bool:
        """Drop what has been silent for too long; return whether that is the whole model."""
        gone = model.forget(now)
        self._said += self._released(model) if gone else []
        self._forgotten += [(model.name, group) for group in gone]
        if model.groups or not gone:
            return False
        self._forgotten.append((model.name, None))
        del self._models[model.name]
        self._anew.add(model.name)
        self._due[model.name] = True
        return True

    def _entries(self, name: str) -> dict[bytes, bytes | None]:
        stored = self._stored.setdefault(name, {})
        prefix = "model/" + _quoted(name)
        entries: dict[bytes, bytes | None] = {}
        if name in self._anew:
            self._anew.discard(name)
            entries = dict.fromkeys(stored)
            stored.clear()
        model = self._models.get(name)
        self._reach.pop(name, None)
        if model is None:
            del self._stored[name]
            return {**entries, **dict.fromkeys(stored)}
        behind = self._behind.get(name)
        # One that is behind may still be ahead of where reading goes on after a restore.
        applied = self._next if behind is None else max(self._next, behind.applied)
        written = _Written(model.born, applied, self._clock(name))
        parts = {"": msgspec.msgpack.encode(written), **model.take()}
        for part, data in parts.items():
            entries.update(_spread(f"{prefix}/{part}" if part else prefix, data, stored))
        if behind is not None:
            behind.applied = applied
        return entries

    def _reached(self, name: str) -> dict[bytes, bytes | None]:
        """Return the entry that says how far a model's entries go, where it does not say so already."""
        if name not in self._reach:
            return {}
        written = _Written(self._models[name].born, *self._reach.pop(name))
        return _spread("model/" + _quoted(name), msgspec.msgpack.encode(written), self._stored[name])


def _look(clock: Clock, message: Scored, position: Position) -> None:
    if isinstance(message, Tick):
        clock.tick(message.partition, message.log_time, position.timestamp)
    else:
        clock.look(position.timestamp)


def keys_of(name: str, entries: Iterable[bytes]) -> list[bytes]:
    """Return those keys of a checkpoint that belong to a model."""
    return [key for key in entries if key != b"meta" and _model_of(key) == name]


def models_in(entries: Iterable[bytes]) -> list[str]:
    """Return the models that the keys of a checkpoint belong to, without looking at their values."""
    return list(dict.fromkeys(_model_of(key) for key in entries if key != b"meta"))


def _model_of(key: bytes) -> str:
    return unquote(key.decode().removeprefix("model/").partition("/")[0].partition("~")[0])


def _quoted(name: str) -> str:
    return quote(name, safe="").replace("~", "%7E")


def _spread(key: str, data: bytes | None, stored: dict[bytes, None]) -> dict[bytes, bytes | None]:
    """Return the entries of one value; stored keys that it no longer has are deleted."""
    pieces = [] if data is None else [data[i : i + ENTRY_MAX] for i in range(0, max(len(data), 1), ENTRY_MAX)]
    entries: dict[bytes, bytes | None] = {}
    for number, piece in enumerate(pieces):
        name = (f"{key}~{number}" if number else key).encode()
        # How many follow, so that a missing one is noticed.
        entries[name] = (len(pieces) - number - 1).to_bytes(2, "big") + piece
        stored[name] = None
    number = len(pieces)
    while (name := (f"{key}~{number}" if number else key).encode()) in stored:
        entries[name] = None
        del stored[name]
        number += 1
    return entries


def _joined(entries: Mapping[bytes, bytes]) -> dict[str, bytes]:
    """Put values together again that were spread over several entries."""
    result = {}
    for key, data in entries.items():
        if key == b"meta" or b"~" in key:
            continue
        others = [key + f"~{number}".encode() for number in range(1, int.from_bytes(data[:2], "big") + 1)]
        try:
            result[key.decode()] = b"".join(piece[2:] for piece in (data, *map(entries.__getitem__, others)))
        except KeyError as error:
            raise CheckpointError(f"checkpoint of the monitor lacks {error}") from None
    return result
