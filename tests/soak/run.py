"""A soak: how much can be done, then most of that for as long as is asked, with restarts, watched once a second."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from benchmarks.report import machine
from tests.soak.pacing import Pacing
from tests.soak.stage import Size, Stage

SHARE = 0.8
"""Of the capacity."""
SECOND = 1.0
TELL = 10.0
"""Seconds between two lines on the progress, in a short run."""
FIRST_RESTART = 10.0
"""Seconds after the start: within the warm-up, so that each process has held everybody's tasks before it counts."""
PATIENCE = 90.0
FULL = 3000
"""Rows of a model after which its state is as large as it will be: windows, references, what baselines know."""
MEASURED = 0.9
"""The part of the backlog that the capacity is measured on: after it partitions run dry one by one."""
ANSWERED = 0.9
"""Of the requests for training, likewise."""
SHORTEST_PERIOD, LONGEST_PERIOD = 60.0, 300.0

Say = Callable[[str], None]


@dataclass
class Soak:
    """What was done and seen; all times are seconds since the load began."""

    minutes: float
    rate: float = 0.0
    """Predictions a second, while the machine is as fast as it was when the capacity was measured."""
    capacity: float | None = None
    """The most of these, with their outcomes."""
    size: Size = field(default_factory=Size)
    warm_up: float = 0.0
    machine: dict[str, Any] = field(default_factory=machine)
    samples: list[dict[str, Any]] = field(default_factory=list)
    events: list[dict[str, Any]] = field(default_factory=list)
    """Restarts: when, how, and which worker."""
    ended: float = 0.0
    """When the load ended."""
    interrupted: bool = False
    balance: dict[str, int] | None = None
    """Of the end, when everything that waited was over; None where that was not waited for."""
    fenced: int = 0
    """How often a worker ended by itself, fenced or with an aborted commit, and came back."""
    problems: list[str] = field(default_factory=list)


def period(minutes: float) -> float:
    """Return the seconds from one restart to the next."""
    return min(max(SHORTEST_PERIOD, 60 * minutes / 12), LONGEST_PERIOD)


def warm_up(minutes: float) -> float:
    """Return the seconds that do not count.

    A third, after which the newest events of each model are as many as are kept; in a short run a minute, in which the
    first restart lies and each model has drifted. Never more than half.
    """
    return min(max(60.0, 20 * minutes), 30 * minutes)


def soak(broker: str, minutes: float, size: Size, say: Say, *, rate: float | None = None, share: float = SHARE) -> Soak:
    """Run, and return what was seen: also where it was interrupted.

    Args:
        broker: ``host:port``.
        minutes: How long the load lasts.
        size: Of the deployment.
        say: Told of progress.
        rate: Predictions a second; None: a share of the capacity.
        share: That share.
    """
    result = Soak(minutes, warm_up=warm_up(minutes), size=size)
    with Stage(broker, size) as stage:
        try:
            result.capacity = fill(stage, FULL * size.models, say, learned=rate is None)
            result.rate = share * result.capacity if rate is None else rate
            say(f"capacity: {result.capacity:,.0f} predictions a second with their outcomes")
            say(f"{result.rate:,.0f} a second for {minutes:g} minutes, the first {result.warm_up:.0f} s to warm up")
            _watch(stage, result, say, stage.speed.factor if rate is None else None)
        except KeyboardInterrupt:
            result.interrupted = True
            say("interrupted: waiting for what is on its way (once more to leave at once)")
        except Exception as error:  # what was seen until then is not to be lost
            result.problems.append(f"the soak itself failed: {error}")
        try:
            _settle(stage, result, say)
        except KeyboardInterrupt:
            result.interrupted = True
        except Exception as error:
            result.problems.append(f"the end could not be waited for: {error}")
        for member in stage.members:
            bugs, reasons = member.endings()
            result.problems += [f"worker {member.number}: {line[:240]}" for line in bugs[:5]]
            result.fenced += reasons
    return result


def fill(stage: Stage, backlog: int, say: Say, *, learned: bool) -> float:
    """Return how many predictions a second, with their outcomes, workers get through while there is no end of them.

    It is a backlog, written before they start, of the same load as what comes later. What counts are verdicts that a
    monitor has taken, and the time until the requests for training that followed have been answered too. Afterwards
    what grows with a model's rows is as large as it will be.

    Args:
        stage: Where.
        backlog: Predictions.
        say: Told of progress.
        learned: Whether to wait for the requests too.
    """
    say(f"writing a backlog of {backlog:,} predictions and their outcomes")
    load = stage.start_load(backlog)
    _until(lambda: stage.ledger.state()["predictions"] >= backlog or not load.running, "the backlog is written", stage)
    stage.start_workers()
    began, first, done, ready = None, 0, 0.0, False
    before: Any = None
    moved = told = time.monotonic()
    while done < MEASURED * backlog or not ready:
        now, state = time.monotonic(), stage.ledger.state()
        done, ready = taken(state), not learned or answered(state)
        if began is None and state["verdicts"]:
            began, first = now, stage.speed.probes
        if (done, state["counted"]) != before:
            before, moved = (done, state["counted"]), now
        if now - told >= TELL:
            told = now
            say(f"{done:,.0f} of the backlog are worked off")
        _check(stage)
        if not load.running or now - moved > PATIENCE:
            raise RuntimeError(f"the backlog is not worked off: {done:,.0f} of {backlog:,} for {now - moved:.0f} s")
        time.sleep(0.25)
    for member in stage.members:
        _until(member.ready, f"worker {member.number} is ready", stage)
    assert began is not None
    stage.speed.mark(first)
    return done / max(moved - began, 0.1)


