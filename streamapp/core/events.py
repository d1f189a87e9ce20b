"""Everything that happens: what producer services say, what joiner, monitor and learner say.

Times are float seconds since the epoch. Event time (``ts``) is when it happened, log time when the log got it.
"""

from dataclasses import dataclass
from datetime import datetime
from enum import IntEnum
from typing import Annotated, Any, Literal

import numpy as np
from msgspec import Meta, Raw, Struct
from numpy.typing import NDArray

from streamapp.core.settings import Label, Task

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Hashes = NDArray[np.uint64]
Codes = NDArray[np.int32]
Bytes = NDArray[np.uint8]

Name = Annotated[str, Meta(min_length=1, max_length=256)]
Id = Annotated[str, Meta(min_length=1, max_length=1024)]
Time = Annotated[float, Meta(ge=0.0, lt=1e11)] | Annotated[datetime, Meta(tz=True)]
Share = Annotated[float, Meta(ge=0.0, le=1.0)]
Positive = Annotated[float, Meta(gt=0.0, le=1.0)]
NO_FEATURES = Raw()


class Prediction(Struct, frozen=True, gc=False, omit_defaults=True):
    """A model's answer, as its service published it.

    ``ts`` is a float once decoded: the codec turns RFC 3339 strings into seconds.
    """

    prediction_id: Id
    model: Name
    ts: Time
    group: Name = "default"
    prediction: bool | str | float | None = None
    scores: Share | dict[str, Share] | None = None
    features: Raw = NO_FEATURES
    """The JSON object as it came, or empty: decoded only by who needs it."""
    version: str | None = None
    latency: Annotated[float, Meta(ge=0.0)] | None = None
    unit: str | None = None
    propensity: Positive | None = None
    propensities: dict[str, Share] | None = None
    experiment: str | None = None
    series: str | None = None
    tags: dict[str, str] | None = None


class Outcome(Struct, frozen=True, gc=False, omit_defaults=True):
    """The truth about a prediction, observed later.

    ``outcome`` or ``loss`` is given, unless ``status`` says that none will come.
    """

    prediction_id: Id
    ts: Time
    outcome: bool | str | float | None = None
    loss: Share | None = None
    source: Literal["observed", "human", "assumed"] = "observed"
    status: Literal["never"] | None = None
    revision: int = 0


class Verdict(IntEnum):
    """What became of a prediction. Each accepted one gets exactly one verdict."""

    JOINED = 0
    EXPIRED = 1
    CENSORED = 2
    LOST = 3


class Kind(IntEnum):
    """Type of a value in a column that may hold several."""

    NONE = 0
    BOOL = 1
    NUMBER = 2
    STRING = 3


SOURCES = ("observed", "human", "assumed")
"""Outcome sources by their code in :attr:`ScoredBatch.outcome_source`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Values:
    """A column of labels: what each is, and its number or its place in the vocabulary."""

    kind: Bytes
    """:class:`Kind` of each row, shape (n,)."""
    number: Floats
    """The number, 0.0/1.0 for a bool, the index into ``words`` for a string, nan for none; shape (n,)."""
    words: tuple[str, ...] = ()

    def __getitem__(self, row: int) -> Label | None:
        """Return the label of one row as Python has it."""
        kind = self.kind[row]
        if kind == Kind.NONE:
            return None
        if kind == Kind.STRING:
            return self.words[int(self.number[row])]
        return bool(self.number[row]) if kind == Kind.BOOL else float(self.number[row])


@dataclass(frozen=True, slots=True, kw_only=True)
class Names:
    """A column of strings that repeat: codes into a vocabulary, -1 for none."""

    code: Codes
    words: tuple[str, ...]

    def __getitem__(self, row: int) -> str | None:
        """Return the string of one row."""
        code = int(self.code[row])
        return None if code < 0 else self.words[code]


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoredBatch:
    """Resolved predictions of one model, as columns; all have the same length n.

    Rows are in the order in which the joiner resolved them.
    """

    model: str
    partition: int
    """Partition of ``predictions`` and ``outcomes`` that the rows come from."""
    group: Names
    version: Names
    series: Names
    unit: Names
    verdict: Bytes
    """:class:`Verdict` of each row."""
    offset: Ints
    """Offset of the prediction."""
    outcome_offset: Ints
    """Offset of the outcome, -1 where there is none."""
    id_hash: Hashes
    """64-bit hash of the prediction_id."""
    ts: Floats
    log_time: Floats
    outcome_ts: Floats
    """nan where there is no outcome; likewise the next."""
    outcome_log_time: Floats
    prediction: Values
    score: Floats
    """Probability of the positive class; nan where none was given."""
    classes: tuple[str, ...]
    """Classes of ``probabilities``."""
    probabilities: Floats
    """Shape (n, len(classes)), nan rows where none were given."""
    outcome: Values
    loss: Floats
    """Loss that the outcome itself carried, in [0, 1]; nan where it carried none."""
    outcome_source: Bytes
    """Index into :data:`SOURCES`."""
    latency: Floats
    """Seconds; nan where not given."""
    features: bytes
    """JSON objects one after the other; row i lies between ``feature_ends[i-1]`` and ``feature_ends[i]``."""
    feature_ends: Ints

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.ts)

    def feature_bytes(self, row: int) -> bytes:
        """Return the features of one row as JSON, empty where it had none."""
        start = int(self.feature_ends[row - 1]) if row else 0
        return self.features[start : int(self.feature_ends[row])]


class GroupArrivals(Struct, frozen=True, kw_only=True):
    """What came in for one group since the last message: known before any outcome is."""

    group: str
    predictions: int
    latency: dict[int, int]
    """Counts by bin of :mod:`streamapp.core.quantiles`, of the rows that gave a latency."""
    latency_sum: float
    scores: dict[int, int]
    """Counts by 64 equal bins of [0, 1], of the rows that gave a scalar score."""


class Arrivals(Struct, frozen=True, kw_only=True):
    """What came in for one model at one joiner since its last such message."""

    model: str
    partition: int
    log_time: float
    """Largest log time of the predictions counted here."""
    groups: tuple[GroupArrivals, ...]


class Tick(Struct, frozen=True, kw_only=True):
    """A joiner's word on how far it is in log time, also when idle."""

    partition: int
    log_time: float


