"""What becomes of records one by one: those whose id several rows have, or had, and those that are of no use.

The rules are the same for all records; :mod:`streamapp.core.joining.matching` says them for columns, where they are
simple.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from streamapp.core.events import Floats, Ints, Kind, Outcome, Prediction, Verdict
from streamapp.core.joining.early import Early
from streamapp.core.joining.results import BY_CLOCK, BY_OUTCOME, BY_PREDICTION, Ends, Tables, together
from streamapp.core.joining.runs import Run, no_outcomes, outcome_row
from streamapp.core.joining.state import State
from streamapp.core.joining.table import WAITS, Rows
from streamapp.core.joining.tally import Tally

Mask = NDArray[np.bool_]

_ASSUMED = 2
"""Place of ``assumed`` in :data:`streamapp.core.events.SOURCES`."""
_FAULT, _PREDICTION, _ARRIVED, _OUTCOME = range(4)
_KINDS = {int(Kind.BOOL): "bool", int(Kind.NUMBER): "number", int(Kind.STRING): "str"}


@dataclass(slots=True)
class _Moment:
    """A record, or a prediction's arrival, at its turn."""

    log_time: float
    topic: int
    offset: int
    what: int
    place: int
    """Among the records, the good ones, or the rows of the table."""

    @property
    def turn(self) -> tuple[float, int, int]:
        return self.log_time, self.topic, self.offset


