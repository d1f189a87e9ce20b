"""Models of the simulated services: they answer, and learn nothing by themselves."""

from dataclasses import dataclass
from random import Random
from typing import Any, Protocol

from river import linear_model, multiclass, naive_bayes, preprocessing, tree

from streamapp.core.settings import Label, Task
from streamapp.simulation.datasets import Dataset

Answer = tuple[Label | None, float | dict[str, float] | None]
"""A prediction and its scores, as :class:`~streamapp.core.events.Prediction` has them."""


class Answerer(Protocol):
    """Whatever answers: a pretrained River model, or one that the learner made."""

    def predict(self, features: dict[str, Any]) -> Answer:
        """Return the answer to one row."""


@dataclass(frozen=True, slots=True)
class Answering:
    """What answers in one group now."""

    version: str
    answerer: Answerer


class RiverAnswerer:
    """A River model that has learned what it will ever learn.

    Args:
        model: A River classifier or regressor.
        task: What its answers are.
    """

    def __init__(self, model: Any, task: Task) -> None:
        self._model = model
        self._task = task

    def predict(self, features: dict[str, Any]) -> Answer:
        """Return the answer to one row."""
        if self._task == "regression":
            return float(self._model.predict_one(features)), None
        scores = self._model.predict_proba_one(features)
        if self._task == "binary":
            score = min(1.0, max(0.0, float(scores.get(True, 0.0))))
            return score >= 0.5, score
        # Summed in full and divided: the scores of an event must sum to 1.
        total = sum(scores.values())
        if not total:
            scores, total = dict.fromkeys(scores, 1.0), float(len(scores))
        by_class = {str(label): float(score) / total for label, score in scores.items()}
        return max(by_class, key=by_class.__getitem__), by_class


def pretrain(dataset: Dataset, *, seed: int) -> dict[str, Answering]:
    """Return a champion and a challenger that have learned the same first rows of a data set, as version ``v1``."""
    models = {"champion": _champion(dataset.task), "challenger": _challenger(dataset.task)}
    random = Random(seed)  # noqa: S311 - nothing secret
    source = dataset.draw(random)
    # A short series is learned several times over, since a linear model creeps towards its level.
    rows = dataset.rows[: dataset.train] * 3 if dataset.series else [source.row() for _ in range(dataset.train)]
    for features, outcome in rows:
        for model in models.values():
            model.learn_one(features, outcome)
    return {group: Answering("v1", RiverAnswerer(model, dataset.task)) for group, model in models.items()}


def _champion(task: Task) -> Any:
    if task == "regression":
        return preprocessing.StandardScaler() | linear_model.LinearRegression()
    if task == "multiclass":
        return preprocessing.StandardScaler() | multiclass.OneVsRestClassifier(linear_model.LogisticRegression())
    return preprocessing.StandardScaler() | linear_model.LogisticRegression()


def _challenger(task: Task) -> Any:
    if task == "regression":
        return tree.HoeffdingTreeRegressor(grace_period=50)
    if task == "multiclass":
        return naive_bayes.GaussianNB()  # type: ignore[no-untyped-call]
    return tree.HoeffdingTreeClassifier(grace_period=50)
