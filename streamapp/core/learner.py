"""Answer a retrain request: learn from scored rows, and prove the new model against the old one."""

import hashlib
import math
from dataclasses import dataclass
from typing import Any, Literal

import msgspec
import numpy as np

from streamapp.core import pickling
from streamapp.core.events import RetrainRequest, ScoredBatch, Verdict
from streamapp.core.learning.learned import LearnedModel, Value, build_estimator
from streamapp.core.losses import LARGEST, choose_loss, is_positive, loss_of
from streamapp.core.settings import Label, Loss, ModelSettings, Task
from streamapp.errors import CheckpointError, ConfigError, DecodeError

__all__ = ["LearnResult", "LearnedModel", "Learner", "build_estimator", "decode_features", "seed_of"]

_FEATURES = msgspec.json.Decoder(dict[str, Value])


@dataclass(frozen=True, slots=True, kw_only=True)
class LearnResult:
    """What came of a retrain request."""

    status: Literal["accepted", "rejected", "expired"]
    reason: str
    """In words, for people."""
    version: str
    parent: str | None
    """Version it was learned on from; None if it began fresh."""
    rows_learned: int
    rows_skipped: int
    """Rows with an outcome that could not teach: no features, unreadable ones, or an outcome that does not fit."""
    rows_compared: int
    features_left_out: int
    """Values of features beyond the most names that a learned model takes."""
    incumbent: float | None
    """Mean loss on the rows compared, in the configured loss; None without any."""
    candidate: float | None
    """Mean loss of the new model on the same rows; None also where an answer of it was not finite."""
    model: bytes | None
    """For :meth:`LearnedModel.load`; None unless accepted."""
    refused: str | None = None
    """Why the parent's bytes were not taken; None where they were, or where there was no parent."""


def seed_of(request: RetrainRequest) -> int:
    """Return a seed that follows from the request's id, so that learning again gives the same model."""
    return int.from_bytes(hashlib.blake2b(request.id.encode(), digest_size=4).digest(), "big")


def decode_features(data: bytes) -> dict[str, Value]:
    """Return the features of one row.

    Raises:
        DecodeError: They are no JSON object of numbers, strings, bools and nulls, or a number is too large.
    """
    try:
        return _FEATURES.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise DecodeError(f"features: {error}") from error


