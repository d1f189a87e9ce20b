"""Mergeable scores of one group: sums and counts from which the metrics of its task follow.

Every class takes blocks of :mod:`streamapp.core.losses`. Adding two blocks is the same as adding the rows one by one,
to the bit; merging two scores likewise, but for the rounding of sums. What is undefined, 0/0 in particular, is None.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Final, Self

import msgspec
import numpy as np
from numpy.typing import NDArray

from streamapp.core.events import Floats, Ints
from streamapp.core.losses import ANSWER, COLUMN, HARD, LOSSES, OWN, SCORE, TRUTH
from streamapp.core.monitoring import packing
from streamapp.core.monitoring.ranking import Ranking
from streamapp.core.monitoring.rows import ByGroup, Carry, gaps
from streamapp.core.settings import Loss, Task

BINS: Final = 10
"""Equal bins of [0, 1] for calibration; a probability on an edge belongs to the lower bin, as in scikit-learn."""
_EDGES = np.linspace(0.0, 1.0, BINS + 1)[1:-1]
_LOSS_COLUMNS = OWN + 1 - HARD
_BLOCK = 256
"""Numbers of which mean and spread are taken at once."""


def ratio(a: float, b: float) -> float | None:
    """Return a / b, None where that is undefined or not finite."""
    if not b:
        return None
    result = a / b
    return result if math.isfinite(result) else None


class Scores(ABC):
    """Scores of the rows of one group and task."""

    task: Task

    def __init__(self) -> None:
        self._loss_sum: Floats = np.zeros(_LOSS_COLUMNS)
        self._loss_count: Ints = np.zeros(_LOSS_COLUMNS, np.int64)

    def add(self, block: Floats) -> None:
        """Take rows; those that could not be scored are nan and count for nothing.

        Args:
            block: Shape (COLUMNS, n).
        """
        add_rows([self], ByGroup(np.zeros(block.shape[1], np.int64), 1), block)

    def mean_loss(self, loss: Loss, *, own: bool = True) -> float | None:
        """Return the mean of a loss, with the losses that outcomes themselves carried or without."""
        return ratio(*self.loss_sum(loss, own=own))

    def loss_sum(self, loss: Loss, *, own: bool = True) -> tuple[float, int]:
        """Return sum and count of a loss, with the losses that outcomes themselves carried or without."""
        column = COLUMN[loss] - HARD
        total, count = float(self._loss_sum[column]), int(self._loss_count[column])
        if own:
            total, count = total + float(self._loss_sum[-1]), count + int(self._loss_count[-1])
        return total, count

    def loss_sums(self, configured: Loss) -> dict[Loss, tuple[float, int]]:
        """Return sum and count of each loss of the task; outcomes' own losses count in the configured one."""
        return {loss: self.loss_sum(loss, own=loss == configured) for loss in LOSSES[self.task]}

    @abstractmethod
    def metrics(self, configured: Loss) -> dict[str, float | None]:
        """Return the metrics of the task by name; outcomes' own losses count in the configured loss only."""

    def merge(self, other: Self) -> None:
        """Add the rows of another; its state stays as it is."""
        self._loss_sum = self._loss_sum + other._loss_sum
        self._loss_count = self._loss_count + other._loss_count

    def snapshot(self) -> bytes:
        """Return the state, for :func:`restore`."""
        return msgspec.msgpack.encode(
            (self.task, packing.pack(self._loss_sum), packing.pack(self._loss_count), *self._parts())
        )

    @classmethod
    @abstractmethod
    def _add_answers(cls, scores: Sequence[Any], by_group: ByGroup, block: Floats) -> None:
        """Take rows that have an answer and a truth, for all groups."""

    @abstractmethod
    def _parts(self) -> tuple[bytes, ...]:
        """Return what a subclass adds to the state."""

    @abstractmethod
    def _take_parts(self, parts: list[bytes]) -> None:
        """Take what :meth:`_parts` returned."""


