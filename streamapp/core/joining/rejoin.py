"""How a joiner comes back: its checkpoint says which records are needed, the topics hold what they are."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from streamapp.core.events import Ints, Outcome, Prediction, Verdict
from streamapp.core.joining.early import Early
from streamapp.core.joining.intake import NONE, Intake, Records
from streamapp.core.joining.matching import Matching
from streamapp.core.joining.results import BY_CLOCK, Ends
from streamapp.core.joining.rows import Rows
from streamapp.core.joining.rules import Mask
from streamapp.core.joining.runs import features, no_outcomes, outcome_rows, prediction_rows, tables
from streamapp.core.joining.state import State
from streamapp.core.joining.table import PENDING
from streamapp.errors import CheckpointError


class Rejoin:
    """Brings events that were settled before back to where they waited, without any output.

    Args:
        state: What the checkpoint restored, short of the events.
        matching: Makes columns of records.
        waiting: How many predictions waited by model and group.
        found: Offsets of predictions that wait again already.
        bound: Every prediction with an offset below it is among those, if it waits.
        allow_lost: Give predictions that are gone the verdict LOST, rather than refuse.
    """

    def __init__(
        self,
        state: State,
        matching: Matching,
        waiting: Mapping[tuple[str, str], int],
        found: Ints,
        bound: int,
        *,
        allow_lost: bool,
    ) -> None:
        self._state = state
        self._matching = matching
        self._waiting = waiting
        self._bound = bound
        self._allow_lost = allow_lost
        self._found_predictions: list[Ints] = [found]
        self._found_outcomes: list[int] = []
        self._matched = [(segment.rows, *_by_outcome(segment.rows)) for segment in state.remembered.segments()]
        """What is remembered: rows, those of them whose outcomes are needed, and the offsets of these, rising."""

    def needs_predictions(self, offsets: Ints) -> Mask:
        """Return which records of ``predictions`` at some rising offsets are needed, of those that were settled."""
        return self._state.pending_pages.holds(offsets) & (offsets >= self._bound)

    def needs_outcomes(self, offsets: Ints) -> Mask:
        """Return which records of ``outcomes`` at some rising offsets are needed, of those that were settled."""
        found: Mask = self._state.waiting_pages.holds(offsets)
        for _, _, matched in self._matched:
            among = _among(offsets, matched)
            if among is not None:
                found |= among[1]
        return found

    def predictions(self, records: Records) -> None:
        """Take records of ``predictions`` again; those that are not needed are skipped."""
        state = self._state
        needed = _chosen(records, self.needs_predictions(records.offsets))
        if not len(needed):
            return
        run, _ = self._matching.runs(needed, NONE)
        if not len(run):
            return
        events: Sequence[Prediction] = run.events
        codes = state.groups.again([p.model for p in events], [p.group for p in events], run.offsets)
        rows = prediction_rows(run, codes, run.hashes(), state.words)
        rows["refused"] = state.refused_pages.holds(run.offsets)
        state.wait_again(rows, run.ids, features(run), tables(run))
        self._found_predictions.append(run.offsets)

    def outcomes(self, records: Records) -> None:
        """Take records of ``outcomes`` again; those that are not needed are skipped."""
        state = self._state
        needed = _chosen(records, self.needs_outcomes(records.offsets))
        if not len(needed):
            return
        _, run = self._matching.runs(NONE, needed)
        if not len(run):
            return
        rows = outcome_rows(run, state.words.label)
        self._answer(rows)
        repeated = state.repeated_pages.holds(run.offsets).tolist()
        for i in np.flatnonzero(state.waiting_pages.holds(run.offsets)).tolist():
            outcome: Outcome = run.events[i]
            record, stray = run.place(i), run.stray(i)
            key, value = needed.keys[record], needed.values[record]
            offset, log_time = int(run.offsets[i]), float(run.log_times[i])
            state.keep(Early(outcome, offset, log_time, key, value, stray, repeated[i]))
            self._found_outcomes.append(offset)

    def _answer(self, rows: Rows) -> None:
        """Give outcomes back to what they were matched with."""
        for resolved, places, offsets in self._matched:
            first = np.searchsorted(offsets, rows["offset"], "left")
            end = np.searchsorted(offsets, rows["offset"], "right")
            chosen = np.repeat(np.arange(len(rows)), end - first)
            if not len(chosen):
                continue
            nth = np.arange(len(chosen)) - np.repeat(np.cumsum(end - first) - (end - first), end - first)
            own, found = places[first[chosen] + nth], rows[chosen]
            for name in ("log_time", "number", "ts", "loss", "kind", "source"):
                resolved[f"outcome_{name}"][own] = found[name]
            resolved["revision"][own], resolved["censored"][own] = found["revision"], found["censored"]
            resolved["known"][own] = 1

    def end(self, log_time: float, intakes: Mapping[str, Intake]) -> None:
        """End the restore.

        Args:
            log_time: Where the joiner stands.
            intakes: By topic.

        Raises:
            CheckpointError: Needed offsets were not found, and may not be lost.
        """
        state = self._state
        for topic, intake in intakes.items():
            if not (intake.complete or self._allow_lost):
                raise CheckpointError(
                    f"offsets {intake.done} to {intake.applied - 1} of {topic}, partition {state.partition}, were read "
                    f"before but not settled, and not all of them are there any more"
                )
        found = np.concatenate(self._found_predictions)
        predictions = _missing(state.pending_pages.offsets(), found)
        outcomes = _missing(state.waiting_pages.offsets(), np.array(self._found_outcomes, dtype=np.int64))
        for topic, missing in (("predictions", predictions), ("outcomes", outcomes)):
            if missing and not self._allow_lost:
                raise CheckpointError(
                    f"{len(missing)} records that the checkpoint waits for are not in partition {state.partition} "
                    f"of {topic} any more: offsets {_some(missing)}"
                )
        if predictions:
            self._lose(predictions, log_time)
        state.lose_outcomes(outcomes)
        state.groups.reopen()

    def _lose(self, offsets: Sequence[int], log_time: float) -> None:
        """Give predictions that cannot be read any more their verdict.

        Their content is gone, so *log_time* stands for their times. How many there are of each group is known, and
        which offsets they had; which offset was of which group is not.
        """
        state, groups = self._state, self._state.groups
        found = groups.waiting()
        short = sum(self._waiting.values()) - sum(found.values())
        if short != len(offsets):
            raise CheckpointError(
                f"checkpoint waits for {len(offsets)} records less, by its counts {short}",
            )
        missing = {name: n - found.get(name, 0) for name, n in self._waiting.items() if n > found.get(name, 0)}
        codes = [code for name, n in missing.items() for code in [groups.lost(*name)] * n][: len(offsets)]
        rows = np.zeros(len(codes), PENDING)
        rows["offset"] = offsets[: len(codes)]
        rows["group"] = codes
        rows["ts"] = rows["log_time"] = log_time
        rows["number"] = rows["score"] = rows["latency"] = np.nan
        rows["version"] = rows["series"] = rows["unit"] = -1
        n = len(rows)
        state.ended.append(
            Ends(
                rows=rows,
                outcomes=no_outcomes(n),
                verdict=np.full(n, int(Verdict.LOST), np.uint8),
                moment=np.full(n, log_time),
                cause=np.full(n, BY_CLOCK, np.uint8),
                horizon=np.full(n, log_time),
                features=[b""] * n,
                tables=None,
            )
        )
        groups.add(rows["group"], 1)
        state.strike(rows)
        state.refused_pages.discard_all(rows["offset"])
        state.predictions.lost += n


def _chosen(records: Records, mask: Mask) -> Records:
    if mask.all():
        return records
    places = np.flatnonzero(mask)
    rows = places.tolist()

    def pick(column: Sequence[Any]) -> list[Any]:
        return [column[row] for row in rows]

    return Records(
        records.offsets[places],
        records.log_times[places],
        pick(records.keys),
        pick(records.values),
        pick(records.events),
    )


def _by_outcome(resolved: Rows) -> tuple[Ints, Ints]:
    """Return the rows that were matched with an outcome, in the order of their outcomes' offsets, and these."""
    matched = np.flatnonzero(resolved["outcome_offset"] >= 0)
    matched = matched[np.argsort(resolved["outcome_offset"][matched], kind="stable")]
    return matched, resolved["outcome_offset"][matched]


def _missing(needed: Ints, found: Ints) -> list[int]:
    """Return which of some rising offsets were not found, in order."""
    left = np.ones(len(needed), dtype=np.bool_)
    among = _among(found, needed)
    if among is not None:
        places, mask = among
        left[places[mask]] = False
    missing: list[int] = needed[left].tolist()
    return missing


def _among(offsets: Ints, rising: Ints) -> tuple[Ints, Mask] | None:
    """Return where each offset is among rising ones, and whether it is there; None if there are none."""
    if not len(rising):
        return None
    places = np.minimum(np.searchsorted(rising, offsets), len(rising) - 1)
    return places, rising[places] == offsets


def _some(offsets: Sequence[int]) -> str:
    """Return the first few offsets as text."""
    text = ", ".join(map(str, offsets[:10]))
    return f"{text}, ..., {offsets[-1]}" if len(offsets) > 10 else text
