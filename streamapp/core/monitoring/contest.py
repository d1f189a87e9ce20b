"""A group against the baselines: sums of what they lost on the same rows."""

import math
from collections.abc import Mapping, Sequence

import numpy as np

from streamapp.core.baselines import LOSSES, Baseline, columns
from streamapp.core.events import Floats, Ints
from streamapp.core.losses import COLUMN, HARD
from streamapp.core.losses import LOSSES as LOSSES_OF
from streamapp.core.monitoring import packing
from streamapp.core.monitoring.rows import ByGroup, Carry, gaps
from streamapp.core.scores import ratio
from streamapp.core.settings import Loss, Task

NAMES: Mapping[Loss, str] = {
    "error": "error",
    "brier": "brier",
    "log": "log_loss",
    "absolute": "mae",
    "squared": "rmse",
}
"""What a mean loss is called in the summary; ``rmse`` is its root."""


class Contest:
    """Sums over the rows of one group.

    Skill compares in the configured loss; where a baseline has no probability it compares errors with errors.

    Args:
        plan: The model's baselines.
        task: The model's task.
        loss: The group's configured loss.
    """

    def __init__(self, plan: tuple[Baseline, ...], task: Task, loss: Loss) -> None:
        self._plan = plan
        self._task = task
        self._loss = loss
        configured = COLUMN[loss] - HARD
        told = columns(plan, task)
        self._places = np.array([place for place, _ in told])
        """Baseline of each column of :class:`Lost`; and which of its losses that is."""
        self._columns = np.array([configured if column is None else column for _, column in told])
        fair = np.array([configured if one.soft else 0 for one in plan])
        self._fair = np.flatnonzero(self._columns == fair[self._places])
        """The columns that skill is about, one for each baseline."""
        self._soft = self._columns[self._fair] == configured
        """Whether these are in the configured loss."""
        self._sums = np.zeros((len(plan), LOSSES))
        self._counts = np.zeros((len(plan), LOSSES))
        self._skill = np.zeros((len(plan), 3))
        """Sum of the model's losses, of the baseline's, and rows, where both have one."""

    def _carried(self) -> Floats:
        """Return all sums, as a column."""
        return np.concatenate((self._sums[self._places, self._columns], self._skill[:, 0], self._skill[:, 1]))

    def _take(self, carried: Floats, counts: Ints, both: Ints) -> None:
        """Take sums that were carried on, and how many rows have a loss, and both losses."""
        plan = len(self._plan)
        self._sums[self._places, self._columns] = carried[: -2 * plan]
        self._counts[self._places, self._columns] += counts
        self._skill[:, 0], self._skill[:, 1] = carried[-2 * plan : -plan], carried[-plan:]
        self._skill[:, 2] += both

    def sums(self, *, incumbent: bool) -> dict[tuple[str, Loss], tuple[float, int]]:
        """Return sum and count by baseline and loss, of those that it has."""
        return {
            (one.name, loss): (float(self._sums[place, column]), int(self._counts[place, column]))
            for place, one in enumerate(self._plan)
            if incumbent or one.kind != "incumbent"
            for loss, column in self._losses(one)
        }

    def means(self, *, incumbent: bool) -> dict[str, dict[str, float | int | None]]:
        """Return mean losses by baseline, and over how many rows."""
        result: dict[str, dict[str, float | int | None]] = {}
        for (name, loss), (total, rows) in self.sums(incumbent=incumbent).items():
            mean = ratio(total, rows)
            entry = result.setdefault(name, {})
            entry[NAMES[loss]] = math.sqrt(mean) if mean is not None and loss == "squared" else mean
            entry["rows"] = rows
        return result

    def skill(self, *, incumbent: bool) -> dict[str, float | None]:
        """Return 1 - loss / baseline's loss by baseline, None where undefined."""
        result: dict[str, float | None] = {}
        for one, (ours, theirs, _) in zip(self._plan, self._skill.tolist(), strict=True):
            if incumbent or one.kind != "incumbent":
                quotient = ratio(ours, theirs)
                result[one.name] = None if quotient is None else 1.0 - quotient
        return result

    def snapshot(self) -> dict[str, bytes]:
        """Return the state by baseline, for :meth:`load`."""
        rows = np.concatenate((self._sums, self._counts, self._skill), axis=1)
        return {one.name: packing.pack(row) for one, row in zip(self._plan, rows, strict=True)}

    def load(self, state: Mapping[str, bytes]) -> None:
        """Take over a state; baselines that were configured since begin anew."""
        for place, one in enumerate(self._plan):
            if one.name in state:
                row = packing.floats(state[one.name])
                self._sums[place], self._counts[place] = row[:LOSSES], row[LOSSES : 2 * LOSSES]
                self._skill[place] = row[2 * LOSSES :]

    def _losses(self, one: Baseline) -> list[tuple[Loss, int]]:
        if one.kind == "incumbent":
            return [(self._loss, COLUMN[self._loss] - HARD)]
        losses = LOSSES_OF[self._task] if one.soft else LOSSES_OF[self._task][:1]
        return [(loss, COLUMN[loss] - HARD) for loss in losses]


def add_rows(contests: Sequence[Contest], by_group: ByGroup, lost: Floats, hard: Floats, losses: Floats) -> None:
    """Let the contests of several groups, all in one loss, take rows.

    Args:
        contests: By number of the group.
        by_group: The rows' groups.
        lost: What the baselines lost on the rows, shape (columns, n).
        hard: The model's error or absolute loss, shape (n,).
        losses: The model's configured loss, shape (n,).
    """
    first = contests[0]
    carry = Carry(by_group)
    missing = [gaps(column) for column in lost]
    told = [carry.without(column, gone) for column, gone in zip(lost, missing, strict=True)]
    ours, theirs = [], []
    own_gaps = {True: gaps(losses), False: gaps(hard)}
    for soft, place in zip(first._soft.tolist(), first._fair.tolist(), strict=True):
        own, apart = losses if soft else hard, own_gaps[soft]
        if apart is None:
            theirs.append(told[place])
            apart = missing[place]
        else:
            apart = apart | np.isnan(lost[place])
            theirs.append(carry.without(lost[place], apart))
        ours.append(carry.without(own, apart))
    columns = [values for values, _ in (*told, *ours, *theirs)]
    carried = carry.on(np.array([one._carried() for one in contests]).T, columns).T
    counts = np.array([count for _, count in told]).T
    both = np.array([count for _, count in ours]).T
    for number, one in enumerate(contests):
        one._take(carried[number], counts[number], both[number])
