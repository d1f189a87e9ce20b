"""What becomes of records one by one: those whose id several rows have, or had, and those that are of no use.

The rules are the same for all records; :mod:`streamapp.core.joining.matching` says them for columns, where they are
simple. Here they are said of Python objects, one for each row of the table that is touched; what follows is written
back for all at once.
"""

from collections.abc import Iterable, Sequence
from itertools import chain as chained
from operator import itemgetter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamapp.core.events import DeadLetter, Floats, Ints, Kind, Outcome, Prediction, Verdict
from streamapp.core.hashing import hash64
from streamapp.core.joining.early import Early
from streamapp.core.joining.results import BY_CLOCK, BY_OUTCOME, BY_PREDICTION, Ends, Tables
from streamapp.core.joining.rows import Rows, chosen
from streamapp.core.joining.runs import OUTCOME, Run, Truth, no_outcomes, truth
from streamapp.core.joining.state import State

Mask = NDArray[np.bool_]
Moment = tuple[float, int, int, int, int]
"""Log time, topic, offset; what comes, and where it is found: among the good records or the withheld."""

_TOPICS = ("predictions", "outcomes")
_ASSUMED = 2
"""Place of ``assumed`` in :data:`streamapp.core.events.SOURCES`."""
_PREDICTION, _ARRIVED, _OUTCOME = range(3)
_NAMES = {int(Kind.BOOL): "bool", int(Kind.NUMBER): "number", int(Kind.STRING): "str"}
_NONE = int(Kind.NONE)


