"""What a soak shows: findings on memory, lag, checkpoints, files and threads, and on the balance of verdicts.

Only what lies after the warm-up counts. A process is judged by itself, if it lived through half of that: one that was
started anew has a warm-up of its own. *Calm* is the last quarter of the time between two restarts, and before the end.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import isfinite
from statistics import median
from typing import Any

from tests.soak.run import Soak
from tests.soak.trend import Trend, trend

LONGEST_LAG = 60.0
"""Seconds of load that may ever be unread: what piles up while a worker is away, and its take-over."""
CALM_LAG = 12.0
"""Seconds of load that may be unread in calm: an outcome's delay, commits that wait behind a backlog."""
TELLING = 300.0
"""Seconds from which a slope says something: in less, a worker that takes over what another had looks like a leak."""
SOON = 1.0
"""What memory may rise by in less: in the first take-over that counts it rose by 5 % and by 42 %."""
UNTOLD = 0.05
"""What it may rise by where the series is too much like a random walk for an interval."""
GROWN = 1.25
"""Times the largest of the first half that a checkpoint may be in the second."""
GROWN_SOON = 2.0
"""The same in a short run: what baselines know is of more than a minute, and at first there is less."""
SPARE_BYTES, SPARE_ENTRIES = 1 << 20, 200
"""What it may be larger in any case: entries that the next commits take away."""
SPARE_FILES, SPARE_THREADS = 6, 2
"""Connections and helpers that come and go: a consumer of the learner's, a page that is being asked for."""
SPARE_SOON = 40
"""Files, in a short run: in a few calm seconds a learner may be at work all the time, each model with its consumer."""
SLOWEST_SCRAPE = 10.0
"""Seconds after which Prometheus, left alone, gives up."""
SENT = 0.95
"""Of the load that was wanted."""
HOUR = 3600.0

