"""What is only looked at: sums, scores, baselines and windows of one model's groups, brought up to date when asked for.

Nothing here makes a signal. So rows wait until there are many, or somebody looks: a thousand rows of ten messages cost
little more than those of one. When that happens changes nothing, to the bit.
"""

from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from streamapp.core import quantiles, scores
from streamapp.core.baselines import Baselines
from streamapp.core.events import Floats
from streamapp.core.losses import ANSWER, HARD, TRUTH, fill
from streamapp.core.monitoring import contest
from streamapp.core.monitoring.asked import Asked
from streamapp.core.monitoring.findings import telling
from streamapp.core.monitoring.group import LOWEST_BIN, Group
from streamapp.core.monitoring.judging import Classes
from streamapp.core.monitoring.members import Members
from streamapp.core.monitoring.rows import ByGroup, Carry, Rows, gaps, join, names_at
from streamapp.core.monitoring.unjudged import Unjudged
from streamapp.core.settings import ModelSettings, Task

WAIT: Final = 2048
"""Rows that wait at most: after so many, what each call costs is little beside what the rows do."""
SLACK: Final = 60.0
"""Seconds beyond window, grace and memory of ids for which known outcomes are kept."""
STEP: Final = 10.0
"""Seconds of log time after which it is looked again at what can be forgotten: each look settles what waits."""


class Note(NamedTuple):
    """What the retrain policy of a group hears of a message."""

    number: int
    """Of the group."""
    rows: int
    first: float
    """Lowest event time."""
    last: float
    """Highest event time."""
    losses: float
    """Sum."""

    def tell(self, groups: Sequence[Group], offset: int) -> None:
        """Let it hear."""
        group = groups[self.number]
        group.policy.rows(offset, self.rows, self.first, self.last, self.losses, group.version)


class Books:
    """Sums, scores, baselines and windows of the groups of one model.

    Args:
        settings: The model's.
        members: The model's groups; whoever drops one settles before.
        classes: The model's.
        ticked: Log time at the newest tick so far, as if :meth:`trim` had been told; None before the first one.
    """

    def __init__(self, settings: ModelSettings, members: Members, classes: Classes, ticked: float | None) -> None:
        self._settings = settings
        self._members = members
        self._classes = classes
        self.baselines: Baselines | None = None
        """There once the task is known."""
        self._task: Task | None = None
        self._horizon = -np.inf if ticked is None else self._horizon_at(ticked)
        """Log time that no question is about any more."""
        self._waiting: list[tuple[Rows, Floats]] = []
        self._rows = 0
        self._announced = False
        self._oldest = np.inf
        """Lowest log time of an outcome that was announced and has not been settled."""
        self._serial = False
        """Some of those belong to time series."""

    def begin(self, task: Task) -> None:
        """Learn what the rows are about, before the first of them."""
        self._task = task
        self.baselines = Baselines(task, self._settings, self._horizon)

    def announce(self, rows: Unjudged) -> None:
        """Hear of rows that will be added."""
        self._announced = True
        self._oldest = min(self._oldest, float(np.minimum.reduce(rows.known)))
        self._serial |= bool(rows.series.words)

    def add(self, rows: Rows, losses: Floats) -> None:
        """Take rows that were announced, of groups that have a loss and of versions that have answered before.

        Args:
            rows: The rows.
            losses: Configured losses, nan where there is none.
        """
        self._waiting.append((rows, losses))
        self._rows += len(rows)
        if self._rows >= WAIT:
            self.settle()

    def must_settle(self, now: float) -> bool:
        """Tell whether rows must be added, and what waits be settled, before :meth:`trim`."""
        if self.baselines is None or not self._announced:
            return False
        horizon = self._horizon_at(now)
        # Where this says no, trimming before them is the same as trimming after them.
        serial = self._serial and horizon != self._horizon
        return serial or not self._oldest >= horizon or self.baselines.would_trim(horizon)

    def trim(self, now: float) -> bool:
        """Forget what no prediction can ask any more, at a log time of *now*; return whether there was something."""
        self._horizon = self._horizon_at(now)
        return self.baselines is not None and self.baselines.trim(self._horizon)

    def _horizon_at(self, now: float) -> float:
        settings = self._settings
        horizon = now - (settings.outcome_window + settings.grace + settings.remember + SLACK)
        return horizon // STEP * STEP

    def settle(self) -> None:
        """Bring everything up to date."""
        if not self._waiting:
            return
        waiting, self._waiting = self._waiting, []
        self._rows, self._announced, self._oldest, self._serial = 0, False, np.inf, False
        rows = join([rows for rows, _ in waiting])
        losses = waiting[0][1] if len(waiting) == 1 else np.concatenate([losses for _, losses in waiting])
        groups = self._members.order
        for offset, message in zip(rows.offsets, notes(rows, losses, len(groups)), strict=True):
            for note in message:
                note.tell(groups, offset)
        self.enter(rows, losses, tallied=False)

    def enter(self, rows: Rows, losses: Floats, *, tallied: bool) -> None:
        """Take rows at once, where nothing waits and the policies have heard of them.

        Args:
            rows: The rows.
            losses: Configured losses, nan where there is none.
            tallied: Whether they are counted by version already.
        """
        assert self._task is not None
        assert self.baselines is not None
        fill(self._task, rows.block)
        groups = self._members.order
        by_group = ByGroup(rows.group, len(groups))
        if not tallied:
            _tally(groups, by_group, rows, losses)
        seconds = np.maximum(rows.outcome_ts - rows.ts, 0.0)
        delays(groups, by_group, seconds, rows.came)
        latest = by_group.reduce(np.maximum, by_group.sorted(np.fmax(rows.log_time, rows.known)))
        for number, log_time in zip(by_group.present, latest, strict=True):
            groups[number].heard(log_time)
        block = rows.block
        incumbent = np.full(len(rows), np.nan)
        # A group is its own incumbent, and losses of two kinds do not compare.
        control = self._members.control
        loss = None if control is None else control.loss
        challenging = [group is not control and loss is not None and group.loss == loss for group in groups]
        challenges = np.array(challenging).take(rows.group)
        if control is not None:
            own = rows.group == groups.index(control)
            incumbent[own] = losses[own]
            challenges &= np.logical_not(np.isnan(losses))
        lost = self.baselines.judge(
            Asked(
                time=rows.log_time,
                truth=block[TRUTH],
                scored=block[TRUTH] if rows.fit else np.where(np.isnan(block[ANSWER]), np.nan, block[TRUTH]),
                known=rows.known,
                ids=rows.ids,
                series=rows.series,
                incumbent=incumbent,
                challenges=challenges,
            ),
            self._classes,
        )
        self._score(groups, by_group, rows, losses, lost)

    def _score(self, groups: list[Group], by_group: ByGroup, rows: Rows, losses: Floats, lost: Floats) -> None:
        """Score the rows of the groups that have a loss."""
        begun = [number for number in by_group.present if groups[number].loss is not None]
        if not begun:
            return
        for number, part in by_group.slices():
            if number in begun:
                groups[number].look(rows, by_group.rows(part))
        for loss in dict.fromkeys(groups[number].loss for number in begun):
            members = [number for number in begun if groups[number].loss == loss]
            own, block, lost_to, theirs = by_group, rows.block, losses, lost
            if len(members) < len(groups):
                place = np.full(len(groups), -1)
                place[members] = np.arange(len(members))
                group = place.take(rows.group)
                if len(members) < len(by_group.present):
                    chosen = np.flatnonzero(group >= 0)
                    group, block, lost_to, theirs = group[chosen], block[:, chosen], losses[chosen], lost[:, chosen]
                own = ByGroup(group, len(members))
            parts = [begin for number in members if (begin := groups[number].begun) is not None]
            scores.add_rows([one.scores for one in parts], own, block)
            contest.add_rows([one.contest for one in parts], own, theirs, block[HARD], lost_to)


