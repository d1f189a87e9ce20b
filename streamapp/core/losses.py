"""What an answer lost: how far it was from its outcome, by task and loss.

:mod:`streamapp.core.monitoring.judging` judges whole batches (its ``losses`` gives one number per row). Each becomes a
*block*: one row of floats per column below, nan where a column does not apply.
"""

import math
from collections.abc import Mapping
from typing import Final

import numpy as np

from streamapp.core.events import Floats, Kind, ScoredBatch
from streamapp.core.settings import Label, Loss, ModelSettings, Task

CLIP: Final = float(np.finfo(np.float64).eps)
"""Log loss takes probabilities to be at least this far from 0 and 1."""
LARGEST: Final = 1e100
"""Numbers and losses beyond this are a mistake of their service: a sum of their squares would no longer be a number."""
LOG_CAP: Final = 4.0
"""Log losses from here on are 1 to a detector."""

TRUTH, ANSWER, SCORE, HARD, SOFT, LOG, OWN = range(7)
"""Columns of a block.

``TRUTH`` and ``ANSWER``: 0 or 1 (binary), code of the class, or the number. ``SCORE``: probability of the positive
class (binary) or of the true class. ``HARD``: error, or absolute loss. ``SOFT``: Brier, or squared loss. ``LOG``: log
loss. ``OWN``: the loss that the outcome itself carried; where it is given, the others but ``TRUTH`` are nan.
"""
COLUMNS: Final = 7
COLUMN: Final[dict[Loss, int]] = {"error": HARD, "absolute": HARD, "brier": SOFT, "squared": SOFT, "log": LOG}
"""Column of each loss."""
LOSSES: Final[dict[Task, tuple[Loss, ...]]] = {
    "binary": ("error", "brier", "log"),
    "multiclass": ("error", "brier", "log"),
    "regression": ("absolute", "squared"),
}
"""Losses that a task has."""


def infer_task(batch: ScoredBatch, row: int) -> Task | None:
    """Return the task that a row speaks of, None if it says nothing.

    A scalar score or a bool is binary, a string or scores by class multiclass, a number regression.
    """
    kinds = (int(batch.prediction.kind[row]), int(batch.outcome.kind[row]))
    if not math.isnan(batch.score[row]) or Kind.BOOL in kinds:
        return "binary"
    if Kind.STRING in kinds or (batch.classes and not np.isnan(batch.probabilities[row]).all()):
        return "multiclass"
    return "regression" if Kind.NUMBER in kinds else None


def choose_loss(configured: Loss | None, task: Task, *, scored: bool) -> Loss:
    """Return the configured loss, or the default: of the task, and by whether answers come with scores.

    A configured loss that the task does not have is passed over.
    """
    if configured is not None and configured in LOSSES[task]:
        return configured
    if task == "regression":
        return "absolute"
    return "brier" if scored else "error"


def label_word(label: Label) -> str:
    """Return the class that a label names: ``true`` for True, ``3`` for 3.0."""
    if isinstance(label, str):
        return label
    if isinstance(label, bool):
        return "true" if label else "false"
    return str(int(label)) if label.is_integer() else repr(label)


def unit(loss: Loss, task: Task) -> float | None:
    """Return the loss that is 1 to a detector; None where it depends on the rows (regression)."""
    if task == "regression":
        return None
    if loss == "log":
        return LOG_CAP
    return 2.0 if loss == "brier" and task == "multiclass" else 1.0


def fill(task: Task, block: Floats) -> None:
    """Work out the losses of a block from what they follow from: truth, answer and score.

    Brier losses of several classes do not follow from these: they must be there.
    """
    for loss in LOSSES[task]:
        block[COLUMN[loss]] = lost(task, loss, block)