class _Candidate:
    """A model that may become the new version, tested on each row before it learns from it."""

    def __init__(self, model: LearnedModel, parent: str | None) -> None:
        self.model = model
        self.parent = parent
        self.learned = 0
        self._left_out = model.left_out
        self.losses: list[float] = []

    @property
    def left_out(self) -> int:
        """Values of features that it could not take in this job."""
        return self.model.left_out - self._left_out

    @property
    def recent(self) -> float:
        """Mean of the newer half of its losses, infinite without any."""
        newer = self.losses[len(self.losses) // 2 :]
        return math.fsum(newer) / len(newer) if newer else math.inf


class Learner:
    """One retrain request at work.

    Joined rows of every group of the model teach, if they have features. Up to the request's cause they only teach;
    where a parent is given, it learns on beside a model that begins fresh, and the one with the lower mean loss over
    the newer half of these rows goes on. (Neither is always better. Shuttle with columns exchanged, Brier loss after
    200, 500, 1000, 3000 rows: fresh .041, .021, .011, .004; from the parent, for the best and the worst of four
    exchanges, .007-.043, .008-.026, .004-.015, .002-.007. In these 16 trials, which the rule was not chosen on, the
    better one went on 14 times; the other two cost at most 4 %.)

    After the cause each row is a test first: on rows of the request's group the candidate's loss is compared with what
    the incumbent lost on the same row, until ``proof_rows`` are compared. It is accepted if its mean is below
    ``(1 - margin)`` of the incumbent's.

    When the group begins to answer with a version that was not there at the cause, the comparison has lost its
    subject, and the request expires; likewise at its deadline. A version begins with a prediction that came to its log
    after those of all rows up to the cause: rows of one that answered before, whose outcomes come late, teach and are
    not compared. Rows without a version belong to whichever answers.

    Args:
        request: What is asked for.
        settings: Of the model.
        task: Of the model.
        parent: Bytes of the last accepted model of this model and group.
        parent_version: Its version.
        version: Of the model to be learned.
        seed: See :func:`seed_of`.

    Where ``settings.learner`` names no estimator for the task that can be learned and stored, it is done at once, and
    the request is rejected: somebody's choice of estimator must not stop the worker.
    """

    def __init__(
        self,
        request: RetrainRequest,
        settings: ModelSettings,
        task: Task,
        *,
        parent: bytes | None,
        parent_version: str | None,
        version: str,
        seed: int,
    ) -> None:
        self._request = request
        self._settings = settings
        self._task: Task = task
        self._version = version
        self._candidates: list[_Candidate] = []
        self._notes: list[str] = []
        self._refused: str | None = None
        self._loss: Loss | None = None
        self._versions: set[str | None] = set()
        """That were there at the cause."""
        self._newest = -math.inf
        """Log time of the newest prediction of the group up to the cause."""
        self._skipped = 0
        self._incumbent: list[float] = []
        self._proven: list[float] = []
        self._status: Literal["accepted", "rejected", "expired"] | None = None
        self._reason = ""
        try:
            self._candidates.append(_Candidate(_storable(task, settings, seed), None))
        except ConfigError as error:
            self._end("rejected", str(error))
            return
        if parent is not None:
            self._adopt(parent, parent_version)

    @property
    def done(self) -> bool:
        """Whether there is a result."""
        return self._status is not None

    def feed(self, batch: ScoredBatch, offset: int) -> None:
        """Take the next batch of ``scored``; what is not for this request is passed over.

        Args:
            batch: In order of offset.
            offset: Of its message.
        """
        if self.done or batch.model != self._request.model or offset < self._request.scored.from_:
            return
        proof = offset > self._request.scored.cause
        if proof and len(self._candidates) > 1:
            self._candidates = [min(self._candidates, key=lambda candidate: candidate.recent)]
        for row in np.flatnonzero(batch.verdict == Verdict.JOINED).tolist():
            self._row(batch, row, proof=proof)
            if self.done:
                return

    def advance(self, clock: float) -> None:
        """Move log time to *clock*: at the request's deadline nobody waits for it any more."""
        if not self.done and clock >= self._request.deadline:
            self._end("expired", f"the deadline passed after {self._progress()}")

    def result(self) -> LearnResult:
        """Return what came of it.

        Raises:
            RuntimeError: It is not done.
        """
        if self._status is None:
            raise RuntimeError("the learner is not done")
        candidate = self._candidates[0] if self._candidates else None
        compared = len(self._proven)
        return LearnResult(
            status=self._status,
            reason="; ".join([self._reason, *self._notes]),
            version=self._version,
            parent=candidate.parent if candidate else None,
            rows_learned=candidate.learned if candidate else 0,
            rows_skipped=self._skipped,
            rows_compared=compared,
            features_left_out=candidate.left_out if candidate else 0,
            incumbent=_mean(self._incumbent),
            candidate=_mean(self._proven),
            model=pickling.dumps(candidate.model) if candidate and self._status == "accepted" else None,
            refused=self._refused,
        )

    def _adopt(self, parent: bytes, version: str | None) -> None:
        try:
            model = LearnedModel.load(parent)
        except CheckpointError as error:
            self._refused = str(error)
            self._notes.append(f"parent {version} was left out: {error}")
            return
        if model.task != self._task:
            self._notes.append(f"parent {version} was left out: it is for a {model.task} task")
            return
        self._candidates.append(_Candidate(model, version))

    def _row(self, batch: ScoredBatch, row: int, *, proof: bool) -> None:
        ours, strange = batch.group[row] == self._request.group, False
        if ours:
            version, log_time = batch.version[row], batch.log_time.item(row)
            if not proof:
                self._versions.add(version)
                self._newest = max(self._newest, log_time)
            strange = proof and self._strange(version)
            if strange and log_time > self._newest:
                self._end("expired", f"version {version} answered after {self._progress()}")
                return
        outcome = batch.outcome[row]
        features = self._features(batch.feature_bytes(row))
        if outcome is None or features is None or not self._fits(outcome):
            self._skipped += 1
            return
        incumbent = self._incumbent_loss(batch, row, outcome) if ours and not strange else math.nan
        for candidate in self._candidates:
            try:
                lost = self._candidate_loss(candidate, features, outcome)
                candidate.model.learn(features, outcome)
            except Exception as error:  # somebody's choice of estimator must not stop the worker
                self._end("rejected", f"{type(error).__name__} from the estimator: {error}")
                return
            candidate.learned += 1
            if candidate.learned > self._settings.learner.warmup and not math.isnan(lost):
                candidate.losses.append(lost)
                if proof and not math.isnan(incumbent):
                    self._incumbent.append(incumbent)
                    self._proven.append(lost)
        if len(self._proven) >= self._settings.learner.proof_rows:
            self._decide()

    def _strange(self, version: str | None) -> bool:
        """Tell whether a version is none of those that were there at the cause, where that is known."""
        return version is not None and bool(self._versions) and version not in self._versions

    def _features(self, data: bytes) -> dict[str, Value] | None:
        if not data:
            return None
        try:
            return decode_features(data)
        except DecodeError:
            return None

    def _fits(self, outcome: Label) -> bool:
        if self._task == "regression":
            return not isinstance(outcome, str) and abs(outcome) <= LARGEST
        return self._task != "binary" or is_positive(outcome, self._settings.positive) is not None

    def _incumbent_loss(self, batch: ScoredBatch, row: int, outcome: Label) -> float:
        scores = _scores(batch, row)
        if self._loss is None:
            self._loss = choose_loss(self._settings.loss, self._task, scored=scores is not None)
        prediction = batch.prediction[row]
        if self._task == "regression" and isinstance(prediction, str):
            return math.nan
        return self._loss_of(prediction, scores, outcome)

    def _candidate_loss(self, candidate: _Candidate, features: dict[str, Value], outcome: Label) -> float:
        if self._loss is None:
            return math.nan
        prediction, scores = candidate.model.predict(features)
        lost = math.nan if prediction is None and scores is None else self._loss_of(prediction, scores, outcome)
        # An answer that is none, or is beyond all numbers that count, must not spare the candidate the comparison.
        if math.isnan(lost) and candidate.learned >= max(self._settings.learner.warmup, 1):
            return math.inf
        return lost

    def _loss_of(self, prediction: Label | None, scores: float | dict[str, float] | None, outcome: Label) -> float:
        assert self._loss is not None
        return loss_of(self._loss, self._task, self._settings, outcome=outcome, prediction=prediction, scores=scores)

    def _decide(self) -> None:
        count = len(self._proven)
        incumbent, candidate = math.fsum(self._incumbent) / count, math.fsum(self._proven) / count
        better = candidate < incumbent * (1.0 - self._settings.learner.margin)
        said = f"{self._loss} loss {candidate:.6g} against {incumbent:.6g} on {count} rows"
        self._end("accepted" if better else "rejected", said)

    def _end(self, status: Literal["accepted", "rejected", "expired"], reason: str) -> None:
        self._status, self._reason = status, reason

    def _progress(self) -> str:
        return f"{len(self._proven)} of {self._settings.learner.proof_rows} rows compared"


def _storable(task: Task, settings: ModelSettings, seed: int) -> LearnedModel:
    """Return a model that begins fresh, or raise ConfigError: there is no such estimator, or it cannot be stored."""
    fresh = LearnedModel(task, settings, seed=seed)
    try:
        pickling.loads(pickling.dumps(fresh))
    except Exception as error:  # what cannot be pickled says so in many ways
        raise ConfigError(f"learner.model: {settings.learner.model} cannot be stored: {error}") from error
    return fresh


def _mean(losses: list[float]) -> float | None:
    mean = math.fsum(losses) / len(losses) if losses else math.nan
    return mean if math.isfinite(mean) else None


def _scores(batch: ScoredBatch, row: int) -> float | dict[str, float] | None:
    score = batch.score.item(row)
    if not math.isnan(score):
        return float(score)
    if not batch.classes:
        return None
    chances: Any = batch.probabilities[row]
    if np.isnan(chances).all():
        return None
    return {name: float(chance) for name, chance in zip(batch.classes, chances, strict=True) if chance == chance}
