"""What becomes of each prediction and outcome, taken one by one in order of log time, predictions first at ties."""

from collections.abc import Sequence
from math import inf

from streamapp.core.events import DeadLetter, Outcome, Prediction, Verdict
from streamapp.core.joining.columns import NO_OUTCOME, ModelRows, Row
from streamapp.core.joining.deadlines import GONE, Deadlines, Pending
from streamapp.core.joining.early import Early, EarlyOutcomes
from streamapp.core.joining.groups import Group
from streamapp.core.joining.intake import Record
from streamapp.core.joining.pages import Pages
from streamapp.core.joining.remembered import Remembered, Resolved
from streamapp.core.joining.roster import Limits, Roster
from streamapp.core.joining.tally import Tally
from streamapp.core.settings import Label, Settings
from streamapp.errors import DecodeError

FUTURE = 300.0
"""Seconds that a ``ts`` may lie beyond the log time of its own record."""

FOLD = 256
"""Results of one kind that are put into columns without waiting for more."""

_JOINED, _CENSORED = int(Verdict.JOINED), int(Verdict.CENSORED)
_Found = Pending | dict[str, Pending]


class Matching:
    """Pairs predictions with outcomes, and says when waiting is over.

    The caller presents records in one order, and moves the clock; everything here follows from that order alone.
    Results collect in the public attributes until they are taken.
    """

    def __init__(self, partition: int, settings: Settings, limits: Limits) -> None:
        self._partition = partition
        self._settings = settings
        self.predictions = Tally("predictions")
        self.outcomes = Tally("outcomes")
        self.roster = Roster(settings, limits)
        self.models: dict[str, ModelRows] = {}
        self.groups: dict[tuple[str, str], Group] = {}
        """By the names that they count under, as everywhere here except where ids are told apart."""
        self.resolved: dict[str, ModelRows] = {}
        """Models with rows to be taken, in order of their first row."""
        self.arrived: dict[str, dict[str, Group]] = {}
        """By model: groups with arrivals to be taken, in order of the first."""
        self.dead_letters: list[DeadLetter] = []
        self.pending_pages = Pages("pending")
        self.refused_pages = Pages("refused")
        self.waiting_pages = Pages("waiting")
        self.repeated_pages = Pages("repeated")
        self.remembered = Remembered()
        self.deadlines = Deadlines()
        # The model of an outcome without a prediction is unknown, so the most patient one decides.
        self.early = EarlyOutcomes(max(float(s.grace) for s in (settings.defaults, *settings.models.values())))
        self.soonest = inf
        """:meth:`move` does nothing for clocks up to this one."""
        self._pending: dict[str, _Found] = {}

    @property
    def pages(self) -> tuple[Pages, ...]:
        """All sets of offsets that a checkpoint keeps."""
        return self.pending_pages, self.refused_pages, self.waiting_pages, self.repeated_pages

    # Predictions

    def predict(self, record: Record, misplaced: bool) -> None:
        """Take a record of ``predictions``."""
        offset, log_time, _, _, prediction = record
        if not isinstance(prediction, Prediction):
            self._reject(self.predictions, record, *_fault(prediction))
            return
        ts: float = prediction.ts  # type: ignore[assignment]  # the codec made it a float
        if ts > log_time + FUTURE:
            self._reject(self.predictions, record, "future", _future(ts, log_time))
            return
        prediction_id = prediction.prediction_id
        known = prediction_id in self.remembered.by_id
        if (known or prediction_id in self._pending) and self._repeats(prediction, log_time):
            self.predictions.duplicate += 1
            return
        self.predictions.accepted += 1
        if misplaced:
            self.predictions.misplaced += 1
        pending = self.wait(prediction, offset, log_time)
        self.pending_pages.add(offset)
        group = pending.group
        if group.collects:
            self.predictions.other_model += group.model != prediction.model
            self.predictions.other_group += group.name != prediction.group
        if not group.arrived.predictions:
            self.arrived.setdefault(group.model, {})[group.name] = group
        group.arrived.predictions.append(prediction)
        group.arrived_at = log_time
        if known:
            self._answer_from_shadow(pending)
        if prediction_id in self.early.by_id:
            for early in self.early.take(prediction_id):
                self._drop(early)
                self._match(early.outcome, early.offset, early.log_time, early.key, early.value, early.misplaced)

    def _repeats(self, prediction: Prediction, log_time: float) -> bool:
        """Return whether a prediction's id and group are pending or remembered."""
        found, name = self._pending.get(prediction.prediction_id), prediction.group
        if found is not None and (found.prediction.group == name if isinstance(found, Pending) else name in found):
            return True
        return self.remembered.has(prediction.prediction_id, name, log_time)

    def group(self, model: str, name: str) -> Group:
        """Return what a group of a model counts under, made where it is new."""
        model = self.roster.model(model)
        name = self.roster.group(model, name)
        group = self.groups.get((model, name))
        if group is None:
            rows = self.models.get(model)
            if rows is None:
                rows = self.models[model] = ModelRows(model, self._partition, self.roster)
            group = self.groups[model, name] = Group(rows, name, self._settings)
        return group

    def wait(self, prediction: Prediction, offset: int, log_time: float) -> Pending:
        """Put a prediction into the table, beside others of its id, and its deadline into the calendar."""
        group = self.groups.get((prediction.model, prediction.group)) or self.group(prediction.model, prediction.group)
        pending = Pending(prediction, offset, log_time, group)
        found = self._pending.setdefault(prediction.prediction_id, pending)
        if isinstance(found, dict):
            found[prediction.group] = pending
        elif found is not pending:
            others = {found.prediction.group: found, prediction.group: pending}
            self._pending[prediction.prediction_id] = others
        group.pending += 1
        deadline = self.deadlines.add(pending)
        if deadline < self.soonest:
            self.soonest = deadline
        return pending

    def _answer_from_shadow(self, pending: Pending) -> None:
        """Join a prediction with an outcome that another group of its id was matched with."""
        for resolved in self.remembered.of(pending.prediction.prediction_id, pending.log_time):
            outcome = resolved.outcome
            if outcome is not None and _fits(pending, outcome):
                self._join(pending, outcome, resolved.outcome_offset, resolved.outcome_log_time)
                return

    # Outcomes

    def observe(self, record: Record, misplaced: bool) -> None:
        """Take a record of ``outcomes``."""
        offset, log_time, key, value, outcome = record
        if not isinstance(outcome, Outcome):
            self._reject(self.outcomes, record, *_fault(outcome))
            return
        ts: float = outcome.ts  # type: ignore[assignment]
        if ts > log_time + FUTURE:
            self._reject(self.outcomes, record, "future", _future(ts, log_time))
            return
        found = self._pending.get(outcome.prediction_id)
        if isinstance(found, Pending) and _fits(found, outcome):
            # Nearly all outcomes end here, so this says again what _match says of one pending prediction.
            self._join(found, outcome, offset, log_time)
            self.outcomes.accepted += 1
            if misplaced:
                self.outcomes.misplaced += 1
        else:
            self._match(outcome, offset, log_time, key, value, misplaced)

    def _match(
        self, outcome: Outcome, offset: int, log_time: float, key: bytes | None, value: bytes | None, misplaced: bool
    ) -> None:
        tally = self.outcomes
        found = self._pending.get(outcome.prediction_id)
        if found is not None:
            fitting = [pending for pending in _entries(found) if _fits(pending, outcome)]
            for pending in fitting:
                self._join(pending, outcome, offset, log_time)
            if fitting:
                tally.accepted += 1
                tally.misplaced += misplaced
                return
        known = self.remembered.of(outcome.prediction_id, log_time)
        revisions = [resolved.outcome.revision for resolved in known if resolved.outcome is not None]
        if revisions or any(resolved.outcome_offset >= 0 for resolved in known):
            if outcome.revision > max(revisions, default=0):
                tally.late += 1
            else:
                tally.duplicate += 1
        elif found is not None:
            self._refuse(found, outcome, (offset, log_time, key, value, outcome))
        elif known:
            tally.late += 1
        else:
            repeated = outcome.prediction_id in self.early.by_id
            self.keep(Early(outcome, offset, log_time, key, value, misplaced, repeated))
            self.waiting_pages.add(offset)
            if repeated:
                self.repeated_pages.add(offset)

    def keep(self, early: Early) -> None:
        """Let an outcome wait for its prediction."""
        self.early.add(early)
        self.soonest = min(self.soonest, self.early.soonest)

    def _refuse(self, found: _Found, outcome: Outcome, record: Record) -> None:
        """Count an outcome that no pending prediction of its id can take; they stay pending."""
        entries = _entries(found)
        first = entries[0]
        reason = _belongs(first, outcome)
        if reason is None:
            self._reject(self.outcomes, record, "type_mismatch", _mismatch(first, outcome))
            return
        if first.refused:
            self.outcomes.duplicate += 1
            return
        for pending in entries:
            if not pending.refused:
                pending.refused = True
                self.refused_pages.add(pending.offset)
        if reason == "late":
            self.outcomes.late += 1
        else:
            made, grace = first.prediction.ts, first.group.grace
            error = f"expected a ts at most {grace:g} s before the prediction's {made!r}, got {outcome.ts!r}"
            self._reject(self.outcomes, record, reason, f"{error} - at `$.ts`")

    # The clock

    def move(self, clock: float) -> None:
        """Give up what has waited until *clock*: nothing with a log time below it is still to come."""
        for deadline, pending in self.deadlines.due(clock):
            self._expire(pending, deadline)
        for early in self.early.unmatched(clock):
            if early.repeated:
                self.outcomes.duplicate += 1
            else:
                self.outcomes.unmatched += 1
            self._drop(early)
        self.soonest = min(self.deadlines.soonest, self.early.soonest)

    def fold(self) -> None:
        """Put results into columns where there are enough of them."""
        for rows in self.resolved.values():
            if len(rows.rows) >= FOLD:
                rows.fold()
        for groups in self.arrived.values():
            for group in groups.values():
                if len(group.arrived.predictions) >= FOLD:
                    group.arrived.fold()

    # Ends

    def _join(self, pending: Pending, outcome: Outcome, offset: int, log_time: float) -> None:
        moment = log_time if log_time > pending.log_time else pending.log_time
        verdict = _JOINED if outcome.status is None else _CENSORED
        self._resolve(pending, verdict, outcome, offset, log_time, moment, outcome)

    def _expire(self, pending: Pending, deadline: float) -> None:
        prediction, group = pending.prediction, pending.group
        if group.assume is None:
            self._resolve(pending, Verdict.EXPIRED, NO_OUTCOME, -1, float("nan"), deadline, None)
            return
        ts: float = prediction.ts  # type: ignore[assignment]
        assumed = Outcome(
            prediction_id=prediction.prediction_id,
            ts=ts + group.window,
            outcome=group.assume,
            source="assumed",
        )
        self._resolve(pending, Verdict.JOINED, assumed, -1, deadline, deadline, None)

    def _resolve(
        self,
        pending: Pending,
        verdict: int,
        outcome: Outcome,
        offset: int,
        log_time: float,
        moment: float,
        matched: Outcome | None,
    ) -> None:
        """Give a prediction its verdict at the log time *moment*."""
        prediction, group = pending.prediction, pending.group
        prediction_id = prediction.prediction_id
        found = self._pending.pop(prediction_id)
        if found is not pending:
            assert isinstance(found, dict)
            del found[prediction.group]
            if found:
                self._pending[prediction_id] = found
        pending.prediction = GONE
        group.pending -= 1
        self.pending_pages.discard(pending.offset)
        if pending.refused:
            self.refused_pages.discard(pending.offset)
        rows = group.rows
        if not rows.rows:
            self.resolved[rows.model] = rows
        rows.rows.append((prediction, pending.offset, pending.log_time, verdict, outcome, offset, log_time))
        horizon = moment + group.remember
        self.remembered.add(Resolved(prediction_id, prediction.group, horizon, matched, offset, log_time))

    def lose_prediction(self, row: Row) -> None:
        """Give a pending prediction whose content is gone its verdict."""
        prediction, offset = row[:2]
        self.pending_pages.discard(offset)
        self.refused_pages.discard(offset)
        self.predictions.lost += 1
        rows = self.group(prediction.model, prediction.group).rows
        if not rows.rows:
            self.resolved[rows.model] = rows
        rows.rows.append(row)

    def lose_outcomes(self, offsets: Sequence[int]) -> None:
        """Give up waiting outcomes whose content is gone: no prediction will claim them."""
        for offset in offsets:
            self.waiting_pages.discard(offset)
            self.repeated_pages.discard(offset)
        self.outcomes.unmatched += len(offsets)
        self.outcomes.lost += len(offsets)

    def _drop(self, early: Early) -> None:
        """Strike an outcome from the pages of those that wait."""
        self.waiting_pages.discard(early.offset)
        if early.repeated:
            self.repeated_pages.discard(early.offset)

    def _reject(self, tally: Tally, record: Record, reason: str, error: str) -> None:
        offset, _, key, value, _ = record
        tally.reject(reason)
        self.dead_letters.append(
            DeadLetter(
                topic=tally.topic,
                partition=self._partition,
                offset=offset,
                key=key,
                value=value,
                reason=reason,
                error=error,
            )
        )


