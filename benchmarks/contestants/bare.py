"""The limit for Python: one loop that fetches, decodes, joins and scores. Nothing of it is durable.

``python -m benchmarks.contestants.bare BROKER PREFIX PARTITIONS NAME FOLDER``. It is allowed every trick of
streamapp's: values out of aiokafka's parser without an object for each record, frames read by a protocol, fetches that
do not wait for what is unread, whole batches decoded at once, features left as they came, the two inputs of a partition
read in step by log time (so that the table stays small), a frozen collector, ADWIN updated in stretches.
"""

import asyncio
import contextlib
import gc
import sys
from collections import deque
from itertools import repeat
from operator import attrgetter
from typing import Any, NamedTuple

import aiokafka
import msgspec
import numpy as np
from aiokafka import TopicPartition
from aiokafka.errors import CorruptRecordException
from numpy.typing import NDArray

from benchmarks.contestants.sums import Bools, Group, Scoreboard
from streamapp.core.events import Outcome, Prediction
from streamapp.stream.frames import read_frames
from streamapp.stream.topics import Topics
from streamapp.stream.transport import FETCH_BYTES, pace

MAX_RECORDS = 1_000
"""Of one batch: what is decoded then fits the cache until it is joined (4 000 take half as long again, measured)."""
HELD = 2
"""Batches of one input that are held back before no more of it is taken."""
SLACK_MS = 20_000
GC_THRESHOLDS = (50_000, 20, 100)
SWITCH_INTERVAL = 0.001
"""As streamapp has them, all four."""

_value = attrgetter("value")
_id = attrgetter("prediction_id")
_names = attrgetter("model", "group")
_scores = attrgetter("scores")
_answer = attrgetter("prediction")


class Batch(NamedTuple):
    """What was taken of one partition at once."""

    first: int
    """The broker's timestamp of the first record, milliseconds; likewise the last."""
    last: int
    values: list[bytes]


class Join:
    """One partition number: two inputs read in step, a dict of what waits."""

    def __init__(self, board: Scoreboard) -> None:
        self._board = board
        self._codes = Codes(board)
        self._predictions = msgspec.json.Decoder(Prediction).decode
        self._outcomes = msgspec.json.Decoder(Outcome).decode
        self._pending: dict[str, Prediction] = {}
        self._early: dict[str, bool] = {}
        self.held: tuple[deque[Batch], deque[Batch]] = (deque(), deque())
        """Batches of predictions and of outcomes that were fetched."""
        self._read = [0, 0]
        """Timestamp up to which each input was read."""

    def pump(self, ended: tuple[bool, bool]) -> None:
        """Take held batches by rising timestamp, as far as neither input runs away from the other.

        Args:
            ended: Whether nothing is left to fetch of predictions, and of outcomes.
        """
        first, second = self.held
        while first or second:
            side = int(not first or (bool(second) and second[0].first < first[0].first))
            mine, other = self.held[side], 1 - side
            ahead = mine[0].first - self._read[other]
            if not self.held[other] and not ended[other] and ahead > SLACK_MS:
                return
            batch = mine.popleft()
            self._read[side] = batch.last
            if side:
                self._take_outcomes(batch.values)
            else:
                self._take_predictions(batch.values)

    def _take_predictions(self, values: list[bytes]) -> None:
        predictions = list(map(self._predictions, values))
        ids = list(map(_id, predictions))
        self._pending.update(zip(ids, predictions, strict=True))
        if self._early:
            met = [key for key in ids if key in self._early]
            if met:
                self._score([self._pending.pop(key) for key in met], [self._early.pop(key) for key in met])

    def _take_outcomes(self, values: list[bytes]) -> None:
        outcomes = list(map(self._outcomes, values))
        found: list[Any] = list(map(self._pending.pop, map(_id, outcomes), repeat(None)))
        if None in found:
            early = [outcome for outcome, prediction in zip(outcomes, found, strict=True) if prediction is None]
            self._early.update((outcome.prediction_id, bool(outcome.outcome)) for outcome in early)
            pairs = [pair for pair in zip(outcomes, found, strict=True) if pair[1] is not None]
            outcomes, found = [outcome for outcome, _ in pairs], [prediction for _, prediction in pairs]
        if found:
            self._score(found, [outcome.outcome for outcome in outcomes])

    def _score(self, predictions: list[Prediction], outcomes: list[Any]) -> None:
        n = len(predictions)
        score = np.fromiter(map(_scores, predictions), np.float64, n)
        truth = np.array(outcomes, np.bool_)
        hit = np.fromiter(map(_answer, predictions), np.bool_, n) == truth
        codes = np.fromiter(map(self._codes.__getitem__, map(_names, predictions)), np.intp, n)
        known = self._known(codes, truth)
        # Rows group by group, in their order.
        order = codes.argsort(kind="stable")
        ends = np.bincount(codes).cumsum().tolist()
        score, hit, truth, known = score[order], hit[order], truth[order], known[order]
        start = 0
        for code, end in enumerate(ends):
            if end > start:
                rows = slice(start, end)
                self._codes.groups[code].add_columns(score[rows], hit[rows], truth[rows], known[rows])
            start = end

    def _known(self, codes: NDArray[np.intp], truth: Bools) -> Bools:
        """Return for each row the outcome of its model that came before."""
        models = self._codes.models
        if len(set(models)) == 1:
            first = self._board.before(models[0], bool(truth[-1]))
            return np.concatenate(([first], truth[:-1]))
        before = self._board.before
        rows = zip(codes.tolist(), truth.tolist(), strict=True)
        return np.array([before(models[code], value) for code, value in rows], np.bool_)