class BinaryScores(Scores):
    """Two classes: counts of the confusion table, calibration bins, ranking."""

    task: Task = "binary"

    def __init__(self) -> None:
        super().__init__()
        self._table: Ints = np.zeros(4, np.int64)
        """Rows by 2 * truth + answer."""
        self.bin_count: Ints = np.zeros(BINS, np.int64)
        """Rows by bin of their score."""
        self.bin_positive: Ints = np.zeros(BINS, np.int64)
        """Rows among them whose outcome was positive."""
        self._bin_score: Floats = np.zeros(BINS)
        self._ranking = Ranking()

    @classmethod
    def _add_answers(cls, scores: Sequence["BinaryScores"], by_group: ByGroup, block: Floats) -> None:
        size = len(scores)
        cells = (block[TRUTH] + block[TRUTH] + block[ANSWER]).astype(np.int64)
        cells += 4 * by_group.group
        for one, cell in zip(scores, np.bincount(cells, minlength=4 * size).reshape(size, 4), strict=True):
            one._table += cell
        by_group, block = _chosen(np.logical_not(np.isnan(block[SCORE])), by_group, block)
        truth, score = block[TRUTH], block[SCORE]
        place = _EDGES.searchsorted(score)
        place += BINS * by_group.group
        by_bin = ByGroup(place, BINS * size)
        before = np.array([[one._bin_score for one in scores], [one.bin_positive for one in scores]])
        sums, positive = Carry(by_bin).on(before.reshape(2, -1), (score, truth)).reshape(2, size, BINS)
        for number, count in enumerate(by_bin.totals.reshape(size, BINS)):
            one = scores[number]
            one.bin_count += count
            one.bin_positive = positive[number].astype(np.int64)
            one._bin_score = sums[number]
        score, truth = by_group.sorted(score), by_group.sorted(truth)
        for number, part in by_group.slices():
            scores[number]._ranking.add(score[part], truth[part])

    def metrics(self, configured: Loss) -> dict[str, float | None]:
        """Return accuracy, precision, recall, f1, log_loss, brier, roc_auc and ece."""
        tn, fp, fn, tp = (int(count) for count in self._table)
        return {
            "accuracy": ratio(tp + tn, tp + tn + fp + fn),
            "precision": ratio(tp, tp + fp),
            "recall": ratio(tp, tp + fn),
            "f1": ratio(2 * tp, 2 * tp + fp + fn),
            "log_loss": self.mean_loss("log", own=configured == "log"),
            "brier": self.mean_loss("brier", own=configured == "brier"),
            "roc_auc": self._ranking.area(),
            "ece": ratio(
                float(np.abs(self._bin_score - self.bin_positive).sum()),
                int(self.bin_count.sum()),
            ),
        }

    def merge(self, other: Self) -> None:
        """Add the rows of another; its state stays as it is."""
        super().merge(other)
        self._table = self._table + other._table
        self.bin_count = self.bin_count + other.bin_count
        self.bin_positive = self.bin_positive + other.bin_positive
        self._bin_score = self._bin_score + other._bin_score
        self._ranking.merge(other._ranking)

    def _parts(self) -> tuple[bytes, ...]:
        columns = (self._table, self.bin_count, self.bin_positive, self._bin_score)
        return (*map(packing.pack, columns), self._ranking.snapshot())

    def _take_parts(self, parts: list[bytes]) -> None:
        self._table, self.bin_count, self.bin_positive = map(packing.ints, parts[:3])
        self._bin_score = packing.floats(parts[3])
        self._ranking = Ranking.restore(parts[4])


