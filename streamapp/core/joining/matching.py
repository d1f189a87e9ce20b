"""What becomes of predictions and outcomes: all records of a stretch of log time at once, as columns.

Ids do not touch each other, so nearly all records are settled together: predictions of a new id, and outcomes that meet
one waiting prediction that can take them. The others are settled one by one, in their order, by
:class:`streamapp.core.joining.rules.Rules`. What ended is put in order at the end.
"""

from collections.abc import Collection, Sequence
from itertools import compress

import numpy as np

from streamapp.core.events import Outcome, Prediction, Verdict
from streamapp.core.joining.intake import Records
from streamapp.core.joining.results import BY_OUTCOME, Ends, together
from streamapp.core.joining.rows import chosen
from streamapp.core.joining.rules import Mask, Rules, expire, fits
from streamapp.core.joining.runs import Run, features, outcome_rows, prediction_rows, run, tables
from streamapp.core.joining.state import State


class Matching:
    """Settles records.

    Args:
        state: What is known so far; changed by every call.
        partitions: How many partitions the topics have; None: do not look at the keys.
    """

    def __init__(self, state: State, partitions: int | None) -> None:
        self._state = state
        self._partitions = partitions

    def settle(self, predictions: Records, outcomes: Records, clock: float) -> None:
        """Settle the next records of both topics, and give up what has waited until *clock*.

        Args:
            predictions: With log times up to *clock*, none below that of a record settled before.
            outcomes: Likewise.
            clock: Nothing with a log time below it is still to come.
        """
        state = self._state
        while len(predictions):
            first, last = predictions.log_times[[0, -1]].tolist()
            if last <= state.roster.until(first):
                break
            # Where a name becomes outdated, another may take its place: until there, none does.
            end = state.forget_names(first)
            if last > end:
                some, predictions = _cut(predictions, end)
                others, outcomes = _cut(outcomes, end)
                self._settle(some, others, end)
        self._settle(predictions, outcomes, clock)

    def _settle(self, predictions: Records, outcomes: Records, clock: float) -> None:
        """Settle records up to whose log times every name that is taken is current."""
        state = self._state
        state.predictions.read += len(predictions)
        state.outcomes.read += len(outcomes)
        ended: list[Ends] = []
        ordered = True
        if len(predictions) or len(outcomes):
            first, second = self.runs(predictions, outcomes)
            rules = Rules(state, first, second)
            special = self._predict(first, rules) if len(first) else set()
            if len(second):
                self._observe(second, special, rules, ended)
            others = rules.settle()
            if others:
                ended += others
                ordered = False
        state.give_up_early(clock)
        places, due = state.deadlines.due(clock, state.groups)
        if len(places):
            ended.append(expire(state, places, due))
        if ended:
            state.ended.append(ended[0] if ordered and len(ended) == 1 else together(ended).ordered())

    def runs(self, predictions: Records, outcomes: Records) -> tuple[Run, Run]:
        """Return records as columns."""
        partition, partitions = self._state.partition, self._partitions
        return run(predictions, Prediction, partition, partitions), run(outcomes, Outcome, partition, partitions)

    # Predictions

    def _predict(self, run: Run, rules: Rules) -> set[str]:
        """Accept the predictions of new ids; leave the others to the rules, and return their ids."""
        state, ids, table = self._state, run.ids, self._state.table
        hashes = run.hashes()
        places, special = table.claim(ids)
        if state.early.by_id:
            special |= state.early.by_id.keys() & table.by_id.keys()
        simple: Mask = ~members(ids, special) if special else np.ones(len(ids), dtype=np.bool_)
        remembered = state.remembered.may_have(hashes)
        if remembered.any():
            some = np.flatnonzero(remembered)
            simple[some[state.remembered.find(hashes[some])[0]]] = False
        models, groups = [p.model for p in run.events], [p.group for p in run.events]
        codes = state.groups.known(models, groups)
        unknown = codes < 0
        if unknown.any():
            # Names are taken in the order of their first accepted predictions: only the rules know which those are,
            # unless all are.
            if simple[unknown].all():
                for place in np.flatnonzero(unknown).tolist():
                    offset, log_time = int(run.offsets[place]), float(run.log_times[place])
                    codes[place] = state.groups.code(models[place], groups[place], offset, log_time)
            simple &= codes >= 0
        rows = prediction_rows(run, codes, hashes, state.words)
        raw, scores = features(run), tables(run)
        whole = bool(simple.all())
        accepted = rows
        if not whole:
            rules.predictions(rows, raw, scores, np.flatnonzero(~simple))
            accepted, places = chosen(rows, simple), table.renounce(ids, places, ~simple)
            kept = simple.tolist()
            ids, raw = list(compress(ids, kept)), list(compress(raw, kept))
            scores = None if scores is None else list(compress(scores, kept))
        if len(accepted):
            table.put(places, accepted, ids, raw, scores)
            state.accept(places, accepted)
            strays = run.strays()
            if strays is not None:
                state.predictions.misplaced += int(np.count_nonzero(strays & simple))
        return set() if whole else set(compress(run.ids, (~simple).tolist()))

    # Outcomes

    def _observe(self, run: Run, special: set[str], rules: Rules, ended: list[Ends]) -> None:
        """Join the outcomes that meet one waiting prediction each; leave the others to the rules."""
        state, ids, table = self._state, run.ids, self._state.table
        rows = outcome_rows(run, state.words.label)
        places = table.draw(ids)
        met = places >= 0
        others = set() if met.all() else set(compress(ids, (~met).tolist()))
        simple: Mask = met & ~members(ids, others | special) if others or special else met
        waiting = table.take(np.maximum(places, 0))
        # Accepted just now, but later than the outcome: it has to wait for its prediction.
        early = met & (rows["log_time"] < waiting["log_time"])
        simple &= ~early & (waiting["linked"] == 0)
        # What does not wait may have anything in the place of a group.
        codes = np.where(met, waiting["group"], 0)
        simple &= fits(waiting, rows, state.groups.of(codes, "window"), state.groups.of(codes, "grace"))
        if not simple.all():
            left = ~simple
            table.give_back(list(compress(ids, left.tolist())), places[left])
            if early.any():
                rules.withhold(list(compress(ids, early.tolist())))
            rules.outcomes(rows, np.flatnonzero(left))
            rows, places, waiting = chosen(rows, simple), places[simple], chosen(waiting, simple)
        if len(rows):
            verdict = np.where(rows["censored"], int(Verdict.CENSORED), int(Verdict.JOINED)).astype(np.uint8)
            ended.append(state.end(places, waiting, rows, verdict, rows["log_time"].copy(), BY_OUTCOME, known=True))
            state.outcomes.accepted += len(rows)
            # Where every prediction was in its place, an outcome with the same key is.
            if state.predictions.misplaced or not run.keyed:
                strays = run.strays()
                if strays is not None:
                    state.outcomes.misplaced += int(np.count_nonzero(strays & simple))


def _cut(records: Records, log_time: float) -> tuple[Records, Records]:
    """Return the records up to a log time, ties included, and those behind it."""
    place = int(np.searchsorted(records.log_times, log_time, "right"))
    return records.part(0, place), records.part(place, len(records))


def members(ids: Sequence[str], some: Collection[str]) -> Mask:
    """Return which ids are among some."""
    return np.fromiter(map(some.__contains__, ids), dtype=np.bool_, count=len(ids))
