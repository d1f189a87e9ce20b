"""What a trivial predictor would have lost, knowing only the outcomes that were known when the prediction was made."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
from msgspec import Struct

from streamapp.core.events import Floats, Hashes, Names
from streamapp.core.losses import ANSWER, COLUMNS, HARD, LOG, SCORE, SOFT, TRUTH, fill, label_word
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
        reach = max(baseline.back for baseline in self.plan)
        classes = {"binary": 2, "multiclass": 4}.get(task)
        median = any(baseline.kind == "median" for baseline in self.plan)
        self._known = Known(classes=classes, median=median, reach=reach)
        self._incumbent = Known()
        self._series = Series(reach)
        self._ids: set[int] = set()
        self._horizon = -np.inf

    def judge(self, asked: Asked, classes: Classes) -> Floats:
        """Return what each baseline lost on each row, then make the rows' outcomes known.

        Returns:
            Shape (baselines, LOSSES, n), nan where a baseline had no answer or has no such loss. The incumbent's is its
            mean loss known then, in every place.
        """
        result = np.full((len(self.plan), LOSSES, len(asked.time)), np.nan)
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
            self._ids = set(self._known.ids.tolist())
            return True
        return trimmed

    def take(self) -> dict[str, bytes | None]:
        """Return the checkpoint entries that have changed since the last time, None for those to be deleted."""
        return {f"{name}/{key}": data for name, part in self._parts() for key, data in part.take().items()}

    def load(self, entries: Mapping[str, bytes]) -> None:
        """Take over the state that :meth:`take` has returned over time."""
        for name, part in self._parts():
            prefix = name + "/"
            part.load({key.removeprefix(prefix): data for key, data in entries.items() if key.startswith(prefix)})
        self._ids = set(self._known.ids.tolist())

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
        usable = ~np.isnan(truth)
        numbers = ids.tolist()
        fresh = set(numbers)
        if not (usable.all() and len(fresh) == len(numbers) and self._ids.isdisjoint(fresh)):
            fresh = set()
            for row in np.flatnonzero(usable).tolist():
                usable[row] = numbers[row] not in self._ids and numbers[row] not in fresh
                fresh.add(numbers[row])
            truth, known, ids = truth[usable], known[usable], ids[usable]
        self._known.put(known, truth, ids)
        self._ids |= fresh
        if len(self._ids) > len(self._known):  # some were thinned out
            self._ids = set(self._known.ids.tolist())
        code = asked.series.code[start:end]
        if (code >= 0).any():
            words = asked.series.words
            for series, time, value in zip(code[usable].tolist(), known.tolist(), truth.tolist(), strict=True):
                if series >= 0:
                    self._series.put(words[series], time, value, self._horizon)
        lost = asked.incumbent[start:end]
        told = ~np.isnan(lost)
        if told.any():
            self._incumbent.put(asked.known[start:end][told], lost[told])

    def _ask(self, asked: Asked, classes: Classes, start: int, end: int, result: Floats) -> None:
        time, truth = asked.time[start:end], asked.scored[start:end]
        place = self._known.find(time)
        sums = self._known.sums(place)
        for number, baseline in enumerate(self.plan):
            lost = result[number, :, start:end]
            if baseline.kind == "incumbent":
                past = self._incumbent.sums(self._incumbent.find(time))
                lost[:] = _divide(past[:, 1], past[:, 0])
            elif baseline.kind == "prior":
                _prior(self._task, sums, truth, self._settings.threshold, lost)
            else:
                if baseline.kind in ("persistence", "seasonal"):
                    answer = self._back(asked, start, end, self._known.value(place, baseline.back), baseline.back)
                elif baseline.kind == "majority":
                    answer = np.where(sums.any(axis=1), sums.argmax(axis=1), np.nan)
                elif baseline.kind == "mean":
                    answer = _divide(sums[:, 1], sums[:, 0])
                elif baseline.kind == "median":
                    answer = self._known.median(place)
                else:
                    answer = np.full(len(truth), self._constant(baseline, classes))
                _answer(self._task, answer, truth, self._settings.threshold, lost, soft=baseline.soft)

    def _back(self, asked: Asked, start: int, end: int, answer: Floats, back: int) -> Floats:
        """Put the past of its own series in the place of everybody's, in rows that have a series."""
        code = asked.series.code[start:end]
        rows = np.flatnonzero(code >= 0)
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


def _prior(task: Task, counts: Floats, truth: Floats, threshold: float, lost: Floats) -> None:
    """Work out what the class frequencies lose as probabilities; lost has shape (LOSSES, n)."""
    total = counts.sum(axis=1)
    if task == "binary":
        _answer(task, _divide(counts[:, 1], total), truth, threshold, lost, soft=True)
        return
    block = np.full((COLUMNS, len(truth)), np.nan)
    rows = np.flatnonzero((total > 0.0) & ~np.isnan(truth))
    place = truth[rows].astype(np.intp)
    own = np.where(place < counts.shape[1], counts[rows, np.minimum(place, counts.shape[1] - 1)], 0.0) / total[rows]
    block[TRUTH] = truth
    block[ANSWER, rows] = counts[rows].argmax(axis=1)
    block[SCORE, rows] = own
    squares = np.square(counts[rows]).sum(axis=1)
    block[SOFT, rows] = squares / np.square(total[rows]) - 2.0 * own + 1.0
    fill(task, block)
    lost[:] = block[HARD : LOG + 1]


def _answer(task: Task, answer: Floats, truth: Floats, threshold: float, lost: Floats, *, soft: bool) -> None:
    """Work out what answers lose: numbers, codes of classes, or (two classes, soft) probabilities."""
    if not soft:
        lost[0] = np.where(np.isnan(answer) | np.isnan(truth), np.nan, answer != truth)
        return
    block = np.full((COLUMNS, len(truth)), np.nan)
    block[TRUTH], block[ANSWER] = truth, answer
    if task == "binary":
        block[SCORE] = answer
        block[ANSWER] = np.where(np.isnan(answer) | np.isnan(truth), np.nan, answer >= threshold)
    fill(task, block)
    lost[:] = block[HARD : LOG + 1]
