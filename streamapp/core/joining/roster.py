"""Names of models and groups that are counted under themselves: so many at a time, in order of first predictions.

What comes while there is no room is counted under :data:`OTHER`. A name is *current* as long as log time is at most
:func:`patience` beyond its last accepted prediction, the log time of which is rounded up, so that the checkpoint need
not follow every prediction. A name that is outdated is as good as new, so it does not matter when it is dropped; while
it is current nothing takes its place. So under which name a prediction counts follows from the log of predictions
alone.
"""

from collections.abc import Collection, Mapping
from math import inf

import msgspec
from msgspec import Struct

from streamapp.core.joining.intake import FUTURE
from streamapp.core.settings import ModelSettings, Settings
from streamapp.errors import CheckpointError

OTHER = "other"
"""What further names are counted under; itself it is always taken."""
NAMES = b"names/"
QUANTA = 16
"""Log times of last predictions are rounded up to this part of the patience, in whole seconds."""
NEWEST = 1 << 62
"""Beyond all offsets."""


class Limits(Struct, frozen=True, kw_only=True):
    """How many names one joiner takes at a time, those that the settings name beside, and how much it reads again."""

    groups: int = 100
    """Of one model."""
    models: int = 1000
    reread: int = 200_000
    """Records that a restore may read again though nearly none of them waits."""


def patience(settings: ModelSettings) -> float:
    """Return for how many seconds of log time a name is current after its last prediction.

    It is long enough that nothing waits that was counted under a name which is outdated.
    """
    return max(settings.forget_after, settings.outcome_window + settings.grace + FUTURE + 1.0)


class _Tenure(Struct, gc=False):
    """A name that is taken."""

    since: int
    """Offset of the prediction that it was taken for."""
    last: float
    """Log time of its last prediction, rounded up."""