def taken(state: dict[str, Any]) -> float:
    """Return how many verdicts a monitor has taken, of what a ledger has read."""
    return float(state["verdicts"] * (1 - state["lag"]["scored"] / max(state["scored"], 1)))


def answered(state: dict[str, Any]) -> bool:
    """Tell whether most requests for training that a ledger has read have been answered."""
    counted = state["counted"]
    return bool(counted["model-updates"] >= ANSWERED * counted["retrain"])


def _watch(stage: Stage, result: Soak, say: Say, speed: Callable[[], float] | None) -> None:
    """Load the workers, restart one now and then, and look once a second."""
    load = stage.load
    assert load is not None
    before = load.said["predictions"]
    pacing = Pacing(result.rate, speed, load.go_on)
    began = time.monotonic()
    restarts = _restarts(result.minutes)
    due, kind = next(restarts)
    told = 0.0
    try:
        while (now := time.monotonic() - began) < 60 * result.minutes:
            if now >= due:
                _restart(stage, result, now, kind, say)
                due, kind = next(restarts)
            pacing.step(now)
            asked = {"rate": round(pacing.rate, 1), "due": round(pacing.due)}
            sample = {"at": round(time.monotonic() - began, 2), **asked, **look(stage)}
            sample["sent"] -= before
            result.samples.append(sample)
            if now - told >= max(TELL, 0.6 * result.minutes):
                told = now
                say(_line(sample))
            if not load.running:
                raise RuntimeError(f"the load ended: {load.end()}")
            _check(stage)
            time.sleep(max(0.0, SECOND - (time.monotonic() - began - now)))
    finally:
        result.ended = time.monotonic() - began


def look(stage: Stage) -> dict[str, Any]:
    """Return how everything is now."""
    assert stage.load is not None
    workers = [found for member in stage.members if (found := member.sample()) is not None]
    return {**stage.ledger.state(), "sent": stage.load.said["predictions"], "workers": workers}


def _restarts(minutes: float) -> Iterator[tuple[float, str]]:
    """Yield when the last worker is restarted, and how."""
    at = FIRST_RESTART
    while True:
        for kind in ("kill -9", "in order"):
            yield at, kind
            at += period(minutes)


def _restart(stage: Stage, result: Soak, now: float, kind: str, say: Say) -> None:
    member = stage.members[-1]
    say(f"{now:7.0f} s  restart of worker {member.number}: {kind}")
    result.events.append({"at": round(now, 1), "kind": kind, "worker": member.number})
    if kind == "kill -9":
        member.kill()
    elif code := member.restart():
        result.problems.append(f"worker {member.number} ended with {code} after SIGTERM")


def _settle(stage: Stage, result: Soak, say: Say) -> None:
    """End the load, wait until everything has its verdict, and see whether there is one for each."""
    if stage.load is not None:
        result.problems += stage.load.end()
    moved, before = time.monotonic(), -1
    while True:
        found = stage.ledger.balance()
        if found["verdicts"] > before:
            moved, before = time.monotonic(), found["verdicts"]
        if found["verdicts"] >= found["predictions"] or time.monotonic() - moved > PATIENCE:
            break
        time.sleep(SECOND)
    time.sleep(SECOND)  # what comes twice may come after that
    result.balance = {**stage.ledger.balance(), **look(stage)["counted"]}
    say(", ".join(f"{name} {value:,}" for name, value in result.balance.items()))


def _check(stage: Stage) -> None:
    if stage.ledger.error is not None:
        raise RuntimeError("the topics cannot be read") from stage.ledger.error


def _until(done: Callable[[], object], what: str, stage: Stage) -> None:
    end = time.monotonic() + PATIENCE
    while not done():
        _check(stage)
        if time.monotonic() > end:
            logs = "\n".join(member.said()[-2000:] for member in stage.members)
            raise RuntimeError(f"not within {PATIENCE:g} s: {what}\n{logs}")
        time.sleep(0.1)


def _line(sample: dict[str, Any]) -> str:
    """Return a sample for people."""
    memory = " + ".join(f"{worker['rss'] / 2**20:.0f}" for worker in sample["workers"])
    live = sum(size for _, size in sample["live"].values())
    lag = " ".join(f"{name} {count:,}" for name, count in sample["lag"].items())
    counted = " ".join(f"{name} {count:,}" for name, count in sample["counted"].items() if count)
    return (
        f"{sample['at']:7.0f} s  {sample['predictions']:,} predictions, {sample['verdicts']:,} verdicts,"
        f" lag {lag}, memory {memory} MiB, checkpoints {live / 2**20:.1f} MiB, {counted}"
    )
