"""A model learned from scored rows: what teaches it, and what answers with it."""

import importlib
import inspect
import math
from collections.abc import Iterable, Mapping
from typing import Any

from river import base, preprocessing

from streamapp.core import pickling
from streamapp.core.losses import label_word
from streamapp.core.settings import Label, LearnerSettings, ModelSettings, Task
from streamapp.errors import CheckpointError, ConfigError

DEFAULTS: dict[Task, str] = {
    "binary": "river.linear_model.LogisticRegression",
    "multiclass": "river.linear_model.SoftmaxRegression",
    "regression": "river.linear_model.LinearRegression",
}
"""Estimators where none is configured: linear, since they follow a change within some hundred rows.

Multiclass, measured on ImageSegments, shuffled, test-then-learn: error .157 with softmax, .190 with one-vs-rest
logistic regression, .197 with Gaussian naive Bayes, .201 with a Hoeffding tree; .066 with
``river.forest.AMFClassifier`` at four times the cost per row.
"""
INPUTS = 1000
"""Different numbers, and different ``name=value`` words, that a model takes in; later ones are left out."""

Value = float | bool | str | None
Features = Mapping[str, Value]


class LearnedModel:
    """A River estimator with what it needs to read features and to answer as the contract has it.

    Numbers are scaled by their running mean and deviation, a bool is 0 or 1, a string becomes the input
    ``name=value``, None is left out. Save it with :func:`streamapp.core.pickling.dumps`, load it with :meth:`load`.

    Args:
        task: What it answers.
        settings: Of the model it repairs: ``learner``, ``positive`` and ``threshold`` are used.
        seed: For estimators that draw random numbers.

    Raises:
        ConfigError: ``learner.model`` is no estimator of River's for this task, or refuses its parameters.

    >>> model = LearnedModel("binary", ModelSettings(), seed=1)
    >>> for amount in range(200):
    ...     model.learn({"amount": amount}, amount > 100)
    >>> prediction, score = model.predict({"amount": 190})
    >>> prediction, score > 0.6
    (True, True)
    """

    left_out = 0
    """Values of features that came when as many names were known as are kept."""

    def __init__(self, task: Task, settings: ModelSettings, *, seed: int) -> None:
        self.task: Task = task
        self.positive = settings.positive
        self.threshold = settings.threshold
        self.estimator = build_estimator(settings.learner, task, seed)
        self.scaler: Any = preprocessing.StandardScaler() if settings.learner.scale else None
        self.numbers: set[str] = set()
        """Names learned from. Others are left out when answering: River would begin to keep track of them."""
        self.words: set[str] = set()
        self.labels: dict[object, Label] = {}
        """Outcomes as they came, by what the estimator calls them."""
        self.rows = 0
        """Learned."""

    @classmethod
    def load(cls, data: bytes) -> "LearnedModel":
        """Return the model that an artifact holds.

        Raises:
            CheckpointError: It holds none, or one that this River cannot read.
        """
        model = pickling.loads(data)
        if not isinstance(model, cls):
            raise CheckpointError(f"expected a learned model, got {type(model).__name__}")
        return model

    def learn(self, features: Features, outcome: Label) -> None:
        """Learn one row."""
        self.rows += 1
        numbers, words = _inputs(features)
        self.left_out += _admit(self.numbers, numbers) + _admit(self.words, words)
        if self.scaler is not None:
            self.scaler.learn_one({name: value for name, value in numbers.items() if name in self.numbers})
        inputs = self._scaled(numbers, words)
        if self.task == "regression":
            self.estimator.learn_one(inputs, float(outcome))
            return
        name = outcome == self.positive if self.task == "binary" else label_word(outcome)
        self.labels.setdefault(name, outcome)
        self.estimator.learn_one(inputs, name)

    def predict(self, features: Features) -> tuple[Label | None, float | dict[str, float] | None]:
        """Return prediction and scores, as an event of ``predictions`` takes them.

        Scores are the probability of the positive class (binary), of each class (multiclass, adding up to 1), or None
        (regression). The prediction is None before anything was learned, but binary, where the score is 0.5 then; and
        where a class it would name was never seen, or the number is not finite.
        """
        if not self.rows:  # some estimators take the first features they see for all there are, and none are known
            return (self._binary(self.threshold <= 0.5), 0.5) if self.task == "binary" else (None, None)
        inputs = self._scaled(*_inputs(features))
        if self.task == "regression":
            number = float(self.estimator.predict_one(inputs))
            return (number if math.isfinite(number) else None), None
        chances = self._chances(inputs)
        if self.task == "binary":
            score = chances.get(True, 0.0) if chances else 0.5
            return self._binary(score >= self.threshold), score
        if not chances:
            return None, None
        likeliest = max(sorted(chances, key=str), key=chances.__getitem__)
        return self.labels.get(likeliest), {str(name): chance for name, chance in chances.items()}

    def _chances(self, inputs: dict[str, float]) -> dict[object, float]:
        try:
            given = self.estimator.predict_proba_one(inputs)
        except NotImplementedError:  # some classifiers only answer
            name = self.estimator.predict_one(inputs)
            return {} if name is None else {name: 1.0}
        total = math.fsum(given.values())
        if not 0.0 < total < math.inf:
            return {}
        return {name: min(max(chance / total, 0.0), 1.0) for name, chance in given.items()}

    def _binary(self, positive: bool) -> Label | None:
        if positive:
            return self.positive
        return self.labels.get(False, False if self.positive is True else None)

    def _scaled(self, numbers: dict[str, float], words: list[str]) -> dict[str, float]:
        known = {name: value for name, value in numbers.items() if name in self.numbers}
        inputs = known if self.scaler is None else dict(self.scaler.transform_one(known))
        # Not scaled: a word is only ever seen as 1, and would be scaled to nothing.
        inputs.update((word, 1.0) for word in words if word in self.words)
        return inputs


