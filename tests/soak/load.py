"""The load: so many predictions a second of many models, and their outcomes, until its standard input is closed.

``python -m tests.soak.load BROKER PREFIX PARTITIONS MODELS COUNT``, a process of its own. It begins with so many as
fast as it goes; then it takes a line with the predictions a second from its standard input, and goes on with that until
the input is closed. Each second it writes a line of JSON.

All models have the same life, begun at different moments: in the second half of each of its *ages*, outcomes are the
opposite of what the model expects. Then a new version answers, for which they are as expected. An outcome comes
:data:`DELAY` seconds after its prediction; of some predictions it never comes. The first rows are those of as many
older versions as are kept.

What is sent as fast as it goes has the timestamps of a load that went on until now, :data:`ROWS` of each model in
:data:`BACKLOG_AGE` seconds: a worker that reads it has as much to do for each row as it has later, training included.
"""

import json
import random
import sys
import threading
import time

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
BACKLOG_AGE = 40.0
"""Seconds of an age where there is no rate."""
BACKLOG_STEP = 0.2
"""Seconds, by its timestamps, that a piece of the backlog is of."""
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

    def backlog(self, count: int, models: int, orders: Orders) -> None:
        """Send what a load that went on until now would have sent, all but the outcomes of the last second."""
        rate = ROWS * models / BACKLOG_AGE
        began, passed = time.time() - count / rate, 0.0
        while self.made < count and not orders.ended.is_set():
            passed += BACKLOG_STEP
            made, known = (max(0, int((passed - delay) * rate)) for delay in (0.0, DELAY))
            self.step(min(count, made), min(count, known), began + passed)

    def step(self, made: int, known: int, ts: float) -> None:
        """Send predictions and outcomes up to these numbers, as of *ts*, in seconds since the epoch."""
        while self.made < made:
            end = min(made, self.made + PIECE)
            events = self._maker.predictions(self.made, end, ts)
            self._send(self._topics.predictions, range(self.made, end), events, ts)
            self.made = end
        while self.known < known:
            end = min(known, self.known + PIECE)
            numbers = range(self.known, end)
            self._send(self._topics.outcomes, numbers, [self._maker.outcome(number, ts) for number in numbers], ts)
            self.known = end
        self._producer.poll(0)

    def close(self) -> None:
        """Return when all is sent."""
        if left := self._producer.flush(120):
            self.failed.append(f"{left} events were not sent within 120 s")

    def _send(self, topic: str, numbers: range, events: list[bytes] | list[bytes | None], ts: float) -> None:
        keys = [self._maker.key(number) for number in numbers]
        places = ((murmur2(keys) & 0x7FFFFFFF) % self._partitions).tolist()
        for key, place, event in zip(keys, places, events, strict=True):
            if event is None:
                continue
            while True:
                try:
                    self._producer.produce(topic, event, key, place, timestamp=int(ts * 1000))
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
    load.backlog(count, models, orders)
    load.step(load.made, load.made, time.time())
    _tell(load)
    while not (orders.rate or orders.ended.is_set()):
        load.step(load.made, load.made, time.time())
        orders.ended.wait(TICK)
    began = told = time.monotonic()
    while not orders.ended.is_set():
        seconds = time.monotonic() - began
        made, known = (count + max(0, int((seconds - delay) * orders.rate)) for delay in (0.0, DELAY))
        load.step(made, known, time.time())
        if time.monotonic() - told >= 1:
            told = time.monotonic()
            _tell(load)
        orders.ended.wait(TICK)
    load.step(load.made, load.made, time.time())  # what is known of all that was predicted
    load.close()
    _tell(load)
    return int(bool(load.failed))


def _tell(load: Load) -> None:
    said = {"predictions": load.made, "outcomes": load.known, "failed": load.failed[:3]}
    print(json.dumps(said), flush=True)  # noqa: T201


if __name__ == "__main__":
    _, broker, prefix, partitions, models, count = sys.argv
    sys.exit(main(broker, prefix, int(partitions), int(models), int(count)))