class ClassScores(Scores):
    """Several classes: hits, answers and truths of each."""

    task: Task = "multiclass"

    def __init__(self) -> None:
        super().__init__()
        self._hits: Ints = np.zeros(0, np.int64)
        self._answers: Ints = np.zeros(0, np.int64)
        self._truths: Ints = np.zeros(0, np.int64)

    @classmethod
    def _add_answers(cls, scores: Sequence["ClassScores"], by_group: ByGroup, block: Floats) -> None:
        truth, answer = block[TRUTH].astype(np.int64), block[ANSWER].astype(np.int64)
        classes = int(max(truth.max(), answer.max())) + 1
        size = len(scores) * classes
        place = by_group.group * classes
        hits = np.bincount((place + truth)[truth == answer], minlength=size).reshape(-1, classes)
        answers = np.bincount(place + answer, minlength=size).reshape(-1, classes)
        truths = np.bincount(place + truth, minlength=size).reshape(-1, classes)
        for number in by_group.present:
            one, width = scores[number], int(np.flatnonzero(answers[number] + truths[number])[-1]) + 1
            one._widen(width)
            one._hits[:width] += hits[number, :width]
            one._answers[:width] += answers[number, :width]
            one._truths[:width] += truths[number, :width]

    def metrics(self, configured: Loss) -> dict[str, float | None]:
        """Return accuracy, macro_f1 (over the classes seen as answer or truth), log_loss and brier."""
        seen = self._answers + self._truths
        present = seen > 0
        f1 = 2.0 * self._hits[present] / seen[present]
        return {
            "accuracy": ratio(int(self._hits.sum()), int(self._truths.sum())),
            "macro_f1": ratio(float(f1.sum()), len(f1)),
            "log_loss": self.mean_loss("log", own=configured == "log"),
            "brier": self.mean_loss("brier", own=configured == "brier"),
        }

    def merge(self, other: Self) -> None:
        """Add the rows of another; its state stays as it is."""
        super().merge(other)
        self._widen(len(other._hits))
        size = len(other._hits)
        self._hits[:size] += other._hits
        self._answers[:size] += other._answers
        self._truths[:size] += other._truths

    def _widen(self, size: int) -> None:
        if size > len(self._hits):
            more = np.zeros(size - len(self._hits), np.int64)
            self._hits, self._answers, self._truths = (
                np.concatenate((column, more)) for column in (self._hits, self._answers, self._truths)
            )

    def _parts(self) -> tuple[bytes, ...]:
        return tuple(map(packing.pack, (self._hits, self._answers, self._truths)))

    def _take_parts(self, parts: list[bytes]) -> None:
        self._hits, self._answers, self._truths = map(packing.ints, parts)


