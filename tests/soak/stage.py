"""Where a soak takes place: topics that keep little, workers on a core of their own, a load, and a ledger."""

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import threading
import uuid
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

from kafka.errors import KafkaError

from benchmarks.process import cores
from streamapp.errors import ConfigError
from streamapp.stream.topics import Topics, connected, create, plan
from tests.faults.process import ROOT
from tests.soak.ledger import INPUTS, Ledger
from tests.soak.members import Member
from tests.soak.speed import Speed

PARTITIONS = 4
SCORED_PARTITIONS = 2
KEPT = 900.0
"""Seconds for which inputs and rows are kept, half a kilobyte for each prediction: an hour would be many gigabytes."""
SEGMENTS = {"segment.ms": "20000", "segment.bytes": str(128 << 20)}
SESSION = 6.0
"""Seconds after which a silent worker is replaced: less than usual, so that it happens often enough in a short run."""
PATIENCE = 30.0
"""Seconds for the broker to remove topics."""
MODELS = """
# What waits and what is remembered is as much as it will be after window, grace and some ticks: 12 seconds.
[defaults]
outcome_window = "5s"
grace = "5s"
remember = "5s"
reference_rows = 100
window_rows = 200
cycle = "none"
budget = 10_000
control = "champion"

[defaults.retrain]
cooldown = "10s"
minimum_rows = 100
deadline = "60s"

[defaults.learner]
warmup = 20
proof_rows = 100
"""


@dataclass(frozen=True, kw_only=True)
class Size:
    """Of a deployment and its load."""

    models: int = 100
    workers: int = 2


class Stage:
    """One deployment on a broker, with names of its own.

    Args:
        broker: ``host:port``.
        size: Of the deployment.
    """

    def __init__(self, broker: str, size: Size) -> None:
        self._broker = broker
        self._size = size
        self.topics = Topics(f"soak-{uuid.uuid4().hex[:8]}.")
        self.group = self.topics.prefix.rstrip(".")
        self._temporary = tempfile.TemporaryDirectory(prefix="streamapp-soak-", ignore_cleanup_errors=True)
        self.folder = Path(self._temporary.name)
        self.members: list[Member] = []
        self.ledger: Ledger
        self.speed = Speed([cores()[0]])
        self.load: LoadProcess | None = None

    def __enter__(self) -> Self:
        """Make the topics, and begin to read them."""
        (self.folder / "models.toml").write_text(MODELS)
        plans = plan(self.topics, partitions=PARTITIONS, scored_partitions=SCORED_PARTITIONS, retention=KEPT)
        short = {self.topics.full(name) for name in INPUTS}
        plans = tuple(replace(p, config={**p.config, **SEGMENTS}) if p.name in short else p for p in plans)
        self._names = [each.name for each in plans]
        create(self._broker, plans, replication=1)
        self.ledger = Ledger(
            self._broker, self.topics, partitions=PARTITIONS, scored_partitions=SCORED_PARTITIONS, group=self.group
        )
        self.ledger.start()
        self.speed.start()
        return self

    def start_workers(self) -> None:
        """Start all workers; they share the first core, and nothing else runs there."""
        ours, _ = cores()
        environ = {
            "STREAMAPP_BROKER": self._broker,
            "STREAMAPP_TOPIC_PREFIX": self.topics.prefix,
            "STREAMAPP_GROUP_ID": self.group,
            "STREAMAPP_PARTITIONS": str(PARTITIONS),
            "STREAMAPP_SCORED_PARTITIONS": str(SCORED_PARTITIONS),
            "STREAMAPP_MODELS": str(self.folder / "models.toml"),
            "STREAMAPP_DATA": str(self.folder / "data"),
            "STREAMAPP_WEB_PORT": "0",
            "STREAMAPP_SESSION_TIMEOUT": str(SESSION),
            "PYTHONUNBUFFERED": "1",
        }
        for number in range(self._size.workers):
            self.members.append(Member(number, environ, self.folder, [ours]))

    def start_load(self, count: int) -> "LoadProcess":
        """Begin to send, so many as fast as it goes; see :mod:`tests.soak.load`."""
        arguments = [self._broker, self.topics.prefix, PARTITIONS, self._size.models, count]
        self.load = LoadProcess([str(argument) for argument in arguments])
        return self.load

    def __exit__(self, *_: object) -> None:
        """End everything."""
        if self.load is not None:
            self.load.kill()
        for member in self.members:
            member.close()
        self.speed.close()
        self.ledger.close()
        with contextlib.suppress(KafkaError, ConfigError), connected(self._broker, PATIENCE, {}) as admin:
            admin.delete_topics(self._names, timeout_ms=int(PATIENCE * 1000))
        self._temporary.cleanup()


class LoadProcess:
    """The load, and what it says."""

    def __init__(self, arguments: list[str]) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.soak.load", *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
            start_new_session=True,  # Ctrl-C is for us: it ends when its input is closed
        )
        self.said: dict[str, Any] = {"predictions": 0, "outcomes": 0}
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self.said = json.loads(line)

    @property
    def running(self) -> bool:
        """Whether it has not ended."""
        return self._process.poll() is None

    def go_on(self, rate: float) -> None:
        """Let it send so many predictions a second from now on."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{rate}\n")
        self._process.stdin.flush()

    def end(self) -> list[str]:
        """Let it send the outcomes that are due, wait for that, and return what was lost on the way."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        code = self._process.wait(180)
        self._listener.join(10)
        return list(self.said.get("failed", [f"the load ended with {code}"] if code else []))

    def kill(self) -> None:
        """End it in whatever state."""
        if self.running:
            self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()