class Codes(dict[tuple[str, str], int]):
    """A number for each model and group, given at the first sight of it."""

    def __init__(self, board: Scoreboard) -> None:
        self._board = board
        self.models: list[str] = []
        self.groups: list[Group] = []

    def __missing__(self, names: tuple[str, str]) -> int:
        """Give the next number."""
        self.models.append(names[0])
        self.groups.append(self._board.group(*names))
        code = self[names] = len(self)
        return code


async def main(broker: str, prefix: str, partitions: int) -> None:
    """Read everything there is, for ever."""
    topics = Topics(prefix)
    board = Scoreboard()
    board.serve()
    consumer = aiokafka.AIOKafkaConsumer(bootstrap_servers=broker, max_partition_fetch_bytes=FETCH_BYTES)
    read_frames(consumer._client)
    await consumer.start()
    parts = [TopicPartition(t, p) for t in (topics.predictions, topics.outcomes) for p in range(partitions)]
    consumer.assign(parts)
    await consumer.seek_to_beginning(*parts)
    joins = [Join(board) for _ in range(partitions)]
    gc.collect()
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLDS)
    sys.setswitchinterval(SWITCH_INTERVAL)
    fetcher = consumer._fetcher
    pace(fetcher)
    while True:
        with fetcher._subscriptions.fetch_context():
            if not _drain(fetcher, topics, joins):
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(fetcher._create_fetch_waiter(), 0.25)
                _drain(fetcher, topics, joins)
        for number, join in enumerate(joins):
            join.pump((_ended(consumer, parts[number]), _ended(consumer, parts[partitions + number])))
        await asyncio.sleep(0)


def _drain(fetcher: Any, topics: Topics, joins: list[Join]) -> bool:
    """Take what was fetched, but for inputs of which enough is held back; return whether there was any."""
    taken = False
    for part in list(fetcher._records):
        held = joins[part.partition].held[part.topic == topics.outcomes]
        if len(held) >= HELD:
            continue
        fetched = fetcher._records[part]
        batch = _take(fetched)
        if not fetched.has_more():
            del fetcher._records[part]
            fetcher._notify(fetcher._wait_consume_future)
        if batch.values:
            held.append(batch)
            taken = True
    return taken


def _take(fetched: Any) -> Batch:
    """Take values out of a fetch result, as :func:`streamapp.stream.unpack.unpack` takes records."""
    source = fetched._partition_records
    batches = source._records
    values: list[bytes] = []
    first = last = 0
    while len(values) < MAX_RECORDS and batches.has_next():
        batch = batches.next_batch()
        if source._check_crcs and not batch.validate_crc():
            raise CorruptRecordException(f"invalid CRC at offset {batch.base_offset}")
        last = batch.max_timestamp
        first = first or last
        values += map(_value, batch)
        source.next_fetch_offset = batch.next_offset
    fetched._update_position()
    if not batches.has_next():
        fetched._partition_records = None
        source._records_iterator = None  # holds its owner: the whole answer would wait for the garbage collector
    return Batch(first, last, values)


def _ended(consumer: Any, part: TopicPartition) -> bool:
    """Tell whether all there is of a partition was taken."""
    state = consumer._subscription.subscription.assignment.state_value(part)
    return bool(state.highwater is not None and state.position >= state.highwater)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3])))
