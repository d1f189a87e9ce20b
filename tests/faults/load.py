"""What is sent to the topics: everything that can become of a prediction, and losses that jump and come back."""

import contextlib
import json
import random
import threading
import time
from collections.abc import Iterator
from typing import Any

from kafka import KafkaProducer
from kafka.errors import KafkaError

from tests.faults.oracle import USUAL, Times

MODELS = ("fraud", "churn")
"""Their rows lie in different partitions of ``scored``."""
BEHIND = 300
"""Predictions that an outcome comes after its own, where nothing else is said."""

Item = tuple[str, bytes, dict[str, Any] | bytes]
"""Topic, key, event; ``ts`` is relative to when it is sent."""

_SETTINGS = """
[defaults]
outcome_window = "{window:g}s"
grace = "{grace:g}s"
remember = "{remember:g}s"
reference_rows = 100
window_rows = 200
cycle = "none"
budget = 1_000
control = "champion"

[defaults.retrain]
cooldown = "3s"
minimum_rows = 50
deadline = "60s"

[defaults.learner]
warmup = 20
proof_rows = 100
"""


def widened(item: Item, size: int) -> Item:
    """Return an event whose features are *size* bytes more, if it has features."""
    topic, key, event = item
    if isinstance(event, bytes) or "features" not in event:
        return item
    return topic, key, {**event, "features": {**event["features"], "wide": "x" * size}}


def models_file(times: Times) -> str:
    """Return the content of ``models.toml``."""
    return _SETTINGS.format(window=times.window, grace=times.grace, remember=times.remember)


def events(
    pairs: int, seed: int, prefix: str = "", times: Times = USUAL, *, behind: int = BEHIND, plain: bool = False
) -> Iterator[Item]:
    """Yield what is sent, in order.

    Args:
        pairs: How many predictions.
        seed: Of the content.
        prefix: Of every id.
        times: Of the models.
        behind: Predictions that an outcome comes after its own.
        plain: Each id once, with at most one outcome, which fits.
    """
    draw = random.Random(seed)
    waiting: list[Item] = []
    for i in range(pairs):
        model = MODELS[i % len(MODELS)]
        key = f"{prefix}{model}-{i:07d}"
        score = round(draw.random(), 6)
        prediction = {
            "prediction_id": key,
            "model": model,
            "group": "champion" if draw.random() < 0.7 else "challenger",
            "ts": 0.0,
            "scores": score,
            "prediction": score >= 0.5,
            "version": "v1",
            "latency": round(0.001 + 0.01 * draw.random(), 6),
            "features": {"a": score, "b": round(draw.random(), 6)},
        }
        drifted = pairs * 2 // 5 < i < pairs * 4 // 5
        truth = draw.random() < (1 - score if drifted else score)
        outcome = {"prediction_id": key, "ts": 0.1, "outcome": truth}
        chance = draw.random()
        if plain:
            chance = chance if chance < 0.03 else 1.0
        yield from _variant(chance, draw, key.encode(), prediction, outcome, waiting, times)
        while len(waiting) > behind:
            yield waiting.pop(0)
    yield from waiting


def _variant(
    chance: float,
    draw: random.Random,
    key: bytes,
    prediction: dict[str, Any],
    outcome: dict[str, Any],
    waiting: list[Item],
    times: Times,
) -> Iterator[Item]:
    """Yield one prediction and whatever comes with it."""
    first: Item = ("predictions", key, prediction)
    answer: Item = ("outcomes", key, outcome)
    if chance < 0.03:  # nobody ever says what was true
        yield first
    elif chance < 0.05:  # known too long after
        yield first
        waiting.append(("outcomes", key, {**outcome, "ts": times.window + 5}))
    elif chance < 0.06:  # known long before, and then once more
        yield first
        yield "outcomes", key, {**outcome, "ts": -times.grace - 60}
        waiting.append(answer)
    elif chance < 0.08:  # before its prediction
        yield answer
        yield first
    elif chance < 0.10:  # twice, with other content
        yield first
        yield "predictions", key, {**prediction, "scores": 1 - prediction["scores"]}
        waiting.append(answer)
        waiting.append(("outcomes", key, {**outcome, "outcome": not outcome["outcome"]}))
    elif chance < 0.12:  # two groups answer one request, the second at once or when the outcome is there
        other = {**prediction, "group": "challenger" if prediction["group"] == "champion" else "champion"}
        yield first
        waiting.append(answer)
        if draw.random() < 0.5:
            yield "predictions", key, other
        else:
            waiting.append(("predictions", key, other))
    elif chance < 0.13:
        yield first
        waiting.append(("outcomes", key, {"prediction_id": outcome["prediction_id"], "ts": 0.1, "status": "never"}))
    elif chance < 0.14:  # what cannot be read, and what does not fit
        yield "predictions", key, b"{"
        yield first
        yield "outcomes", key, {**outcome, "outcome": "yes"}
        waiting.append(answer)
    else:
        yield first
        waiting.append(answer)


class Load(threading.Thread):
    """Sends a stream at a rate, whatever happens to the broker.

    What fails to be sent is not sent: the oracle asks the topics what came in.

    Args:
        broker: Where to.
        prefix: Of the topics.
        items: What to send; see :func:`events`.
        rate: Events a second, about; 0: as fast as it goes.
    """

    def __init__(self, broker: str, prefix: str, items: list[Item], rate: float) -> None:
        super().__init__(daemon=True)
        self._producer = KafkaProducer(
            bootstrap_servers=broker,
            linger_ms=5,
            batch_size=1 << 17,
            max_block_ms=60_000,
            retry_backoff_ms=200,
            reconnect_backoff_max_ms=1_000,
        )
        self._prefix = prefix
        self._items = items
        self._rate = rate
        self._ending = False
        self.sent = 0

    def run(self) -> None:
        began = time.monotonic()
        for topic, key, event in self._items:
            if self._ending:
                break
            if isinstance(event, bytes):
                value = event
            else:
                value = json.dumps({**event, "ts": round(time.time() + event["ts"], 6)}).encode()
            with contextlib.suppress(KafkaError):
                self._producer.send(self._prefix + topic, key=key, value=value)
            self.sent += 1
            ahead = self.sent / self._rate - (time.monotonic() - began) if self._rate else 0
            if ahead > 0.02:
                time.sleep(ahead)
        with contextlib.suppress(KafkaError):
            self._producer.flush(timeout=60)
        self._producer.close(timeout=10)

    @property
    def share(self) -> float:
        """Which part was sent."""
        return self.sent / len(self._items)

    def end(self) -> None:
        """Send no more."""
        self._ending = True