Scored = ScoredBatch | Arrivals | Tick
"""What the topic ``scored`` carries."""


class Position(Struct, frozen=True):
    """Where a ``scored`` message lies."""

    partition: int
    offset: int
    timestamp: float = 0.0
    """The record's own timestamp, in seconds."""


SignalKind = Literal[
    "drift",
    "recovery",
    "degradation",
    "input_drift",
    "data_quality",
    "calibration",
    "sample_ratio",
    "below_baseline",
    "silent",
]


class Signal(Struct, frozen=True, kw_only=True):
    """Something a person or a policy should know about a model."""

    id: str
    model: str
    group: str
    kind: SignalKind
    severity: Literal["warn", "act"]
    detector: str
    at: float
    """Event time of the row that caused it, or log time of the tick."""
    emitted_at: float
    """Timestamp of the ``scored`` record that caused it."""
    value: float | None
    reference: float | None
    direction: Literal["up", "down", "retracted"] | None
    evidence: dict[str, Any]


class Window(Struct, frozen=True, kw_only=True, rename={"from_": "from"}):
    """Event time that a retrain request wants learned, and how many rows lie in it."""

    from_: float
    to: float
    rows: int


class ScoredRange(Struct, frozen=True, kw_only=True, rename={"from_": "from"}):
    """Offsets of ``scored`` that a retrain request wants learned: ``from`` to ``cause``, both included."""

    partition: int
    from_: int
    cause: int


class BeforeAfter(Struct, frozen=True, kw_only=True):
    """Mean loss of the group before and since the change; None where unknown."""

    before: float | None
    after: float | None


class RetrainRequest(Struct, frozen=True, kw_only=True):
    """A wish for training; the learner acts on it."""

    id: str
    model: str
    group: str
    reason: str
    signals: tuple[str, ...]
    at: float
    window: Window
    scored: ScoredRange
    metrics: BeforeAfter
    deadline: float
    """Log time after which nobody waits for it any more."""
    task: Task | None = None
    """What the monitor takes the model's task to be."""


class Artifact(Struct, frozen=True, kw_only=True):
    """Where a learned model lies."""

    uri: str
    sha256: str
    format: str


class UpdateMetrics(Struct, frozen=True, kw_only=True):
    """Mean losses of incumbent and candidate on the same rows; None where there were none."""

    incumbent: float | None
    candidate: float | None


class ModelUpdate(Struct, frozen=True, kw_only=True):
    """What came of a retrain request."""

    id: str
    model: str
    group: str
    version: str
    parent: str | None
    request: str
    status: Literal["accepted", "rejected", "expired"]
    at: float
    rows_learned: int
    metrics: UpdateMetrics
    artifact: Artifact | None


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetter:
    """A message that could not be used, whole, with the reason."""

    topic: str
    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    reason: str
    error: str