def lost(task: Task, loss: Loss, block: Floats) -> Floats:
    """Return one column of losses, as :func:`fill` works it out; shape (n,)."""
    truth, answer, score = block[TRUTH], block[ANSWER], block[SCORE]
    column: Floats
    if loss == "error":
        column = (truth != answer).astype(np.float64)
        missing = np.isnan(answer)
        if np.logical_or.reduce(missing):
            column[missing] = np.nan
    elif loss == "brier":
        column = block[SOFT] if task == "multiclass" else np.square(truth - score)
    elif loss == "log":
        if task == "binary":
            score = np.where(truth == 1.0, score, np.where(truth == 0.0, 1.0 - score, np.nan))
        column = -np.log(np.minimum(np.maximum(score, CLIP), 1.0 - CLIP))
    else:
        column = np.abs(answer - truth) if loss == "absolute" else np.square(answer - truth)
    return column


def configured(task: Task, loss: Loss, block: Floats, *, owned: bool = True) -> Floats:
    """Return the configured losses of a block, the outcome's own where it carried one; shape (n,).

    Args:
        task: The task.
        loss: The configured loss.
        block: The block, of which only what the losses follow from has to be there.
        owned: False: no outcome carried one.
    """
    column, own = lost(task, loss, block), block[OWN]
    return np.where(np.isnan(own), column, own) if owned else column


def loss_of(
    loss: Loss,
    task: Task,
    settings: ModelSettings,
    *,
    outcome: Label,
    prediction: Label | None = None,
    scores: float | Mapping[str, float] | None = None,
) -> float:
    """Return what one answer lost; nan where it has no such loss.

    The same as :func:`streamapp.core.monitoring.judging.judge` has it for whole batches.

    Args:
        loss: One that the task has.
        task: The task.
        settings: For ``positive`` and ``threshold``.
        outcome: The truth.
        prediction: The answer; None: by the scores.
        scores: Probability of the positive class, or of each class.
    """
    if task == "regression":
        if prediction is None:
            return math.nan
        answer, truth = float(prediction), float(outcome)
        if max(abs(answer), abs(truth)) > LARGEST:
            return math.nan
        error = answer - truth
        return abs(error) if loss == "absolute" else error * error
    if task == "binary":
        return _binary_loss(loss, settings, outcome, prediction, scores)
    word = label_word(outcome)
    table: Mapping[str, float] = scores if isinstance(scores, Mapping) else {}
    if loss == "error":
        if prediction is not None:
            return float(label_word(prediction) != word)
        return float(_likeliest(table) != word) if table else math.nan
    if not table:
        return math.nan
    if loss == "log":
        return _log(table.get(word, 0.0))
    total = math.fsum((p - (name == word)) ** 2 for name, p in table.items())
    return total if word in table else total + 1.0


def is_positive(label: Label, positive: Label) -> bool | None:
    """Tell whether a label is the positive one; None where it is not of its type.

    As :mod:`streamapp.core.monitoring.judging` reads columns of them: 0 and 1 are meant as false and true, and the
    other way round.
    """
    if isinstance(positive, str) or isinstance(label, str):
        return label == positive if isinstance(positive, str) and isinstance(label, str) else None
    if isinstance(label, bool):
        return label == positive if positive in (0.0, 1.0) else None
    return label == positive if not isinstance(positive, bool) or label in (0.0, 1.0) else None


def _binary_loss(
    loss: Loss,
    settings: ModelSettings,
    outcome: Label,
    prediction: Label | None,
    scores: float | Mapping[str, float] | None,
) -> float:
    word = label_word(settings.positive)
    score = scores.get(word) if isinstance(scores, Mapping) else scores
    truth = is_positive(outcome, settings.positive)
    if prediction is not None:
        answer = is_positive(prediction, settings.positive)
        if answer is None:
            return math.nan
    elif score is None:
        return math.nan
    else:
        answer = _likeliest(scores) == word if isinstance(scores, Mapping) else score >= settings.threshold
    if truth is None:
        return math.nan
    if loss == "error":
        return float(answer != truth)
    if score is None:
        return math.nan
    return (score - truth) ** 2 if loss == "brier" else _log(score if truth else 1.0 - score)


def _likeliest(table: Mapping[str, float]) -> str:
    return max(sorted(table), key=table.__getitem__)


def _log(probability: float) -> float:
    return -math.log(min(max(probability, CLIP), 1.0 - CLIP))