class Rules:
    """Settles some records of a stretch of log time, in their order.

    Args:
        state: What is known so far.
        predictions: All predictions of the stretch.
        outcomes: All outcomes of it.
    """

    def __init__(self, state: State, predictions: Run, outcomes: Run) -> None:
        self._state = state
        self._runs = predictions, outcomes
        self._rows: Rows
        self._features: Sequence[bytes]
        self._tables: Tables | None
        self._outcomes: Rows
        self._moments: list[_Moment] = []
        self.ended: list[Ends] = []
        for topic, run in enumerate(self._runs):
            for place, fault in enumerate(run.faults):
                log_time, offset = run.records.log_times[fault.place], run.records.offsets[fault.place]
                self._moments.append(_Moment(float(log_time), topic, int(offset), _FAULT, place))

    def predictions(self, rows: Rows, features: Sequence[bytes], tables: Tables | None, places: Ints) -> None:
        """Take predictions, by their places; the columns are those of all."""
        self._rows, self._features, self._tables = rows, features, tables
        self._add(0, _PREDICTION, places)

    def outcomes(self, rows: Rows, places: Ints) -> None:
        """Take outcomes, by their places; the rows are those of all."""
        self._outcomes = rows
        self._add(1, _OUTCOME, places)

    def withhold(self, ids: Sequence[str]) -> None:
        """Take predictions that were accepted just now out of sight until their turn."""
        table = self._state.table
        for prediction_id in dict.fromkeys(ids):
            place = table.by_id.pop(prediction_id)
            row = table.rows[place]
            self._moments.append(_Moment(float(row["log_time"]), 0, int(row["offset"]), _ARRIVED, place))

    def _add(self, topic: int, what: int, places: Ints) -> None:
        run = self._runs[topic]
        columns = run.log_times[places].tolist(), run.offsets[places].tolist(), places.tolist()
        for log_time, offset, place in zip(*columns, strict=True):
            self._moments.append(_Moment(log_time, topic, offset, what, place))

    def settle(self) -> None:
        """Settle everything, in its order."""
        self._moments.sort(key=lambda moment: moment.turn)
        for moment in self._moments:
            self._state.give_up_early(moment.log_time)
            if moment.what == _PREDICTION:
                self._predict(moment)
            elif moment.what == _OUTCOME:
                self._observe(moment)
            elif moment.what == _ARRIVED:
                prediction_id = self._state.table.ids[moment.place]
                self._state.table.by_id[prediction_id] = moment.place
                self._arrive(moment.place, prediction_id, moment.log_time)
            else:
                self._reject(moment)

    def take(self) -> Ends:
        """Return what ended."""
        return together(self.ended)

    # Predictions

    def _predict(self, moment: _Moment) -> None:
        state, run, place = self._state, self._runs[0], moment.place
        prediction: Prediction = run.events[place]
        prediction_id = prediction.prediction_id
        chain = self._chain(prediction_id, moment.log_time)
        name = state.groups.names.code(prediction.group)
        if any(self._name(other) == name and self._is_known(other, moment.log_time) for other in chain):
            state.predictions.duplicate += 1
            return
        row = self._rows[place : place + 1].copy()
        row["group"] = state.groups.code(prediction.model, prediction.group)
        table = None if self._tables is None else self._tables[place]
        found = state.table.link(row, prediction_id, self._features[place], table)
        state.accept(np.array([found]), row)
        if run.strays is not None:
            state.predictions.misplaced += bool(run.strays[place])
        self._arrive(found, prediction_id, moment.log_time)

    def _arrive(self, place: int, prediction_id: str, log_time: float) -> None:
        """Let a prediction meet the outcomes that came before it."""
        state = self._state
        ended = [other for other in state.table.chain(prediction_id) if self._answers(other, log_time)]
        resolved = state.table.resolved
        for other in sorted(ended, key=lambda other: int(resolved["outcome_offset"][other])):
            outcome = self._outcome_of(other)
            if self._fits(place, outcome):
                self._join([place], outcome, log_time, BY_PREDICTION)
                break
        if prediction_id in state.early.by_id:
            for early in state.early.take(prediction_id):
                state.drop(early)
                row = self._outcome_row(early.outcome, early.offset, early.log_time)
                self._match(early, row, log_time, BY_PREDICTION)

    # Outcomes

    def _observe(self, moment: _Moment) -> None:
        run, place = self._runs[1], moment.place
        outcome: Outcome = run.events[place]
        self._chain(outcome.prediction_id, moment.log_time)
        records, record = run.records, run.place(place)
        early = Early(
            outcome,
            moment.offset,
            moment.log_time,
            records.keys[record],
            records.values[record],
            run.strays is not None and bool(run.strays[place]),
            outcome.prediction_id in self._state.early.by_id,
        )
        self._match(early, self._outcomes[place : place + 1], moment.log_time, BY_OUTCOME)

    def _match(self, early: Early, row: Rows, now: float, cause: int) -> None:
        """Say what becomes of an outcome at the log time *now*, when *cause* brings it up."""
        state, tally = self._state, self._state.outcomes
        chain = state.table.chain(early.outcome.prediction_id)
        waiting = [place for place in chain if self._waits(place)]
        fitting = [place for place in waiting if self._fits(place, row)]
        if fitting:
            self._join(fitting, row, now, cause)
            tally.accepted += 1
            tally.misplaced += early.misplaced
            return
        known = [place for place in chain if not self._waits(place) and self._is_known(place, early.log_time)]
        resolved = state.table.resolved
        matched = [place for place in known if resolved["outcome_offset"][place] >= 0]
        if matched:
            revisions = [int(resolved["revision"][place]) for place in matched]
            if int(row["revision"][0]) > max(revisions):
                tally.late += 1
            else:
                tally.duplicate += 1
        elif waiting:
            self._refuse(waiting, early, row)
        elif known:
            tally.late += 1
        else:
            state.keep(early)
            state.waiting_pages.add(early.offset)
            if early.repeated:
                state.repeated_pages.add(early.offset)

    def _refuse(self, waiting: Sequence[int], early: Early, row: Rows) -> None:
        """Count an outcome that no waiting prediction of its id can take; they go on waiting."""
        state, tally = self._state, self._state.outcomes
        first = state.table.rows[waiting[0]]
        settings = state.groups.settings[first["group"]]
        known, made, grace = float(row["ts"][0]), float(first["ts"]), float(settings["grace"])
        too_early, too_late = known < made - grace, known > made + float(settings["window"])
        if not (too_early or too_late):
            expected, got = _KINDS[int(first["kind"])], _KINDS[int(row["kind"][0])]
            error = f"expected `{expected}` like the prediction, got `{got}` - at `$.outcome`"
            state.reject(tally, early.offset, early.key, early.value, "type_mismatch", error)
            return
        if first["refused"]:
            tally.duplicate += 1
            return
        for place in waiting:
            if not state.table.rows["refused"][place]:
                state.table.rows["refused"][place] = 1
                state.refused_pages.add(int(state.table.rows["offset"][place]))
        if too_late:
            tally.late += 1
        else:
            error = f"expected a ts at most {grace:g} s before the prediction's {made!r}, got {known!r} - at `$.ts`"
            state.reject(tally, early.offset, early.key, early.value, "before_prediction", error)

    def _reject(self, moment: _Moment) -> None:
        run = self._runs[moment.topic]
        fault, records = run.faults[moment.place], run.records
        tally: Tally = (self._state.predictions, self._state.outcomes)[moment.topic]
        key, value = records.keys[fault.place], records.values[fault.place]
        self._state.reject(tally, moment.offset, key, value, fault.reason, fault.error)

    # Rows of the table

    def _chain(self, prediction_id: str, now: float) -> list[int]:
        """Return the rows of an id, those that waited too long until *now* being given up."""
        state = self._state
        chain = state.table.chain(prediction_id)
        for place in chain:
            if self._waits(place):
                due = self._deadline(place)
                if due < now:
                    self.ended.append(expire(state, np.array([place]), np.array([due])))
        return chain

    def _waits(self, place: int) -> bool:
        return bool(self._state.table.rows["state"][place] == WAITS)

    def _is_known(self, place: int, log_time: float) -> bool:
        """Return whether a row waits, or is remembered at a log time."""
        return self._waits(place) or bool(self._state.table.resolved["horizon"][place] >= log_time)

    def _answers(self, place: int, log_time: float) -> bool:
        """Return whether the outcome of a row that ended is at hand, and may answer for another group."""
        row = self._state.table.resolved[place]
        return not self._waits(place) and bool(
            row["known"] and row["outcome_offset"] >= 0 and row["horizon"] >= log_time
        )

    def _name(self, place: int) -> int:
        """Return the code of the group's own name."""
        state = self._state
        if self._waits(place):
            return int(state.groups.settings["name"][state.table.rows["group"][place]])
        return int(state.table.resolved["name"][place])

    def _deadline(self, place: int) -> float:
        row = self._state.table.rows[place]
        settings = self._state.groups.settings[row["group"]]
        ts, log_time = float(row["ts"]), float(row["log_time"])
        return max(ts, log_time) + float(settings["window"]) + float(settings["grace"])

    def _fits(self, place: int, outcome: Rows) -> bool:
        rows = self._state.table.take(np.array([place]))
        return bool(fits(rows, outcome, self._state.groups.settings[rows["group"]])[0])

    def _join(self, places: Sequence[int], outcome: Rows, now: float, cause: int) -> None:
        verdict = Verdict.CENSORED if outcome["censored"][0] else Verdict.JOINED
        n = len(places)
        moment = np.full(n, now)
        ends = self._state.end(np.array(places), outcome.repeat(n), int(verdict), moment, cause, known=True)
        self.ended.append(ends)

    def _outcome_row(self, outcome: Outcome, offset: int, log_time: float) -> Rows:
        return outcome_row(outcome, offset, log_time, self._state.words.label)

    def _outcome_of(self, place: int) -> Rows:
        """Return the outcome that a row was matched with."""
        found, row = self._state.table.resolved[place], no_outcomes(1)
        for name in ("ts", "log_time", "offset", "number", "loss", "kind", "source"):
            row[name] = found[f"outcome_{name}"]
        row["revision"], row["censored"] = found["revision"], found["censored"]
        return row


