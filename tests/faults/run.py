"""One run of a scenario: topics, workers, load, steps that are drawn from a seed, and the checks at its end."""

import contextlib
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from streamapp.address import free_port
from streamapp.core.events import ScoredBatch
from streamapp.modelsfile import parse_models
from streamapp.stream.codec import decode_scored
from tests.faults import checks
from tests.faults.load import SETTINGS, Load
from tests.faults.proxy import Proxy
from tests.integration.workers import Deployment, Worker
from tests.kafka import Kafka

ROOT = Path(__file__).parents[2]
WORKER = ("-m", "agents")
SUPERVISED = ("-m", "streamapp", "worker")
SETTLED = 120.0
"""Seconds after the last step within which everything must have its verdict."""


class Broker:
    """A Kafka with a second way to it, through a proxy."""

    def __init__(self) -> None:
        behind, front = free_port(), free_port()
        self.kafka = Kafka(proxied=(behind, front))
        self.proxy = Proxy(front, behind)

    def __enter__(self) -> "Broker":
        try:
            self.kafka.start()
            self.proxy.start()
        except BaseException:
            self.kafka.stop()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        self.proxy.stop()
        self.kafka.stop()


class Process(Worker):
    """A worker process, with or without somebody who starts it again."""

    def __init__(self, name: str, command: tuple[str, ...], environ: dict[str, str], log: Path) -> None:
        self.name = name
        self.log = log
        self.supervised = command == SUPERVISED
        self.killed = False
        self.may_end = False
        """Whether it may end by itself: it was not allowed to go on, and nobody starts it again."""
        self._file = log.open("wb")
        self._process = subprocess.Popen(
            [sys.executable, *command],
            env={**os.environ, **environ},
            stdin=subprocess.DEVNULL,
            stdout=self._file,
            stderr=self._file,
            cwd=ROOT,
        )

    @property
    def url(self) -> str | None:
        """Where its status page is now: it moves when a supervised worker is started again."""
        lines = [line for line in self.log.read_text(errors="replace").splitlines() if "status page at " in line]
        return lines[-1].split("status page at ")[1].split(",")[0] if lines else None

    def close(self) -> None:
        if self.exit_code is None and self.supervised:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.stop(20)  # killed, it would leave its worker to find out for itself
        super().close()


