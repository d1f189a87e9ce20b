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
Word = Annotated[str, Meta(max_length=256)]
"""A class, or another string that state is kept by."""
Time = Annotated[float, Meta(ge=0.0, lt=1e11)] | Annotated[datetime, Meta(tz=True)]
Share = Annotated[float, Meta(ge=0.0, le=1.0)]
Positive = Annotated[float, Meta(gt=0.0, le=1.0)]
NO_FEATURES = Raw()


class Prediction(Struct, frozen=True, gc=False, omit_defaults=True):
    """A model's answer, as its service published it.

    ``ts`` is a float once decoded: the codec turns RFC 3339 strings into seconds.
    """

    prediction_id: Id
    """Pairs the prediction with its outcome; groups that answer the same request share it."""
    model: Name
    """The use case that is watched, e.g. ``fraud``."""
    ts: Time
    """When the prediction was made."""
    group: Name = "default"
    """The A/B group that answered."""
    prediction: bool | Word | float | None = None
    """The answer; may be left out where there are scores: the threshold or the likeliest class decides then."""
    scores: Share | dict[str, Share] | None = None
    """Probability of the positive class, or of each class; those sum to 1 ± 1e-6."""
    features: Raw = NO_FEATURES
    """Name to number, string, bool or null: what the learner learns from. Kept as it came, empty where not given."""
    version: Word | None = None
    """Build of the model that answered; detectors begin anew with one never seen before."""
    latency: Annotated[float, Meta(ge=0.0)] | None = None
    """Seconds that the model took."""
    unit: Word | None = None
    """Unit of randomisation, e.g. a user."""
    propensity: Positive | None = None
    """Probability with which this group was assigned."""
    propensities: dict[str, Share] | None = None
    """Probability of assignment of each group."""
    experiment: Word | None = None
    """Name of the comparison that this prediction belongs to."""
    series: Word | None = None
    """Entity of a time series: persistence and seasonal baselines look back within it."""
    tags: dict[str, str] | None = None
    """Segments."""


class Outcome(Struct, frozen=True, gc=False, omit_defaults=True):
    """The truth about a prediction, observed later.

    ``outcome`` or ``loss`` is given, unless ``status`` says that none will come.
    """

    prediction_id: Id
    """The prediction that it belongs to."""
    ts: Time
    """When it became known."""
    outcome: bool | Word | float | None = None
    """What turned out to be true, of the same type as the prediction."""
    loss: Share | None = None
    """How bad the answer was, where no single answer is right; it stands for the configured loss."""
    source: Literal["observed", "human", "assumed"] = "observed"
    """Where it comes from."""
    status: Literal["never"] | None = None
    """Says that no outcome will ever come: the prediction is censored instead of expiring."""
    revision: int = 0
    """A higher one corrects an earlier outcome."""


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
        kind, number = self.kind.item(row), self.number.item(row)  # numpy's own scalars take ten times as long
        if kind == Kind.NONE:
            return None
        if kind == Kind.STRING:
            return self.words[int(number)]
        return bool(number) if kind == Kind.BOOL else float(number)


@dataclass(frozen=True, slots=True, kw_only=True)
class Names:
    """A column of strings that repeat: codes into a vocabulary, -1 for none."""

    code: Codes
    words: tuple[str, ...]

    def __getitem__(self, row: int) -> str | None:
        """Return the string of one row."""
        code = self.code.item(row)
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
    """The same if the same log is read again."""
    model: str
    """The model that it is about; also the record's key."""
    group: str
    """Its group."""
    kind: SignalKind
    """What happened."""
    severity: Literal["warn", "act"]
    """``act``: a policy holds that something must be done; ``warn``: a detector's alarm."""
    detector: str
    """What found it; ``policy`` for ``act``."""
    at: float
    """Event time of the row that caused it, or log time of the tick."""
    emitted_at: float
    """Timestamp of the ``scored`` record that caused it."""
    value: float | None
    """Mean loss since the change; None where the signal is not about a loss, likewise the next two."""
    reference: float | None
    """Mean loss before."""
    direction: Literal["up", "down", "retracted"] | None
    """Where the loss went."""
    evidence: dict[str, Any]
    """What the detector saw; differs by detector."""


class Window(Struct, frozen=True, kw_only=True, rename={"from_": "from"}):
    """Event time that a retrain request wants learned, and how many rows lie in it."""

    from_: float
    """Lowest event time."""
    to: float
    """Highest event time."""
    rows: int
    """Joined rows of the group."""


class ScoredRange(Struct, frozen=True, kw_only=True, rename={"from_": "from"}):
    """Offsets of ``scored`` that a retrain request wants learned: ``from`` to ``cause``, both included."""

    partition: int
    """Of ``scored``."""
    from_: int
    """Offset of the first message to learn from."""
    cause: int
    """Offset of the last one; the proof follows it."""


class BeforeAfter(Struct, frozen=True, kw_only=True):
    """Mean loss of the group before and since the change; None where unknown."""

    before: float | None
    after: float | None


class RetrainRequest(Struct, frozen=True, kw_only=True):
    """A wish for training; the learner acts on it."""

    id: str
    """The same if the same log is read again."""
    model: str
    """The model that needs training; also the record's key."""
    group: str
    """The group whose loss rose."""
    reason: str
    """Kind of the signals that asked."""
    signals: tuple[str, ...]
    """Ids of these signals, the newest 100."""
    at: float
    """Event time of the newest row to learn from."""
    window: Window
    """The rows since the change, in event time."""
    scored: ScoredRange
    """The same rows, as offsets of ``scored``."""
    metrics: BeforeAfter
    """What the change did to the loss."""
    deadline: float
    """Log time after which nobody waits for it any more."""
    task: Task | None = None
    """What the monitor takes the model's task to be."""


class Artifact(Struct, frozen=True, kw_only=True):
    """Where a learned model lies."""

    uri: str
    """Address, as fsspec takes it."""
    sha256: str
    """Of its bytes, in hexadecimal digits."""
    format: str
    """How the bytes are to be read."""


class UpdateMetrics(Struct, frozen=True, kw_only=True):
    """Mean losses of incumbent and candidate on the same rows; None where there were none."""

    incumbent: float | None
    candidate: float | None


class ModelUpdate(Struct, frozen=True, kw_only=True):
    """What came of a retrain request."""

    id: str
    """The request's id with ``-update`` behind it."""
    model: str
    """The model; also the record's key."""
    group: str
    """The group that shall take it."""
    version: str
    """Name of the new version: answer with it."""
    parent: str | None
    """Version accepted before it for this group; None for the first."""
    request: str
    """Id of the retrain request."""
    status: Literal["accepted", "rejected", "expired"]
    """``accepted``: better than the incumbent on the same rows; ``rejected``: not; ``expired``: not proven in time."""
    at: float
    """Log time at which it was decided."""
    rows_learned: int
    """Rows that the candidate learned from."""
    metrics: UpdateMetrics
    """What both lost on the rows that were compared."""
    artifact: Artifact | None
    """The model; None unless accepted."""


class DeadLetter(Struct, frozen=True, kw_only=True, gc=False):
    """A message that could not be used, whole, with the reason."""

    topic: str
    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    reason: str
    error: str