def fits(waiting: Rows, outcomes: Rows, settings: Rows) -> Mask:
    """Return which predictions can take the outcomes beside them: in time, and of one type."""
    ts, known = waiting["ts"], outcomes["ts"]
    answer, truth = waiting["kind"], outcomes["kind"]
    due = np.maximum(ts, waiting["log_time"]) + settings["window"] + settings["grace"]
    found: Mask = (ts - settings["grace"] <= known) & (known <= ts + settings["window"])
    found &= outcomes["log_time"] <= due
    found &= (answer == truth) | (answer == Kind.NONE) | (truth == Kind.NONE)
    return found


def expire(state: State, places: Ints, due: Floats) -> Ends:
    """Give predictions that waited until after their deadlines, shape (n,), their verdicts."""
    rows = state.table.take(places)
    settings = state.groups.settings[rows["group"]]
    assumed = settings["assumed_kind"] != Kind.NONE
    outcomes = no_outcomes(len(places))
    outcomes["ts"] = np.where(assumed, rows["ts"] + settings["window"], np.nan)
    outcomes["log_time"] = np.where(assumed, due, np.nan)
    outcomes["kind"], outcomes["number"] = settings["assumed_kind"], settings["assumed"]
    outcomes["source"] = np.where(assumed, _ASSUMED, 0)
    verdict = np.where(assumed, int(Verdict.JOINED), int(Verdict.EXPIRED)).astype(np.uint8)
    return state.end(places, outcomes, verdict, due, BY_CLOCK, known=False)