class Run:
    """What a scenario works with.

    Args:
        broker: With its proxy.
        seed: Of the input and of everything that a scenario draws.
        command: How a worker is started where nobody supervises it; Python's arguments.
        echo: Takes a line on each step.
        scale: Factor on the number of predictions.
    """

    def __init__(
        self,
        broker: Broker,
        seed: int,
        *,
        command: tuple[str, ...] = WORKER,
        echo: Callable[[str], None] = print,
        scale: float = 1.0,
        settled: float = SETTLED,
    ) -> None:
        self.broker = broker
        self.seed = seed
        self.draw = random.Random(seed)
        self.workers: list[Process] = []
        self._command = command
        self._echo = echo
        self._scale = scale
        self._settled = settled
        self._began = time.monotonic()
        self._temporary = tempfile.TemporaryDirectory(prefix="streamapp-faults-", ignore_cleanup_errors=True)
        folder = Path(self._temporary.name)
        prefix = f"f{uuid.uuid4().hex[:8]}."
        self.deployment = Deployment(broker.kafka.bootstrap, folder, prefix, models=SETTINGS)
        self.topics = self.deployment.topics
        self._load: Load | None = None

    def __enter__(self) -> "Run":
        self.deployment.create_topics()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self.broker.proxy.delay = 0
        self.broker.proxy.heal()
        for worker in self.workers:
            if error is not None:
                self.say(f"{worker.name} (exit code {worker.exit_code}) said at last:")
                self._echo("\n".join(worker.log.read_text(errors="replace").splitlines()[-15:]))
            worker.close()
        self._temporary.cleanup()

    def say(self, text: str) -> None:
        self._echo(f"  {time.monotonic() - self._began:6.1f} s  {text}")

    # -- steps

    def produce(self, pairs: int, rate: float = 0) -> None:
        """Begin to send; with no rate, send all before anything else."""
        pairs = int(pairs * self._scale)
        self.say(f"produce {pairs} pairs" + (f", {rate:g} a second" if rate else " at once"))
        self._load = Load(self.deployment.broker, self.topics.prefix, pairs, self.seed, rate)
        self._load.start()
        if not rate:
            self._load.join()

    def until_sent(self, share: float) -> None:
        """Wait until a part of the load is out."""
        assert self._load is not None
        load = self._load
        self.until(lambda: load.share >= share or not load.is_alive(), f"{share:.0%} sent", 180)

    def start(self, *, supervised: bool = False, proxied: bool = False) -> Process:
        """Start a worker."""
        name = f"worker {len(self.workers)}"
        self.say(f"start {name}" + (", supervised" if supervised else "") + (", behind the proxy" if proxied else ""))
        environ = dict(self.deployment.environ)
        if proxied:
            environ["STREAMAPP_BROKER"] = self.broker.proxy.address
        log = self.deployment.folder / f"worker-{len(self.workers)}.log"
        worker = Process(name, SUPERVISED if supervised else self._command, environ, log)
        self.workers.append(worker)
        return worker

    def kill(self, worker: Process) -> None:
        """SIGKILL."""
        self.say(f"kill {worker.name}")
        worker.killed = True
        worker.kill()

    def stop(self, worker: Process) -> None:
        """SIGTERM: it must end with 0, having written its checkpoint."""
        # Before that it does not listen to SIGTERM yet.
        self.until(lambda: worker.url is not None or worker.exit_code is not None, f"{worker.name} listens")
        self.say(f"stop {worker.name}")
        code = worker.stop()
        assert code == 0, f"{worker.name} ended with {code} after SIGTERM"
        if not worker.supervised:
            assert "final checkpoints written" in worker.log.read_text(errors="replace"), f"{worker.name}: none written"

    def pause(self, worker: Process) -> None:
        """SIGSTOP."""
        self.say(f"pause {worker.name}")
        worker.send(signal.SIGSTOP)

    def resume(self, worker: Process) -> None:
        """SIGCONT."""
        self.say(f"resume {worker.name}")
        worker.send(signal.SIGCONT)

    def wait(self, low: float, high: float) -> None:
        """Let a time pass that is drawn from the seed."""
        time.sleep(self.draw.uniform(low, high))

    def until(self, condition: Callable[[], object], what: str, timeout: float = 60.0) -> None:
        """Wait until something holds."""
        end = time.monotonic() + timeout
        while not condition():
            assert time.monotonic() < end, f"not within {timeout:g} s: {what}"
            time.sleep(0.1)

    def until_ready(self, worker: Process) -> None:
        """Wait until a worker owns its partitions and keeps up."""
        self.until(lambda: worker.ready() or (worker.exit_code is not None and not worker.killed), "ready")
        assert worker.exit_code is None, f"{worker.name} ended with {worker.exit_code}"
        self.say(f"{worker.name} is ready")

    def until_some(self) -> None:
        """Wait until some rows have been resolved."""
        log = checks.Log(self.deployment.broker, self.topics, "scored")
        try:
            self.until(lambda: any(self._rows(log.more())), "some rows resolved")
        finally:
            log.close()

    # -- the end

    def check(self) -> Counter[str]:
        """Wait until everything is settled, stop the workers, and compare."""
        assert self._load is not None
        self._load.join(180)
        assert not self._load.is_alive(), "the load did not end"
        oracle = checks.inputs(self.deployment.broker, self.topics, self.deployment.partitions)
        wanted = sum(len(part.rows) for part in oracle)
        self.say(f"all sent: {wanted} verdicts are due")
        self._settle(wanted)
        for worker in self.workers:
            if worker.exit_code is None:
                # One that has only just begun does not listen to SIGTERM yet.
                self.until(lambda worker=worker: worker.ready() or worker.exit_code is not None, "ready at the end")
        for worker in self.workers:
            if worker.exit_code is None:
                self.stop(worker)
            elif not (worker.killed or worker.may_end):
                assert worker.exit_code == 0, f"{worker.name} ended by itself with {worker.exit_code}"
        settings = parse_models(SETTINGS)
        compared = checks.check(self.deployment.broker, self.topics, settings, oracle)
        self.say("as it must be: " + ", ".join(f"{count} {what}" for what, count in sorted(compared.items())))
        return compared

    def _settle(self, wanted: int) -> None:
        """Wait until each prediction has a verdict, and the monitors have applied it."""
        log = checks.Log(self.deployment.broker, self.topics, "scored", "checkpoints-monitor")
        ends: dict[int, int] = {}
        count = 0
        deadline = time.monotonic() + self._settled
        try:
            while True:
                got = log.more()
                for rows, record in self._rows(got):
                    count += rows
                    ends[record.partition] = record.offset + 1
                behind = {
                    number: end
                    for number, end in ends.items()
                    if checks.position(log.records[("checkpoints-monitor", number)], self.topics) < end
                }
                if count >= wanted and not behind:
                    return
                if any(worker.exit_code is None for worker in self.workers) and time.monotonic() < deadline:
                    continue
                codes = {worker.name: worker.exit_code for worker in self.workers}
                raise AssertionError(
                    f"not settled: {count} of {wanted} verdicts, monitors behind {behind}, workers ended {codes}"
                )
        finally:
            log.close()

    @staticmethod
    def _rows(got: Mapping[tuple[str, int], list[Any]]) -> Iterator[tuple[int, Any]]:
        """Yield how many verdicts a record of ``scored`` holds, and the record, where there are any."""
        for (topic, _), records in got.items():
            for record in records if topic == "scored" else ():
                message = decode_scored(record.value)
                if isinstance(message, ScoredBatch):
                    yield len(message), record
