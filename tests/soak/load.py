"""The load: so many predictions a second of many models, and their outcomes, until its standard input is closed.

``python -m tests.soak.load BROKER PREFIX PARTITIONS MODELS COUNT``, a process of its own. It begins with so many, an
age in :data:`BACKLOG_AGE` seconds; then it takes lines with the predictions a second from its standard input, and goes
on with the newest until the input is closed. Each second it writes a line of JSON.

All models have the same life, begun at different moments: in the second half of each of its *ages*, outcomes are the
opposite of what the model expects. Then a new version answers, for which they are as expected. An outcome comes
:data:`DELAY` seconds after its prediction; of some predictions it never comes. The first rows are those of as many
older versions as are kept.
"""

import json
import random
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from math import inf

import confluent_kafka
import numpy as np

from streamapp.core.hashing import murmur2
from streamapp.core.monitoring.versions import VERSIONS_MAX
from streamapp.stream.topics import Topics

TICK = 0.02
DELAY = 1.0
"""Seconds between a prediction and its outcome."""
ROWS = 1500
"""Of a model in an age."""
BACKLOG_AGE = 20.0
"""Seconds of an age before there is a rate: so many that a cooldown passes, and each drift leads to a request."""
OLD = 3 * VERSIONS_MAX
"""Rows of a model that older versions have answered."""
NEVER = 50
"""Of so many predictions, one has no outcome."""
PIECE = 5000
"""Most predictions that are made at once."""


class Maker:
    """Makes predictions and outcomes by their number, starting at 0.

    Args:
        models: How many.
        rows: Of a model in an age; each model's first age began a little earlier than that of the one before.
        seed: Of the scores and truths.
    """

    def __init__(self, models: int, rows: int = ROWS, seed: int = 1) -> None:
        self._models = models
        self._rows = rows
        self._draw = np.random.default_rng(seed)
        self._run = random.SystemRandom().getrandbits(32)
        self._truths: dict[int, bool] = {}

    def key(self, number: int) -> bytes:
        """Return a prediction's id."""
        return b"%08x-%012d" % (self._run, number)

    def predictions(self, start: int, end: int, ts: float) -> list[bytes]:
        """Return the next predictions.

        Args:
            start: Number of the first.
            end: Behind the last.
            ts: When they are made.
        """
        scores = self._draw.integers(50, 950, end - start)
        luck = self._draw.integers(0, 1000, end - start)
        noise = self._draw.integers(0, 1000, end - start).tolist()
        made = []
        for place, (score, lucky) in enumerate(zip(scores.tolist(), (luck < scores).tolist(), strict=True)):
            number = start + place
            row, model = divmod(number, self._models)
            version, phase = divmod(row / self._rows + model / self._models, 1.0)
            if row < OLD:
                version = row // 3 - VERSIONS_MAX  # each of both groups
            if number % NEVER:
                self._truths[number] = lucky is (phase < 0.5)
            made.append(
                b'{"prediction_id":"%b","model":"model-%03d","group":"%b","ts":%.6f,"scores":0.%03d,"prediction":%b,'
                b'"version":"v%d","latency":0.012,"features":{"a":0.%03d,"b":0.%03d}}'
                % (
                    self.key(number),
                    model,
                    b"champion" if row % 3 else b"challenger",
                    ts,
                    score,
                    b"true" if score >= 500 else b"false",
                    version + 1,
                    score,
                    noise[place],
                )
            )
        return made

    def outcome(self, number: int, ts: float) -> bytes | None:
        """Return the outcome of a prediction that was made, None where there never is one."""
        truth = self._truths.pop(number, None)
        if truth is None:
            return None
        return b'{"prediction_id":"%b","ts":%.6f,"outcome":%b}' % (self.key(number), ts, b"true" if truth else b"false")


