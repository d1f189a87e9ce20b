"""The joiner's task: two inputs read in step, one core, ``scored`` and dead letters out."""

from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import replace as replaced
from itertools import chain
from typing import Any

import numpy as np
from faust.types import TP
from msgspec.structs import replace
from numpy.typing import NDArray

from streamapp.core.events import Arrivals, GroupArrivals, ScoredBatch, Tick
from streamapp.core.hashing import partitions as partitions_of
from streamapp.core.join import InputBatch, Joiner, JoinOutput
from streamapp.errors import CheckpointError
from streamapp.stream.breathing import breathing
from streamapp.stream.codec import decode_outcomes, decode_predictions, encode_scored, split
from streamapp.stream.dead_letters import dead_letters
from streamapp.stream.portion import Portion
from streamapp.stream.producer import TRANSACTION_TIMEOUT_MS, Acknowledged, Record
from streamapp.stream.quarantine import QUARANTINED, leave_out
from streamapp.stream.reader import Reader
from streamapp.stream.records import Records
from streamapp.stream.recovery import Reread
from streamapp.stream.task import InputRefused, Misaligned, Surroundings, Task
from streamapp.stream.transport import Batch

SLACK = 20.0
"""Seconds of log time by which one input may run ahead of the other without being held back."""
AHEAD = 40_000
"""Records that may have been decoded beyond what the other input has reached: more would only fill memory."""
HELD = 2
"""Batches of one input that are held back before its fetching pauses."""
TICK_INTERVAL = 1.0
PROOF_MARGIN = 0.25
"""Seconds by which the clocks of two brokers may differ."""
MESSAGE_BYTES = 512 * 1024
FULL_ROWS = 100_000
MANY_ROWS = 20_000
"""What so many have led to is taken out without standing in the loop's way for long."""
ROWS_OF_A_MODEL = 400
"""Where there are many models, a commit waits for more: the rows of each are a message, which costs a fixed part."""
MOST_ROWS = FULL_ROWS // 2
"""But no more than so many: there must be room until the next commit."""
READ_BYTES = 32 << 20
"""Of messages that were read between two commits: their dead letters and their copies need room."""
PIECE = 1000
"""Records that are joined at a time: what they led to may be enough for a commit."""


