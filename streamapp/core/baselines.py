"""What a trivial predictor would have lost, knowing only the outcomes that were known when the prediction was made."""

from collections.abc import Iterator, Mapping
from typing import Any, Final, Literal

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from streamapp.core.events import Floats
from streamapp.core.losses import ANSWER, COLUMN, COLUMNS, HARD, LOG, SCORE, SOFT, TRUTH, fill, label_word
from streamapp.core.losses import LOSSES as LOSSES_OF
from streamapp.core.monitoring.asked import Answers, Asked, Piece, stretches
from streamapp.core.monitoring.ids import Ids
from streamapp.core.monitoring.judging import Classes
from streamapp.core.monitoring.known import Known
from streamapp.core.monitoring.series import Series
from streamapp.core.settings import Label, ModelSettings, Task
from streamapp.errors import ConfigError

Kind = Literal["prior", "majority", "mean", "median", "persistence", "seasonal", "constant", "incumbent"]

DEFAULTS: Final[dict[Task, tuple[str, ...]]] = {
    "binary": ("prior", "majority", "persistence"),
    "multiclass": ("prior", "majority", "persistence"),
    "regression": ("mean", "median", "persistence"),
}
"""Baselines of a model that configures none; ``incumbent`` always comes with them."""
LOSSES = LOG + 1 - HARD
"""Losses of a baseline by place: those of a block from ``HARD`` on."""
_NUMBERS = ("mean", "median")
_PAST = ("persistence", "seasonal")


class Baseline(Struct, frozen=True):
    """One baseline as configured."""

    name: str
    kind: Kind
    back: int = 1
    """Outcomes back, for persistence and seasonal."""
    constant: Label | None = None
    soft: bool = False
    """Whether it gives a probability, so that it has every loss of the task."""


def plan(settings: ModelSettings, task: Task) -> tuple[Baseline, ...]:
    """Return a model's baselines, the incumbent last.

    Raises:
        ConfigError: One is not known, or not for this task.
    """
    specs = DEFAULTS[task] if settings.baselines is None else settings.baselines
    found = [_parse(spec, settings, task) for spec in specs if spec != "incumbent"]
    return (*found, Baseline("incumbent", "incumbent", soft=True))


def columns(plan: tuple[Baseline, ...], task: Task) -> list[tuple[int, int | None]]:
    """Return the columns of what baselines lose: place in the plan, and which loss, by place as :data:`LOSSES` counts.

    None stands for the incumbent's one column, in the configured loss.
    """
    losses = [COLUMN[loss] - HARD for loss in LOSSES_OF[task]]
    return [
        (place, column)
        for place, one in enumerate(plan)
        for column in ([None] if one.kind == "incumbent" else losses if one.soft else losses[:1])
    ]


def _parse(spec: str | Mapping[str, Any], settings: ModelSettings, task: Task) -> Baseline:
    regression = task == "regression"
    if isinstance(spec, str):
        kinds = ("persistence", *(_NUMBERS if regression else ("prior", "majority")))
        if spec not in kinds:
            raise ConfigError(f"baselines: expected one of {', '.join(kinds)} for task {task}, got {spec!r}")
        return Baseline(spec, spec, soft=regression or spec == "prior")  # type: ignore[arg-type]
    if "seasonal" in spec:
        back = int(spec["seasonal"])
        return Baseline(spec.get("name", f"seasonal_{back}"), "seasonal", back, soft=regression)
    if "constant" in spec:
        constant = spec["constant"]
        number = isinstance(constant, int | float) and not isinstance(constant, bool)
        if regression and not number:
            raise ConfigError(f"baselines: expected a number as constant for task {task}, got {constant!r}")
        # For two classes a number is the probability of the positive one; but it may be that class's own name.
        soft = regression or (task == "binary" and number and not _is_number(settings.positive))
        if soft and not regression and not 0 <= constant <= 1:
            raise ConfigError(f"baselines: expected a constant in [0, 1] for task {task}, got {constant!r}")
        constant = float(constant) if number else constant
        return Baseline(spec.get("name", "constant"), "constant", constant=constant, soft=soft)
    raise ConfigError(f"baselines: expected a name, {{seasonal = …}} or {{constant = …}}, got {spec!r}")


def _is_number(label: Label) -> bool:
    return not isinstance(label, bool | str)


