"""The groups of one model: by name, and by number where there are columns of rows."""

from typing import Final

import numpy as np

from streamapp.core.events import Ints, Names, ScoredBatch, Verdict
from streamapp.core.monitoring.group import Group
from streamapp.core.monitoring.rows import ByGroup, sole
from streamapp.core.settings import ModelSettings

TABLES: Final = 64
"""Vocabularies that are remembered."""
# As plain numbers: looking up a member of an enumeration costs as much as a step over a small column.
_JOINED = int(Verdict.JOINED)
_VERDICTS = len(Verdict)


class Members:
    """Groups in the order in which they appeared, which numbers them.

    Args:
        model: Name of the model.
        settings: The model's.
    """

    def __init__(self, model: str, settings: ModelSettings) -> None:
        self._model = model
        self._settings = settings
        self.by_name: dict[str, Group] = {}
        self.order: list[Group] = []
        """By number."""
        self._tables: dict[tuple[str, ...], tuple[Ints, list[Group]]] = {}
        """For a vocabulary of groups, the number of each, and the groups."""

    @property
    def control(self) -> Group | None:
        """The group that others are compared with, None before it has appeared."""
        if self._settings.control is not None:
            return self.by_name.get(self._settings.control)
        return self.order[0] if self.order else None

    def meet(self, name: str) -> Group:
        """Return the group of this name, a new one where there was none."""
        group = self.by_name.get(name)
        if group is None:
            group = self.by_name[name] = Group(self._model, name, self._settings)
            self.order.append(group)
            self._tables.clear()
        return group

    def drop(self, name: str) -> None:
        """Forget a group: those after it have other numbers from now on."""
        self.order.remove(self.by_name.pop(name))
        self._tables.clear()

    def numbers(self, names: Names) -> tuple[Ints, list[Group]]:
        """Return the number of each row's group, and the groups that may be among them; meet those that are new."""
        found = self._tables.get(names.words)
        if found is None:
            if not all(word in self.by_name for word in names.words):
                code, first = np.unique(names.code, return_index=True)
                for place in code[np.argsort(first)].tolist():
                    self.meet(names.words[place])
            groups = [self.by_name.get(word) for word in names.words]
            table = np.array([-1 if group is None else self.order.index(group) for group in groups])
            found = table, [group for group in groups if group is not None]
            if None not in groups:
                if len(self._tables) >= TABLES:
                    self._tables.clear()
                self._tables[names.words] = found
        table, members = found
        return table.take(names.code), members

    def count(self, batch: ScoredBatch, number: Ints) -> tuple[list[Group], Ints | None]:
        """Count verdicts, and how new rows are that are not joined.

        Args:
            batch: The rows.
            number: Of each row's group.

        Returns:
            The groups that have rows, and the places of the joined ones, None for all of them.
        """
        verdict = batch.verdict
        met = []
        if sole(verdict) == _JOINED or not np.logical_or.reduce(verdict):
            for group, count in zip(self.order, np.bincount(number).tolist(), strict=False):
                if count:
                    group.resolve(_JOINED, count)
                    met.append(group)
            return met, None
        counts = np.bincount(number * _VERDICTS + verdict, minlength=len(self.order) * _VERDICTS)
        for group, row in zip(self.order, counts.reshape(-1, _VERDICTS).tolist(), strict=True):
            for kind, count in enumerate(row):
                if count:
                    group.resolve(kind, count)
            if any(row):
                met.append(group)
        joined = verdict == _JOINED
        self.hear(batch, number, np.flatnonzero(~joined))
        return met, np.flatnonzero(joined)

    def hear(self, batch: ScoredBatch, number: Ints, rows: Ints) -> None:
        """Note how new some rows are."""
        latest = np.fmax(batch.log_time[rows], batch.outcome_log_time[rows])
        by_group = ByGroup(number[rows], len(self.order))
        newest = by_group.reduce(np.maximum, by_group.sorted(latest)) if len(rows) else []
        for place, log_time in zip(by_group.present, newest, strict=True):
            self.order[place].heard(log_time)