def _inputs(features: Features) -> tuple[dict[str, float], list[str]]:
    numbers: dict[str, float] = {}
    words = []
    for name, value in features.items():
        if isinstance(value, str):
            words.append(f"{name}={value}")
        elif value is not None:
            numbers[name] = float(value)
    return numbers, words


def _admit(known: set[str], names: Iterable[str]) -> int:
    """Add new names as far as there is room, and return how many there were for which there is none."""
    new = [name for name in names if name not in known]
    room = INPUTS - len(known)
    known.update(new[:room])
    return max(0, len(new) - room)


def build_estimator(settings: LearnerSettings, task: Task, seed: int) -> Any:
    """Return a new estimator of River's for a task.

    A parameter that is itself an object of River's is a table with ``model`` and ``parameters``.

    Raises:
        ConfigError: It is none of River's, not for this task, or refuses its parameters.
    """
    name = DEFAULTS[task] if settings.model is None else settings.model
    estimator: Any = _build({"model": name, "parameters": settings.parameters}, seed)
    if not _answers(estimator, task):
        raise ConfigError(f"learner.model: {name} is no estimator for a {task} task")
    return estimator


def _answers(estimator: Any, task: Task) -> bool:
    wanted = base.Regressor if task == "regression" else base.Classifier
    try:
        return isinstance(estimator, wanted) and (task != "multiclass" or getattr(estimator, "_multiclass", False))
    except IndexError:  # a pipeline is what its last step is, and one of no steps does not know
        return False


def _build(spec: Mapping[str, Any], seed: int) -> Any:
    name = spec["model"]
    kind = _find(name)
    parameters = {
        key: _build(value, seed) if isinstance(value, Mapping) and "model" in value else value
        for key, value in spec.get("parameters", {}).items()
    }
    try:
        if "seed" in inspect.signature(kind).parameters:
            parameters.setdefault("seed", seed)
        return kind(**parameters)
    except Exception as error:  # whatever an estimator makes of parameters that are not for it
        raise ConfigError(f"learner.parameters: {name}: {error}") from error


def _find(name: object) -> Any:
    parts = name.split(".") if isinstance(name, str) else []
    if len(parts) < 3 or parts[0] != "river" or pickling.EXCLUDED.intersection(parts):
        raise ConfigError(f"learner.model must be an estimator like river.linear_model.PAClassifier, got {name!r}")
    try:
        found = getattr(importlib.import_module(".".join(parts[:-1])), parts[-1])
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"learner.model: River has no {name}") from error
    if not (isinstance(found, type) and issubclass(found, base.Base)):
        raise ConfigError(f"learner.model: {name} is no estimator")
    return found
