"""The same job on Bytewax as its documentation has it: two Kafka inputs, keyed state, all in memory.

``python -m bytewax.run 'benchmarks.contestants.bytewax:flow("BROKER", "PREFIX")'``. Recovery is off. The join is a
``stateful_batch`` by prediction_id rather than ``op.join``, which is made of the same and took 1.6 times as long.
"""

from typing import Any

import bytewax.operators as op
import msgspec
import numpy as np
from bytewax.connectors.kafka import KafkaSource, KafkaSourceMessage
from bytewax.connectors.stdio import StdOutSink
from bytewax.dataflow import Dataflow
from bytewax.operators import KeyedStream, StatefulBatchLogic

from benchmarks.contestants.sums import Scoreboard
from streamapp.core.events import Outcome, Prediction
from streamapp.stream.topics import Topics

Message = KafkaSourceMessage[bytes | None, bytes | None]
Event = Prediction | Outcome
Pair = tuple[Prediction, Outcome]


class Join(StatefulBatchLogic[Event, Pair, None]):
    """What waits under one prediction_id."""

    __slots__ = ("_first",)

    def __init__(self) -> None:
        self._first: Event | None = None

    def on_batch(self, values: list[Event]) -> tuple[list[Pair], bool]:
        """Keep the first of the two, and let go of both with the second."""
        for value in values:
            if self._first is None:
                self._first = value
            elif isinstance(value, Outcome):
                return [(self._first, value)], StatefulBatchLogic.DISCARD  # type: ignore[list-item]
            else:
                return [(value, self._first)], StatefulBatchLogic.DISCARD  # type: ignore[list-item]
        return [], StatefulBatchLogic.RETAIN

    def snapshot(self) -> None:
        """Return nothing: recovery is off."""


class Scores(StatefulBatchLogic[Pair, str, None]):
    """Sums of one group, taken a batch at a time."""

    def __init__(self, board: Scoreboard) -> None:
        self._board = board

    def on_batch(self, values: list[Pair]) -> tuple[list[str], bool]:
        """Take joined pairs."""
        first, _ = values[0]
        truth = np.array([outcome.outcome for _, outcome in values], np.bool_)
        answer = np.array([prediction.prediction for prediction, _ in values], np.bool_)
        score = np.array([prediction.scores for prediction, _ in values], np.float64)
        known = np.concatenate(([self._board.before(first.model, bool(truth[-1]))], truth[:-1]))
        self._board.group(first.model, first.group).add_columns(score, answer == truth, truth, known)
        return [], StatefulBatchLogic.RETAIN

    def snapshot(self) -> None:
        """Return nothing: recovery is off."""


def flow(broker: str, prefix: str) -> Dataflow:
    """Return the dataflow."""
    topics = Topics(prefix)
    board = Scoreboard()
    dataflow = Dataflow("benchmark")

    def events(name: str, topic: str, kind: type[Event]) -> KeyedStream[Event]:
        decode = msgspec.json.Decoder(kind).decode

        def keyed(messages: list[Message]) -> list[tuple[str, Event]]:
            return [(event.prediction_id, event) for event in [decode(message.value or b"") for message in messages]]

        source: Any = KafkaSource([broker], [topic])
        return op.flat_map_batch(f"decode-{name}", op.input(name, dataflow, source), keyed)

    merged = op.merge(
        "both",
        events("predictions", topics.predictions, Prediction),
        events("outcomes", topics.outcomes, Outcome),
    )
    joined = op.stateful_batch("join", merged, lambda _: Join())
    groups = op.map("group", joined, lambda item: (f"{item[1][0].model}/{item[1][0].group}", item[1]))
    scored = op.stateful_batch("score", groups, lambda _: Scores(board))
    op.output("nothing", scored, StdOutSink())
    board.serve()
    return dataflow
