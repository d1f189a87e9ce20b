"""A task: one role on one partition, with its producer, its checkpoint and its positions.

A task is driven by the runtime: ``open`` takes it over and restores it, ``handle`` applies what was fetched,
``take`` returns what is to be committed. Tasks decide nothing themselves; they carry bytes to the core and back.
"""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from time import monotonic
from typing import Any

import msgspec
from faust.types import TP

from streamapp.config import ProcessConfig, Role
from streamapp.core.events import DeadLetter
from streamapp.core.settings import Settings
from streamapp.errors import CheckpointError, DecodeError
from streamapp.stream.checkpoint import Checkpoint, Failure, InputMark
from streamapp.stream.dead_letters import dead_letter
from streamapp.stream.producer import Acknowledged, Producer, Record, producer
from streamapp.stream.reader import Reader
from streamapp.stream.recovery import Recovery
from streamapp.stream.topics import Topics
from streamapp.stream.transport import Batch, EndProof


class InputRefused(Exception):
    """An input is not as it must be, for any worker. Park the task."""


class Misaligned(Exception):
    """Something is missing before a batch. Seek back to ``position``."""

    def __init__(self, tp: TP, position: int) -> None:
        super().__init__(f"{tp.topic}[{tp.partition}]: expected position {position}")
        self.tp = tp
        self.position = position


@dataclass(slots=True)
class Counters:
    """Process-local counts, never restored."""

    events: dict[tuple[str, str], int] = field(default_factory=dict)
    """By (topic, status)."""
    rejected: dict[tuple[str, str], int] = field(default_factory=dict)
    """By (topic, reason)."""
    signals: dict[tuple[str, ...], int] = field(default_factory=dict)
    """By (model, group, kind, severity, detector)."""
    retrain: dict[tuple[str, ...], int] = field(default_factory=dict)
    """By (model, group, reason)."""
    updates: dict[tuple[str, ...], int] = field(default_factory=dict)
    """By (model, group, status)."""
    reread: dict[tuple[str, str], int] = field(default_factory=dict)
    """By (role, topic): records that were applied before, and were read again to restore a task."""
    recoveries: dict[tuple[str, str], int] = field(default_factory=dict)
    """By (role, reason): what tasks left out and went on without."""
    overflow: dict[tuple[str], int] = field(default_factory=dict)
    """By (label,): what was beyond the most that is kept."""

    def add(self, name: str, key: tuple[str, ...], count: int = 1) -> None:
        """Count *count* more of *key* under *name*."""
        counts: dict[tuple[str, ...], int] = getattr(self, name)
        counts[key] = counts.get(key, 0) + count

    def forget(self, model: str, group: str | None) -> None:
        """Drop the counts of a group, or of a whole model."""
        for counts in (self.signals, self.retrain, self.updates):
            for key in [key for key in counts if key[0] == model and group in (None, key[1])]:
                del counts[key]


@dataclass(slots=True, kw_only=True)
class Surroundings:
    """What a task needs from the process it runs in."""

    config: ProcessConfig
    settings: Settings
    topics: Topics
    worked: Callable[[TP], Awaitable[bool]]
    """Whether the consumer group has a position on a partition, from whatever time."""
    end_proof: Callable[[TP], EndProof | None]
    withheld: Callable[[TP], int | None]
    """From which offset on a transaction that is open holds the records of a partition back."""
    clock: Callable[[], float]
    """Wall time: only where the broker gives none (no transactions, no log-append time)."""
    counters: Counters = field(default_factory=Counters)
    """Of the whole process."""
    reader: Callable[[ProcessConfig], Reader] = Reader
    producer: Callable[[ProcessConfig, str, int], Producer] = producer
    monotonic: Callable[[], float] = monotonic


