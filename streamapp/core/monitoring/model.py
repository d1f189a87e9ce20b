"""One model: the one way in for its rows."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple
from urllib.parse import quote

import msgspec
import numpy as np
from msgspec import Struct

from streamapp.core.baselines import Baseline
from streamapp.core.events import (
    Arrivals,
    Ints,
    Position,
    RetrainRequest,
    ScoredBatch,
    Signal,
)
from streamapp.core.losses import choose_loss, infer_task
from streamapp.core.monitoring.books import Books, Note, delays, notes
from streamapp.core.monitoring.findings import Found, look, look_closely
from streamapp.core.monitoring.group import Group
from streamapp.core.monitoring.judging import ASSUMED, Classes, judged
from streamapp.core.monitoring.members import Members
from streamapp.core.monitoring.naming import Naming
from streamapp.core.monitoring.rows import ByGroup, Rows, sole
from streamapp.core.monitoring.signals import said
from streamapp.core.monitoring.unjudged import Unjudged, joined_rows
from streamapp.core.report import ModelReport
from streamapp.core.settings import ModelSettings, Task
from streamapp.errors import CheckpointError

HOLD = 4096
"""Rows that are held at most."""

Output = tuple[int, Signal | RetrainRequest]
"""What follows, with the offset of the message that caused it."""


class _Held(NamedTuple):
    """A message that has not been looked at yet."""

    position: Position
    now: float | None
    """Log time that every joiner had reached."""
    rows: Unjudged | None
    """None: it brought no rows, but it is a moment at which training can be asked for."""


class _Head(Struct, array_like=True):
    task: Task | None
    control: str | None
    classes: tuple[str, ...]
    groups: tuple[str, ...]


class ModelMonitor:
    """Everything about one model. Rows of all its groups come in here, in one order.

    What follows from a message is worked out with :meth:`release`, for all messages since the last time at once: that
    costs little more than one of them. It is the same as if each were worked out alone, to the bit.

    Args:
        name: Name of the model.
        settings: How it is watched.
        born: Offset of the message that brought it.
        identity: Of the log, for ids.
        ticked: Log time at the newest tick so far, as if :meth:`trim` had been told; None before the first one.
    """

    def __init__(
        self, name: str, settings: ModelSettings, *, born: int = 0, identity: str = "", ticked: float | None = None
    ) -> None:
        self.name = name
        self.born = born
        self.settings = settings
        self._members = Members(name, settings)
        self._identity = identity
        self._task: Task | None = None
        self._classes = Classes()
        self._books = Books(settings, self._members, self._classes, ticked)
        self._held: list[_Held] = []
        self._rows = 0
        """Held."""
        self._said: list[Output] = []
        self._quiet = True
        """No policy has anything to do until a signal comes."""
        self._changed: set[str] = set()
        """Groups that have changed since :meth:`take`."""
        self._gone: set[str] = set()
        """Groups that were forgotten since then."""
        self._trimmed = False
        self._failure: Exception | None = None
        """What went wrong while something was worked out."""
        if settings.task is not None:
            self._begin(settings.task)

    @property
    def groups(self) -> dict[str, Group]:
        """By name, in the order in which they appeared."""
        return self._members.by_name

    @property
    def control(self) -> str | None:
        """Name of the group that others are compared with."""
        control = self._members.control
        return self.settings.control if control is None else control.name

    @property
    def changed(self) -> bool:
        """Whether :meth:`take` has something to say."""
        return bool(self._changed or self._gone) or self._trimmed

    @property
    def holds(self) -> bool:
        """Whether :meth:`release` has something to do."""
        return bool(self._held or self._said)

    def forget(self, now: float) -> list[str]:
        """Drop the groups that nothing was heard of for too long, now that log time has come to *now*; return them.

        One with predictions that wait for their verdict stays: it will be heard of.
        """
        silent = now - self.settings.forget_after
        if all(group.updated is None or group.updated >= silent for group in self.groups.values()):
            return []
        self._settle()  # what waits may be news of them
        gone = [
            name
            for name, group in self.groups.items()
            if group.updated is not None and group.updated < silent and group.pending <= 0
        ]
        for name in gone:
            self._members.drop(name)
            self._changed.discard(name)
            self._gone.add(name)
        return gone

    def expect(self, other: "ModelMonitor") -> None:
        """Know of the predictions that another monitor of the same model waits for, and of nothing else."""
        for name, group in other.groups.items():
            if group.pending > 0:
                self._members.meet(name).expect(group.pending, group.updated)
                self._changed.add(name)

    def arrive(self, arrivals: Arrivals, position: Position, now: float | None) -> None:
        """Take what came in."""
        for part in arrivals.groups:
            self._members.meet(part.group).arrive(part, arrivals.log_time)
            self._changed.add(part.group)
        self.advance(position, now)

    def advance(self, position: Position, now: float | None) -> None:
        """Take note of a moment at which training can be asked for."""
        if self._held or not self._quiet:
            self._held.append(_Held(position, now, None))

    def trim(self, now: float) -> None:
        """Forget what no prediction can ask any more, now that log time has come to *now*."""
        if self._books.must_settle(now):
            self._settle()
        self._trimmed |= self._books.trim(now)

    def hold(self, batch: ScoredBatch, position: Position, now: float | None) -> None:
        """Take resolved rows; :meth:`release` says what follows.

        Args:
            batch: The rows.
            position: Of the message.
            now: Log time that every joiner has reached, None before all have been heard of.
        """
        if not len(batch):
            return
        number, groups = self._members.numbers(batch.group)
        met, joined = self._members.count(batch, number)
        self._changed.update(group.name for group in met)
        told = self._infer(batch, joined, number)
        if self._task is None or (told is not None and not len(told)):
            self.advance(position, now)
            return
        fresh = joined_rows(batch, told, number, position.offset)
        if self._plain(fresh, groups):
            self._books.announce(fresh)
            self._held.append(_Held(position, now, fresh))
            self._rows += len(fresh)
            if self._rows >= HOLD:
                self._run()
            return
        self._settle()
        rows = judged([fresh], self._task, self.settings, self._classes)
        self._begin_groups(batch, told, rows)
        losses, found = look_closely(self._members.order, rows)
        self._speak([_Held(position, now, fresh)], found, ())
        self._books.enter(rows, losses, tallied=True)

    def release(self) -> list[Output]:
        """Return what follows from all that was held, oldest first."""
        self._run()
        said, self._said = self._said, []
        return said

    def summary(self) -> dict[str, Any]:
        """Return the model's part of the summary."""
        self._settle()
        groups = {name: group.summary(incumbent=self._challenges(name)) for name, group in self.groups.items()}
        return {"task": self._task, "groups": groups}

    def report(self, now: float | None) -> ModelReport:
        """Return how the model stands, when log time has come to *now*."""
        self._settle()
        return ModelReport(
            model=self.name,
            task=self._task,
            control=self.control,
            groups=tuple(group.report(incumbent=self._challenges(name)) for name, group in self.groups.items()),
            clock=now,
        )

    def take(self) -> dict[str, bytes | None]:
        """Return the checkpoint entries that have changed since the last time, None for those to be deleted."""
        self._settle()
        entries: dict[str, bytes | None] = {}
        for name in sorted(self._gone):
            entries[_group_key(name)] = None
        for name in sorted(self._changed):
            entries[_group_key(name)] = self.groups[name].snapshot()
        if self._books.baselines is not None:
            for key, data in self._books.baselines.take().items():
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
            if self._task is not None and head.task not in (None, self._task):
                raise CheckpointError(
                    f"model {self.name} was watched as {head.task}, its settings now say {self._task}: "
                    "set its checkpoint back, or the task"
                )
            self._classes.take(head.classes)
            plan: tuple[Baseline, ...] = ()
            if head.task is not None:
                self._begin(head.task)
                known = {key[6:]: data for key, data in entries.items() if key.startswith("known/")}
                baselines = self._books.baselines
                assert baselines is not None
                baselines.load(known)
                plan = baselines.plan
            # Before a task is known no group has begun: one that was configured since is as from the start.
            for name in head.groups:
                self._members.meet(name).load(entries[_group_key(name)], self._task, plan)
        except (KeyError, msgspec.DecodeError, ValueError, TypeError) as error:
            raise CheckpointError(f"state of model {self.name} cannot be read: {error!r}") from error
        self._changed = set()
        self._quiet = all(group.policy.idle for group in self._members.order)

    # -- what comes in -----------------------------------------------------------------------------------------------

    def _begin(self, task: Task) -> None:
        self._task = task
        self._books.begin(task)

    def _infer(self, batch: ScoredBatch, joined: Ints | None, number: Ints) -> Ints | None:
        """Find out the task, if it is not known, and return the joined rows from which on it is; None for all."""
        if self._task is not None:
            return joined
        rows = np.arange(len(batch)) if joined is None else joined
        told = len(rows)
        for place, row in enumerate(rows.tolist()):
            task = infer_task(batch, row)
            if task is not None:
                self._begin(task)
                told = place
                break
        untold = rows[:told]
        if len(untold):
            self._members.hear(batch, number, untold)
            seconds = np.maximum(batch.outcome_ts[untold] - batch.ts[untold], 0.0)
            came = batch.outcome_source[untold] != ASSUMED
            delays(self._members.order, ByGroup(number[untold], len(self.groups)), seconds, came)
        return rows[told:]

    def _plain(self, rows: Unjudged, groups: list[Group]) -> bool:
        """Tell whether rows bring nothing new, and note which are of versions that do not answer any more.

        Nothing is new where their groups have a loss, and each version has answered before.
        """
        if any(group.begun is None for group in groups):
            return False
        code, words = rows.version.code, rows.version.words
        only = sole(code)
        if only is not None and (only < 0 or all(group.version == words[only] for group in groups)):
            return True
        versions = [group.versions for group in self._members.order]
        places: dict[str | None, int] = {word: place for place, word in enumerate(words)}
        current = code == np.array([places.get(of.current, -2) for of in versions]).take(rows.group)
        current |= code < 0
        if np.logical_and.reduce(current):
            return True
        # By group and word; code -1, no word, finds the column at the end.
        known = np.array([[word in of.tallies for word in words] + [True] for of in versions])
        if not np.logical_and.reduce(known[rows.group, code]):
            return False
        since = np.array([of.since_log for of in versions])
        rows.older = ~current & ~(rows.log_time >= since[rows.group])
        return True

    def _begin_groups(self, batch: ScoredBatch, told: Ints | None, rows: Rows) -> None:
        """Choose the losses of new groups, each by its first row that can be scored."""
        baselines = self._books.baselines
        assert self._task is not None
        assert baselines is not None
        for number, group in enumerate(self._members.order):
            if group.begun is not None:
                continue
            fit = np.flatnonzero((rows.group == number) & (rows.reason == 0))
            if len(fit):
                row = int(fit[0]) if told is None else int(told[fit[0]])
                scored = not np.isnan(batch.score[row]) or not np.isnan(batch.probabilities[row]).all()
                group.begin(self._task, choose_loss(self.settings.loss, self._task, scored=scored), baselines.plan)

    # -- what follows ------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        """Look at what was held."""
        self._wholly(self._look)

    def _wholly(self, step: Callable[[], None]) -> None:
        """Take a step; once one has failed, which leaves things half changed, every further one fails likewise.

        What a message causes may show only when somebody looks, and whoever looks may be content with an error: but
        nothing may be said or stored as if the message had not been there.
        """
        if self._failure is not None:
            raise self._failure
        try:
            step()
        except Exception as error:
            self._failure = error
            raise

    def _look(self) -> None:
        held, self._held, self._rows = self._held, [], 0
        parts = [one.rows for one in held if one.rows is not None]
        if not parts:
            self._speak(held, [], ())
            return
        assert self._task is not None
        rows = judged(parts, self._task, self.settings, self._classes)
        losses, found = look(self._members.order, rows)
        if self._quiet and not found:
            self._books.add(rows, losses)
            return
        self._books.settle()
        self._speak(held, found, notes(rows, losses, len(self.groups)))
        self._books.enter(rows, losses, tallied=False)

    def _speak(self, held: Sequence[_Held], found: Sequence[Found], heard: Iterable[list[Note]]) -> None:
        """Say what follows from messages, one by one: of what was found there, and whether to ask for training."""
        groups = self._members.order
        told = iter(heard)
        message = 0
        for one in held:
            naming = Naming(self._identity, self.name, one.position)
            outputs: list[Signal | RetrainRequest] = []
            if one.rows is not None:
                for note in next(told, ()):
                    note.tell(groups, one.position.offset)
                for thing in found:
                    if thing.message == message:
                        outputs += said(thing, self._task, self.name, one.position, naming)
                message += 1
            if one.now is not None:
                outputs += self._requests(one.position, one.now, naming)
            self._said += [(one.position.offset, output) for output in outputs]
        self._quiet = all(group.policy.idle for group in groups)

    def _requests(self, position: Position, now: float, naming: Naming) -> list[RetrainRequest]:
        requests = []
        for name, group in self.groups.items():
            before = group.policy.deadline
            request = group.policy.advance(now, position, partial(naming.next, name, "retrain", "policy"))
            if request is not None:
                requests.append(msgspec.structs.replace(request, task=self._task))
            if group.policy.deadline != before:
                self._changed.add(name)
        return requests

    def _settle(self) -> None:
        """Bring everything up to date."""
        if self._held:
            self._run()
        self._wholly(self._books.settle)

    def _challenges(self, group: str) -> bool:
        return len(self.groups) > 1 and group != self.control


def _group_key(name: str) -> str:
    return "group/" + quote(name, safe="").replace("~", "%7E")