class Baselines:
    """All baselines of one model: they share what is known.

    An outcome is known to a row if its log time is before the row's prediction's, and if its own row was applied
    before; each id counts once. Rows of all groups make outcomes known; series have a past of their own.

    Args:
        task: The model's task.
        settings: The model's.
        horizon: Log time that no question is about any more, as :meth:`trim` was told last.
    """

    def __init__(self, task: Task, settings: ModelSettings, horizon: float = -np.inf) -> None:
        self.plan = plan(settings, task)
        self._task = task
        self._settings = settings
        self._columns = columns(self.plan, task)
        reach = max(baseline.back for baseline in self.plan)
        classes = {"binary": 2, "multiclass": 4}.get(task)
        median = any(baseline.kind == "median" for baseline in self.plan)
        self._known = Known(classes=classes, median=median, reach=reach)
        self._incumbent = Known()
        self._series = Series(reach)
        self._ids = Ids()
        self._horizon = horizon

    def judge(self, asked: Asked, classes: Classes) -> Floats:
        """Return what each baseline lost on each row, then make the rows' outcomes known.

        Returns:
            Shape (n columns of :func:`columns`, n), nan where a baseline had no answer. The incumbent's is its mean
            loss known then.
        """
        result = np.empty((len(self._columns), len(asked.time)))
        for start, end in self._pieces(asked):
            piece = Piece(asked, start, end)
            fresh = self._fresh(piece)
            answers = Answers(end - start, self._known.width)
            # What follows from answers is worked out for the whole piece: between rows that learn and rows that ask
            # there is no more than what depends on their order.
            for first, last, late in stretches(piece):
                if late:
                    self._look(piece, first, last, answers)
                self._learn(piece, fresh, first, last)
                if not late:
                    self._look(piece, first, last, answers)
            if piece.in_series is not None:
                self._look_back(piece, piece.in_series, fresh, answers)
            self._lose(piece, classes, answers, result[:, start:end])
        return result

    def trim(self, horizon: float) -> bool:
        """Forget what no prediction logged at *horizon* or later can ask; return whether there was something."""
        self._horizon = horizon
        trimmed = self._incumbent.trim(horizon)
        if self._known.trim(horizon):
            self._ids = Ids(self._known.ids)
            return True
        return trimmed

    def would_trim(self, horizon: float) -> bool:
        """Tell whether :meth:`trim` would find something, at a glance."""
        return self._known.would_trim(horizon) or self._incumbent.would_trim(horizon)

    def take(self) -> dict[str, bytes | None]:
        """Return the checkpoint entries that have changed since the last time, None for those to be deleted."""
        return {f"{name}/{key}": data for name, part in self._parts() for key, data in part.take().items()}

    def load(self, entries: Mapping[str, bytes]) -> None:
        """Take over the state that :meth:`take` has returned over time."""
        for name, part in self._parts():
            prefix = name + "/"
            part.load({key.removeprefix(prefix): data for key, data in entries.items() if key.startswith(prefix)})
        self._ids = Ids(self._known.ids)

    def _parts(self) -> tuple[tuple[str, Known | Series], ...]:
        return ("all", self._known), ("incumbent", self._incumbent), ("series", self._series)

    def _pieces(self, asked: Asked) -> Iterator[tuple[int, int]]:
        """Cut rows so that there is room for all of a piece, and for their classes."""
        start, n = 0, len(asked.time)
        while start < n:
            room = min(self._known.make_room(), self._incumbent.make_room())
            if len(self._ids) > len(self._known):  # some were thinned out
                self._ids = Ids(self._known.ids)
            end = min(n, start + room)
            wide = asked.truth[start:end] >= self._known.width
            if self._task == "multiclass" and wide.any():
                place = int(wide.argmax())
                if not place:
                    self._known.widen(int(asked.truth[start]) + 1)
                    continue
                end = start + place
            yield start, end
            start = end

    def _fresh(self, piece: Piece) -> NDArray[np.bool_]:
        """Return whose outcome becomes known: those that have one, each id once; shape (n,)."""
        fresh = np.logical_not(np.isnan(piece.truth))
        if np.logical_and.reduce(fresh):
            return self._ids.add(piece.ids)
        fresh[fresh] = self._ids.add(piece.ids[fresh])
        return fresh

    def _learn(self, piece: Piece, fresh: NDArray[np.bool_], start: int, end: int) -> None:
        """Make the outcomes of some rows known; those that have a series tell it in :meth:`_look_back`."""
        new, known, truth, ids = fresh[start:end], piece.known[start:end], piece.truth[start:end], piece.ids[start:end]
        if not np.logical_and.reduce(new):
            known, truth, ids = known[new], truth[new], ids[new]
        self._known.put(known, truth, ids)
        if piece.told is not None:
            told = piece.told[start:end]
            if told.any():
                self._incumbent.put(piece.known[start:end][told], piece.incumbent[start:end][told])

    def _look(self, piece: Piece, start: int, end: int, answers: Answers) -> None:
        """Note what some rows could know at this moment."""
        time = piece.time[start:end]
        place = self._known.find(time)
        answers.sums[start:end] = self._known.sums(place)
        for number, baseline in enumerate(self.plan):
            if baseline.kind in _PAST:
                answers.of(number)[start:end] = self._known.value(place, baseline.back)
            elif baseline.kind == "median":
                answers.of(number)[start:end] = self._known.median(place)
        rows = piece.challengers(start, end)
        if len(rows):
            past = self._incumbent.sums(self._incumbent.find(piece.time[rows])).T
            answers.incumbent[rows] = _divide(past[1], past[0])

    def _look_back(
        self, piece: Piece, in_series: NDArray[np.bool_], fresh: NDArray[np.bool_], answers: Answers
    ) -> None:
        """Put the past of its own series in the place of everybody's, in rows that have a series.

        Row by row, each asking before its outcome becomes known: a point may make a series forget what rows before it
        still ask for.
        """
        rows = np.flatnonzero(in_series)
        asking = [(answers.of(number), one.back) for number, one in enumerate(self.plan) if one.kind in _PAST]
        columns = (rows, piece.series[rows], piece.time[rows], piece.known[rows], piece.truth[rows], fresh[rows])
        for row, code, time, known, truth, new in zip(*(column.tolist() for column in columns), strict=True):
            series = piece.words[code]
            for answer, back in asking:
                value = self._series.value(series, time, back)
                answer[row] = np.nan if value is None else value
            if new:
                self._series.put(series, known, truth, self._horizon)

    def _lose(self, piece: Piece, classes: Classes, answers: Answers, result: Floats) -> None:
        """Work out what the baselines lost by their answers, shape (columns, n)."""
        truth, sums = piece.scored, answers.sums.T
        column = 0
        for number, baseline in enumerate(self.plan):
            lost: Floats
            if baseline.kind == "incumbent":
                lost = answers.incumbent[None, :]
            elif baseline.kind == "prior":
                lost = _prior(self._task, sums, truth, self._settings.threshold)
            else:
                if baseline.kind == "majority":
                    answer = _majority(sums)
                elif baseline.kind == "mean":
                    answer = _divide(sums[1], sums[0])
                elif baseline.kind == "constant":
                    answer = np.full(len(truth), self._constant(baseline, classes))
                else:
                    answer = answers.of(number)
                lost = _answer(self._task, answer, truth, self._settings.threshold, soft=baseline.soft)
            result[column : column + len(lost)] = lost
            column += len(lost)

    def _constant(self, baseline: Baseline, classes: Classes) -> float:
        constant = baseline.constant
        assert constant is not None
        if self._task == "multiclass":
            word = label_word(constant)
            return float(classes.code(word)) if classes.knows(word) else -1.0
        if self._task == "binary" and not baseline.soft:
            return float(constant == self._settings.positive)
        return float(constant)