class JoinerTask(Task):
    """Joins the predictions and outcomes of one partition number."""

    role = "joiner"

    def __init__(self, partition: int, around: Surroundings) -> None:
        super().__init__(partition, around, (around.topics.predictions, around.topics.outcomes))
        self.predictions, self.outcomes = self.inputs
        self.joiner: Joiner
        self._held: dict[TP, deque[Batch]] = {tp: deque() for tp in self.inputs}
        self._read = 0
        """Bytes of messages since the last commit was taken."""
        self._portion = Portion(TRANSACTION_TIMEOUT_MS / 1000)
        self._ticked = float("-inf")
        self._told: dict[TP, tuple[float, float]] = {}
        """By input: the oldest time that the broker told and that has not been used yet, and when it was here."""

    async def restore(self, reader: Reader, entries: Mapping[bytes, bytes]) -> None:
        """Rebuild the joiner: its checkpoint says which offsets are pending, the topics hold what they are."""
        config, settings = self.around.config, self.around.settings
        if not entries:
            self.joiner = Joiner(self.partition, settings, partitions=config.partitions)
            self.joiner.room = self._portion.bytes
            self.joiner.start(predictions=self.position(self.predictions), outcomes=self.position(self.outcomes))
            return
        self.joiner = Joiner.restore(
            self.partition, settings, entries, partitions=config.partitions, allow_lost=config.allow_lost
        )
        self.joiner.room = self._portion.bytes
        for tp, base, applied, needs, reread, decode in (
            (
                self.predictions,
                self.joiner.predictions_base,
                self.joiner.predictions_applied,
                self.joiner.needs_predictions,
                self.joiner.reread_predictions,
                decode_predictions,
            ),
            (
                self.outcomes,
                self.joiner.outcomes_base,
                self.joiner.outcomes_applied,
                self.joiner.needs_outcomes,
                self.joiner.reread_outcomes,
                decode_outcomes,
            ),
        ):
            start = max(base, await reader.beginning(tp.topic, tp.partition))
            if start < applied:
                self.recovery.reread[tp.topic] = again = Reread(start, applied)
                async for records, _ in reader.columns(tp.topic, tp.partition, start, applied):
                    if records:
                        only = decode_only(decode, needs(records.offsets))
                        reread(input_batch(records, only, self.quarantined(tp.topic)))
                        again.records += len(records)
                self.counters.add("reread", (self.role, self.around.topics.short(tp.topic)), again.records)
        try:
            self.joiner.restored()
        except CheckpointError as error:
            raise CheckpointError(f"{error}; set STREAMAPP_ALLOW_LOST=true to count them as lost") from error

    @property
    def partitions(self) -> int:
        """How many partitions each input has."""
        return self.around.config.partitions

    def restart_position(self, tp: TP) -> int:
        """Return the oldest offset that the joiner needs."""
        return self.joiner.predictions_base if tp == self.predictions else self.joiner.outcomes_base

    async def handle(self, batch: Batch) -> None:
        """Take one fetched batch, and apply what is now in order.

        Raises:
            InputRefused: its records carry the times of their producers, and one wrong clock would move everybody's.
        """
        if self.around.config.transactions and batch.records:
            _check_timestamps(batch)
        held = self._held[batch.tp]
        try:
            fresh = self.align(batch, held[-1].end if held else self.position(batch.tp))
        except Misaligned:
            held.clear()
            raise
        if fresh is not None:
            held.append(fresh)
            await self._pump()

    async def _pump(self) -> None:
        """Apply held batches, and let the loop come round between them: a silence that ends sets many free."""
        async for batch in breathing(self._in_order()):
            self.apply(batch)

    def _in_order(self) -> Iterator[Batch]:
        """Yield held records in log-time order, as far as neither input runs away from the other."""
        while not self.full and self.parked is None and (batch := self._next()) is not None:
            held = self._held[batch.tp]
            held.popleft()
            piece, rest = batch.cut(PIECE)
            if rest is not None:
                held.appendleft(rest)
            yield piece

    def _next(self) -> Batch | None:
        first, second = (self._held[tp] for tp in self.inputs)
        if first and second:
            return first[0] if _head(first[0]) <= _head(second[0]) else second[0]
        if not first and not second:
            return None
        held, other = (first, self.outcomes) if first else (second, self.predictions)
        batch = held[0]
        # Of the other input nothing is at hand. It may lag, or it may have ended.
        proof = self.around.end_proof(other)
        ended = proof is not None and proof.offset == self.position(other)
        known = self.joiner.predictions_log_time if other == self.predictions else self.joiner.outcomes_log_time
        if ended or (known is not None and _head(batch) <= known + SLACK and self.joiner.buffered() < AHEAD):
            return batch
        return None

    def waits_for(self) -> str | None:
        """Return the transaction that keeps one input from being read as far as the other was."""
        for tp, other in (self.inputs, self.inputs[::-1]):
            offset = self.around.withheld(other)
            if self._held[tp] and not self._held[other] and offset is not None and self.position(other) >= offset:
                return (
                    f"the end of a transaction that somebody has open on {other.topic}[{other.partition}] since offset"
                    f" {offset}: what lies behind it may not be read before, nor may what came later in {tp.topic}"
                )
        return None

    def paused(self) -> set[TP]:
        """Return the inputs of which enough is held back."""
        return {tp for tp, held in self._held.items() if len(held) >= HELD}

    def digest(self, batch: Batch) -> None:
        """Decode and join a batch."""
        if batch.tp == self.predictions:
            taken = input_batch(batch.records, decode_predictions, self.quarantined(batch.tp.topic))
            self.joiner.predictions(taken)
        else:
            taken = input_batch(batch.records, decode_outcomes, self.quarantined(batch.tp.topic))
            self.joiner.outcomes(taken)
        self._read += batch.records.bytes

    async def advance(self) -> None:
        """Let log time pass for what is proven to be at its end, and apply what is now in order.

        The proof: a fetch that was asked for after the broker had stamped our last tick found nothing behind our
        position. So everything that the broker had stamped before that tick has been applied.
        """
        if self.joiner.behind and not self.joiner.full:
            self.joiner.advance()
            self.progressed = self.around.monotonic()
            self._dirty = True
        await self._pump()
        times: dict[str, float] = {}
        for name, tp in (("predictions", self.predictions), ("outcomes", self.outcomes)):
            told, proof = self._told.get(tp), self.around.end_proof(tp)
            if (
                told is not None
                and proof is not None
                and proof.requested > told[1]
                and proof.offset == self.position(tp)
                and not self._held[tp]
            ):
                times[name] = told[0] - PROOF_MARGIN
                del self._told[tp]  # used up: the next tick brings a newer time
        if times:
            self.joiner.advance(**times)
            self._dirty = True

    @property
    def wants_commit(self) -> bool:
        """Whether anything was applied, or a tick is due."""
        return self._dirty or self.around.monotonic() - self._ticked >= TICK_INTERVAL

    @property
    def full(self) -> bool:
        """Whether so much waits for a commit that no more should be applied."""
        return self.waiting >= FULL_ROWS or self._read >= READ_BYTES or self.joiner.full

    @property
    def crowded(self) -> bool:
        """Whether so much waits for a commit that it should not be put off."""
        many = min(max(MANY_ROWS, ROWS_OF_A_MODEL * self.joiner.models), MOST_ROWS)
        much = 2 * self._read >= READ_BYTES or 2 * self.joiner.weight >= self.joiner.room
        return self.waiting >= many or much

    def outcome(self) -> tuple[Iterator[Record], Mapping[bytes, bytes | None]]:
        """Return scored messages, dead letters and ticks, and the joiner's changed state."""
        output = self.joiner.take()
        self._read = 0
        for status_key, count in output.counts.items():
            self.counters.add("events", status_key, count)
        for reason_key, count in output.rejected.items():
            self.counters.add("rejected", reason_key, count)
        # What was quarantined lies on dead-letters already: whoever did that put it there.
        letters = (each for each in output.dead_letters if each.reason != QUARANTINED)
        return chain(self._scored(output), dead_letters(self.around.topics, letters), self._ticks()), output.state

    def _scored(self, output: JoinOutput) -> Iterator[Record]:
        """Yield what the joiner says of models, a message at a time: to encode all of them takes a while."""
        topic, count = self.around.topics.scored, self.around.config.scored_partitions
        said: list[Arrivals | ScoredBatch] = [*output.arrivals, *output.rows]
        keys = [each.model.encode() for each in said]
        for each, key, partition in zip(said, keys, partitions_of(keys, count).tolist(), strict=True):
            for message in split_arrivals(each) if isinstance(each, Arrivals) else split(each, MESSAGE_BYTES):
                yield Record(topic=topic, partition=partition, key=key, value=encode_scored(message))

    def _ticks(self) -> list[Record]:
        """Return a word on our progress to every monitor, about once a second."""
        now = self.around.monotonic()
        if now - self._ticked < TICK_INTERVAL:
            return []
        self._ticked = now
        # Sent even where nothing is known yet: its acknowledgement tells the broker's time.
        tick = encode_scored(Tick(partition=self.partition, log_time=self.joiner.log_time or 0.0))
        topic = self.around.topics.scored
        partitions = range(self.around.config.scored_partitions)
        return [Record(topic=topic, partition=partition, key=None, value=tick) for partition in partitions]

    def acknowledged(self, answer: Acknowledged) -> None:
        """Hear of a commit, and with it the broker's time."""
        super().acknowledged(answer)
        self._portion.heard(answer.sent, answer.took)
        self.joiner.room = self._portion.bytes
        if not self.around.config.transactions:
            answer = replaced(answer, timestamp=self.around.clock())
        # A newer answer does not replace one that was not used: commits may come faster than fetches are answered. And
        # each input uses its own: where two brokers lead them, one may be the first to answer after every tick.
        if answer.timestamp is not None:
            for tp in self.inputs:
                self._told.setdefault(tp, (answer.timestamp, answer.received))

    def clear(self) -> None:
        """Forget held batches."""
        for held in self._held.values():
            held.clear()


