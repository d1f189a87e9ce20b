"""One model: the one way in for its rows."""

from collections.abc import Mapping
from functools import partial
from typing import Any
from urllib.parse import quote

import msgspec
import numpy as np
from msgspec import Struct

from streamapp.core import quantiles
from streamapp.core.baselines import Asked, Baselines
from streamapp.core.events import (
    SOURCES,
    Arrivals,
    Bytes,
    Floats,
    Ints,
    Names,
    Position,
    RetrainRequest,
    ScoredBatch,
    Signal,
    Verdict,
)
from streamapp.core.losses import ANSWER, TRUTH, choose_loss, configured, infer_task
from streamapp.core.monitoring.clock import Clock
from streamapp.core.monitoring.group import LOWEST_BIN, Complaint, Group, Rows
from streamapp.core.monitoring.judging import Classes, Judged, judge
from streamapp.core.monitoring.naming import Naming
from streamapp.core.monitoring.watch import Finding
from streamapp.core.report import ModelReport
from streamapp.core.settings import ModelSettings, Task
from streamapp.errors import CheckpointError

SLACK = 60.0
"""Seconds beyond window, grace and memory of ids for which known outcomes are kept."""
_ASSUMED = SOURCES.index("assumed")


Where = Ints | slice
"""Rows of one group among the joined ones: all of them, or their places."""


class _Head(Struct, array_like=True):
    task: Task | None
    control: str | None
    classes: tuple[str, ...]
    groups: tuple[str, ...]


