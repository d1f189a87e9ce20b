"""The newest events of each model, kept in the checkpoint so that a summary is whole after a restart."""

from collections import deque
from collections.abc import Mapping
from typing import Any

import msgspec
from msgspec import Raw

from streamapp.stream.checkpoint import MAX_VALUE

KEPT = 50
"""Events of one kind and model; older ones are in their topics."""


class Recent:
    """Newest events of one kind, by model.

    Args:
        kind: Part of the checkpoint's keys.
    """

    def __init__(self, kind: str) -> None:
        self._prefix = f"recent/{kind}/".encode()
        self._events: dict[str, deque[Raw]] = {}
        """As MessagePack, which takes a quarter of what Python needs for them, and is what a checkpoint holds."""
        self._changed: set[str] = set()

    def add(self, model: str, event: object) -> None:
        """Keep an event as the newest of its model."""
        self._events.setdefault(model, deque(maxlen=KEPT)).append(_raw(event))
        self._changed.add(model)

    def forget(self, model: str) -> None:
        """Drop a model's events."""
        if self._events.pop(model, None) is not None:
            self._changed.add(model)

    def of(self, model: str) -> list[Any]:
        """Return a model's events as their topics have them, oldest first."""
        return [msgspec.msgpack.decode(event) for event in self._events.get(model, ())]

    def take(self) -> dict[bytes, bytes | None]:
        """Return the checkpoint entries that changed since the last call."""
        changed, self._changed = self._changed, set()
        return {
            self._prefix + model.encode(): _encoded(self._events[model]) if model in self._events else None
            for model in changed
        }

    def restore(self, entries: Mapping[bytes, bytes]) -> dict[bytes, bytes]:
        """Take what is ours from a checkpoint's entries, and return the others."""
        others = {}
        for key, value in entries.items():
            if key.startswith(self._prefix):
                events = msgspec.msgpack.decode(value, type=list[dict[str, Any]])
                self._events[key[len(self._prefix) :].decode()] = deque(map(_raw, events), maxlen=KEPT)
            else:
                others[key] = value
        return others


def _raw(event: object) -> Raw:
    return Raw(msgspec.msgpack.encode(event))


def _encoded(events: deque[Raw]) -> bytes:
    """Return events as one value of a checkpoint, having dropped the oldest ones if they are too large together."""
    while len(data := msgspec.msgpack.encode(list(events))) > MAX_VALUE:
        events.popleft()
    return data
