"""Resolved predictions, for as long as duplicates and late shadow answers are recognised."""

from collections.abc import Iterator, Sequence
from math import inf

import numpy as np
from msgspec import Struct

from streamapp.core.events import Hashes, Outcome
from streamapp.core.hashing import hash64


class Resolved(Struct, gc=False):
    """What is remembered of a prediction's end."""

    key: str | int
    """Its prediction_id, or the 64-bit hash of that where it comes from a checkpoint."""
    group: str
    horizon: float
    """Last log time at which it is remembered."""
    outcome: Outcome | None
    """The outcome it was matched with; None if it expired."""
    outcome_offset: int
    """-1 if it expired."""
    outcome_log_time: float


_Entry = Resolved | dict[str, Resolved]


class Remembered:
    """Resolved predictions by id, one for each group.

    Those restored from a checkpoint are known by hash, until a record with their id is announced by :meth:`adopt`.
    """

    def __init__(self) -> None:
        self.by_id: dict[str | int, _Entry] = {}
        """Changed by the methods alone."""
        self._hashed: dict[int, list[Resolved]] = {}
        self._days: dict[int, list[Resolved]] = {}
        self._forgotten = -inf

    def add(self, resolved: Resolved) -> None:
        """Remember one; of the same id and group, only the one with the latest horizon is."""
        if resolved.key in self.by_id:
            self._put(resolved)
        else:
            self.by_id[resolved.key] = resolved
        day = int(resolved.horizon)
        entries = self._days.get(day)
        if entries is None:
            self._days[day] = [resolved]
        else:
            entries.append(resolved)

    def restore(self, resolved: Resolved) -> None:
        """Remember one whose key is a hash."""
        assert isinstance(resolved.key, int)
        self._hashed.setdefault(resolved.key, []).append(resolved)
        self._days.setdefault(int(resolved.horizon), []).append(resolved)

    def adopt(self, prediction_ids: Sequence[str]) -> None:
        """Announce the ids of records to come, so that what is known by hash is found by id."""
        if not self._hashed:
            return
        hashes: Hashes = hash64([prediction_id.encode() for prediction_id in prediction_ids])
        known = np.fromiter(self._hashed, dtype=np.uint64, count=len(self._hashed))
        for place in np.flatnonzero(np.isin(hashes, known)).tolist():
            for resolved in self._hashed.pop(int(hashes[place]), ()):
                resolved.key = prediction_ids[place]
                self._put(resolved)

    def has(self, prediction_id: str, group: str, log_time: float) -> bool:
        """Return whether this id and group is remembered at a log time."""
        others = self.by_id.get(prediction_id)
        if others is None:
            return False
        if isinstance(others, dict):
            found = others.get(group)
            return found is not None and found.horizon >= log_time
        return others.group == group and others.horizon >= log_time

    def of(self, prediction_id: str, log_time: float) -> list[Resolved]:
        """Return what is remembered of an id at a log time, in order of the outcomes' offsets."""
        others = self.by_id.get(prediction_id)
        if others is None:
            return []
        entries = others.values() if isinstance(others, dict) else (others,)
        found = [resolved for resolved in entries if resolved.horizon >= log_time]
        return sorted(found, key=lambda resolved: resolved.outcome_offset) if len(found) > 1 else found

    def forget(self, clock: float) -> None:
        """Let go of what no record from *clock* on can ask for."""
        today = int(clock)
        if today <= self._forgotten:
            return
        self._forgotten = today
        for day in [day for day in self._days if day < today]:
            for resolved in self._days.pop(day):
                self._remove(resolved)

    def matched(self) -> Iterator[Resolved]:
        """Yield all that were matched with an outcome."""
        for entries in self._days.values():
            for resolved in entries:
                if resolved.outcome_offset >= 0:
                    yield resolved

    def _put(self, resolved: Resolved) -> None:
        others = self.by_id.get(resolved.key)
        if others is None:
            self.by_id[resolved.key] = resolved
            return
        if not isinstance(others, dict):
            self.by_id[resolved.key] = others = {others.group: others}
        same = others.get(resolved.group)
        if same is None or same.horizon <= resolved.horizon:
            others[resolved.group] = resolved

    def _remove(self, resolved: Resolved) -> None:
        key = resolved.key
        if isinstance(key, int):
            kept = [other for other in self._hashed.pop(key) if other is not resolved]
            if kept:
                self._hashed[key] = kept
            return
        others = self.by_id.get(key)
        if others is resolved:
            del self.by_id[key]
        elif isinstance(others, dict) and others.get(resolved.group) is resolved:
            del others[resolved.group]
            if not others:
                del self.by_id[key]
