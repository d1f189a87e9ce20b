"""A task's checkpoint: one partition of a compacted topic, written only inside the task's transactions.

Since one fenced writer writes it, the newest committed value of each key is one consistent state. The key ``input``
says what of the inputs that state has applied, by what their logs can be recognised, and what stands in the task's way.
"""

import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from faust.types import TP
from msgspec import Struct
from msgspec.structs import replace

from streamapp.errors import CheckpointError
from streamapp.stream.producer import Record
from streamapp.stream.reader import Reader
from streamapp.stream.transport import Batch

FORMAT = 1
INPUT = b"input"
MAX_VALUE = 900_000
"""Bytes; the broker refuses a record of more than a megabyte."""


class InputMark(Struct, frozen=True):
    """How far one input has been applied, and the record that was applied last."""

    position: int
    last: int = -1
    """Offset of the last record applied, -1 for none."""
    digest: int = 0
    """CRC-32 of its key, value and timestamp."""

    def moved(self, batch: Batch) -> "InputMark":
        """Return the mark after a batch."""
        if not batch.records:
            return InputMark(batch.end, self.last, self.digest)
        record = batch.records[-1]
        return InputMark(batch.end, record.offset, digest(record))

    def at(self, position: int) -> "InputMark":
        """Return the mark with another position."""
        return InputMark(position, self.last, self.digest)


class Failure(Struct, frozen=True, array_like=True):
    """Failures in a row at one place, by whatever worker had the task."""

    topic: str
    end: int
    """Once the task has applied everything before this offset, the place is passed."""
    count: int


class _Inputs(Struct, omit_defaults=True):
    format: int
    inputs: dict[str, InputMark]
    logs: dict[str, str] = {}
    """Ids of the topics that the positions are of."""
    quarantined: dict[str, list[int]] = {}
    """Offsets by topic that are left out: an operator moved their records to ``dead-letters``."""
    failure: Failure | None = None
    partitions: int | None = None
    """How many each input has: with another number, keys lie elsewhere."""
    sum: int | None = None
    """CRC-32 of all other keys and their values, combined: tells whether they are those that were written together."""