Sample = dict[str, Any]


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at."""

    what: str
    holds: bool | None
    """None: too little was seen to say."""
    found: str


@dataclass(frozen=True)
class Life:
    """What one process used, after the warm-up."""

    name: str
    at: list[float]
    values: dict[str, list[float]]


def judge(soak: Soak) -> list[Finding]:
    """Return every finding, also those that nothing can be said about."""
    counted = [sample for sample in soak.samples if sample["at"] >= soak.warm_up]
    if len(counted) < 10:
        findings = [Finding("everything", None, f"{len(counted)} samples after the warm-up of {soak.warm_up:.0f} s")]
        return [*findings, _balance(soak), _undisturbed(soak)]
    calm = [sample for sample in counted if any(low <= sample["at"] <= high for low, high in calms(soak))]
    lives = list(lasting(soak))
    return [
        *_memory(lives),
        *_lag(soak, counted, calm),
        *_checkpoints(counted),
        *_steady(lives, calm, "fds", "file descriptors", SPARE_FILES),
        *_steady(lives, calm, "threads", "threads", SPARE_THREADS),
        _scrapes(counted),
        _load(soak),
        _drifts(counted),
        _balance(soak),
        _undisturbed(soak),
    ]


def calms(soak: Soak) -> list[tuple[float, float]]:
    """Return when it was calm."""
    starts = [event["at"] for event in soak.events]
    ends = [*starts[1:], soak.ended]
    return [(start + 0.75 * (end - start), end) for start, end in zip(starts, ends, strict=True)]


def lasting(soak: Soak) -> Iterator[Life]:
    """Yield the processes that lived through half of what counts, as far as it counts."""
    found: dict[int, list[tuple[float, Sample]]] = defaultdict(list)
    for sample in soak.samples:
        for worker in sample["workers"]:
            found[worker["pid"]].append((sample["at"], worker))
    for number, (_, seen) in enumerate(sorted(found.items(), key=lambda item: item[1][0][0])):
        born = seen[0][0]
        late = born > FIRST_SEEN
        rows = [(at, worker) for at, worker in seen if at >= (born + soak.warm_up if late else soak.warm_up)]
        if rows and rows[-1][0] - rows[0][0] >= (soak.ended - soak.warm_up) / 2:
            values = {name: [float(worker[name]) for _, worker in rows] for name in ("rss", "fds", "threads")}
            yield Life(f"worker {seen[0][1]['worker']} (process {number})", [at for at, _ in rows], values)


FIRST_SEEN = 5.0
"""Seconds: who is seen by then has been there from the start."""


def _memory(lives: Sequence[Life]) -> Iterator[Finding]:
    if not lives:
        yield Finding("memory", None, "no process lived long enough")
    for life in lives:
        what = f"memory of {life.name}: no slope"
        try:
            slope = trend(life.at, life.values["rss"])
        except ValueError as error:
            yield Finding(what, None, str(error))
            continue
        middle, span = median(life.values["rss"]), life.at[-1] - life.at[0]
        rise = slope.slope * span / middle
        # Where no interval can be given, a large rise is no proof of anything, but a small one is no leak to speak of.
        holds: bool | None = not slope.grows if isfinite(slope.low) else rise <= UNTOLD or None
        if span < TELLING:
            what, holds = f"memory of {life.name}: not doubled", rise <= SOON
        yield Finding(what, holds, f"{middle / 2**20:.0f} MiB, {_told(slope)}; {rise:+.1%} in all")


def _told(slope: Trend) -> str:
    """Return a slope of bytes a second for people."""
    each = HOUR / 2**20
    if not isfinite(slope.low):
        return (
            f"{slope.slope * each:+.1f} MiB an hour, but it moves like a random walk"
            f" (variance x {slope.inflation:.0f}): no interval"
        )
    return (
        f"{slope.slope * each:+.1f} MiB an hour (99 %: {slope.low * each:+.1f} to {slope.high * each:+.1f};"
        f" {slope.blocks} blocks, variance x {slope.inflation:.1f} for autocorrelation)"
    )


def _lag(soak: Soak, counted: Sequence[Sample], calm: Sequence[Sample]) -> Iterator[Finding]:
    span = counted[-1]["at"] - counted[0]["at"]
    messages = max((counted[-1]["scored"] - counted[0]["scored"]) / max(span, 1.0), 1.0)
    ways: tuple[tuple[str, Callable[[Sample], float]], ...] = (
        ("predictions without verdict", lambda sample: unresolved(sample) / sample["rate"]),
        ("rows that no monitor has taken", lambda sample: sample["lag"]["scored"] / messages),
    )
    for what, seconds in ways:
        worst = max(map(seconds, counted))
        rest = median(map(seconds, calm)) if calm else None
        holds = worst <= LONGEST_LAG and rest is not None and rest <= CALM_LAG
        found = f"at most {worst:.1f} s of load, in calm {'?' if rest is None else f'{rest:.1f}'} s"
        yield Finding(f"lag bounded: {what}", holds if calm or not holds else None, found)


def unresolved(sample: Sample) -> int:
    """Return how many predictions had no verdict."""
    return int(sample["predictions"] - sample["verdicts"])


def _checkpoints(counted: Sequence[Sample]) -> Iterator[Finding]:
    middle = (counted[0]["at"] + counted[-1]["at"]) / 2
    grown = GROWN if counted[-1]["at"] - counted[0]["at"] >= TELLING else GROWN_SOON
    for role in counted[0]["live"]:
        entries, size = (
            [
                max(sample["live"][role][place] for sample in counted if (sample["at"] < middle) is first)
                for first in (True, False)
            ]
            for place in (0, 1)
        )
        holds = entries[1] <= grown * entries[0] + SPARE_ENTRIES and size[1] <= grown * size[0] + SPARE_BYTES
        found = (
            f"at most {entries[0]:,} entries of {size[0] / 2**20:.2f} MiB in the first half,"
            f" {entries[1]:,} of {size[1] / 2**20:.2f} MiB in the second"
        )
        yield Finding(f"checkpoint of the {role} bounded", holds, found)


def _steady(lives: Sequence[Life], calm: Sequence[Sample], name: str, called: str, spare: int) -> Iterator[Finding]:
    moments = {sample["at"] for sample in calm}
    for life in lives:
        values = [value for at, value in zip(life.at, life.values[name], strict=True) if at in moments]
        if len(values) < 4:
            yield Finding(f"{called} of {life.name} constant", None, "it was never calm")
            continue
        allowed = SPARE_SOON if name == "fds" and life.at[-1] - life.at[0] < TELLING else spare
        # What comes and goes moves the most that is ever held; what is never given back, also the least.
        third = len(values) // 3
        first, last = min(values[:third]), min(values[-third:])
        found = (
            f"at least {first:.0f}, then {last:.0f} in calm;"
            f" {min(life.values[name]):.0f} to {max(life.values[name]):.0f} at all times"
        )
        yield Finding(f"{called} of {life.name}: none is kept", last - first <= allowed, found)


def _scrapes(counted: Sequence[Sample]) -> Finding:
    seconds = [worker["scrape"] for sample in counted for worker in sample["workers"] if "scrape" in worker]
    what = f"metrics within {SLOWEST_SCRAPE:g} s"
    if not seconds:
        return Finding(what, None, "no worker ever answered")
    return Finding(
        what, max(seconds) <= SLOWEST_SCRAPE, f"half within {median(seconds):.1f} s, all within {max(seconds):.1f} s"
    )


def _load(soak: Soak) -> Finding:
    wanted, sent = soak.samples[-1]["due"], soak.samples[-1]["sent"]
    rates = [sample["rate"] for sample in soak.samples]
    found = f"{sent:,} predictions of {wanted:,.0f}, {soak.rate:,.0f} a second"
    if soak.capacity:
        found += f" = {soak.rate / soak.capacity:.0%} of {soak.capacity:,.0f}"
    if min(rates) < max(rates):
        found += f"; {min(rates):,.0f} to {max(rates):,.0f} as the machine's speed changed"
    return Finding("the load was sent", sent >= SENT * wanted, found)


def _drifts(counted: Sequence[Sample]) -> Finding:
    counts = {name: counted[-1]["counted"][name] for name in ("signals", "retrain", "model-updates")}
    found = ", ".join(f"{count:,} {name}" for name, count in counts.items())
    return Finding("drifts led to retrain requests, and these to answers", min(counts.values()) > 0, found)


def _balance(soak: Soak) -> Finding:
    what = "each prediction has one verdict"
    if soak.balance is None:
        return Finding(what, None, "the end was not waited for")
    of = soak.balance
    found = ", ".join(f"{of[name]:,} {name}" for name in ("predictions", "verdicts", "doubled", "missing"))
    holds = of["predictions"] == of["verdicts"] and not of["doubled"] and not of["missing"]
    return Finding(what, holds, f"{found}, {of['dead-letters']:,} dead letters")


def _undisturbed(soak: Soak) -> Finding:
    parked = sum(worker.get("parked", 0) > 0 for sample in soak.samples for worker in sample["workers"])
    problems = [*soak.problems, *([f"tasks were parked in {parked} samples"] if parked else [])]
    kinds = ", ".join(f"{event['kind']} at {event['at']:.0f} s" for event in soak.events) or "none"
    return Finding(
        "nothing else ended, failed or was parked",
        not problems,
        "; ".join(problems) or f"restarts: {kinds}; fenced or aborted by itself: {soak.fenced}",
    )