def _check_timestamps(batch: Batch) -> None:
    if not batch.records.by_broker.all():
        offset = batch.records.offsets[~batch.records.by_broker][0]
        raise InputRefused(
            f"{batch.tp.topic}[{batch.tp.partition}] offset {offset}: expected the broker's timestamp, got the"
            " producer's: set message.timestamp.type=LogAppendTime on the topic (streamapp topics --check tells how);"
            " what was written before that cannot be joined, so begin with topics made anew"
        )


def _head(batch: Batch) -> float:
    return float(batch.records.timestamps[0]) / 1000 if batch.records else float("-inf")


def split_arrivals(arrivals: Arrivals) -> Iterator[Arrivals]:
    """Cut arrivals by groups, so that each part makes a message of about the usual size."""
    size = 0
    groups: list[GroupArrivals] = []
    for group in arrivals.groups:
        size += 80 + len(group.group.encode()) + 14 * (len(group.latency) + len(group.scores))
        if size > MESSAGE_BYTES and groups:
            yield replace(arrivals, groups=tuple(groups))
            size, groups = 0, []
        groups.append(group)
    yield replace(arrivals, groups=tuple(groups))


def input_batch(records: Records, decode: Any, quarantined: Collection[int] = ()) -> InputBatch:
    """Return records as the joiner takes them, those at quarantined offsets as rejected ones."""
    if quarantined:
        decode = leave_out(decode, records.offsets.tolist(), quarantined)
    return InputBatch(
        offsets=records.offsets,
        timestamps=records.timestamps / 1000,
        keys=records.keys,
        values=records.values,
        events=decode(records.values),
    )


def decode_only(decode: Callable[..., Any], needed: NDArray[np.bool_]) -> Callable[..., Any]:
    """Return what decodes a batch but has None for what is not needed: of a log read again that may be nearly all."""
    if needed.all():
        return decode
    places = np.flatnonzero(needed).tolist()

    def decode_needed(values: Sequence[bytes | None]) -> list[Any]:
        events: list[Any] = [None] * len(values)
        for place, event in zip(places, decode([values[place] for place in places]), strict=True):
            events[place] = event
        return events

    return decode_needed
