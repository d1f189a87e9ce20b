"""Where contestants run: one Apache Kafka on its own cores, recordings that are made once, and what is fresh each time.

The harness and the broker are pinned to all cores but the first, contestants to the first.
"""

import os
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from benchmarks.entry import Stage
from benchmarks.process import cores
from benchmarks.recording import Recorder, Recording, Shape
from streamapp.stream.topics import Topics, connected, create, plan
from tests.kafka import Given, Kafka

PATIENCE = 30.0


class Arena:
    """A broker for the length of a benchmark.

    Args:
        broker: ``host:port`` of one that runs; None: start one. What is made there is removed at the end.
    """

    def __init__(self, broker: str | None = None) -> None:
        self._kafka = Given(broker) if broker else Kafka(memory="1g", fast_start=False)
        self._recordings: dict[Shape, Recording] = {}
        self._made: set[str] = set()
        self._used: set[str] = set()
        self._runs = 0

    def __enter__(self) -> Self:
        """Pin ourselves and start the broker, which inherits that."""
        self._allowed = os.sched_getaffinity(0)
        os.sched_setaffinity(0, cores()[1])
        if isinstance(self._kafka, Kafka):
            self._kafka.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop the broker, or remove what was made there."""
        os.sched_setaffinity(0, self._allowed)
        if isinstance(self._kafka, Given) and self._made:
            with connected(self.broker, PATIENCE, {}) as admin:
                _delete(admin, [name for name in _topics(admin) if name.startswith(tuple(self._made))])
        self._kafka.stop()

    @property
    def broker(self) -> str:
        """``host:port``."""
        return self._kafka.bootstrap

    def topics(self) -> Topics:
        """Return names that no other run has."""
        prefix = f"bench-{uuid.uuid4().hex[:8]}."
        self._made.add(prefix)
        return Topics(prefix)

    def recording(self, shape: Shape) -> Recording:
        """Return a recording of a shape, made at the first call for it."""
        if shape not in self._recordings:
            recorder = self._recorder(shape)
            self._recordings[shape] = recorder.write()
            recorder.close()
        return self._recordings[shape]

    @contextmanager
    def held(self, shape: Shape) -> Iterator[tuple[Recording, Callable[[], None]]]:
        """Lend a recording that nobody sees before the second of the two is called; it is removed afterwards."""
        recorder = self._recorder(shape, held=True)
        try:
            recording = recorder.write()
            yield recording, recorder.release
        finally:
            recorder.close()
            self.remove(recorder.topics.prefix)

    def inputs(self, partitions: int) -> Topics:
        """Return names of fresh inputs, empty."""
        topics = self.topics()
        create(self.broker, plan(topics, partitions=partitions)[:2], replication=1)
        return topics

    def remove(self, prefix: str) -> None:
        """Remove all topics whose names begin so."""
        with connected(self.broker, PATIENCE, {}) as admin:
            _delete(admin, [name for name in _topics(admin) if name.startswith(prefix)])

    def _recorder(self, shape: Shape, *, held: bool = False) -> Recorder:
        return Recorder(self.broker, self.inputs(shape.partitions), shape, held=held)

    @contextmanager
    def stage(self, recording: Recording, *, scored_partitions: int = 1) -> Iterator[Stage]:
        """Lend a stage on which nothing is left of other runs but the recording."""
        topics = recording.topics
        wanted = plan(topics, partitions=recording.shape.partitions, scored_partitions=scored_partitions)
        with connected(self.broker, PATIENCE, {}) as admin:
            inputs = {topics.predictions, topics.outcomes}
            _delete(admin, [name for name in _topics(admin) if name.startswith(topics.prefix) and name not in inputs])
        create(self.broker, wanted, replication=1)
        self._runs += 1
        name = f"{topics.prefix}{self._runs}"
        self._made.add(name)  # the changelog topics that frameworks make are called so
        with tempfile.TemporaryDirectory(prefix="streamapp-bench-") as folder:
            yield Stage(self.broker, recording, Path(folder), name, scored_partitions)


def _topics(admin: Any) -> list[str]:
    return [str(name) for name in admin.list_topics()]


def _delete(admin: Any, names: list[str]) -> None:
    """Delete topics, and return when they are gone."""
    if not names:
        return
    admin.delete_topics(names, timeout_ms=int(PATIENCE * 1000))
    deadline = time.monotonic() + PATIENCE
    while set(names) & set(_topics(admin)):
        if time.monotonic() > deadline:
            raise RuntimeError(f"topics are still there after {PATIENCE:g} s: {', '.join(names)}")
        time.sleep(0.05)