class Held:
    """A row of the table, as the rules see it."""

    __slots__ = (
        "answer",
        "due",
        "grace",
        "group",
        "horizon",
        "kind",
        "log_time",
        "matched",
        "name",
        "offset",
        "place",
        "refused",
        "remember",
        "revision",
        "ts",
        "waits",
        "window",
    )

    place: int
    name: int
    """Code of the group's own name."""
    waits: bool
    group: int
    """Of what waits; likewise the next."""
    ts: float
    log_time: float
    offset: int
    kind: int
    refused: bool
    window: float
    grace: float
    remember: float
    due: float
    """Log time beyond which it expires."""
    horizon: float
    """Of what ended; likewise the next."""
    matched: bool
    revision: int
    answer: Truth | None
    """The outcome that came, where it is at hand."""

    def ended(self, horizon: float, answer: Truth | None) -> None:
        """Let it be remembered."""
        self.waits = False
        self.horizon = horizon
        self.matched = answer is not None
        self.answer = answer
        self.revision = 0 if answer is None else answer[5]

    def known(self, log_time: float) -> bool:
        """Return whether it waits, or is remembered at a log time."""
        return self.waits or self.horizon >= log_time

    def fits(self, outcome: Truth) -> bool:
        """Return whether it can take an outcome, as :func:`fits` does for columns."""
        known, truth_kind = outcome[0], outcome[6]
        return (
            self.ts - self.grace <= known <= self.ts + self.window
            and outcome[1] <= self.due
            and (truth_kind == self.kind or truth_kind == _NONE or self.kind == _NONE)
        )


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
        self._columns: tuple[Rows, Sequence[bytes], Tables | None]
        self._truths: dict[int, Truth] = {}
        """By place among the outcomes."""
        self._moments: list[Moment] = []
        self._chains: dict[str, list[Held]] = {}
        self._settings: dict[int, tuple[Any, ...]] = {}
        self._withheld: dict[int, tuple[str, Held]] = {}
        self._accepted: list[tuple[int, str, Held]] = []
        """Place among the predictions, id, row."""
        self._joined: list[tuple[Held, Truth, float, int]] = []
        """Row, outcome, moment, cause."""
        self._expired: list[Held] = []
        self._rejected: list[tuple[Moment, DeadLetter]] = []
        """What no waiting prediction could take, and the moment at which that was found."""

    def predictions(self, rows: Rows, features: Sequence[bytes], tables: Tables | None, places: Ints) -> None:
        """Take predictions, by their places; the columns are those of all."""
        self._columns = rows, features, tables
        self._add(0, _PREDICTION, places)

    def outcomes(self, rows: Rows, places: Ints) -> None:
        """Take outcomes, by their places; the rows are those of all."""
        self._truths = dict(zip(places.tolist(), chosen(rows, places).tolist(), strict=True))
        self._add(1, _OUTCOME, places)

    def withhold(self, ids: Iterable[str]) -> None:
        """Take predictions that were accepted just now out of sight until their turn."""
        table = self._state.table
        for prediction_id in dict.fromkeys(ids):
            place = table.by_id.pop(prediction_id)
            held = self._waiting(place, table.rows[place].item())
            self._withheld[held.place] = prediction_id, held
            self._moments.append((held.log_time, 0, held.offset, _ARRIVED, held.place))

    def _add(self, topic: int, what: int, places: Ints) -> None:
        run = self._runs[topic]
        columns = run.log_times[places].tolist(), run.offsets[places].tolist(), places.tolist()
        self._moments += [
            (log_time, topic, offset, what, place) for log_time, offset, place in zip(*columns, strict=True)
        ]

    def settle(self) -> list[Ends]:
        """Settle everything in its order, and return what ended."""
        self._moments.sort()
        self._gather()
        early = self._state.early
        for moment in self._moments:
            log_time, _, offset, what, index = self._moment = moment
            if early.soonest < log_time:
                self._state.give_up_early(log_time)
            if what == _PREDICTION:
                self._predict(index, log_time, offset)
            elif what == _OUTCOME:
                self._observe(index, log_time, offset)
            else:
                prediction_id, held = self._withheld[index]
                self._arrive(prediction_id, held, self._chain(prediction_id, log_time))
        self._keep_rejected()
        return self._write()

    def _gather(self) -> None:
        """Look up what waits and what is remembered of all ids that come."""
        table, remembered = self._state.table, self._state.remembered
        first, second = self._runs
        ids = [first.ids[index] for *_, what, index in self._moments if what == _PREDICTION]
        ids += [second.ids[index] for *_, what, index in self._moments if what == _OUTCOME]
        ids += [prediction_id for prediction_id, _ in self._withheld.values()]
        self._chains = {prediction_id: [] for prediction_id in ids}
        if ids:
            chains = list(self._chains.values())
            places, rows = remembered.find(hash64([key.encode() for key in self._chains]))
            for place, row in zip(places.tolist(), rows.tolist(), strict=True):
                chains[place].append(_ended(row))
        found = [(chain, place) for key, chain in self._chains.items() if (place := table.by_id.get(key)) is not None]
        while found:
            rows = table.take(np.array([place for _, place in found]))
            for (chain, place), row in zip(found, rows.tolist(), strict=True):
                chain.append(self._waiting(place, row))
            following = rows["next"].tolist()
            found = [(chain, place) for (chain, _), place in zip(found, following, strict=True) if place >= 0]

    # Predictions

    def _predict(self, index: int, log_time: float, offset: int) -> None:
        state, run = self._state, self._runs[0]
        prediction: Prediction = run.events[index]
        chain = self._chain(prediction.prediction_id, log_time)
        name = state.groups.names.code(prediction.group)
        if any(held.name == name and held.known(log_time) for held in chain):
            state.predictions.duplicate += 1
            return
        held = Held()
        held.place, held.offset, held.log_time, held.ts = -1, offset, log_time, float(run.ts[index])
        held.kind, held.refused = int(self._columns[0]["kind"][index]), False
        self._place(held, state.groups.code(prediction.model, prediction.group, offset, log_time))
        self._accepted.append((index, prediction.prediction_id, held))
        state.predictions.misplaced += run.stray(index)
        self._arrive(prediction.prediction_id, held, chain)

    def _arrive(self, prediction_id: str, held: Held, chain: list[Held]) -> None:
        """Let a prediction meet the outcomes that came before it."""
        state = self._state
        answers = [
            other.answer for other in chain if other.answer and not other.waits and other.horizon >= held.log_time
        ]
        chain.append(held)
        for answer in sorted(answers, key=lambda answer: answer[2]):
            if held.fits(answer):
                self._join(held, answer, held.log_time, BY_PREDICTION)
                break
        if prediction_id in state.early.by_id:
            for early in state.early.take(prediction_id):
                state.drop(early)
                found = truth(early.outcome, early.offset, early.log_time, state.words.label)
                self._match(early, found, chain, held.log_time, BY_PREDICTION)

    # Outcomes

    def _observe(self, index: int, log_time: float, offset: int) -> None:
        run = self._runs[1]
        outcome: Outcome = run.events[index]
        prediction_id, records, record = outcome.prediction_id, run.records, run.place(index)
        repeated = prediction_id in self._state.early.by_id
        key, value = records.keys[record], records.values[record]
        early = Early(outcome, offset, log_time, key, value, run.stray(index), repeated)
        self._match(early, self._truths[index], self._chain(prediction_id, log_time), log_time, BY_OUTCOME)

    def _match(self, early: Early, found: Truth, chain: Sequence[Held], now: float, cause: int) -> None:
        """Say what becomes of an outcome at the log time *now*, when *cause* brings it up."""
        state, tally = self._state, self._state.outcomes
        waiting = [held for held in chain if held.waits]
        fitting = [held for held in waiting if held.fits(found)]
        if fitting:
            for held in fitting:
                self._join(held, found, now, cause)
            tally.accepted += 1
            tally.misplaced += early.misplaced
            return
        known = [held for held in chain if not held.waits and held.horizon >= early.log_time]
        matched = [held.revision for held in known if held.matched]
        if matched:
            if found[5] > max(matched):
                tally.late += 1
            else:
                tally.duplicate += 1
        elif waiting:
            self._refuse(waiting, early, found)
        elif known:
            tally.late += 1
        else:
            state.keep(early)
            state.waiting_pages.add(early.offset)
            if early.repeated:
                state.repeated_pages.add(early.offset)

    def _refuse(self, waiting: Sequence[Held], early: Early, found: Truth) -> None:
        """Count an outcome that no waiting prediction of its id can take; they go on waiting."""
        state, tally, first, known = self._state, self._state.outcomes, waiting[0], found[0]
        too_late = known > first.ts + first.window
        if known >= first.ts - first.grace and not too_late:
            error = f"expected `{_NAMES[first.kind]}` like the prediction, got `{_NAMES[found[6]]}` - at `$.outcome`"
            self._reject(early, "type_mismatch", error)
            return
        if first.refused:
            tally.duplicate += 1
            return
        for held in waiting:
            if not held.refused:
                held.refused = True
                state.refused_pages.add(held.offset)
        if too_late:
            tally.late += 1
        else:
            error = f"expected a ts at most {first.grace:g} s before the prediction's {first.ts!r}, got {known!r}"
            self._reject(early, "before_prediction", f"{error} - at `$.ts`")

    def _reject(self, early: Early, reason: str, error: str) -> None:
        """Count an outcome that is of no use, and keep it."""
        letter = DeadLetter(
            topic=_TOPICS[1],
            partition=self._state.partition,
            offset=early.offset,
            key=early.key,
            value=early.value,
            reason=reason,
            error=error,
        )
        self._state.outcomes.reject(reason)
        self._rejected.append((self._moment, letter))

    def _join(self, held: Held, found: Truth, now: float, cause: int) -> None:
        held.ended(now + held.remember, found)
        self._joined.append((held, found, now, cause))

    # What is of no use

    def _keep_rejected(self) -> None:
        """Keep what was rejected, and the records that are no events, in their order."""
        state = self._state
        letters = self._rejected
        for topic, tally in enumerate((state.predictions, state.outcomes)):
            run = self._runs[topic]
            if run.faults:
                letters += _dead_letters(run, topic)
                tally.reject_all([error.reason for _, error in run.faults])
        letters.sort(key=_moment_of)
        state.refuse([letter for _, letter in letters])

    # Rows of the table

    def _chain(self, prediction_id: str, now: float) -> list[Held]:
        """Return the rows of an id, those that waited too long until *now* having been given up."""
        chain = self._chains[prediction_id]
        for held in chain:
            if held.waits and held.due < now:
                held.ended(held.due + held.remember, None)
                self._expired.append(held)
        return chain

    def _waiting(self, place: int, row: tuple[Any, ...]) -> Held:
        """Return a row of the table that waits as an object; *row* has the fields of PENDING."""
        held = Held()
        held.place = place
        held.ts, held.log_time, held.offset = row[0], row[1], row[2]
        held.kind, held.refused = row[12], bool(row[14])
        self._place(held, row[7])
        return held

    def _place(self, held: Held, group: int) -> None:
        """Say which group a prediction that waits is of."""
        settings = self._settings.get(group)
        if settings is None:
            settings = self._settings[group] = self._state.groups.settings[group].item()
        held.group, held.waits = group, True
        held.window, held.grace, held.remember, held.name = settings[0], settings[1], settings[2], settings[5]
        held.due = max(held.ts, held.log_time) + held.window + held.grace
        held.matched, held.answer = False, None

    def _write(self) -> list[Ends]:
        """Write back what follows, and return what ended."""
        state, table = self._state, self._state.table
        if self._accepted:
            places = self._put()
            for (_, prediction_id, held), place in zip(self._accepted, places.tolist(), strict=True):
                held.place = place
                table.join_chain(prediction_id, place)
        for prediction_id, held in self._withheld.values():
            table.join_chain(prediction_id, held.place)
        refused = [held.place for held in chained.from_iterable(self._chains.values()) if held.refused]
        ended = []
        if refused:
            # Of what has ended since, the mark is still to be taken off the pages.
            table.rows["refused"][refused] = 1
        if self._expired:
            ended.append(expire(state, _places(self._expired), np.array([held.due for held in self._expired])))
        if self._joined:
            rows, truths, moments, causes = zip(*self._joined, strict=True)
            outcomes = np.array(list(truths), dtype=OUTCOME)
            verdict = np.where(outcomes["censored"], int(Verdict.CENSORED), int(Verdict.JOINED)).astype(np.uint8)
            places, cause = _places(rows), np.array(causes, dtype=np.uint8)
            table.unlink(places)
            ended.append(state.end(places, table.take(places), outcomes, verdict, np.array(moments), cause, known=True))
        return ended

    def _put(self) -> Ints:
        """Put the accepted predictions into the table; return their places."""
        rows, features, tables = self._columns
        indices = [index for index, _, _ in self._accepted]
        accepted = chosen(rows, np.array(indices))
        accepted["group"] = [held.group for _, _, held in self._accepted]
        places = self._state.table.room(len(indices))
        self._state.table.put(
            places,
            accepted,
            [prediction_id for _, prediction_id, _ in self._accepted],
            [features[index] for index in indices],
            None if tables is None else [tables[index] for index in indices],
        )
        self._state.accept(places, accepted)
        return places