class ModelMonitor:
    """Everything about one model. Rows of all its groups come in here, in one order.

    Args:
        name: Name of the model.
        settings: How it is watched.
        born: Offset of the message that brought it.
    """

    def __init__(self, name: str, settings: ModelSettings, *, born: int = 0) -> None:
        self.name = name
        self.born = born
        self.settings = settings
        self.groups: dict[str, Group] = {}
        """In the order in which they appeared."""
        self._task = settings.task
        self._classes = Classes()
        self._baselines = None if self._task is None else Baselines(self._task, settings)
        self._changed: set[str] = set()
        """Groups that have changed since :meth:`take`."""
        self._gone: set[str] = set()
        """Groups that were forgotten since then."""
        self._trimmed = False

    @property
    def control(self) -> str | None:
        """The group that others are compared with."""
        return self.settings.control if self.settings.control is not None else next(iter(self.groups), None)

    @property
    def changed(self) -> bool:
        """Whether :meth:`take` has something to say."""
        return bool(self._changed or self._gone) or self._trimmed

    def forget(self, now: float) -> list[str]:
        """Drop the groups that nothing was heard of for too long, now that log time has come to *now*; return them.

        One with predictions that wait for their verdict stays: it will be heard of.
        """
        silent = now - self.settings.forget_after
        gone = [
            name
            for name, group in self.groups.items()
            if group.updated is not None and group.updated < silent and group.pending <= 0
        ]
        for name in gone:
            del self.groups[name]
            self._changed.discard(name)
            self._gone.add(name)
        return gone

    def expect(self, other: "ModelMonitor") -> None:
        """Know of the predictions that another monitor of the same model waits for, and of nothing else."""
        for name, group in other.groups.items():
            if group.pending > 0:
                self._group(name).expect(group.pending, group.updated)
                self._changed.add(name)

    def arrive(self, arrivals: Arrivals) -> None:
        """Take what came in."""
        for part in arrivals.groups:
            self._group(part.group).arrive(part, arrivals.log_time)
            self._changed.add(part.group)

    def rows(
        self, batch: ScoredBatch, position: Position, clock: Clock, naming: Naming
    ) -> tuple[Signal | RetrainRequest, ...]:
        """Take resolved rows; return what follows, in order of row."""
        if not len(batch):
            return ()
        self._count(batch)
        joined = np.flatnonzero(batch.verdict == Verdict.JOINED)
        signals: list[Signal] = []
        if len(joined):
            groups = _by_group(batch.group, joined)
            self._delays(batch, joined, groups)
            told = self._infer(batch, joined)
            if len(told) < len(joined):
                groups = _by_group(batch.group, told)
            if len(told):
                signals = self._score(batch, told, groups, position, naming)
        return (*signals, *self.advance(position, clock, naming))

    def advance(self, position: Position, clock: Clock, naming: Naming) -> tuple[RetrainRequest, ...]:
        """Look whether it is time to ask for training."""
        if clock.now is None:
            return ()
        requests = []
        for group in self.groups.values():
            before = group.policy.deadline
            name = group.name
            request = group.policy.advance(clock.now, position, partial(naming.next, name, "retrain", "policy"))
            if request is not None:
                requests.append(msgspec.structs.replace(request, task=self._task))
            if group.policy.deadline != before:
                self._changed.add(name)
        return tuple(requests)

    def trim(self, now: float) -> None:
        """Forget what no prediction can ask any more, now that log time has come to *now*."""
        if self._baselines is not None:
            settings = self.settings
            reach = settings.outcome_window + settings.grace + settings.remember + SLACK
            self._trimmed |= self._baselines.trim(now - reach)

    def summary(self) -> dict[str, Any]:
        """Return the model's part of the summary."""
        groups = {name: group.summary(incumbent=self._challenges(name)) for name, group in self.groups.items()}
        return {"task": self._task, "groups": groups}

    def report(self, clock: Clock) -> ModelReport:
        """Return how the model stands."""
        return ModelReport(
            model=self.name,
            task=self._task,
            control=self.control,
            groups=tuple(group.report(incumbent=self._challenges(name)) for name, group in self.groups.items()),
            clock=clock.now,
        )

    def take(self) -> dict[str, bytes | None]:
        """Return the checkpoint entries that have changed since the last time, None for those to be deleted."""
        entries: dict[str, bytes | None] = {}
        for name in sorted(self._gone):
            entries[_group_key(name)] = None
        for name in sorted(self._changed):
            entries[_group_key(name)] = self.groups[name].snapshot()
        if self._baselines is not None:
            for key, data in self._baselines.take().items():
                entries["known/" + key] = data
        self._changed, self._gone, self._trimmed = set(), set(), False
        head = _Head(self._task, self.settings.control, tuple(self._classes.words), tuple(self.groups))
        entries["head"] = msgspec.msgpack.encode(head)
        return entries

    def load(self, entries: Mapping[str, bytes]) -> None:
        """Take over the state that :meth:`take` has returned over time.

        Raises:
            CheckpointError: An entry is missing or cannot be read, or was written for another task.
        """
        try:
            head = msgspec.msgpack.decode(entries["head"], type=_Head)
            if self._task is not None and head.task != self._task:
                raise CheckpointError(
                    f"model {self.name} was watched as {head.task}, its settings now say {self._task}: "
                    "set its checkpoint back, or the task"
                )
            self._task = head.task
            self._classes = Classes(head.classes)
            if self._task is not None:
                self._baselines = Baselines(self._task, self.settings)
                known = {key[6:]: data for key, data in entries.items() if key.startswith("known/")}
                self._baselines.load(known)
            plan = () if self._baselines is None else self._baselines.plan
            for name in head.groups:
                self._group(name).load(entries[_group_key(name)], self._task, plan)
        except (KeyError, msgspec.DecodeError, ValueError, TypeError) as error:
            raise CheckpointError(f"state of model {self.name} cannot be read: {error!r}") from error
        self._changed = set()

    def _challenges(self, group: str) -> bool:
        return len(self.groups) > 1 and group != self.control

    def _group(self, name: str) -> Group:
        group = self.groups.get(name)
        if group is None:
            group = self.groups[name] = Group(self.name, name, self.settings)
        return group

    def _count(self, batch: ScoredBatch) -> None:
        """Count verdicts, and meet new groups in the order of their rows."""
        code = batch.group.code
        states = len(Verdict)
        keys = code.astype(np.intp) * states + batch.verdict
        verdicts = np.bincount(keys, minlength=len(batch.group.words) * states).reshape(-1, states)
        present = np.flatnonzero(verdicts.any(axis=1)).tolist()
        if len(present) > 1 and any(batch.group.words[place] not in self.groups for place in present):
            present.sort(key=lambda place: int((code == place).argmax()))
        latest = np.fmax(batch.log_time, batch.outcome_log_time)
        for place in present:
            group = self._group(batch.group.words[place])
            group.verdicts = [a + b for a, b in zip(group.verdicts, verdicts[place].tolist(), strict=True)]
            group.predictions = max(group.predictions, sum(group.verdicts))  # arrivals may have been forgotten
            group.heard(float((latest if len(present) == 1 else latest[code == place]).max()))
            self._changed.add(group.name)

    def _delays(self, batch: ScoredBatch, joined: Ints, groups: list[tuple[str, Where]]) -> None:
        seconds = np.maximum(batch.outcome_ts[joined] - batch.ts[joined], 0.0)
        bins = quantiles.bins(seconds) - LOWEST_BIN
        bins[bins < 0] = 0
        # An assumed outcome never came.
        came = batch.outcome_source[joined] != _ASSUMED
        for name, rows in groups:
            lay, lasted = bins[rows], seconds[rows]
            if not came.all():
                lay, lasted = lay[came[rows]], lasted[came[rows]]
            self.groups[name].delay(np.bincount(lay), float(lasted.sum()))

    def _infer(self, batch: ScoredBatch, joined: Ints) -> Ints:
        """Find out the task, if it is not known, and return the rows from which on it is."""
        for place, row in enumerate([] if self._task is not None else joined.tolist()):
            self._task = infer_task(batch, row)
            if self._task is not None:
                self._baselines = Baselines(self._task, self.settings)
                return joined[place:]
        return joined if self._task is not None else joined[:0]

    def _score(
        self,
        batch: ScoredBatch,
        joined: Ints,
        groups: list[tuple[str, Where]],
        position: Position,
        naming: Naming,
    ) -> list[Signal]:
        assert self._task is not None
        assert self._baselines is not None
        judged = judge(batch, joined, self._task, self.settings, self._classes)
        block = judged.block
        losses = np.full(len(joined), np.nan)
        incumbent = np.full(len(joined), np.nan)
        for name, rows in groups:
            group = self.groups[name]
            if group.loss is None:
                self._begin(group, batch, joined[rows], judged.reason[rows])
            if group.loss is not None:
                losses[rows] = configured(block, group.loss)[rows]
                if name == self.control:
                    incumbent[rows] = losses[rows]
        baselines = self._baselines.judge(
            Asked(
                time=batch.log_time[joined],
                truth=block[TRUTH],
                scored=block[TRUTH] if judged.fit else np.where(np.isnan(block[ANSWER]), np.nan, block[TRUTH]),
                known=batch.outcome_log_time[joined],
                ids=batch.id_hash[joined],
                series=_some(batch.series, joined),
                incumbent=incumbent,
            ),
            self._classes,
        )
        found: list[tuple[Finding | Complaint, Group]] = []
        for name, rows in groups:
            part = self._part(batch, joined, rows, judged, losses, baselines)
            part.baselines[-1, :, np.isnan(part.losses) if self._compares(name) else slice(None)] = np.nan
            group = self.groups[name]
            found += [(one, group) for one in group.score(part, position.offset)]
        found.sort(key=lambda pair: pair[0].row)  # rows of two groups are never the same
        return [
            signal
            for one, group in found
            for signal in (
                self._drift(one, group, position, naming)
                if isinstance(one, Finding)
                else (self._quality(one, group, position, naming),)
            )
        ]

    def _begin(self, group: Group, batch: ScoredBatch, rows: Ints, reason: Bytes) -> None:
        """Choose a group's loss, by its first row that can be scored."""
        assert self._task is not None
        assert self._baselines is not None
        fit = np.flatnonzero(reason == 0)
        if len(fit):
            row = int(rows[fit[0]])
            scored = not np.isnan(batch.score[row]) or not np.isnan(batch.probabilities[row]).all()
            group.begin(self._task, choose_loss(self.settings.loss, self._task, scored=scored), self._baselines.plan)

    def _compares(self, name: str) -> bool:
        """Tell whether a group and the control group have losses of one kind."""
        control = None if self.control is None else self.groups.get(self.control)
        return control is not None and name != self.control and control.loss == self.groups[name].loss

    def _part(
        self, batch: ScoredBatch, joined: Ints, rows: Where, judged: Judged, losses: Floats, baselines: Floats
    ) -> Rows:
        where = joined[rows]
        return Rows(
            place=np.arange(len(where)) if isinstance(rows, slice) else rows,
            block=judged.block[:, rows],
            losses=losses[rows],
            baselines=baselines[:, :, rows],
            reason=judged.reason[rows],
            fit=judged.fit,
            ts=batch.ts[where],
            log_time=batch.log_time[where],
            version=_some(batch.version, where),
        )

    def _drift(self, finding: Finding, group: Group, position: Position, naming: Naming) -> list[Signal]:
        alarm = finding.alarm
        up = alarm.direction == "up"
        kind = "drift" if up else "recovery"
        warning = Signal(
            id=naming.next(group.name, kind, finding.detector),
            model=self.name,
            group=group.name,
            kind="drift" if up else "recovery",
            severity="warn",
            detector=finding.detector,
            at=finding.at,
            emitted_at=position.timestamp,
            value=finding.after,
            reference=finding.before,
            direction=alarm.direction,
            evidence={
                **alarm.evidence,
                "statistic": alarm.statistic,
                "threshold": alarm.threshold,
                "n": finding.start + alarm.rows,
                "rows": alarm.rows,
                "from": finding.since,
            },
        )
        signals = [warning]
        if up and alarm.severity == "act":
            signals.append(
                msgspec.structs.replace(
                    warning,
                    id=naming.next(group.name, kind, "policy"),
                    severity="act",
                    detector="policy",
                    evidence={**warning.evidence, "signal": warning.id, "detector": finding.detector},
                )
            )
        if not finding.stale and group.watch is not None:
            since = max(group.watch.fed - finding.start, 1)
            group.policy.ask(signals[-1], rows_since_change=since, before=finding.before, after=finding.after)
        return signals

    def _quality(self, complaint: Complaint, group: Group, position: Position, naming: Naming) -> Signal:
        return Signal(
            id=naming.next(group.name, "data_quality", "unscorable"),
            model=self.name,
            group=group.name,
            kind="data_quality",
            severity="warn",
            detector="unscorable",
            at=complaint.at,
            emitted_at=position.timestamp,
            value=None,
            reference=None,
            direction=None,
            evidence={"reason": complaint.reason, "task": self._task},
        )


def _by_group(group: Names, rows: Ints) -> list[tuple[str, Where]]:
    """Return, for each group among the rows, its name and where it lies among them."""
    code = group.code[rows]
    present = np.flatnonzero(np.bincount(code)).tolist()
    if len(present) == 1:
        return [(group.words[present[0]], slice(None))]
    return [(group.words[place], np.flatnonzero(code == place)) for place in present]


def _some(names: Names, rows: Ints) -> Names:
    return Names(code=names.code[rows], words=names.words)


def _group_key(name: str) -> str:
    return "group/" + quote(name, safe="").replace("~", "%7E")
