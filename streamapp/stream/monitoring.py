"""The monitor's task: ``scored`` in, signals and retrain requests out."""

from collections.abc import Mapping

from streamapp.core.events import Position, RetrainRequest, Signal
from streamapp.core.monitor import Monitor
from streamapp.core.report import ModelReport
from streamapp.errors import DecodeError
from streamapp.stream.cloudevents import cloud_event
from streamapp.stream.codec import decode_scored
from streamapp.stream.producer import Record
from streamapp.stream.reader import Reader
from streamapp.stream.recent import Recent
from streamapp.stream.task import Surroundings, Task
from streamapp.stream.transport import Batch


class MonitorTask(Task):
    """Watches the models whose scored rows lie in one partition."""

    role = "monitor"

    def __init__(self, partition: int, around: Surroundings) -> None:
        super().__init__(partition, around, (around.topics.scored,))
        self.monitor: Monitor
        self.signals = Recent("signals")
        self.requests = Recent("retrain")
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
        else:
            self.monitor = Monitor(self.partition, self.around.settings)

    def digest(self, batch: Batch) -> None:
        """Apply each message, one by one: float sums must not depend on what a fetch brought."""
        for record in batch.records:
            try:
                message = decode_scored(record.value if record.value is not None else b"")
            except DecodeError as error:
                if record.offset < self._committed:
                    continue
                self._outputs.append(self.refuse("scored", record, error))
                continue
            position = Position(self.partition, record.offset, record.timestamp / 1000)
            for event in self.monitor.apply(message, position):
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
        outputs, self._outputs = self._outputs, []
        return outputs, {**self.monitor.take(), **self.signals.take(), **self.requests.take()}