def notes(rows: Rows, losses: Floats, groups: int) -> list[list[Note]]:
    """Return what the policies hear, by message: of the rows that tell something of the version that answers."""
    messages = len(rows.ends)
    keys, ts, told = rows.group, rows.ts, telling(rows, losses)
    if messages > 1:
        sizes = [end - start for start, end in zip((0, *rows.ends), rows.ends, strict=False)]
        keys = keys + np.arange(0, messages * groups, groups).repeat(sizes)
    if not np.logical_and.reduce(told):
        keys, ts, losses = keys[told], ts[told], losses[told]
    found: list[list[Note]] = [[] for _ in range(messages)]
    if len(keys):
        by_key = ByGroup(keys, messages * groups)
        ts = by_key.sorted(ts)
        first, last = by_key.reduce(np.minimum, ts), by_key.reduce(np.maximum, ts)
        sums = by_key.reduce(np.add, by_key.sorted(losses))
        for place, key in enumerate(by_key.present):
            note = Note(key % groups, by_key.counts[key], first[place], last[place], sums[place])
            found[key // groups].append(note)
    return found


def delays(groups: list[Group], by_group: ByGroup, seconds: Floats, came: NDArray[np.bool_] | None) -> None:
    """Count how long after the prediction outcomes came.

    Args:
        groups: By number.
        by_group: The rows' groups.
        seconds: Of each row, shape (n,).
        came: Whether the outcome ever came, likewise; None: all did.
    """
    if came is not None:
        by_group, seconds = ByGroup(by_group.group[came], len(groups)), seconds[came]
    if not by_group.present:
        return
    bins = by_group.sorted(np.maximum(quantiles.bins(seconds) - LOWEST_BIN, 0))
    sums = Carry(by_group).on(np.array([[one.delay_sum for one in groups]]), [seconds])[0].tolist()
    for number, part in by_group.slices():
        groups[number].delay(np.bincount(bins[part]), sums[number])


def _tally(groups: list[Group], by_group: ByGroup, rows: Rows, losses: Floats) -> None:
    """Count rows for the versions that they name."""
    if rows.older is not None:
        for number, part in by_group.slices():
            own = by_group.rows(part)
            groups[number].versions.add(names_at(rows.version, own), rows.ts[own], losses[own])
        return
    ts, named = rows.ts, rows.version.code >= 0
    if not np.logical_and.reduce(named):
        by_group, ts, losses = ByGroup(rows.group[named], len(groups)), ts[named], losses[named]
    if not by_group.present:
        return
    tallies = {
        number: groups[number].versions.tally(version)
        for number in by_group.present
        if (version := groups[number].version) is not None
    }
    carry = Carry(by_group)
    values, counts = carry.without(losses, gaps(losses))
    before = [tallies[number].loss_sum if number in tallies else 0.0 for number in range(len(groups))]
    sums = carry.on(np.array([before]), [values])[0].tolist()
    ts = by_group.sorted(ts)
    first, last = by_group.reduce(np.minimum, ts), by_group.reduce(np.maximum, ts)
    for place, (number, tally) in enumerate(tallies.items()):
        tally.rows += by_group.counts[number]
        tally.loss_sum = sums[number]
        tally.losses += int(counts[number])
        tally.first = min(tally.first, first[place])
        tally.last = max(tally.last, last[place])