class Checkpoint:
    """The checkpoint of one task.

    Args:
        topic: Full name of the checkpoint topic of the task's role.
        partition: The task's.
    """

    def __init__(self, topic: str, partition: int) -> None:
        self.topic = topic
        self.partition = partition
        self.bytes = 0
        """Size of all current values, as far as this process has read or written them."""
        self.logs: dict[str, str] = {}
        """Id of each input topic, as far as brokers have told."""
        self.quarantined: dict[str, set[int]] = {}
        """Offsets by topic that the task leaves out."""
        self.failure: Failure | None = None
        """Failures of the task at the place that it has not passed yet."""
        self.partitions: int | None = None
        """How many each input has; None: nobody has said."""
        self._sizes: dict[bytes, int] = {}
        self._digests: dict[bytes, int] = {}
        self._sum = 0
        self._inputs: _Inputs | None = None

    async def load(self, reader: Reader) -> dict[bytes, bytes] | None:
        """Return the core's entries; None if the task has never committed.

        Raises:
            CheckpointError: there are entries but not the one that says what they hold.
        """
        entries: dict[bytes, bytes] = {}
        async for records, _ in reader.read(self.topic, self.partition):
            for record in records:
                if record.value is None:
                    entries.pop(record.key, None)
                else:
                    entries[record.key] = record.value
        self._sizes = {key: len(value) for key, value in entries.items()}
        self.bytes = sum(self._sizes.values())
        inputs = entries.pop(INPUT, None)
        for key, value in entries.items():
            self._add(key, value)
        if inputs is None:
            if entries:
                raise self.refused(f"the key 'input' is missing beside {len(entries)} others: it is damaged")
            return None
        try:
            self._inputs = msgspec.msgpack.decode(inputs, type=_Inputs)
        except msgspec.DecodeError as error:
            raise self.refused(f"the key 'input' cannot be read ({error}): it is damaged") from error
        if self._inputs.format != FORMAT:
            raise CheckpointError(
                f"{self}: format {self._inputs.format}, but this version reads {FORMAT}: run the version that wrote it"
            )
        self.partitions = self._inputs.partitions
        self.logs = dict(self._inputs.logs)
        self.quarantined = {topic: set(offsets) for topic, offsets in self._inputs.quarantined.items()}
        self.failure = self._inputs.failure
        return entries

    @property
    def inputs(self) -> Mapping[str, InputMark]:
        """What was last read or written of the inputs, by topic; empty for a task that has never committed."""
        return self._inputs.inputs if self._inputs is not None else {}

    @property
    def format(self) -> int | None:
        """Format that :meth:`load` found; None as for :attr:`inputs`."""
        return self._inputs.format if self._inputs is not None else None

    @property
    def sizes(self) -> Mapping[bytes, int]:
        """Bytes of the current value of each key."""
        return self._sizes

    def refused(self, why: str) -> CheckpointError:
        """Return the error that says why this cannot be used, and what to do."""
        return CheckpointError(f"{self}: {why}; {self.way_out}")

    @property
    def way_out(self) -> str:
        """What an operator can do where a checkpoint, or what it was made from, cannot be used."""
        return (
            f"restore the topic, or delete the entries of partition {self.partition} of {self.topic} and the group's"
            " offsets to begin at the log's start"
        )

    def verify_sum(self) -> None:
        """Make sure that the entries are those that were written together.

        Raises:
            CheckpointError: one is missing, altered, or from another time than the others.
        """
        if self._inputs is not None and self._inputs.sum is not None and self._inputs.sum != self._sum:
            raise self.refused(
                f"its {len(self._digests)} values are not those that were written together: one is missing, altered, or"
                " from another time"
            )

    def _add(self, key: bytes, value: bytes | None) -> None:
        now = zlib.crc32(value, zlib.crc32(key)) if value is not None else 0
        self._sum ^= self._digests.pop(key, 0) ^ now
        if value is not None:
            self._digests[key] = now

    async def verify(self, reader: Reader, inputs: Sequence[TP], partitions: int | None = None) -> dict[TP, InputMark]:
        """Return the marks, having made sure that the inputs are still the logs that they were made from.

        Args:
            reader: Of the inputs.
            inputs: Of the task.
            partitions: How many each of them has now; None: do not look.

        Raises:
            CheckpointError: an input is not the log it was: made anew, truncated, or another set of partitions.
        """
        assert self._inputs is not None
        marks = {}
        if partitions is not None:
            if self.partitions not in (None, partitions):
                raise self.refused(
                    f"it was written for {self.partitions} partitions of {inputs[0].topic}, now there are {partitions}:"
                    " keys lie in others than before"
                )
            self.partitions = partitions
        self.identify(await reader.topic_ids([tp.topic for tp in inputs]))
        for tp in inputs:
            mark = self._inputs.inputs.get(tp.topic)
            if mark is None:
                raise self.refused(f"it has no position for {tp.topic}: it was written for other topics")
            await self._verify_log(reader, tp, mark)
            marks[tp] = mark
        return marks

    def identify(self, ids: Mapping[str, str]) -> None:
        """Hear the ids that topics have now, and keep those that were not known yet.

        Raises:
            CheckpointError: a topic has another id than the one that positions were taken in.
        """
        for topic, now in ids.items():
            known = self.logs.setdefault(topic, now)
            if known != now:
                raise self.refused(f"{topic} was made anew: its id is {now}, positions are of {known}")

    async def _verify_log(self, reader: Reader, tp: TP, mark: InputMark) -> None:
        name = f"{tp.topic}[{tp.partition}]"
        start = await reader.beginning(tp.topic, tp.partition)
        if start > mark.position:
            raise self.refused(
                f"position {mark.position} of {name} is gone, the log now starts at {start}: retention overtook the"
                " task, or the topic was made anew"
            )
        if mark.last < start:
            return  # nothing left to recognise the log by, or nothing applied yet
        # A topic keeps its id when its end is lost (an unclean election, a disk) and it grows again.
        try:
            record = await reader.record(tp.topic, tp.partition, mark.last)
        except CheckpointError as error:
            raise self.refused(str(error)) from error
        if record is None or digest(record) != mark.digest:
            raise self.refused(
                f"offset {mark.last} of {name} is not the record that was applied: the topic was made anew or truncated"
            )

    def begin(self, marks: Mapping[TP, InputMark]) -> None:
        """Hear where a task begins that has never committed."""
        inputs = {tp.topic: mark for tp, mark in marks.items()}
        self._inputs = _Inputs(FORMAT, inputs, self.logs, partitions=self.partitions, sum=self._sum)

    def passed(self, topic: str, position: int) -> None:
        """Hear that nothing before a position of an input will ever be read again."""
        self.quarantined[topic] = {offset for offset in self.quarantined.get(topic, ()) if offset >= position}

    def note(self, failure: Failure | None) -> Record:
        """Return the record that keeps what was last written, and says how often the task has failed since."""
        assert self._inputs is not None
        self.failure = failure
        self._inputs = replace(self._inputs, failure=failure, quarantined=self._quarantined())
        return Record(topic=self.topic, partition=self.partition, key=INPUT, value=msgspec.msgpack.encode(self._inputs))

    def _quarantined(self) -> dict[str, list[int]]:
        return {topic: sorted(offsets) for topic, offsets in self.quarantined.items() if offsets}

    def records(self, entries: Mapping[bytes, bytes | None], marks: Mapping[TP, InputMark]) -> list[Record]:
        """Return the records that store changed entries (None: removed) together with the marks.

        Raises:
            CheckpointError: a value is too large to be stored.
        """
        for key, value in entries.items():
            self._add(key, value)
        marked = {tp.topic: mark for tp, mark in marks.items()}
        inputs = _Inputs(
            FORMAT, marked, self.logs, self._quarantined(), self.failure, partitions=self.partitions, sum=self._sum
        )
        values: dict[bytes, bytes | None] = {**entries, INPUT: msgspec.msgpack.encode(inputs)}
        for key, value in values.items():
            if value is not None and len(value) > MAX_VALUE:
                raise CheckpointError(f"{self}: the value of {key!r} has {len(value)} bytes; {MAX_VALUE} is the most")
        self._inputs = inputs  # what is refused was not written: a failure is noted beside what was
        for key, value in values.items():
            size = len(value) if value is not None else 0
            self.bytes += size - self._sizes.get(key, 0)
            self._sizes[key] = size
            if value is None:
                del self._sizes[key]
        return [
            Record(topic=self.topic, partition=self.partition, key=key, value=value) for key, value in values.items()
        ]

    def __str__(self) -> str:
        """Return where it lies."""
        return f"checkpoint {self.topic}[{self.partition}]"


def digest(record: Any) -> int:
    """Return a CRC-32 by which a record can be recognised."""
    crc = zlib.crc32(record.key or b"")
    crc = zlib.crc32(record.value or b"", crc)
    return zlib.crc32(str(record.timestamp).encode(), crc)