def _entries(found: _Found) -> Sequence[Pending]:
    """Return what is pending under one id, lowest offset first."""
    return (found,) if isinstance(found, Pending) else tuple(found.values())


def _fits(pending: Pending, outcome: Outcome) -> bool:
    """Return whether a prediction can take an outcome: what :func:`_belongs` and :func:`_mismatch` say, faster."""
    prediction, group = pending.prediction, pending.group
    ts: float = prediction.ts  # type: ignore[assignment]
    if not ts - group.grace <= outcome.ts <= ts + group.window:  # type: ignore[operator]
        return False
    return prediction.prediction.__class__ is outcome.outcome.__class__ or not _mismatch(pending, outcome)


def _belongs(pending: Pending, outcome: Outcome) -> str | None:
    """Return None if an outcome's ts fits a prediction, else why not."""
    ts: float = pending.prediction.ts  # type: ignore[assignment]
    known: float = outcome.ts  # type: ignore[assignment]
    if known < ts - pending.group.grace:
        return "before_prediction"
    return "late" if known > ts + pending.group.window else None


def _mismatch(pending: Pending, outcome: Outcome) -> str:
    """Return why an outcome's type does not fit the prediction's, empty if it does."""
    answer, truth = pending.prediction.prediction, outcome.outcome
    if answer is None or truth is None or answer.__class__ is truth.__class__:
        return ""
    expected, got = _kind(answer), _kind(truth)
    return "" if expected == got else f"expected `{expected}` like the prediction, got `{got}` - at `$.outcome`"


def _kind(label: Label) -> str:
    if isinstance(label, bool):
        return "bool"
    return "str" if isinstance(label, str) else "number"


def _fault(event: object) -> tuple[str, str]:
    """Return reason and text for what is not an event of the topic."""
    if isinstance(event, DecodeError):
        return event.reason, str(event)
    raise TypeError(f"expected an event of this topic or DecodeError, got {type(event).__name__}")


def _future(ts: float, log_time: float) -> str:
    return f"expected a ts at most {FUTURE:g} s after the record's log time {log_time!r}, got {ts!r} - at `$.ts`"