class Task(ABC):
    """One role on one partition."""

    role: Role

    def __init__(self, partition: int, around: Surroundings, inputs: tuple[str, ...]) -> None:
        self.partition = partition
        self.around = around
        self.counters = around.counters
        self.inputs = tuple(TP(topic, partition) for topic in inputs)
        self.marks: dict[TP, InputMark] = {}
        """What of each input has been applied."""
        self.parked: str | None = None
        """Why the task does not run, if it does not."""
        self.parked_for = ""
        """The same in one word."""
        self.progressed = around.monotonic()
        """Monotonic time at which something was last applied, or nothing was there to apply."""
        self.committed_at: float | None = None
        self.recovery = Recovery()
        self.applying: Batch | None = None
        """What is being applied, or could not be applied to its end."""
        self.commits = 0
        self.waiting = 0
        """Records that were applied since the last commit was taken."""
        self.committing = asyncio.Lock()
        self.producer = around.producer(around.config, self.role, partition)
        self.checkpoint = Checkpoint(around.topics.checkpoints(self.role), partition)
        self._dirty = False
        self._taken = False
        """Something was taken, and nobody has said that it is committed."""

    def __str__(self) -> str:
        """Return the task's name, as logs and metrics show it."""
        return f"{self.role}-{self.partition}"

    async def open(self) -> None:
        """Take the task over from whoever had it, and restore it to what they committed.

        Raises:
            CheckpointError: what is stored cannot be used; the task must be parked.
            CommitFailed: the broker did not let us take over.
        """
        began = self.around.monotonic()
        await self.producer.start()
        async with self.around.reader(self.around.config) as reader:
            entries = await self.checkpoint.load(reader)
            if entries is None:
                await self._first_time(reader)
            else:
                identified = len(self.checkpoint.logs)
                self.marks = await self.checkpoint.verify(reader, self.inputs, self.partitions)
                self._dirty = len(self.checkpoint.logs) > identified
            self.recovery.found(entries)
            try:
                await self.restore(reader, entries or {})
                self.checkpoint.verify_sum()
            except CheckpointError as error:
                raise error if str(self.checkpoint) in str(error) else self.checkpoint.refused(str(error)) from error
            except (msgspec.DecodeError, ValueError, LookupError) as error:
                raise self.checkpoint.refused(f"it cannot be read ({error!r}): it is damaged") from error
        for tp in self.inputs:
            self.checkpoint.passed(tp.topic, self.restart_position(tp))
        self.progressed = self.around.monotonic()
        self.recovery.seconds = self.progressed - began

    async def _first_time(self, reader: Reader) -> None:
        for tp in self.inputs:
            if await self.around.worked(tp):
                raise self.checkpoint.refused(
                    f"the group has worked on {tp.topic} before, but this holds no checkpoint: it was emptied or"
                    " deleted"
                )
            self.marks[tp] = InputMark(position=await reader.beginning(tp.topic, tp.partition))
        self.checkpoint.identify(await reader.topic_ids([tp.topic for tp in self.inputs]))
        self.checkpoint.partitions = self.partitions
        self.checkpoint.begin(self.marks)
        self._dirty = True

    @abstractmethod
    async def restore(self, reader: Reader, entries: Mapping[bytes, bytes]) -> None:
        """Build the core's state from checkpoint entries (none at all the first time)."""

    @property
    def partitions(self) -> int:
        """How many partitions each input has."""
        return self.around.config.scored_partitions

    def restart_position(self, tp: TP) -> int:
        """Return, once restored, the oldest offset that was read again for it."""
        return self.position(tp)

    def quarantined(self, topic: str) -> Collection[int]:
        """Return the offsets of an input that are left out, since their records were moved to ``dead-letters``."""
        return self.checkpoint.quarantined.get(topic, ())

    def position(self, tp: TP) -> int:
        """Return the next offset to apply, which is where the partition is to be read from."""
        return self.marks[tp].position

    async def handle(self, batch: Batch) -> None:
        """Apply one fetched batch; what of it was applied before is left out.

        Raises:
            Misaligned: something is missing before it.
        """
        fresh = self.align(batch, self.position(batch.tp))
        if fresh is not None:
            self.apply(fresh)

    def align(self, batch: Batch, position: int) -> Batch | None:
        """Return what of a batch lies behind a position, None if nothing does.

        Raises:
            Misaligned: something is missing between the position and the batch.
        """
        if batch.start > position:
            raise Misaligned(batch.tp, self.position(batch.tp))
        if batch.start == position:
            return batch
        # Read twice, around a seek. To seek again would be answered by yet another batch that was read twice.
        if batch.end <= position:
            return None
        return replace(batch, start=position, records=batch.records.since(position))

    def apply(self, batch: Batch) -> None:
        """Apply one batch that begins at the task's position."""
        self.applying = batch
        if batch.records:
            self.digest(batch)
        self.applying = None
        self.waiting += len(batch.records)
        self.marks[batch.tp] = self.marks[batch.tp].moved(batch)
        self.progressed = self.around.monotonic()
        self._dirty = True

    @abstractmethod
    def digest(self, batch: Batch) -> None:
        """Let the core apply a batch's records."""

    async def advance(self) -> None:
        """Let log time pass where nothing comes in. Called at every commit interval."""

    @property
    def wants_commit(self) -> bool:
        """Whether there is something to commit."""
        return self._dirty

    @property
    def full(self) -> bool:
        """Whether so much waits for a commit that nothing more should be applied before it."""
        return False

    @property
    def crowded(self) -> bool:
        """Whether so much waits for a commit that it should not be put off."""
        return False

    async def prepare(self) -> None:
        """Do beforehand what :meth:`take` would do at once, and let the loop's other work go on meanwhile."""

    def take(self) -> Iterator[Record]:
        """Return all that is to be committed now: outputs, changed state, positions.

        What that is, is fixed with the call; what is applied while the records are being made is of the next one.
        """
        outputs, entries = self.outcome()
        self._dirty = False
        self.waiting = 0
        self._taken = True
        return self._records(outputs, entries, dict(self.marks), dict(self.stored_marks()))

    def _records(
        self,
        outputs: Iterable[Record],
        entries: Mapping[bytes, bytes | None],
        marks: Mapping[TP, InputMark],
        stored: Mapping[TP, InputMark],
    ) -> Iterator[Record]:
        # The checkpoint last: where an output cannot be made, the failure is noted beside what was written before.
        yield from outputs
        failure = self.checkpoint.failure
        if failure is not None:
            tp = TP(failure.topic, self.partition)
            if min(marks[tp].position, stored[tp].position) >= failure.end:
                self.checkpoint.failure = None
        yield from self.checkpoint.records(entries, stored)

    @property
    def torn(self) -> bool:
        """Whether something was broken off: a batch, or what was taken and is neither committed nor refused."""
        return self.applying is not None or self._taken

    def stored_marks(self) -> Mapping[TP, InputMark]:
        """Return what the checkpoint is to say of the inputs."""
        return self.marks

    @abstractmethod
    def outcome(self) -> tuple[Iterable[Record], Mapping[bytes, bytes | None]]:
        """Return outputs, to be gone through once, and changed checkpoint entries since the last call."""

    def acknowledged(self, answer: Acknowledged) -> None:
        """Hear that what was last taken is committed."""
        self._taken = False
        self.commits += 1
        self.committed_at = self.around.monotonic()

    def waits_for(self) -> str | None:
        """Return what somebody else has to end before anything more can be applied, None if nothing has to."""
        return None

    def place(self) -> tuple[TP, int]:
        """Return an input, and the offset that must be passed before a failure there is behind us."""
        if self.applying is not None:
            return self.applying.tp, self.applying.end
        return self.inputs[0], self.position(self.inputs[0]) + 1

    def suspect(self) -> tuple[TP, int] | None:
        """Return the record that a failure is known to come from, None where that has to be found out."""
        return None

    async def note_failure(self) -> int:
        """Store that what was handed in could not be applied; return how often in a row that has happened here.

        The count is kept in the checkpoint, beside what was committed last: so it is that of all workers together.

        Raises:
            CommitFailed: it could not be stored.
        """
        tp, end = self.place()
        known = self.checkpoint.failure or Failure(tp.topic, end, 0)
        failure = Failure(known.topic, max(known.end, end) if known.topic == tp.topic else known.end, known.count + 1)
        async with self.committing:
            await self.producer.commit([self.checkpoint.note(failure)])
        return failure.count

    async def close(self) -> None:
        """Let go of the broker. Nothing is committed here."""
        await self.producer.stop()

    def lag(self, end_of: Callable[[TP], int | None]) -> dict[TP, int]:
        """Return, by input, how many offsets lie between the position and the end as last seen."""
        return {tp: max(0, (end_of(tp) or 0) - mark.position) for tp, mark in self.marks.items()}

    def refuse(self, topic: str, record: Any, error: DecodeError) -> Record:
        """Count a record that cannot be read, and return the dead letter that keeps it.

        Args:
            topic: Its name without the prefix.
            record: As it was fetched, from the task's partition.
            error: What is wrong with it.
        """
        self.counters.add("rejected", (topic, error.reason))
        letter = DeadLetter(
            topic=topic,
            partition=self.partition,
            offset=record.offset,
            key=record.key,
            value=record.value,
            reason=error.reason,
            error=str(error),
        )
        return dead_letter(self.around.topics, letter)

    def clear(self) -> None:
        """Forget what was fetched but not applied: positions will be sought again."""
