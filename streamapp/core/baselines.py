"""What a trivial predictor would have lost, knowing only the outcomes that were known when the prediction was made."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from streamapp.core.events import Floats, Hashes, Names
from streamapp.core.losses import ANSWER, COLUMN, COLUMNS, HARD, LOG, SCORE, SOFT, TRUTH, fill, label_word
from streamapp.core.losses import LOSSES as LOSSES_OF
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """Joined rows of one model in the order in which they were resolved; all columns have shape (n,)."""

    time: Floats
    """Log time of the prediction: what is asked is what was known before it."""
    truth: Floats
    """As in a block; nan where the outcome is not known to baselines."""
    scored: Floats
    """The same, but nan also where the row counts for no metric."""
    known: Floats
    """Log time of the outcome."""
    ids: Hashes
    series: Names
    incumbent: Floats
    """Configured loss of rows of the control group, nan in other rows."""
    challenges: NDArray[np.bool_]
    """Which rows ask for the incumbent's loss; the answer to the others is nan."""


class Baselines:
    """All baselines of one model: they share what is known.

    An outcome is known to a row if its log time is before the row's prediction's, and if its own row was applied
    before; each id counts once. Rows of all groups make outcomes known; series have a past of their own.

    Args:
        task: The model's task.
        settings: The model's.
    """

    def __init__(self, task: Task, settings: ModelSettings) -> None:
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
        self._horizon = -np.inf

    def judge(self, asked: Asked, classes: Classes) -> Floats:
        """Return what each baseline lost on each row, then make the rows' outcomes known.

        Returns:
            Shape (n columns of :func:`columns`, n), nan where a baseline had no answer. The incumbent's is its mean
            loss known then.
        """
        result = np.empty((len(self._columns), len(asked.time)))
        for start, end, late in self._stretches(asked):
            if late:
                self._ask(asked, classes, start, end, result)
            self._learn(asked, start, end)
            if not late:
                self._ask(asked, classes, start, end, result)
        return result

    def trim(self, horizon: float) -> bool:
        """Forget what no prediction logged at *horizon* or later can ask; return whether there was something."""
        self._horizon = horizon
        trimmed = self._incumbent.trim(horizon)
        if self._known.trim(horizon):
            self._ids = Ids(self._known.ids)
            return True
        return trimmed

    def may_trim(self, horizon: float) -> bool:
        """Tell whether :meth:`trim` may find something, at a glance."""
        return self._known.may_trim(horizon) or self._incumbent.may_trim(horizon)

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

    def _stretches(self, asked: Asked) -> Iterator[tuple[int, int, bool]]:
        """Cut rows so that within a stretch no row knows itself or a later one, were all made known at once.

        Yields start, end, and whether the one row must ask before it is made known, since it would know itself.
        """
        # What a row tells is known to nobody where it tells nothing.
        silent = np.isnan(asked.truth) & np.isnan(asked.incumbent)
        known = np.where(silent, np.inf, asked.known)
        start, n = 0, len(known)
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
            early = known[start:end] < np.maximum.accumulate(asked.time[start:end])
            late = bool(early[0])
            if late:
                end = start + 1
            elif early.any():
                end = start + int(early.argmax())
            yield start, end, late
            start = end

    def _learn(self, asked: Asked, start: int, end: int) -> None:
        truth, known, ids = asked.truth[start:end], asked.known[start:end], asked.ids[start:end]
        fresh = np.logical_not(np.isnan(truth))
        if np.logical_and.reduce(fresh):
            fresh = self._ids.add(ids)
        else:
            fresh[fresh] = self._ids.add(ids[fresh])
        if not np.logical_and.reduce(fresh):
            truth, known, ids = truth[fresh], known[fresh], ids[fresh]
        self._known.put(known, truth, ids)
        code = asked.series.code[start:end]
        if asked.series.words and (code >= 0).any():
            words = asked.series.words
            for series, time, value in zip(code[fresh].tolist(), known.tolist(), truth.tolist(), strict=True):
                if series >= 0:
                    self._series.put(words[series], time, value, self._horizon)
        lost = asked.incumbent[start:end]
        told = ~np.isnan(lost)
        if told.any():
            self._incumbent.put(asked.known[start:end][told], lost[told])

    def _ask(self, asked: Asked, classes: Classes, start: int, end: int, result: Floats) -> None:
        time, truth = asked.time[start:end], asked.scored[start:end]
        place = self._known.find(time)
        sums = self._known.sums(place).T
        column = 0
        for baseline in self.plan:
            lost: Floats
            if baseline.kind == "incumbent":
                lost = np.full((1, len(time)), np.nan)
                rows = np.flatnonzero(asked.challenges[start:end])
                if len(rows):
                    past = self._incumbent.sums(self._incumbent.find(time[rows])).T
                    lost[0, rows] = _divide(past[1], past[0])
            elif baseline.kind == "prior":
                lost = _prior(self._task, sums, truth, self._settings.threshold)
            else:
                if baseline.kind in ("persistence", "seasonal"):
                    answer = self._back(asked, start, end, self._known.value(place, baseline.back), baseline.back)
                elif baseline.kind == "majority":
                    answer = _majority(sums)
                elif baseline.kind == "mean":
                    answer = _divide(sums[1], sums[0])
                elif baseline.kind == "median":
                    answer = self._known.median(place)
                else:
                    answer = np.full(len(truth), self._constant(baseline, classes))
                lost = _answer(self._task, answer, truth, self._settings.threshold, soft=baseline.soft)
            result[column : column + len(lost), start:end] = lost
            column += len(lost)

    def _back(self, asked: Asked, start: int, end: int, answer: Floats, back: int) -> Floats:
        """Put the past of its own series in the place of everybody's, in rows that have a series."""
        code = asked.series.code[start:end]
        rows = np.flatnonzero(code >= 0) if asked.series.words else ()
        if len(rows):
            words, times = asked.series.words, asked.time[start:end]
            found = [
                self._series.value(words[series], time, back)
                for series, time in zip(code[rows].tolist(), times[rows].tolist(), strict=True)
            ]
            answer = answer.copy()
            answer[rows] = [np.nan if value is None else value for value in found]
        return answer

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