class NumberScores(Scores):
    """Numbers: sums of errors, mean and spread of the truth."""

    task: Task = "regression"

    def __init__(self) -> None:
        super().__init__()
        self._rows = 0
        self._error = 0.0
        self._mean = 0.0
        self._spread = 0.0
        """Sum of squared distances from the mean."""
        self._rest: Floats = np.empty(0)
        """Truths that are not in mean and spread yet: blocks are taken whole, however rows come."""

    @classmethod
    def _add_answers(cls, scores: Sequence["NumberScores"], by_group: ByGroup, block: Floats) -> None:
        with np.errstate(over="ignore", invalid="ignore"):
            before = np.array([[one._error for one in scores]])
            errors = Carry(by_group).on(before, [block[ANSWER] - block[TRUTH]])[0].tolist()
        truth = by_group.sorted(block[TRUTH])
        for number, part in by_group.slices():
            scores[number]._error = errors[number]
            scores[number]._add_truth(truth[part])

    def _add_truth(self, truth: Floats) -> None:
        truth = np.concatenate((self._rest, truth))
        whole = len(truth) // _BLOCK * _BLOCK
        self._rest = truth[whole:]
        for start in range(0, whole, _BLOCK):
            self._combine(*_moments(truth[start : start + _BLOCK]))

    def _combine(self, rows: int, mean: float, spread: float) -> None:
        # Chan, Golub, LeVeque: Updating formulae and a pairwise algorithm for computing sample variances, 1979.
        total = self._rows + rows
        if not total:
            return
        step = mean - self._mean
        self._spread += spread + step * step * (self._rows * rows / total)
        self._mean += step * (rows / total)
        self._rows = total

    def _whole(self) -> "NumberScores":
        """Return a copy whose mean and spread are of all rows."""
        whole = NumberScores()
        whole._rows, whole._mean, whole._spread = self._rows, self._mean, self._spread
        whole._combine(*_moments(self._rest))
        return whole

    def metrics(self, configured: Loss) -> dict[str, float | None]:
        """Return mae, rmse, r2 and bias, the mean of prediction - outcome."""
        squared = self.mean_loss("squared", own=configured == "squared")
        whole = self._whole()
        lost = ratio(self.loss_sum("squared", own=False)[0], whole._spread)
        return {
            "mae": self.mean_loss("absolute", own=configured == "absolute"),
            "rmse": None if squared is None else math.sqrt(squared),
            "r2": None if lost is None else 1.0 - lost,
            "bias": ratio(self._error, whole._rows),
        }

    def merge(self, other: Self) -> None:
        """Add the rows of another; its state stays as it is."""
        super().merge(other)
        self._error += other._error
        whole = other._whole()
        self._combine(whole._rows, whole._mean, whole._spread)

    def _parts(self) -> tuple[bytes, ...]:
        moments = (self._rows, self._error, self._mean, self._spread)
        return msgspec.msgpack.encode(moments), packing.pack(self._rest)

    def _take_parts(self, parts: list[bytes]) -> None:
        self._rows, self._error, self._mean, self._spread = msgspec.msgpack.decode(
            parts[0], type=tuple[int, float, float, float]
        )
        self._rest = packing.floats(parts[1])


def _moments(truth: Floats) -> tuple[int, float, float]:
    """Return count, mean and sum of squared distances from it."""
    if not len(truth):
        return 0, 0.0, 0.0
    with np.errstate(over="ignore", invalid="ignore"):
        # From the first one, so that equal numbers have no spread at all.
        steps = truth - truth[0]
        mean = steps.mean()
        return len(truth), float(truth[0] + mean), float(np.square(steps - mean).sum())


_CLASSES: Final[dict[Task, type[Scores]]] = {
    "binary": BinaryScores,
    "multiclass": ClassScores,
    "regression": NumberScores,
}


def scores_of(task: Task) -> Scores:
    """Return empty scores for a task."""
    return _CLASSES[task]()


def add_rows(scores: Sequence[Scores], by_group: ByGroup, block: Floats) -> None:
    """Let the scores of several groups, all of one task, take rows.

    Args:
        scores: By number of the group.
        by_group: The rows' groups.
        block: Shape (COLUMNS, n); rows that could not be scored are nan and count for nothing.
    """
    carry = Carry(by_group)
    columns = [carry.without(values, gaps(values)) for values in block[HARD:]]
    sums = carry.on(np.array([one._loss_sum for one in scores]).T, [values for values, _ in columns])
    counts = np.array([count for _, count in columns])
    for number, one in enumerate(scores):
        one._loss_sum = sums[:, number]
        one._loss_count += counts[:, number]
    by_group, block = _chosen(np.logical_not(np.isnan(block[ANSWER])), by_group, block)
    if block.shape[1]:
        type(scores[0])._add_answers(scores, by_group, block)


def _chosen(rows: NDArray[np.bool_], by_group: ByGroup, block: Floats) -> tuple[ByGroup, Floats]:
    if np.logical_and.reduce(rows):
        return by_group, block
    return ByGroup(by_group.group[rows], by_group.groups), block[:, rows]


def restore(data: bytes) -> Scores:
    """Return what made this snapshot."""
    task, loss_sum, loss_count, *parts = msgspec.msgpack.decode(data)
    scores = scores_of(task)
    scores._loss_sum, scores._loss_count = packing.floats(loss_sum), packing.ints(loss_count)
    scores._take_parts(parts)
    return scores
