"""One run of a scenario: topics, workers, load, steps that are drawn from a seed, and the checks at its end."""

import json
import random
import re
import signal
import tempfile
import time
import uuid
from collections import Counter
from collections.abc import Callable, Mapping
from math import inf
from pathlib import Path
from types import TracebackType
from typing import Any

from kafka.partitioner.default import murmur2

from streamapp.modelsfile import parse_models
from tests.faults import checks
from tests.faults.broker import Broker, Cluster
from tests.faults.load import BEHIND, Item, Load, events, models_file
from tests.faults.logs import Log, committed
from tests.faults.oracle import USUAL, Expected, Times
from tests.faults.process import Process
from tests.faults.proxy import Proxy
from tests.faults.settling import learn, messages_of, settle
from tests.faults.surgery import Surgery
from tests.integration.workers import Deployment

SETTLED = 90.0
"""Seconds after the last step within which everything must have its verdict."""
STOP_WITHIN = 25.0
"""Seconds that a worker has for its end in order."""
SLOW = 0.25
"""Seconds that each request takes longer on a slow link."""
SESSION = 3.0
"""Seconds after which a silent worker is replaced: everybody waits for it after each kill."""
LATE = 0.4
"""Seconds that an outcome comes after its prediction, where they come at a rate."""
HOUR = 3600.0
PARTITIONS = 4
WAYS_OUT = ("restore ", "delete ", "put back ", "run the version", "set STREAMAPP_", "streamapp ")
"""With one of these begins what an operator is told to do."""