def _divide(a: Floats, b: Floats) -> Floats:
    """Return a / b, nan where b is 0."""
    result: Floats = np.divide(a, b, out=np.full(len(a), np.nan), where=b != 0.0)
    return result


def _majority(counts: Floats) -> Floats:
    """Return the class that is most frequent, of several the first; nan where there was none."""
    if len(counts) == 2:
        some, best = counts[0] + counts[1] > 0.0, counts[1] > counts[0]
    else:
        some, best = counts.any(axis=0), counts.argmax(axis=0)
    answer: Floats = np.where(some, best, np.nan)
    return answer


def _prior(task: Task, counts: Floats, truth: Floats, threshold: float) -> Floats:
    """Return what the class frequencies lose as probabilities: error, Brier and log loss, shape (3, n)."""
    total = counts.sum(axis=0)
    if task == "binary":
        return _answer(task, _divide(counts[1], total), truth, threshold, soft=True)
    block = np.full((COLUMNS, len(truth)), np.nan)
    rows = np.flatnonzero((total > 0.0) & ~np.isnan(truth))
    place = truth[rows].astype(np.intp)
    counts, total = counts[:, rows], total[rows]
    own = np.where(place < len(counts), counts[np.minimum(place, len(counts) - 1), np.arange(len(rows))], 0.0) / total
    block[TRUTH] = truth
    block[ANSWER, rows] = counts.argmax(axis=0)
    block[SCORE, rows] = own
    block[SOFT, rows] = np.square(counts).sum(axis=0) / np.square(total) - 2.0 * own + 1.0
    fill(task, block)
    return block[HARD : LOG + 1]


def _answer(task: Task, answer: Floats, truth: Floats, threshold: float, *, soft: bool) -> Floats:
    """Return what answers lose: numbers, codes of classes, or (two classes, soft) probabilities; shape (losses, n)."""
    missing = np.isnan(answer) | np.isnan(truth)
    if not soft:
        lost: Floats = (answer != truth).astype(np.float64)
        lost[missing] = np.nan
        return lost[None, :]
    block = np.empty((COLUMNS, len(truth)))
    block[TRUTH], block[ANSWER], block[SCORE] = truth, answer, answer
    if task == "regression":
        fill(task, block)
        return block[HARD : SOFT + 1]
    block[ANSWER] = answer >= threshold
    block[ANSWER, missing] = np.nan
    fill(task, block)
    return block[HARD : LOG + 1]
