"""Finds the record that a task cannot pass, by trying in memory what would happen without it.

Nothing here writes anything: a trial is a task that is restored from what was committed, is handed the records up to
the failure, and is thrown away.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any

import msgspec
from faust.types import TP

from streamapp.config import ProcessConfig, Role
from streamapp.core.joining import joinstate
from streamapp.core.joining.joinstate import Meta
from streamapp.core.monitor import Monitor
from streamapp.core.settings import Settings
from streamapp.stream.checkpoint import Checkpoint, InputMark
from streamapp.stream.producer import Acknowledged, Producer
from streamapp.stream.recent import Recent
from streamapp.stream.records import Records
from streamapp.stream.task import Counters, Surroundings, Task
from streamapp.stream.transport import Batch


def unpassed(
    role: Role, partition: int, settings: Settings, entries: Mapping[bytes, bytes], marks: Mapping[str, InputMark]
) -> dict[str, int]:
    """Return, by input topic, the lowest offset whose record can still be left out.

    Args:
        role: Of the task.
        partition: Of the task.
        settings: Of the models.
        entries: Of its checkpoint.
        marks: What of each input was applied.

    Raises:
        CheckpointError: an entry is damaged.
    """
    lowest = {topic: mark.position for topic, mark in marks.items()}
    if role == "joiner" and joinstate.META in entries:
        # Records wait in the joiner until the other input is known to their time: so far they have done nothing.
        meta = msgspec.msgpack.decode(entries[joinstate.META], type=Meta)
        for topic in lowest:
            of = meta.predictions if topic.endswith("predictions") else meta.outcomes
            lowest[topic] = min(lowest[topic], of.done)
    elif role == "monitor":
        entries = Recent("retrain").restore(Recent("signals").restore(entries))
        if entries:
            # Models that were not written lately are shown what they missed.
            applied = Monitor.restore(partition, settings, entries).applied
            lowest = {topic: min(position, applied) for topic, position in lowest.items()}
    return lowest


@dataclass(frozen=True, slots=True)
class _Piece:
    """One record that may be the one."""

    tp: TP
    record: Any


class Search:
    """Looks for the record that one task cannot pass.

    Args:
        make: Makes such a task.
        role: Of the task.
        partition: Of the task.
        around: Of the task that failed.
        until: Where each input stood when it failed, the batch that it failed on included.
    """

    def __init__(
        self,
        make: Callable[[int, Surroundings], Task],
        role: Role,
        partition: int,
        around: Surroundings,
        until: Mapping[TP, int],
    ) -> None:
        self._make = make
        self._role = role
        self._partition = partition
        self._until = until
        self._around = replace(
            around,
            counters=Counters(),
            producer=_nobody,
            end_proof=lambda _: None,
            withheld=lambda _: None,
            worked=_never_worked,
        )

    async def find(self) -> tuple[TP, int] | None:
        """Return the input and the offset of the first record without which the task goes on.

        None where it goes on as it is, or fails without any of them: then the cause is not in one record.
        """
        around = self._around
        checkpoint = Checkpoint(around.topics.checkpoints(self._role), self._partition)
        async with around.reader(around.config) as reader:
            entries = await checkpoint.load(reader) or {}
            lowest = unpassed(self._role, self._partition, around.settings, entries, checkpoint.inputs)
            pieces: list[_Piece] = []
            for tp, end in self._until.items():
                if lowest[tp.topic] < end:
                    async for records, _ in reader.read(tp.topic, tp.partition, lowest[tp.topic], end):
                        pieces += [_Piece(tp, record) for record in records]
            # Ties in the order of the inputs, which is that in which the joiner settles them.
            pieces.sort(key=lambda piece: piece.record.timestamp)

            async def passes(without: Collection[_Piece]) -> bool:
                return await self._passes(reader, checkpoint, entries, pieces, without)

            if not pieces or await passes(()) or not await passes(pieces):
                return None
            # Without all from `good` on it passes, without those from `bad` on it does not.
            good, bad = 0, len(pieces)
            while bad - good > 1:
                middle = (good + bad) // 2
                if await passes(pieces[middle:]):
                    good = middle
                else:
                    bad = middle
        return pieces[good].tp, pieces[good].record.offset

    async def _passes(
        self,
        reader: Any,
        checkpoint: Checkpoint,
        entries: Mapping[bytes, bytes],
        pieces: Collection[_Piece],
        without: Collection[_Piece],
    ) -> bool:
        task = self._make(self._partition, self._around)
        task.marks = {TP(topic, self._partition): mark for topic, mark in checkpoint.inputs.items()}
        left_out = {topic: set(offsets) for topic, offsets in checkpoint.quarantined.items()}
        for piece in without:
            left_out.setdefault(piece.tp.topic, set()).add(piece.record.offset)
        task.checkpoint.quarantined = left_out
        try:
            await task.restore(reader, entries)
            for tp, end in self._until.items():
                start = task.position(tp)
                records = [piece.record for piece in pieces if piece.tp == tp and piece.record.offset >= start]
                records.sort(key=lambda record: record.offset)
                task.apply(Batch(tp=tp, start=start, end=max(start, end), records=Records.of(records)))
            outputs, _ = task.outcome()
            deque(outputs, maxlen=0)
        except Exception:
            return False
        return True


def search(
    make: Callable[[int, Surroundings], Task],
    role: Role,
    partition: int,
    around: Surroundings,
    until: Mapping[TP, int],
) -> tuple[TP, int] | None:
    """Run a :class:`Search` on a loop of its own; call it on a thread, since it may take a while."""
    return asyncio.run(Search(make, role, partition, around, until).find())


class _Nobody:
    """Writes nothing."""

    async def start(self) -> None:
        """Take nothing over."""

    async def commit(self, records: Any) -> Acknowledged:
        """Refuse: a trial commits nothing."""
        raise AssertionError("a trial commits nothing")

    async def stop(self) -> None:
        """Let go of nothing."""


def _nobody(config: ProcessConfig, role: str, partition: int) -> Producer:
    return _Nobody()


async def _never_worked(tp: TP) -> bool:
    return False
