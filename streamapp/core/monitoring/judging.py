"""Scored rows against their outcomes: a batch at once, as a block of :mod:`streamapp.core.losses`."""

from collections.abc import Sequence
from typing import Final

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from streamapp.core.events import SOURCES, Bytes, Floats, Ints, Kind, ScoredBatch, Values, Verdict
from streamapp.core.losses import (
    ANSWER,
    COLUMNS,
    LARGEST,
    LOG,
    OWN,
    SCORE,
    SOFT,
    TRUTH,
    configured,
    fill,
    label_word,
)
from streamapp.core.monitoring.rows import Rows, join, sole
from streamapp.core.monitoring.unjudged import Unjudged, together
from streamapp.core.settings import Label, Loss, ModelSettings, Task

CLASSES_MAX: Final = 1024
"""Classes told apart per model; a row with another one is unscorable."""
REASONS: Final = ("", "outcome_type", "prediction_type", "no_answer", "too_many_classes", "too_large")
"""Why a row cannot be scored, by code; 0 is none."""
ASSUMED: Final = SOURCES.index("assumed")
_OUTCOME, _PREDICTION, _NO_ANSWER, _CLASSES, _TOO_LARGE = range(1, 6)
# As plain numbers: looking up a member of an enumeration costs as much as a step over a small column.
_NONE, _BOOL, _NUMBER, _STRING = map(int, Kind)


class Classes:
    """Codes of the classes of one model, in the order in which its rows brought them."""

    def __init__(self) -> None:
        self.words: list[str] = []
        self._codes: dict[str, int] = {}

    def __len__(self) -> int:
        """Return how many have a code."""
        return len(self.words)

    def code(self, label: str) -> int:
        """Return the code, a new one at first; -1 where :data:`CLASSES_MAX` have one already."""
        code = self._codes.get(label)
        if code is None:
            if len(self.words) >= CLASSES_MAX:
                return -1
            code = self._codes[label] = len(self.words)
            self.words.append(label)
        return code

    def take(self, words: tuple[str, ...]) -> None:
        """Give codes to these, in their order."""
        for word in words:
            self.code(word)

    def knows(self, label: str) -> bool:
        """Tell whether it has a code."""
        return label in self._codes


class Judged(Struct, frozen=True):
    """Joined rows, judged; n of them."""

    block: Floats
    """Shape (COLUMNS, n)."""
    reason: Bytes
    """Index into :data:`REASONS` of each; such rows are nan in the whole block but for ``TRUTH``."""
    unfit: bool
    """Whether some have a reason."""
    owned: bool
    """Whether some outcomes carried a loss of their own."""


def judge(batch: ScoredBatch, rows: Ints | None, task: Task, settings: ModelSettings, classes: Classes) -> Judged:
    """Judge the rows at these indices, whose verdict is joined.

    Args:
        batch: The rows.
        rows: Indices into the batch, ascending, shape (n,); None: all.
        task: The model's task.
        settings: For ``positive`` and ``threshold``.
        classes: The model's classes; grows by those that are new here.
    """
    judged = resolve(batch, rows, task, settings, classes)
    fill(task, judged.block)
    return judged


def resolve(
    batch: ScoredBatch | Unjudged, rows: Ints | None, task: Task, settings: ModelSettings, classes: Classes
) -> Judged:
    """Return the same without what :func:`~streamapp.core.losses.fill` works out, of many batches at once."""
    n = len(batch) if rows is None else len(rows)
    block = np.empty((COLUMNS, n))
    block.fill(np.nan)
    reason = np.zeros(n, np.uint8)
    if task == "binary":
        _judge_binary(batch, rows, settings, block, reason)
    elif task == "multiclass":
        _judge_classes(batch, np.arange(n) if rows is None else rows, classes, block, reason)
    else:
        _judge_numbers(batch, rows, block, reason)
    owned = False
    if (only := sole(batch.loss)) is None or only == only:
        block[OWN] = batch.loss if rows is None else batch.loss[rows]
        own = ~np.isnan(block[OWN])
        owned = bool(own.any())
        if owned:
            reason[own] = 0
            block[ANSWER:LOG, own] = np.nan
            large = np.abs(block[OWN]) > LARGEST
            reason[large] = _TOO_LARGE
            block[OWN, large] = np.nan
    unfit = bool(np.logical_or.reduce(reason))
    if unfit:
        block[ANSWER:LOG, reason > 0] = np.nan
    return Judged(block, reason, unfit, owned)