class Run:
    """What a scenario works with.

    Args:
        broker: With its proxy, if the scenario needs it.
        seed: Of the input and of everything that a scenario draws.
        echo: Takes a line on each step.
        long: Whether this is the long form, in which outages last as long as they are said to.
        scale: Factor on the number of predictions.
        mutant: Name of the defect that workers have.
        times: What decides about verdicts.
        settled: Seconds after the last step within which everything must have its verdict.
        environ: More variables of the workers.
    """

    def __init__(
        self,
        broker: Broker | Cluster,
        seed: int,
        *,
        echo: Callable[[str], None] = print,
        long: bool = False,
        scale: float = 1.0,
        mutant: str | None = None,
        times: Times = USUAL,
        settled: float = SETTLED,
        environ: Mapping[str, str] | None = None,
    ) -> None:
        self._broker = broker
        self.seed = seed
        self.long = long
        self.draw = random.Random(seed)
        self.times = times
        self.workers: list[Process] = []
        self.exempt: set[str] = set()
        """Names of tasks that have stopped for a reason."""
        self.lost: dict[int, frozenset[int]] = {}
        """Offsets, by partition, of predictions that were removed while they waited."""
        self.confirmed: Counter[str] = Counter()
        """What a scenario has made sure of."""
        self.compared: Counter[str] | None = None
        """How much was compared by the last check, if nothing was done since."""
        self._mutant = mutant
        self._echo = echo
        self._scale = scale
        self._settled = settled
        self._began = time.monotonic()
        self._temporary = tempfile.TemporaryDirectory(prefix="streamapp-faults-", ignore_cleanup_errors=True)
        folder = Path(self._temporary.name)
        prefix = f"f{uuid.uuid4().hex[:8]}."
        self.deployment = Deployment(
            broker.bootstrap,
            folder,
            prefix,
            models=models_file(times),
            partitions=PARTITIONS,
            replication=broker.replication,
        )
        self.deployment.environ |= {"STREAMAPP_SESSION_TIMEOUT": str(SESSION), **(environ or {})}
        self.topics = self.deployment.topics
        self.surgery = Surgery(self.deployment)
        self._loads: list[Load] = []
        self._read: checks.Inputs = {}

    def __enter__(self) -> "Run":
        self.deployment.create_topics()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        for load in self._loads:
            load.end()
        self._broker.reset()
        for worker in self.workers:
            if error is not None:
                self.say(f"{worker.name} (exit code {worker.exit_code}) said at last:")
                self._echo("\n".join(worker.said.splitlines()[-15:]))
            worker.close()
        for load in self._loads:
            load.join(60)
        self.surgery.clear()
        self._temporary.cleanup()

    def say(self, text: str) -> None:
        self._echo(f"  {time.monotonic() - self._began:6.1f} s  {text}")

    def confirm(self, what: str) -> None:
        """Note that something was the case, rather than hoped for."""
        self.confirmed[what] += 1
        self.say(f"confirmed: {what}")

    @property
    def broker(self) -> Broker:
        """The broker, of a scenario that has one."""
        assert isinstance(self._broker, Broker)
        return self._broker

    @property
    def cluster(self) -> Cluster:
        """The brokers, of a scenario that has three."""
        assert isinstance(self._broker, Cluster)
        return self._broker

    @property
    def proxy(self) -> Proxy:
        """Between the broker and workers that are started behind it."""
        return self.broker.proxy

    # -- load

    def produce(self, pairs: int, rate: float = 0, *, plain: bool = False) -> None:
        """Begin to send; with no rate, send all before anything else.

        Args:
            pairs: How many predictions, if the scale is 1.
            rate: Predictions a second.
            plain: Each id once, with at most one outcome that fits.
        """
        pairs = int(pairs * self._scale)
        self.say(f"produce {pairs} pairs" + (f", {rate:g} a second" if rate else " at once"))
        self.send(self.events(pairs, plain=plain, behind=int(rate * LATE) or BEHIND), 2 * rate)

    def events(self, pairs: int, *, plain: bool = False, behind: int = BEHIND) -> list[Item]:
        """Return what a load consists of, in order, with ids of its own."""
        number = len(self._loads)
        seed = self.seed + 1_000_003 * number
        return list(events(pairs, seed, f"{number}-{self.seed}-", self.times, behind=behind, plain=plain))

    def send(self, items: list[Item], rate: float = 0) -> None:
        """Begin to send events, so many a second; with no rate, send all before anything else."""
        self.compared = None
        load = Load(self.deployment.broker, self.topics.prefix, items, rate)
        self._loads.append(load)
        load.start()
        if not rate:
            load.join()

    def until_sent(self, share: float = 1.0) -> None:
        """Wait until a part of the load is out."""
        load = self._loads[-1]
        self.until(lambda: load.share >= share or not load.is_alive(), f"{share:.0%} sent", 180)

    def under_load(self) -> None:
        """Make sure that events are still being sent."""
        assert any(load.is_alive() and load.share < 1 for load in self._loads), "all had been sent by then"

    def unresolved(self) -> int:
        """Return how many predictions have no verdict yet."""
        return sum(self.surgery.ends("predictions").values()) - sum(map(len, self.verdicts().values()))

    def cease(self) -> None:
        """Send no more of what was to be sent."""
        for load in self._loads:
            load.end()

    def end_load(self) -> None:
        """Wait until everything is out."""
        for load in self._loads:
            load.join(180)
            assert not load.is_alive(), "the load did not end"

    # -- workers

    def start(
        self,
        *,
        supervised: bool = False,
        alone: bool = False,
        proxied: bool = False,
        file_limit: int | None = None,
        **environ: str,
    ) -> Process:
        """Start a worker.

        Args:
            supervised: Whether ``streamapp worker`` starts it again when it ends.
            alone: Whether nobody does.
            proxied: Whether it reaches the broker through the proxy.
            file_limit: Bytes that a file may have for it; None: as many as there is room for.
            environ: More variables.
        """
        name = f"worker {len(self.workers)}"
        self.say(f"start {name}" + (", supervised" if supervised else "") + (", behind the proxy" if proxied else ""))
        environ = {**self.deployment.environ, **environ}
        if proxied:
            environ["STREAMAPP_BROKER"] = self.proxy.address
        log = self.deployment.folder / f"worker-{len(self.workers)}.log"
        worker = Process(
            name, environ, log, supervised=supervised, alone=alone, mutant=self._mutant, file_limit=file_limit
        )
        self.workers.append(worker)
        self.compared = None
        return worker

    def kill(self, worker: Process) -> None:
        """SIGKILL."""
        self.say(f"kill {worker.name}")
        worker.kill()

    def stop(self, worker: Process, *tasks: str) -> None:
        """SIGTERM: it must end with 0 in time, having written its checkpoints, among them those of these tasks."""
        # Before that it does not listen to SIGTERM yet.
        self.until(lambda: worker.url is not None or worker.exit_code is not None, f"{worker.name} listens")
        if worker.supervised:
            # What it keeps alive may just have failed: then it has nothing to end in order, and says so.
            self.until(lambda: worker.get("/readyz")[0], f"{worker.name} answers")
        self.say(f"stop {worker.name}")
        code = worker.stop(STOP_WITHIN)
        assert code == 0, f"{worker.name} ended with {code} after SIGTERM"
        if not worker.supervised:
            said = [line for line in worker.said.splitlines() if "final checkpoints written: " in line]
            assert said, f"{worker.name}: no final checkpoints written"
            missing = set(tasks) - set(said[-1].rpartition("written: ")[2].split(", "))
            assert not missing, f"{worker.name}: no final checkpoint of {missing}: {said[-1]}"

    def pause(self, worker: Process) -> None:
        """SIGSTOP."""
        self.say(f"pause {worker.name}")
        worker.send(signal.SIGSTOP)

    def resume(self, worker: Process) -> None:
        """SIGCONT."""
        self.say(f"resume {worker.name}")
        worker.send(signal.SIGCONT)

    # -- waiting

    def wait(self, low: float, high: float) -> None:
        """Let a time pass that is drawn from the seed."""
        time.sleep(self.draw.uniform(low, high))

    def until(self, condition: Callable[[], object], what: str, timeout: float = 60.0) -> None:
        """Wait until something holds."""
        end = time.monotonic() + timeout
        while not condition():
            assert time.monotonic() < end, f"not within {timeout:g} s: {what}"
            time.sleep(0.05)

    def until_ready(self, *workers: Process) -> None:
        """Wait until workers own their partitions and keep up."""
        for worker in workers:
            self.until(_ready_or_ended(worker), f"{worker.name} ready")
            assert worker.exit_code is None, f"{worker.name} ended with {worker.exit_code}"
            self.say(f"{worker.name} is ready")

    def tasks(self, worker: Process) -> set[str]:
        """Return the names of the tasks that a worker says it owns, none while it is not ready."""
        status, page = worker.get("/readyz")
        return set(json.loads(page)["details"].get("tasks", ())) if status == 200 else set()

    @staticmethod
    def reasons(worker: Process) -> list[str]:
        """Return for what reasons a worker has ended by itself, in one word each."""
        return re.findall(r"ending \((\w+)\)", worker.said)

    @staticmethod
    def undisturbed(worker: Process) -> None:
        """Make sure that a worker never ended by itself, be it that it was started again."""
        ended = [line for line in worker.said.splitlines() if "ending (" in line]
        assert not ended, f"{worker.name} is healthy, and ended: {ended}"

    def until_ended(self, worker: Process, code: int, *words: str) -> None:
        """Wait until a worker ends by itself, in a certain way and with certain words."""
        self.until(lambda: worker.exit_code is not None, f"{worker.name} ends")
        assert worker.exit_code == code, f"{worker.name} ended with {worker.exit_code}, not {code}"
        for word in words:
            assert word in worker.said, f"{worker.name} does not say {word!r}"

    def until_says(self, worker: Process, *words: str, times: int = 1, timeout: float = 60.0) -> None:
        """Wait until a line of a worker's log has all of these words, so many times."""

        def count() -> int:
            return sum(all(word in line for word in words) for line in worker.said.splitlines())

        self.until(lambda: count() >= times, f"{worker.name} says {words} {times} times", timeout)

    def rows_from_now(self) -> Log:
        """Return what :meth:`until_rows` is to look at, where rows may come before it is asked."""
        return Log(self.deployment.broker, self.topics, "scored", from_now=True)

    def until_rows(self, count: int = 1, since: Log | None = None) -> None:
        """Wait until that many more rows have been resolved than are now, or were at :meth:`rows_from_now`."""
        log = since or self.rows_from_now()
        seen = 0

        def enough() -> bool:
            nonlocal seen
            seen += sum(len(message) for message, _ in messages_of(log.more()))
            return seen >= count

        try:
            self.until(enough, f"{count} rows resolved")
        finally:
            log.close()

    def until_settled(self, verdicts: int) -> None:
        """Wait until there are so many verdicts, and monitors have applied them."""
        settle(
            self.deployment.broker, self.topics, verdicts, exempt=self.exempt, within=self._settled, alive=self._alive
        )

    def until_parked(self, worker: Process, task: str, *words: str) -> None:
        """Wait until a worker has parked a task, and says so wherever somebody may look.

        Args:
            worker: That has the task.
            task: Its name.
            words: What the reason must contain, beside a way out.
        """
        pattern = re.compile(rf"{task}: parked \((\w+)\): (.*)")
        self.until(lambda: pattern.search(worker.said), f"{worker.name} parks {task}")
        found = pattern.search(worker.said)
        assert found is not None
        reason, text = found.groups()
        for word in words:
            assert word in text, f"{word!r} is missing in: {text}"
        assert any(way in text for way in WAYS_OUT), f"no way out in: {text}"
        role, _, number = task.rpartition("-")
        labels = f'partition="{number}",reason="{reason}",role="{role}"'
        self.until(lambda: worker.metric("streamapp_parked").get(labels) == 1, f"{labels} in streamapp_parked")
        self.until(lambda: task in worker.get("/readyz")[1].decode(), f"{task} in /readyz")
        assert worker.get("/readyz")[0] == 503, f"{worker.name} says that it is ready, but {task} is parked"
        self.exempt.add(task)
        self.confirm(f"{task} was parked ({reason}): {text}")

    def mended(self, *tasks: str) -> None:
        """Take back that tasks need not have done their work."""
        self.exempt.difference_update(tasks or set(self.exempt))

    # -- the end

    def keep_inputs(self) -> None:
        """Remember what is in the inputs: somebody is about to remove some of it."""
        for key, records in checks.inputs(self.deployment.broker, self.topics).items():
            # Where a topic was made anew, what was there first is what tasks have worked on.
            self._read[key] = {**records, **self._read.get(key, {})}

    def due(self) -> list[Expected]:
        """Return what must follow from everything that was ever in the inputs."""
        self.keep_inputs()
        # What waits for hours has no verdict when a run ends.
        until = inf if self.times.longest < HOUR else time.time()
        oracle = checks.due(self._read, PARTITIONS, self.times, until)
        for number, offsets in self.lost.items():
            oracle[number].lost = offsets
        return oracle

    def published(self, topic: str, **fields: str) -> list[dict[str, Any]]:
        """Return what is committed in a topic, as far as it has these values."""
        log = committed(self.deployment.broker, self.topics, [topic])
        found = [json.loads(record.value) for record in log.of(topic)]
        return [event for event in found if all(event[name] == value for name, value in fields.items())]

    @staticmethod
    def partition_of(key: bytes) -> int:
        """Return the partition that producers choose for a key."""
        return int(murmur2(key) & 0x7FFFFFFF) % PARTITIONS

    def verdicts(self) -> dict[int, set[int]]:
        """Return the offsets of predictions that have a verdict now, by partition."""
        log = committed(self.deployment.broker, self.topics, ["scored"])
        found: dict[int, set[int]] = {number: set() for number in range(PARTITIONS)}
        for message, _ in messages_of(log.records):
            found[message.partition].update(message.offset.tolist())
        return found

    def check(self) -> Counter[str]:
        """Wait until everything is settled, stop the workers, and compare."""
        self.end_load()
        oracle = self.due()
        wanted = sum(len(part.rows) for n, part in enumerate(oracle) if f"joiner-{n}" not in self.exempt)
        self.say(f"all sent: {wanted} verdicts are due")
        broker, topics, settings = self.deployment.broker, self.topics, parse_models(models_file(self.times))
        settle(broker, topics, wanted, exempt=self.exempt, within=self._settled, alive=self._alive)
        try:
            updates = learn(broker, topics, settings, exempt=self.exempt)
        except AssertionError:
            # Where verdicts are wrong, what should follow from them may never come: that is said first.
            checks.verdicts(broker, topics, oracle, exempt=self.exempt)
            raise
        for worker in self.workers:
            if worker.alone and "ending (" in worker.said:  # it may take a while to leave
                self.until_ended(worker, 1)
            if worker.exit_code is None:
                self.stop(worker)
            elif not (worker.killed or worker.alone):
                assert worker.exit_code == 0, f"{worker.name} ended by itself with {worker.exit_code}"
            if not worker.supervised:
                self._had_reason(worker)
        compared = checks.check(broker, topics, settings, oracle, updates=updates, exempt=self.exempt)
        self.say("as it must be: " + ", ".join(f"{count} {what}" for what, count in sorted(compared.items())))
        self.compared = compared
        return compared

    @staticmethod
    def _had_reason(worker: Process) -> None:
        """Make sure that a worker did not end for what would be a bug of its own."""
        for line in worker.said.splitlines():
            bad = "ending (stuck)" in line or ("ending (failed)" in line and "cannot take over" not in line)
            assert not bad, f"{worker.name}: {line}"

    def _alive(self) -> bool:
        return any(worker.exit_code is None for worker in self.workers)


def _ready_or_ended(worker: Process) -> Callable[[], bool]:
    return lambda: worker.ready() or (worker.exit_code is not None and not worker.killed)
