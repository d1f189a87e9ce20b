"""What a joiner knows: predictions that wait or are remembered, early outcomes, counts, and results to be taken."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from streamapp.core.events import Bytes, DeadLetter, Floats, Hashes, Ints
from streamapp.core.joining.deadlines import Deadlines, deadlines
from streamapp.core.joining.early import Early, EarlyOutcomes
from streamapp.core.joining.groups import Groups
from streamapp.core.joining.pages import Pages
from streamapp.core.joining.remembered import RESOLVED, Remembered
from streamapp.core.joining.results import NO_ENDS, Ends, together
from streamapp.core.joining.roster import Limits, Roster
from streamapp.core.joining.rows import Rows, chosen, joined
from streamapp.core.joining.table import PENDING, WAITS, Table
from streamapp.core.joining.tally import Tally
from streamapp.core.joining.words import Vocabularies, Words
from streamapp.core.settings import Settings

ROW_BYTES = 100
"""About how much a result adds to ``scored`` and to the checkpoint, without features and probabilities."""
CLASS_BYTES = 9
"""Of the probability of one class."""
FEW = 4096
"""Words of one column that may be kept whatever is in use."""


class State:
    """Everything that follows from the records settled so far."""

    def __init__(self, partition: int, settings: Settings, limits: Limits) -> None:
        self.partition = partition
        self.limits = limits
        self.predictions = Tally("predictions")
        self.outcomes = Tally("outcomes")
        self.roster = Roster(settings, limits)
        self.words = Vocabularies(Words(), Words(), Words(), Words())
        self.groups = Groups(settings, self.roster, self.words.label)
        self.table = Table()
        self.deadlines = Deadlines(self.table)
        self.remembered = Remembered()
        # The model of an outcome without a prediction is unknown, so the most patient one decides.
        self.early = EarlyOutcomes(max(float(s.grace) for s in (settings.defaults, *settings.models.values())))
        self.pending_pages = Pages("pending")
        self.refused_pages = Pages("refused")
        self.waiting_pages = Pages("waiting")
        self.repeated_pages = Pages("repeated")
        self.dead_letters: list[DeadLetter] = []
        self.ended: list[Ends] = []
        """In order, each part before the next."""
        self.weight = 0
        """About how many bytes of results have not been taken."""
        self._accepted: list[Rows] = []

    @property
    def pages(self) -> tuple[Pages, ...]:
        """All sets of offsets that a checkpoint keeps."""
        return self.pending_pages, self.refused_pages, self.waiting_pages, self.repeated_pages

    # Predictions

    def accept(self, places: Ints, rows: Rows) -> None:
        """Count predictions that were put into the table, and let them wait."""
        self.wait(places, rows)
        self.groups.hear(rows)
        self.predictions.accepted += len(rows)
        self.pending_pages.add_all(rows["offset"])
        if self.groups.collecting:
            self.predictions.other_model += int(np.count_nonzero(self.groups.of(rows["group"], "other_model")))
            self.predictions.other_group += int(np.count_nonzero(self.groups.of(rows["group"], "other_group")))
        self._accepted.append(rows)

    def wait(self, places: Ints, rows: Rows) -> None:
        """Let predictions wait that were put into the table."""
        self.table.rows["state"][places] = WAITS
        self.groups.add(rows["group"], 1)
        self.deadlines.add(places, deadlines(rows, self.groups))

    def wait_again(
        self, rows: Rows, ids: Sequence[str], features: Sequence[bytes], tables: Sequence[Any] | None
    ) -> None:
        """Let predictions wait that waited before a restart; *rows* say all but their state."""
        table = self.table
        places = table.room(len(rows))
        table.put(places, rows, ids, features, tables)
        numbers = places.tolist()
        firsts = list(map(table.by_id.setdefault, ids, numbers))
        if firsts != numbers:
            for prediction_id, place, first in zip(ids, numbers, firsts, strict=True):
                if first != place:
                    table.join_chain(prediction_id, place)
        self.wait(places, rows)

    def end(
        self,
        places: Ints,
        rows: Rows,
        outcomes: Rows,
        verdict: Bytes,
        moment: Floats,
        cause: int | Bytes,
        *,
        known: bool,
    ) -> Ends:
        """Give predictions their verdict, and remember them.

        Args:
            places: Rows of the table, shape (n,); they are not found by their ids any more.
            rows: What stands there.
            outcomes: What they are matched with, shape (n,).
            verdict: Shape (n,).
            moment: Log times, shape (n,).
            cause: Of all, or of each, as of :mod:`streamapp.core.joining.results`.
            known: Whether these outcomes came, and may answer for other groups too.
        """
        table, codes = self.table, rows["group"]
        remember = self.groups.of(codes, "remember")
        horizon = moment + remember
        features = table.features[places].tolist()
        tables = None if table.scores is None else table.scores[places].tolist()
        if tables is not None and tables.count(None) == len(tables):
            tables = None
        ends = Ends(
            rows=rows,
            outcomes=outcomes,
            verdict=verdict,
            moment=moment,
            cause=np.full(len(rows), cause, np.uint8),
            horizon=horizon,
            features=features,
            tables=tables,
        )
        self.weight += ROW_BYTES * len(rows) + sum(map(len, features))
        if tables is not None:
            self.weight += CLASS_BYTES * sum(map(len, filter(None, tables)))
        self.strike(rows)
        table.free(places)
        self.remembered.add(
            remembrance(outcomes, rows["id_hash"], horizon, self.groups.of(codes, "name"), known=known), remember
        )
        return ends

    def strike(self, rows: Rows) -> None:
        """Take predictions off the lists of those that wait."""
        self.pending_pages.discard_all(rows["offset"])
        refused = rows["refused"] != 0
        if refused.any():
            self.refused_pages.discard_all(rows["offset"][refused])
        self.groups.add(rows["group"], -1)

    # Outcomes

    def refuse(self, letters: Sequence[DeadLetter]) -> None:
        """Keep records that are of no use, in the order in which they were settled."""
        self.dead_letters += letters
        self.weight += sum(len(letter.value or b"") for letter in letters)

    def keep(self, early: Early) -> None:
        """Let an outcome wait for its prediction."""
        self.early.add(early)

    def drop(self, early: Early) -> None:
        """Strike an outcome from the pages of those that wait."""
        self.waiting_pages.discard(early.offset)
        if early.repeated:
            self.repeated_pages.discard(early.offset)

    def give_up_early(self, clock: float) -> None:
        """Give up outcomes that have waited for a prediction until *clock*."""
        if clock <= self.early.soonest:
            return
        for early in self.early.unmatched(clock):
            if early.repeated:
                self.outcomes.duplicate += 1
            else:
                self.outcomes.unmatched += 1
            self.drop(early)

    def lose_outcomes(self, offsets: Sequence[int]) -> None:
        """Give up waiting outcomes whose content is gone: no prediction will claim them."""
        for offset in offsets:
            self.waiting_pages.discard(offset)
            self.repeated_pages.discard(offset)
        self.outcomes.unmatched += len(offsets)
        self.outcomes.lost += len(offsets)

    # Taking

    def take_ends(self) -> Ends:
        """Return what ended since the last time, in order."""
        ends = together(self.ended) if self.ended else NO_ENDS
        self.ended.clear()
        self.weight = 0
        return ends

    def take_accepted(self) -> Rows:
        """Return what was accepted since the last time, in order of offset."""
        rows = joined(self._accepted) if self._accepted else np.empty(0, PENDING)
        self._accepted.clear()
        offset = rows["offset"]
        return rows if (np.diff(offset) > 0).all() else chosen(rows, np.argsort(offset))

    def forget_names(self, log_time: float) -> float:
        """Drop the names that are outdated at a log time below which every prediction was settled.

        Returns:
            As :meth:`streamapp.core.joining.roster.Roster.until`.
        """
        self.groups.tell()
        if self.roster.forget(log_time):
            self.groups.reopen()
        return self.roster.until(log_time)

    def forget(self, clock: float) -> None:
        """Forget what nothing can ask for any more; only when everything was taken."""
        self.remembered.forget(clock)
        self.deadlines.compact(int(self.groups.pending.sum()), self.groups)
        swept = self.groups.swept()
        if swept is not None:
            self.groups, mapping = swept
            waiting = self.table.waiting()
            self.table.rows["group"][waiting] = mapping[self.table.rows["group"][waiting]]
        self._sweep_words()

    def _sweep_words(self) -> None:
        table, words = self.table, self.words
        known = table.live + len(self.remembered)
        if any(len(w) > 2 * table.live + FEW for w in (words.version, words.series, words.unit)):
            waiting = table.waiting()
            for name in ("version", "series", "unit"):
                vocabulary: Words = getattr(words, name)
                codes = table.rows[name][waiting]
                table.rows[name][waiting] = vocabulary.keep(codes)[codes]
        if len(words.label) > 4 * known + FEW:
            self._sweep_labels(table.waiting())
        if len(self.groups.names) > 2 * known + FEW:
            self._sweep_names()

    def _sweep_labels(self, waiting: Ints) -> None:
        groups = self.groups.settings[: len(self.groups.pairs)]
        columns = [
            (self.table.rows, "number", waiting[self.table.rows["kind"][waiting] == _STRING]),
            *(
                (segment.rows, "outcome_number", np.flatnonzero(segment.rows["outcome_kind"] == _STRING))
                for segment in self.remembered.segments()
            ),
            (groups, "assumed", np.flatnonzero(groups["assumed_kind"] == _STRING)),
        ]
        codes = [rows[name][places].astype(np.int64) for rows, name, places in columns]
        mapping = self.words.label.keep(np.concatenate(codes))
        for (rows, name, places), before in zip(columns, codes, strict=True):
            rows[name][places] = mapping[before]

    def _sweep_names(self) -> None:
        groups = self.groups.settings[: len(self.groups.pairs)]
        columns = [
            *((segment.rows, "name") for segment in self.remembered.segments()),
            (groups, "name"),
            (groups, "counted"),
        ]
        codes = [rows[name].copy() for rows, name in columns]
        mapping = self.groups.names.keep(np.concatenate(codes))
        for (rows, name), before in zip(columns, codes, strict=True):
            rows[name] = mapping[before]


_STRING = 3


def remembrance(outcomes: Rows, hashes: Hashes, horizon: Floats, name: Any, *, known: bool) -> Rows:
    """Return what is remembered of ends, shape (n,), of dtype RESOLVED."""
    made = np.empty(len(hashes), RESOLVED)
    made["horizon"] = horizon
    made["outcome_log_time"] = outcomes["log_time"]
    made["outcome_offset"] = outcomes["offset"] if known else -1
    made["id_hash"] = hashes
    made["outcome_number"] = outcomes["number"]
    made["outcome_ts"] = outcomes["ts"]
    made["outcome_loss"] = outcomes["loss"]
    made["revision"] = outcomes["revision"]
    made["name"] = name
    made["outcome_kind"] = outcomes["kind"]
    made["outcome_source"] = outcomes["source"]
    made["censored"] = outcomes["censored"]
    made["known"] = known
    return made
