"""The models and groups that predictions name: codes, settings by code, and how many wait of each."""

from collections.abc import Sequence
from itertools import repeat
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamapp.core.events import Codes, Floats, Ints, Kind
from streamapp.core.joining.roster import NEWEST, Roster
from streamapp.core.joining.rows import Rows
from streamapp.core.joining.words import Words
from streamapp.core.settings import Assume, Label, Settings

ROOM = 1000
"""Pairs that may be known without a prediction that waits."""
FIRST = 16
"""Length of the first columns."""
_COLUMNS = ("settings", "pending", "_heard", "_told", "_since")

SETTINGS = np.dtype(
    [
        ("window", "f8"),
        ("grace", "f8"),
        ("remember", "f8"),
        ("assumed", "f8"),
        ("assumed_kind", "u1"),
        ("name", "i4"),
        ("counted", "i4"),
        ("model", "i4"),
        ("other_model", "u1"),
        ("other_group", "u1"),
    ]
)
"""Of a pair: seconds; the outcome that stands for one that never came (:class:`Kind` NONE: none does); the codes of the
group's own name, and of the group and the model that it counts under; whether those are others than its own."""


class Groups:
    """Pairs of model and group as predictions name them, and what they count under.

    Args:
        settings: Settings of the models.
        roster: Says under which names they count.
        labels: Vocabulary of the labels.
    """

    def __init__(self, settings: Settings, roster: Roster, labels: Words) -> None:
        self._settings = settings
        self._roster = roster
        self._labels = labels
        self.names = Words()
        """Of groups."""
        self.models = Words()
        """That something counts under."""
        self._by_model: dict[str, dict[str, int]] = {}
        """Codes of the pairs of which it is settled what they count under, until the roster drops a name."""
        self.pairs: list[tuple[str, str]] = []
        """Model and group by code, as predictions name them; in time a pair may have several codes."""
        self.settings: NDArray[Any] = np.zeros(FIRST, SETTINGS)
        """By code."""
        self.pending: Ints = np.zeros(FIRST, np.int64)
        """Predictions that wait, by code."""
        self._heard: Floats = np.zeros(FIRST)
        """Log time of the last prediction, by code."""
        self._told: Floats = np.zeros(FIRST)
        """The same, rounded up, as the roster knows it."""
        self._since: Ints = np.zeros(FIRST, np.int64)
        """Offset from which on a pair has its code, while a restore reads predictions again."""
        self._earlier: dict[tuple[str, str, str, str], int] = {}
        """Codes of pairs by what they count under, likewise."""
        self.collecting = False
        """Whether any pair counts under another name."""

    def known(self, models: Sequence[str], groups: Sequence[str]) -> Codes:
        """Return the code of each pair, -1 where it is not settled what it counts under; shape (n,)."""
        n = len(models)
        if models.count(models[0]) == n:
            of_model = self._by_model.get(models[0], {})
            if groups.count(groups[0]) == n:
                return np.full(n, of_model.get(groups[0], -1), dtype=np.int32)
            return np.fromiter(map(of_model.get, groups, repeat(-1)), dtype=np.int32, count=n)
        by_model = self._by_model
        found = [by_model[m].get(g, -1) if m in by_model else -1 for m, g in zip(models, groups, strict=True)]
        return np.array(found, dtype=np.int32)

    def code(self, model: str, group: str, offset: int, log_time: float) -> int:
        """Return the code of a pair, made where it is new.

        Args:
            model: As the prediction names it; likewise the group.
            group: See there.
            offset: Of the prediction.
            log_time: Likewise.
        """
        found = self._by_model.get(model, {}).get(group)
        if found is None:
            counted_model, counted, last = self._roster.take(model, group, offset, log_time)
            found = self._make(model, group, counted_model, counted)
            self._by_model.setdefault(model, {})[group] = found
            self._told[found] = last
        return found

    def again(self, models: Sequence[str], groups: Sequence[str], offsets: Ints) -> Codes:
        """Return the codes of predictions that were accepted before a restart, and wait; shape (n,).

        No name is taken: they go on counting under what they did. :meth:`reopen` ends it.
        """
        codes = self.known(models, groups)
        for place in np.flatnonzero((codes < 0) | (offsets < self._since[codes])).tolist():
            codes[place] = self._again(models[place], groups[place], int(offsets[place]))
        return codes

    def _again(self, model: str, group: str, offset: int) -> int:
        counted_model, counted, since = self._roster.counted(model, group, NEWEST)
        if offset < since:
            counted_model, counted, _ = self._roster.counted(model, group, offset)
        key = model, group, counted_model, counted
        code = self._earlier.get(key)
        if code is None:
            code = self._earlier[key] = self._make(*key)
        if offset >= since:
            self._by_model.setdefault(model, {})[group] = code
            self._since[code] = since
        return code

    def lost(self, model: str, group: str) -> int:
        """Return a code for predictions of which only that is known what they count under."""
        return self._make(model, group, model, group)

    def _make(self, model: str, group: str, counted_model: str, counted: str) -> int:
        """Return a new code for a pair that counts under these names."""
        code = len(self.pairs)
        if code == len(self.pending):
            self._grow(2 * code)
        self.pairs.append((model, group))
        planned = self._settings.of(counted_model)
        assume = planned.on_expiry.assume if isinstance(planned.on_expiry, Assume) else None
        self.collecting |= (counted_model, counted) != (model, group)
        self.settings[code] = (
            float(planned.outcome_window),
            float(planned.grace),
            float(planned.remember),
            label_number(assume, self._labels),
            kind(assume),
            self.names.code(group),
            self.names.code(counted),
            self.models.code(counted_model),
            counted_model != model,
            counted != group,
        )
        return code

    def _grow(self, size: int) -> None:
        for name in _COLUMNS:
            column = getattr(self, name)
            setattr(self, name, np.concatenate((column, np.zeros(size - len(column), column.dtype))))

    def of(self, codes: Codes, setting: str) -> NDArray[Any]:
        """Return one setting of some pairs, shape (n,)."""
        found: NDArray[Any] = self.settings[setting][codes]
        return found

    # What the roster is told

    def hear(self, rows: Rows) -> None:
        """Take note of accepted predictions, in order of log time; :meth:`tell` says it to the roster."""
        heard = self._heard.copy()
        heard[rows["group"]] = rows["log_time"]  # of several of a pair, the last stays
        np.maximum(self._heard, heard, out=self._heard)

    def tell(self) -> None:
        """Tell the roster what was heard of since the last time."""
        n = len(self.pairs)
        for code in np.flatnonzero(self._heard[:n] > self._told[:n]).tolist():
            self._told[code] = self._roster.hear(*self.counted(code), float(self._heard[code]))

    def reopen(self) -> None:
        """Ask the roster again about every pair that it does not hold, at its next prediction.

        What waits keeps its code.
        """
        other = self.settings["other_model"] | self.settings["other_group"]
        self._by_model = {
            model: stays
            for model, groups in self._by_model.items()
            if (stays := {g: code for g, code in groups.items() if not other[code] and self._roster.holds(model, g)})
        }
        self._earlier.clear()

    # What waits

    def add(self, codes: Codes, sign: int) -> None:
        """Count predictions that begin (1) or end (-1) to wait."""
        if len(codes):
            counts = np.bincount(codes)
            self.pending[: len(counts)] += sign * counts

    def waiting(self) -> dict[tuple[str, str], int]:
        """Return how many wait by model and group that they count under, without zeros."""
        counts: dict[tuple[str, str], int] = {}
        for code in np.flatnonzero(self.pending[: len(self.pairs)]).tolist():
            counted = self.counted(code)
            counts[counted] = counts.get(counted, 0) + int(self.pending[code])
        return counts

    def counted(self, code: int) -> tuple[str, str]:
        """Return the model and the group that a pair counts under."""
        model, group = self.models[self.settings["model"][code]], self.names[self.settings["counted"][code]]
        assert model is not None
        assert group is not None
        return model, group

    def swept(self) -> "tuple[Groups, Codes] | None":
        """Return only the pairs of which some wait, and the new code by old one; None where the others are few."""
        live = np.flatnonzero(self.pending[: len(self.pairs)])
        if len(self.pairs) <= 2 * len(live) + ROOM:
            return None
        mapping = np.full(len(self.pairs), -1, dtype=np.int32)
        mapping[live] = np.arange(len(live), dtype=np.int32)
        fresh = Groups(self._settings, self._roster, self._labels)
        fresh.names = self.names
        fresh.pairs = [self.pairs[code] for code in live.tolist()]
        fresh._grow(max(2 * len(live), FIRST))
        for name in _COLUMNS:
            getattr(fresh, name)[: len(live)] = getattr(self, name)[live]
        found = fresh.settings[: len(live)]
        words = found["model"].copy()
        found["model"] = self.models.keep(words)[words]
        fresh.models = self.models
        fresh.collecting = bool((found["other_model"] | found["other_group"]).any())
        for model, groups in self._by_model.items():
            stays = {group: int(mapping[code]) for group, code in groups.items() if mapping[code] >= 0}
            if stays:
                fresh._by_model[model] = stays
        return fresh, mapping


def kind(label: Label | None) -> int:
    """Return the :class:`Kind` of a label."""
    return _KINDS.get(label.__class__, int(Kind.NUMBER))


_KINDS: dict[type, int] = {type(None): int(Kind.NONE), bool: int(Kind.BOOL), str: int(Kind.STRING)}


def label_number(label: Label | None, labels: Words) -> float:
    """Return the number that stands for a label in a column: itself, or the code of a word; nan for none."""
    if isinstance(label, str):
        return float(labels.code(label))
    return float("nan") if label is None else float(label)