class Orders(threading.Thread):
    """What comes in by the standard input."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.rate = 0.0
        self.ended = threading.Event()

    def run(self) -> None:
        for line in sys.stdin:
            self.rate = float(line)
        self.ended.set()


class Load:
    """Sends what a maker makes.

    Args:
        broker: Where to.
        topics: Of the deployment.
        partitions: Of the inputs.
        maker: Of the events.
    """

    def __init__(self, broker: str, topics: Topics, partitions: int, maker: Maker) -> None:
        self.failed: list[str] = []
        self._topics = topics
        self._partitions = partitions
        self._maker = maker
        self._producer = confluent_kafka.Producer(
            {
                "bootstrap.servers": broker,
                "acks": "all",
                "enable.idempotence": True,
                "linger.ms": 5,
                "log_level": 3,
                "queue.buffering.max.messages": 1_000_000,
                "on_delivery": self._delivered,
                "delivery.report.only.error": True,
                "message.timeout.ms": 120_000,
            }
        )
        self.made = 0
        self.known = 0

    def go_on(self, rate: Callable[[], float], until: float, orders: Orders) -> None:
        """Send so many predictions a second, and the outcomes that are known of them, up to a number or to the end."""
        due, before, told = float(self.made), time.monotonic(), float("-inf")
        sent = deque([(before, self.made)])
        while self.made < until and not orders.ended.is_set():
            now = time.monotonic()
            due += (now - before) * rate()
            before = now
            while len(sent) > 1 and sent[1][0] <= now - DELAY:
                sent.popleft()
            made, known = int(min(due, until)), sent[0][1] if sent[0][0] <= now - DELAY else 0
            self.step(made, known)
            sent.append((now, made))
            if now - told >= 1:
                told = now
                self.tell()
            orders.ended.wait(TICK)
        self.step(self.made, self.made)  # what is known of all that was predicted

    def step(self, made: int, known: int) -> None:
        """Send predictions and outcomes up to these numbers."""
        while self.made < made:
            end = min(made, self.made + PIECE)
            events = self._maker.predictions(self.made, end, time.time())
            self._send(self._topics.predictions, range(self.made, end), events)
            self.made = end
        while self.known < known:
            end, ts = min(known, self.known + PIECE), time.time()
            numbers = range(self.known, end)
            self._send(self._topics.outcomes, numbers, [self._maker.outcome(number, ts) for number in numbers])
            self.known = end
        self._producer.poll(0)

    def close(self) -> None:
        """Return when all is sent."""
        if left := self._producer.flush(120):
            self.failed.append(f"{left} events were not sent within 120 s")

    def tell(self) -> None:
        """Say how far it is."""
        said = {"predictions": self.made, "outcomes": self.known, "failed": self.failed[:3]}
        print(json.dumps(said), flush=True)  # noqa: T201

    def _send(self, topic: str, numbers: range, events: list[bytes] | list[bytes | None]) -> None:
        keys = [self._maker.key(number) for number in numbers]
        places = ((murmur2(keys) & 0x7FFFFFFF) % self._partitions).tolist()
        for key, place, event in zip(keys, places, events, strict=True):
            if event is None:
                continue
            while True:
                try:
                    self._producer.produce(topic, event, key, place)
                    break
                except BufferError:
                    self._producer.poll(0.05)

    def _delivered(self, error: object, _: object) -> None:
        if error is not None:
            self.failed.append(str(error))


def main(broker: str, prefix: str, partitions: int, models: int, count: int) -> int:
    """Send until told to end; return 1 if an event was lost on the way."""
    orders = Orders()
    orders.start()
    load = Load(broker, Topics(prefix), partitions, Maker(models))
    load.go_on(lambda: ROWS * models / BACKLOG_AGE, count, orders)
    load.tell()
    while not (orders.rate or orders.ended.is_set()):
        load.step(load.made, load.made)
        orders.ended.wait(TICK)
    load.go_on(lambda: orders.rate, inf, orders)
    load.close()
    load.tell()
    return int(bool(load.failed))


if __name__ == "__main__":
    _, broker, prefix, partitions, models, count = sys.argv
    sys.exit(main(broker, prefix, int(partitions), int(models), int(count)))