def _dead_letters(run: Run, topic: int) -> list[tuple[Moment, DeadLetter]]:
    """Return what keeps the records that are no events, and their moments."""
    name, partition, records = _TOPICS[topic], run.partition, run.records
    keys, values = records.keys, records.values
    places = [place for place, _ in run.faults]
    columns = records.log_times[places].tolist(), records.offsets[places].tolist(), run.faults
    return [
        (
            (log_time, topic, offset, -1, -1),
            DeadLetter(
                topic=name,
                partition=partition,
                offset=offset,
                key=keys[place],
                value=values[place],
                reason=error.reason,
                error=str(error),
            ),
        )
        for log_time, offset, (place, error) in zip(*columns, strict=True)
    ]


_moment_of = itemgetter(0)


def _ended(row: tuple[Any, ...]) -> Held:
    """Return what is remembered as an object; *row* has the fields of RESOLVED."""
    horizon, log_time, offset, _, number, ts, loss, revision, name, kind, source, censored, known = row
    held = Held()
    held.place, held.name, held.waits, held.refused = -1, name, False, False
    held.horizon, held.matched, held.revision = horizon, offset >= 0, revision
    answer = ts, log_time, offset, number, loss, revision, kind, source, censored
    held.answer = answer if held.matched and known else None
    return held


