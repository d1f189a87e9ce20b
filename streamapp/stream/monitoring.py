"""The monitor's task: ``scored`` in, signals and retrain requests out."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import takewhile

from faust.types import TP

from streamapp.core.events import Position, RetrainRequest, Signal
from streamapp.core.monitor import Monitor
from streamapp.core.report import ModelReport
from streamapp.errors import DecodeError
from streamapp.stream.breathing import breathing
from streamapp.stream.checkpoint import InputMark
from streamapp.stream.cloudevents import cloud_event
from streamapp.stream.codec import decode_scored
from streamapp.stream.producer import Record
from streamapp.stream.quarantine import QUARANTINED
from streamapp.stream.reader import Reader
from streamapp.stream.recent import Recent
from streamapp.stream.recovery import Reread
from streamapp.stream.task import Surroundings, Task
from streamapp.stream.transport import Batch

PIECE = 8
"""Messages applied between two looks at the clock."""
LINGER = 512
"""Models whose messages may wait for the commit, which works out at once what follows from them."""


class MonitorTask(Task):
    """Watches the models whose scored rows lie in one partition."""

    role = "monitor"

    def __init__(self, partition: int, around: Surroundings) -> None:
        super().__init__(partition, around, (around.topics.scored,))
        self.monitor: Monitor
        self.signals = Recent("signals")
        self.requests = Recent("retrain")
        self.forgotten: list[tuple[str, str | None]] = []
        """Models, each with a group or None for the whole, that were dropped; whoever shows them empties it."""
        self._committed = 0
        """Messages before this offset were applied before: those that nobody could read are dead letters already."""
        self.restored: tuple[ModelReport, ...] = ()
        """How the models stood when this process took them over."""
        self._outputs: list[Record] = []

    async def restore(self, reader: Reader, entries: Mapping[bytes, bytes]) -> None:
        """Rebuild the monitor from its checkpoint."""
        entries = self.requests.restore(self.signals.restore(entries))
        if entries:
            self.monitor = Monitor.restore(self.partition, self.around.settings, entries)
            # Each model knows what it has applied; what others had not yet written is read once more.
            self.restored = self.monitor.report()
            (tp,) = self.inputs
            mark = self.marks[tp]
            self._committed = mark.position
            self.marks[tp] = mark.at(min(mark.position, self.monitor.applied))
            if self.position(tp) < self._committed:
                self.recovery.reread[tp.topic] = Reread(self.position(tp), self._committed)
        else:
            self.monitor = Monitor(self.partition, self.around.settings)

    async def handle(self, batch: Batch) -> None:
        """Apply one fetched batch, a few messages at a time: many models speak at once, and the loop must come round.

        Raises:
            Misaligned: something is missing before it.
        """
        async for piece in breathing(takewhile(lambda _: self.parked is None, _pieces(batch))):
            await super().handle(piece)
        if self.parked is None:
            await self._relieve(LINGER)

    async def prepare(self) -> None:
        """Work out what follows from what is held, model by model."""
        await self._relieve(0)

    async def _relieve(self, most: int) -> None:
        async for _ in breathing(self.monitor.relieve(most)):
            pass

    def digest(self, batch: Batch) -> None:
        """Hand each message to the core, which leaves most of the work until the commit: by then there are more."""
        quarantined = self.quarantined(batch.tp.topic)
        for record in batch.records:
            if record.offset < self._committed:
                self.counters.add("reread", (self.role, "scored"))
            if record.offset in quarantined:
                if record.offset >= self._committed:
                    self.counters.add("rejected", ("scored", QUARANTINED))
                continue
            try:
                message = decode_scored(record.value if record.value is not None else b"")
            except DecodeError as error:
                if record.offset < self._committed:
                    continue
                self._outputs.append(self.refuse("scored", record, error))
                continue
            position = Position(self.partition, record.offset, record.timestamp / 1000)
            self.monitor.hold(message, position)
        if forgotten := self.monitor.take_forgotten():
            self._release()
            self._forget(forgotten)

    def stored_marks(self) -> Mapping[TP, InputMark]:
        """Return the position: while some models are brought up to date, that from which on all is new."""
        (tp,) = self.inputs
        mark = self.marks[tp]
        return {tp: mark.at(max(mark.position, self._committed))}

    def _forget(self, names: list[tuple[str, str | None]]) -> None:
        """Drop what else there is of models and groups that have been silent for too long."""
        for model, group in names:
            self.counters.forget(model, group)
            if group is None:
                self.signals.forget(model)
                self.requests.forget(model)
        self.forgotten += names

    def _release(self) -> None:
        for event in self.monitor.release():
            self._say(event)

    def _say(self, event: Signal | RetrainRequest) -> None:
        topics = self.around.topics
        if isinstance(event, Signal):
            self.counters.add("signals", (event.model, event.group, event.kind, event.severity, event.detector))
            self.signals.add(event.model, event)
            self._outputs.append(cloud_event(topics.signals, event.model, "signal", event, event.emitted_at))
        else:
            self.counters.add("retrain", (event.model, event.group, event.reason))
            self.requests.add(event.model, event)
            self._outputs.append(cloud_event(topics.retrain, event.model, "retrain", event, event.at))

    def outcome(self) -> tuple[list[Record], Mapping[bytes, bytes | None]]:
        """Return signals and requests, and the models whose state changed."""
        self._release()
        outputs, self._outputs = self._outputs, []
        return outputs, {**self.monitor.take(), **self.signals.take(), **self.requests.take()}


def _pieces(batch: Batch) -> Iterator[Batch]:
    """Cut a batch so that each piece begins where the one before it ends."""
    start = batch.start
    for first in range(0, len(batch.records), PIECE):
        records = batch.records[first : first + PIECE]
        is_last = first + PIECE >= len(batch.records)
        end = batch.end if is_last else int(records.offsets[-1]) + 1
        yield replace(batch, start=start, end=end, records=records)
        start = end
    if not batch.records:
        yield batch