def judged(parts: Sequence[Unjudged], task: Task, settings: ModelSettings, classes: Classes) -> Rows:
    """Return rows one after the other, resolved: see :func:`resolve`.

    Args:
        parts: At least one.
        task: The model's task.
        settings: The model's.
        classes: The model's.
    """
    whole = together(parts)
    if whole is None:
        return join([judged([part], task, settings, classes) for part in parts])
    found = resolve(whole, None, task, settings, classes)
    came = None
    if (only := sole(whole.source)) is None or only == ASSUMED:
        came = whole.source != ASSUMED
    return Rows(
        offsets=whole.offsets,
        ends=whole.ends,
        group=whole.group,
        block=found.block,
        reason=found.reason,
        unfit=found.unfit,
        owned=found.owned,
        ts=whole.ts,
        log_time=whole.log_time,
        outcome_ts=whole.outcome_ts,
        known=whole.known,
        came=came,
        ids=whole.ids,
        series=whole.series,
        version=whole.version,
        older=whole.older,
    )


def losses(batch: ScoredBatch, task: Task, loss: Loss, settings: ModelSettings) -> Floats:
    """Return what each row of a batch lost, shape (n,); nan where it is not joined, or has no such loss.

    A loss that the outcome itself carried counts as the loss asked for.
    """
    result = np.full(len(batch), np.nan)
    rows = np.flatnonzero(batch.verdict == Verdict.JOINED)
    judged = resolve(batch, None if len(rows) == len(batch) else rows, task, settings, Classes())
    result[rows] = configured(task, loss, judged.block, owned=judged.owned)
    return result


def _judge_binary(
    batch: ScoredBatch | Unjudged, rows: Ints | None, settings: ModelSettings, block: Floats, reason: Bytes
) -> None:
    truth, true = _positive(batch.outcome, rows, settings.positive)
    answer, answered = _positive(batch.prediction, rows, settings.positive)
    score = batch.score if rows is None else batch.score[rows]
    if batch.classes and np.isnan(score).any():
        score = _class_score(batch, rows, score, label_word(settings.positive))
    if not answered:
        missing = np.isnan(answer)
        kind = batch.prediction.kind if rows is None else batch.prediction.kind[rows]
        empty = missing & (kind == _NONE)
        reason[missing & (kind != _NONE)] = _PREDICTION
        answer = np.where(empty, (score >= settings.threshold).astype(np.float64), answer)
        if batch.classes:
            answer = np.where(empty, _best_class(batch, rows, label_word(settings.positive), answer), answer)
        reason[empty & np.isnan(score)] = _NO_ANSWER
    if not true:
        reason[np.isnan(truth)] = _OUTCOME
    block[TRUTH], block[ANSWER], block[SCORE] = truth, answer, score


def _positive(values: Values, rows: Ints | None, positive: Label) -> tuple[Floats, bool]:
    """Return 1.0 where a label is the positive one, 0.0 for another of its type, else nan; and whether none is nan."""
    kind, number = values.kind, values.number
    if rows is not None:
        kind, number = kind[rows], number[rows]
    if isinstance(positive, str):
        place = values.words.index(positive) if positive in values.words else -1
        fits = kind == _STRING
        same = (number == place).astype(np.float64)
    else:
        same = (number == float(positive)).astype(np.float64)
        binary = float(positive) in (0.0, 1.0)
        if binary and sole(kind) == _BOOL:
            return same, True
        fits = kind == _NUMBER
        if isinstance(positive, bool):
            # JSON from services without booleans: 0 and 1 are meant as false and true.
            fits &= (number == 0.0) | (number == 1.0)
        if binary:
            fits |= kind == _BOOL
    if np.logical_and.reduce(fits):
        return same, True
    return np.where(fits, same, np.nan), False


def _class_score(batch: ScoredBatch | Unjudged, rows: Ints | None, score: Floats, word: str) -> Floats:
    if word not in batch.classes:
        return score
    column = batch.probabilities[:, batch.classes.index(word)]
    if rows is not None:
        column = column[rows]
    return np.where(np.isnan(score), column, score)


def _best_class(batch: ScoredBatch | Unjudged, rows: Ints | None, word: str, answer: Floats) -> Floats:
    """Return 1.0 where the likeliest class is *word*, 0.0 where another is, and *answer* where there are none."""
    table = batch.probabilities if rows is None else batch.probabilities[rows]
    names, table = _sorted_classes(batch.classes, table)
    given = ~np.isnan(table).all(axis=1)
    best = np.where(np.isnan(table), -1.0, table).argmax(axis=1)
    place = names.index(word) if word in names else -1
    return np.where(given, (best == place).astype(np.float64), answer)


