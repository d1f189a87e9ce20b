"""A group against the baselines: sums of what they lost on the same rows."""

import math
from collections.abc import Mapping

import numpy as np

from streamapp.core.baselines import LOSSES, Baseline
from streamapp.core.events import Floats
from streamapp.core.losses import COLUMN, HARD
from streamapp.core.losses import LOSSES as LOSSES_OF
from streamapp.core.monitoring import packing
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
        self._column = np.array([COLUMN[loss] - HARD if one.soft else 0 for one in plan])
        self._sums = np.zeros((len(plan), LOSSES))
        self._counts = np.zeros((len(plan), LOSSES))
        self._skill = np.zeros((len(plan), 3))
        """Sum of the model's losses, of the baseline's, and rows, where both have one."""

    def add(self, baselines: Floats, hard: Floats, losses: Floats) -> None:
        """Take rows.

        Args:
            baselines: What :meth:`Baselines.judge` returned for them, shape (baselines, LOSSES, n).
            hard: The model's error or absolute loss, shape (n,).
            losses: The model's configured loss, shape (n,).
        """
        missing = np.isnan(baselines)
        self._sums += np.where(missing, 0.0, baselines).sum(axis=2)
        self._counts += baselines.shape[2] - missing.sum(axis=2)
        place = np.arange(len(self._plan))
        theirs = baselines[place, self._column]
        ours = np.where((self._column == COLUMN[self._loss] - HARD)[:, None], losses, hard)
        both = ~(np.isnan(theirs) | np.isnan(ours))
        self._skill[:, 0] += np.where(both, ours, 0.0).sum(axis=1)
        self._skill[:, 1] += np.where(both, theirs, 0.0).sum(axis=1)
        self._skill[:, 2] += both.sum(axis=1)

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