class _Model(Struct):
    """A model that is taken, and its groups, in the order in which they were; :data:`OTHER` is not among them."""

    number: int
    """Of its checkpoint entry."""
    tenure: _Tenure
    planned: frozenset[str]
    """Groups that the settings name."""
    patience: float
    quantum: float
    groups: dict[str, _Tenure]
    unplanned: int = 0
    """How many groups are taken that the settings do not name."""
    stored: bool = False
    """Whether the checkpoint has its entry."""

    def rounded(self, log_time: float) -> float:
        """Return a log time, rounded up."""
        return -(-log_time // self.quantum) * self.quantum

    def soonest(self) -> float:
        """Return the last log time at which all of it is current."""
        return min([self.tenure.last, *(group.last for group in self.groups.values())]) + self.patience


class _Entry(Struct, array_like=True):
    """A model in the checkpoint; formats 1 and 2 had its name and its groups only."""

    name: str
    groups: list[str]
    since: int = 0
    last: float | None = None
    groups_since: list[int] = []
    groups_last: list[float] = []


class Roster:
    """The names taken now.

    Whoever asks it to take names tells it before that log time went on (:meth:`forget`), and what was heard of
    meanwhile (:meth:`hear`).

    Args:
        settings: Models and groups that they name are always taken, and take nobody's place.
        limits: How many others are.
    """

    def __init__(self, settings: Settings, limits: Limits) -> None:
        self._settings = settings
        self._limits = limits
        self._models: dict[str, _Model] = {}
        """In the order in which they were taken."""
        self._unplanned = 0
        """How many of them the settings do not name."""
        self._next = 0
        self._changed: dict[str, None] = {}
        self._gone: list[int] = []
        """Numbers of the entries to be removed."""
        self._soonest = inf
        """Up to this log time at least, every name that is taken is current."""
        self._shortest = min(map(patience, (settings.defaults, *settings.models.values())))

    def until(self, log_time: float) -> float:
        """Return up to when at least every name is current that is taken now, or will be from a log time on."""
        return min(self._soonest, log_time + self._shortest)

    def take(self, model: str, group: str, offset: int, log_time: float) -> tuple[str, str, float]:
        """Return the model and the group that a prediction counts under, taken now where there is room.

        Args:
            model: As the prediction names it; likewise the group.
            group: See there.
            offset: Of the prediction.
            log_time: Likewise; every name that is taken is current at it.

        Returns:
            Model, group, and the log time, rounded up.
        """
        found = self._models.get(model)
        if found is None:
            if self._takes_place(model) and self._unplanned >= self._limits.models:
                return self.take(OTHER, group, offset, log_time)
            found = self._meet(model, offset, log_time)
        if group not in found.groups and group != OTHER:
            planned = group in found.planned
            if not planned and found.unplanned >= self._limits.groups:
                group = OTHER
            else:
                found.groups[group] = _Tenure(offset, found.rounded(log_time))
                found.unplanned += not planned
                self._changed[model] = None
        return model, group, self.hear(model, group, log_time)

    def hear(self, model: str, group: str, log_time: float) -> float:
        """Take note of an accepted prediction, by the names that it counts under; return its log time, rounded up."""
        found = self._models[model]
        last = found.rounded(log_time)
        for tenure in (found.tenure, found.groups.get(group)):
            if tenure is not None and tenure.last < last:
                tenure.last = last
                self._changed[model] = None
        return last

    def counted(self, model: str, group: str, offset: int) -> tuple[str, str, int]:
        """Return what a prediction counts under that was accepted before, and waits; nothing is taken.

        Args:
            model: As the prediction names it; likewise the group.
            group: See there.
            offset: Of the prediction; :data:`NEWEST`: of any that could still wait, if nothing changes.

        Returns:
            Model and group, and the lowest offset of which this is true at that.
        """
        since = 0
        found = self._models.get(model)
        if found is not None and model != OTHER:
            if offset < found.tenure.since:
                found = None
            else:
                since = found.tenure.since
        if found is None:
            model, found = OTHER, self._models.get(OTHER)
        tenure = None if found is None else found.groups.get(group)
        if tenure is None or offset < tenure.since:
            return model, OTHER, since
        return model, group, max(since, tenure.since)

    def holds(self, model: str, group: str) -> bool:
        """Return whether a model, and a group of it, are taken."""
        found = self._models.get(model)
        return found is not None and (group == OTHER or group in found.groups)

    def forget(self, now: float) -> bool:
        """Drop what is outdated at a log time, and return whether anything was."""
        if now <= self._soonest:
            return False
        self._soonest = inf
        dropped = False
        for name, model in list(self._models.items()):
            soonest = model.soonest()
            if soonest < now:
                dropped = True
                self._drop(name, model, now)
                soonest = model.soonest() if name in self._models else inf
            self._soonest = min(self._soonest, soonest)
        return dropped

    @property
    def taken(self) -> Mapping[str, Collection[str]]:
        """Groups by model, both in the order in which they were taken, without the group :data:`OTHER`."""
        return {name: tuple(model.groups) for name, model in self._models.items()}

    # Checkpoint

    def changes(self) -> dict[bytes, bytes | None]:
        """Return the checkpoint entries that changed since the last time, each below 200 kB; None removes one."""
        changed, self._changed = self._changed, {}
        gone, self._gone = self._gone, []
        entries: dict[bytes, bytes | None] = {_key(number): None for number in gone}
        for name in changed:
            model = self._models[name]
            model.stored = True
            entry = _Entry(
                name=name,
                groups=list(model.groups),
                since=model.tenure.since,
                last=model.tenure.last,
                groups_since=[group.since for group in model.groups.values()],
                groups_last=[group.last for group in model.groups.values()],
            )
            entries[_key(model.number)] = msgspec.msgpack.encode(entry)
        return entries

    def restore(self, entries: Mapping[bytes, bytes], now: float) -> None:
        """Take the names that a checkpoint holds.

        Args:
            entries: Of the checkpoint.
            now: Log time of the last predictions, where the format does not say.

        Raises:
            CheckpointError: An entry is broken.
        """
        stored: list[tuple[int, _Entry]] = []
        for key, value in entries.items():
            if not key.startswith(NAMES):
                continue
            try:
                number, entry = int(key.removeprefix(NAMES)), msgspec.msgpack.decode(value, type=_Entry)
            except (ValueError, msgspec.DecodeError) as error:
                raise CheckpointError(_unreadable(key, repr(error))) from error
            if entry.last is not None and not len(entry.groups) == len(entry.groups_since) == len(entry.groups_last):
                raise CheckpointError(_unreadable(key, "its columns do not fit"))
            stored.append((number, entry))
        for number, entry in sorted(stored, key=lambda each: each[0]):
            self._next = number
            self._restore(entry, now)

    def _restore(self, entry: _Entry, now: float) -> None:
        model = self._meet(entry.name, entry.since, now)
        model.stored = True
        if entry.last is None:
            last = model.rounded(now)
            tenures = [_Tenure(0, last) for _ in entry.groups]
        else:
            model.tenure.last = entry.last
            tenures = [_Tenure(*each) for each in zip(entry.groups_since, entry.groups_last, strict=True)]
            del self._changed[entry.name]
        model.groups = dict(zip(entry.groups, tenures, strict=True))
        model.groups.pop(OTHER, None)
        model.unplanned = sum(group not in model.planned for group in model.groups)
        self._soonest = min(self._soonest, model.soonest())

    # Names

    def _takes_place(self, model: str) -> bool:
        return model != OTHER and model not in self._settings.models

    def _meet(self, name: str, offset: int, log_time: float) -> _Model:
        settings = self._settings.of(name)
        limit = patience(settings)
        control = () if settings.control is None else (settings.control,)
        model = self._models[name] = _Model(
            number=self._next,
            tenure=_Tenure(offset, 0.0),
            planned=frozenset((*settings.groups, *control)),
            patience=limit,
            quantum=float(limit // QUANTA),
            groups={},
        )
        model.tenure.last = model.rounded(log_time)
        self._next += 1
        self._unplanned += self._takes_place(name)
        self._changed[name] = None
        self._soonest = min(self._soonest, model.soonest())
        return model

    def _drop(self, name: str, model: _Model, now: float) -> None:
        """Drop what is outdated of a model, or all of it."""
        if model.tenure.last + model.patience < now:
            del self._models[name]
            self._changed.pop(name, None)
            self._unplanned -= self._takes_place(name)
            if model.stored:
                self._gone.append(model.number)
            return
        self._changed[name] = None
        for group in [group for group, tenure in model.groups.items() if tenure.last + model.patience < now]:
            del model.groups[group]
            model.unplanned -= group not in model.planned


def _key(number: int) -> bytes:
    return NAMES + str(number).encode()


def _unreadable(key: bytes, error: str) -> str:
    return f"checkpoint entry {key.decode(errors='replace')!r} cannot be read: {error}"