def _sorted_classes(classes: tuple[str, ...], table: Floats) -> tuple[list[str], Floats]:
    # Batches list classes in an order of their own; ties and sums must not depend on it.
    order = sorted(range(len(classes)), key=classes.__getitem__)
    return [classes[i] for i in order], table[:, order]


def _judge_classes(batch: ScoredBatch | Unjudged, rows: Ints, classes: Classes, block: Floats, reason: Bytes) -> None:
    n = len(rows)
    truths, answers = _words(batch.outcome, rows), _words(batch.prediction, rows)
    names: list[str] = []
    table = np.empty((n, 0))
    given: NDArray[np.bool_] = np.zeros(n, np.bool_)
    if batch.classes:
        names, table = _sorted_classes(batch.classes, batch.probabilities[rows])
        given = np.logical_not(np.isnan(table).all(axis=1))
        table = np.where(np.isnan(table), 0.0, table)
        best = table.argmax(axis=1)
        empty = np.flatnonzero((answers[0] < 0) & given)
        words = (*answers[1], *names)
        answers = (answers[0].copy(), words)
        answers[0][empty] = len(words) - len(names) + best[empty]
    truth, answer = _codes(truths, answers, classes)
    reason[answer == -1] = _NO_ANSWER
    reason[(truth == -2) | (answer == -2)] = _CLASSES
    reason[truth == -1] = _OUTCOME
    block[TRUTH] = np.where(truth < 0, np.nan, truth)
    block[ANSWER] = np.where(answer < 0, np.nan, answer)
    if given.any():
        places = np.array([names.index(word) if word in names else -1 for word in truths[1]] or [-1])
        column = places[truths[0]]
        inside = np.flatnonzero(column >= 0)
        score = np.zeros(n)
        score[inside] = table[inside, column[inside]]
        rest = table.copy()
        rest[inside, column[inside]] -= 1.0
        brier = np.where(column >= 0, 0.0, 1.0)
        for k in range(len(names)):
            brier += rest[:, k] * rest[:, k]
        block[SCORE] = np.where(given, score, np.nan)
        block[SOFT] = np.where(given, brier, np.nan)


def _words(values: Values, rows: Ints) -> tuple[Ints, tuple[str, ...]]:
    """Return labels as indices into words, -1 where there is none."""
    kind, number = values.kind[rows], values.number[rows]
    if (kind == _STRING).all():
        return number.astype(np.int64), values.words
    strings = kind == _STRING
    codes = np.where(strings, number, -1.0).astype(np.int64)
    words = list(values.words)
    for row in np.flatnonzero(~strings & (kind != _NONE)).tolist():
        label = values[int(rows[row])]
        assert label is not None
        codes[row] = len(words)
        words.append(label_word(label))
    return codes, tuple(words)


def _codes(truths: tuple[Ints, tuple[str, ...]], answers: tuple[Ints, tuple[str, ...]], classes: Classes) -> list[Ints]:
    """Return truth and answer as the model's codes: -1 for none, -2 where no code is left."""
    if not all(map(classes.knows, (*truths[1], *answers[1]))):
        # Codes are given in the order of the rows, so that they are the same however rows are cut into batches.
        for truth, answer in zip(truths[0].tolist(), answers[0].tolist(), strict=True):
            if truth >= 0:
                classes.code(truths[1][truth])
            if answer >= 0:
                classes.code(answers[1][answer])
    result = []
    for index, words in (truths, answers):
        table = np.array([classes.code(w) if classes.knows(w) else -2 for w in words] + [-1])
        result.append(table[index])  # index -1, no label, finds the -1 at the end
    return result


def _judge_numbers(batch: ScoredBatch | Unjudged, rows: Ints | None, block: Floats, reason: Bytes) -> None:
    for values, column, wrong in ((batch.prediction, ANSWER, _PREDICTION), (batch.outcome, TRUTH, _OUTCOME)):
        kind, number = values.kind, values.number
        if rows is not None:
            kind, number = kind[rows], number[rows]
        fits = (kind == _NUMBER) & (np.abs(number) <= LARGEST)
        block[column] = np.where(fits, number, np.nan)
        if not fits.all():
            reason[~fits] = wrong
            reason[(kind == _NUMBER) & ~fits] = _TOO_LARGE
            if column == ANSWER:
                reason[kind == _NONE] = _NO_ANSWER
