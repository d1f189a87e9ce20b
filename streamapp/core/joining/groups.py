"""The models and groups that predictions name: codes, settings by code, and how many wait of each."""

from collections.abc import Sequence
from itertools import repeat
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamapp.core.events import Codes, Ints, Kind
from streamapp.core.joining.roster import Roster
from streamapp.core.joining.words import Words
from streamapp.core.settings import Assume, Label, Settings

ROOM = 1000
"""Pairs that may be known without a prediction that waits."""

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
    """Pairs of model and group as predictions name them, in order of their first accepted prediction.

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
        self.pairs: list[tuple[str, str]] = []
        """Model and group by code, as predictions name them."""
        self.settings: NDArray[Any] = np.zeros(16, SETTINGS)
        """By code."""
        self.pending: Ints = np.zeros(16, np.int64)
        """Predictions that wait, by code."""
        self.collecting = False
        """Whether any pair counts under another name."""

    def known(self, models: Sequence[str], groups: Sequence[str]) -> Codes:
        """Return the code of each pair, -1 where it was never accepted; shape (n,)."""
        n = len(models)
        if models.count(models[0]) == n:
            of_model = self._by_model.get(models[0], {})
            if groups.count(groups[0]) == n:
                return np.full(n, of_model.get(groups[0], -1), dtype=np.int32)
            return np.fromiter(map(of_model.get, groups, repeat(-1)), dtype=np.int32, count=n)
        by_model = self._by_model
        found = [by_model[m].get(g, -1) if m in by_model else -1 for m, g in zip(models, groups, strict=True)]
        return np.array(found, dtype=np.int32)

    def code(self, model: str, group: str) -> int:
        """Return the code of a pair, made where it is new."""
        found = self._by_model.get(model, {}).get(group)
        if found is not None:
            return found
        code = len(self.pairs)
        if code == len(self.pending):
            self.pending = np.concatenate((self.pending, np.zeros_like(self.pending)))
            self.settings = np.concatenate((self.settings, np.zeros_like(self.settings)))
        self.pairs.append((model, group))
        self._by_model.setdefault(model, {})[group] = code
        counted_model = self._roster.model(model)
        counted = self._roster.group(counted_model, group)
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
        for code in live.tolist():
            fresh.code(*self.pairs[code])
        fresh.pending[: len(live)] = self.pending[live]
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