def _places(rows: Sequence[Held]) -> Ints:
    return np.array([held.place for held in rows])


def fits(waiting: Rows, outcomes: Rows, window: Floats, grace: Floats) -> Mask:
    """Return which predictions can take the outcomes beside them: in time, and of one type."""
    ts, known = waiting["ts"], outcomes["ts"]
    answer, truth = waiting["kind"], outcomes["kind"]
    found: Mask = (ts - grace <= known) & (known <= ts + window)
    found &= outcomes["log_time"] <= np.maximum(ts, waiting["log_time"]) + window + grace
    found &= (answer == truth) | (answer == _NONE) | (truth == _NONE)
    return found


def expire(state: State, places: Ints, due: Floats) -> Ends:
    """Give predictions that waited until after their deadlines, shape (n,), their verdicts."""
    rows = state.table.take(places)
    state.table.unlink(places)
    kind, number = state.groups.of(rows["group"], "assumed_kind"), state.groups.of(rows["group"], "assumed")
    assumed = kind != _NONE
    outcomes = no_outcomes(len(places))
    outcomes["ts"] = np.where(assumed, rows["ts"] + state.groups.of(rows["group"], "window"), np.nan)
    outcomes["log_time"] = np.where(assumed, due, np.nan)
    outcomes["kind"], outcomes["number"] = kind, number
    outcomes["source"] = np.where(assumed, _ASSUMED, 0)
    verdict = np.where(assumed, int(Verdict.JOINED), int(Verdict.EXPIRED)).astype(np.uint8)
    return state.end(places, rows, outcomes, verdict, due, BY_CLOCK, known=False)
