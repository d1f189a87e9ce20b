"""Runs of scenarios, one after the other or some at a time, each on a broker that its process keeps."""

import contextlib
import multiprocessing
import threading
import time
import traceback
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import asdict, dataclass, field
from types import TracebackType
from typing import Any, Self

from tests.faults.broker import Broker, Cluster
from tests.faults.run import SETTLED, Run
from tests.faults.scenarios import SCENARIOS


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One run that is wanted."""

    scenario: str
    seed: int = 1
    long: bool = False
    scale: float = 1.0
    mutant: str | None = None
    settled: float = SETTLED

    def __str__(self) -> str:
        """Return what it takes to run it again."""
        words = [f"--scenario {self.scenario} --seed {self.seed}"]
        words += ["--long"] if self.long else []
        words += [f"--scale {self.scale:g}"] if self.scale != 1 else []
        words += [f"--mutant {self.mutant}"] if self.mutant else []
        return " ".join(words)


@dataclass(slots=True, kw_only=True)
class Result:
    """What came of a run."""

    job: Job
    held: bool = False
    finding: str = ""
    """What did not hold."""
    seconds: float = 0.0
    compared: dict[str, int] = field(default_factory=dict)
    """How much of each kind was compared."""
    confirmed: dict[str, int] = field(default_factory=dict)
    """What the scenario has made sure of."""
    story: list[str] = field(default_factory=list)
    """Its steps, and what workers said at last if it did not hold."""

    def brief(self) -> dict[str, Any]:
        """Return it for a file, without the story."""
        brief = {**asdict(self.job), **asdict(self)}
        return {name: value for name, value in brief.items() if name not in ("job", "story")}


class Brokers:
    """Those of one process, started when they are first needed."""

    def __init__(self) -> None:
        self._one: Broker | None = None
        self._three: Cluster | None = None

    def get(self, *, cluster: bool) -> Broker | Cluster:
        """Return a running broker, or three."""
        if cluster:
            if self._three is None:
                self._three = Cluster().__enter__()
            return self._three
        if self._one is None:
            self._one = Broker().__enter__()
        return self._one

    def close(self) -> None:
        """Stop them all."""
        for each in (self._one, self._three):
            if each is not None:
                each.__exit__()
        self._one = self._three = None


def play(job: Job, brokers: Brokers) -> Result:
    """Run a scenario once."""
    scenario = SCENARIOS[job.scenario]
    result = Result(job=job)
    began = time.monotonic()
    try:
        run = Run(
            brokers.get(cluster=scenario.cluster),
            job.seed,
            echo=result.story.append,
            long=job.long,
            scale=job.scale,
            mutant=job.mutant,
            times=scenario.times_of,
            settled=job.settled,
            environ=scenario.environ,
        )
        with run:
            scenario.play(run)
            compared = run.compared or run.check()
            result.compared, result.confirmed = dict(compared), dict(run.confirmed)
            missing = [what for what in scenario.shows if not compared[what]]
            assert not missing, f"nothing of this kind to compare: {missing}"
        result.held = True
    except AssertionError as error:
        result.finding = str(error)
    except Exception as error:  # all of them are to be counted
        result.finding = repr(error)
        result.story.append(traceback.format_exc())
        with contextlib.suppress(Exception):
            brokers.close()  # it may be the broker
    result.seconds = round(time.monotonic() - began, 1)
    return result


class Crew:
    """Processes that run jobs, each with brokers of its own.

    Args:
        size: How many.
    """

    def __init__(self, size: int) -> None:
        context = multiprocessing.get_context("spawn")
        self._inbox: Any = context.Queue()
        self._outbox: Any = context.Queue()
        self._futures: dict[int, Future[Result]] = {}
        self._processes = [context.Process(target=_serve, args=(self._inbox, self._outbox)) for _ in range(size)]
        self._collector = threading.Thread(target=self._collect, daemon=True)

    def __enter__(self) -> Self:
        for process in self._processes:
            process.start()
        self._collector.start()
        return self

    def submit(self, job: Job) -> "Future[Result]":
        """Have a job done."""
        number = len(self._futures)
        self._futures[number] = Future()
        self._inbox.put((number, job))
        return self._futures[number]

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        """Drop what was not begun, and wait for the rest."""
        with contextlib.suppress(Exception):
            while True:
                self._inbox.get_nowait()
        for _process in self._processes:
            self._inbox.put(None)
        for process in self._processes:
            process.join()
        self._outbox.put(None)
        self._collector.join()

    def _collect(self) -> None:
        for number, result in iter(self._outbox.get, None):
            self._futures[number].set_result(result)


def _serve(inbox: Any, outbox: Any) -> None:
    brokers = Brokers()
    try:
        for number, job in _wanted(inbox):
            outbox.put((number, play(job, brokers)))
    finally:
        brokers.close()


def _wanted(inbox: Any) -> Iterator[tuple[int, Job]]:
    with contextlib.suppress(KeyboardInterrupt):
        yield from iter(inbox.get, None)
