"""The joiner's checkpoint: entries that are data only, each well below 1 MB.

- ``meta``: positions, log times and counts (:class:`Meta`);
- ``pending/<n>``, ``refused/<n>``: offsets of ``predictions`` that wait, and those of them that an outcome missed;
- ``waiting/<n>``, ``repeated/<n>``: offsets of ``outcomes`` that wait, and those of them that were not the first;
- ``resolved/<n>``: what is remembered of rows that were resolved between two commits (:class:`Delta`);
- ``groups/<n>``: how many predictions of each group wait (:class:`Waiting`).
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import TypeVar

import msgspec
import numpy as np
from msgspec import Struct

from streamapp.core.events import ScoredBatch, Verdict
from streamapp.core.groups import Group
from streamapp.core.remembered import Resolved
from streamapp.errors import CheckpointError

FORMAT = 1
DELTA_ROWS = 8192
"""Rows of one delta, at most: 230 kB."""
DELTA_GROUPS = 512
"""Names of groups in one delta, at most: 520 kB, as names are."""
GROUPS = 128
"""Groups of one entry: 260 kB at most, as names are."""
META = b"meta"

T = TypeVar("T", bound=Struct)


class TopicMeta(Struct, array_like=True):
    """Where the reading of one input partition stands."""

    applied: int
    """Next offset to hand in."""
    done: int
    """Next offset to settle."""
    base: int
    """Offset to read again from on restore."""
    base_log_time: float
    """Log time before ``base``."""
    log_time: float
    proven: float
    counts: dict[str, int]
    reasons: dict[str, int]


class Meta(Struct, array_like=True):
    """Everything that is one of a kind."""

    format: int
    partition: int
    predictions: TopicMeta
    outcomes: TopicMeta
    next_delta: int
    next_groups: int


class Delta(Struct, array_like=True):
    """Resolved rows to remember, as little-endian columns."""

    expires: float
    """Largest horizon."""
    lowest: int
    """Lowest outcome offset, -1 if there is none."""
    words: list[str]
    """Names of groups."""
    group: bytes
    """Place in ``words``, int32."""
    id_hash: bytes
    """uint64."""
    horizon: bytes
    """float64."""
    outcome_offset: bytes
    """int64."""


class Waiting(Struct, array_like=True):
    """Pending predictions by model and group."""

    counts: list[tuple[str, str, int]]


def decode(key: bytes, data: bytes, kind: type[T]) -> T:
    """Return an entry.

    Raises:
        CheckpointError: It is not what its key says; the message names the key.
    """
    try:
        return msgspec.msgpack.decode(data, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise CheckpointError(f"checkpoint entry {key.decode(errors='replace')!r} cannot be read: {error}") from error


def decode_meta(entries: Mapping[bytes, bytes], partition: int) -> Meta:
    """Return the meta entry of a partition's checkpoint.

    Raises:
        CheckpointError: It is missing, of another format, or of another partition.
    """
    data = entries.get(META)
    if data is None:
        raise CheckpointError(f"checkpoint of partition {partition} has {len(entries)} entries, but no 'meta'")
    format_ = decode(META, data, _Format).format
    if format_ != FORMAT:
        raise CheckpointError(f"checkpoint of partition {partition} has format {format_}, expected {FORMAT}")
    meta = decode(META, data, Meta)
    if meta.partition != partition:
        raise CheckpointError(f"checkpoint is of partition {meta.partition}, expected {partition}")
    return meta


class _Format(Struct, array_like=True):
    format: int


def deltas(batch: ScoredBatch, group: Group) -> Iterator[Delta]:
    """Yield what to remember of the rows of one model.

    Args:
        batch: Rows as the joiner resolved them.
        group: Any group of the model, for its settings.
    """
    expired = batch.outcome_offset < 0
    moment = np.maximum(batch.log_time, np.where(expired, -np.inf, batch.outcome_log_time))
    deadline = np.maximum(batch.ts, batch.log_time) + group.window + group.grace
    horizon = np.where(expired, deadline, moment) + group.remember
    rows = np.flatnonzero(batch.verdict != Verdict.LOST)
    step = DELTA_ROWS if len(batch.group.words) <= DELTA_GROUPS else DELTA_GROUPS
    for start in range(0, len(rows), step):
        part = rows[start : start + step]
        codes, places = np.unique(batch.group.code[part], return_inverse=True)
        matched = batch.outcome_offset[part][~expired[part]]
        yield Delta(
            expires=float(horizon[part].max()),
            lowest=int(matched.min()) if len(matched) else -1,
            words=[batch.group.words[code] for code in codes.tolist()],
            group=places.astype("<i4").tobytes(),
            id_hash=batch.id_hash[part].astype("<u8").tobytes(),
            horizon=horizon[part].astype("<f8").tobytes(),
            outcome_offset=batch.outcome_offset[part].astype("<i8").tobytes(),
        )


def resolved(delta: Delta) -> Iterator[Resolved]:
    """Yield the rows of a delta, in their order, without the outcomes themselves.

    Raises:
        ValueError: Columns do not fit together.
        IndexError: Likewise.
    """
    columns = (
        np.frombuffer(delta.group, "<i4").tolist(),
        np.frombuffer(delta.id_hash, "<u8").tolist(),
        np.frombuffer(delta.horizon, "<f8").tolist(),
        np.frombuffer(delta.outcome_offset, "<i8").tolist(),
    )
    for code, key, horizon, offset in zip(*columns, strict=True):
        yield Resolved(key, delta.words[code], horizon, None, offset, float("nan"))


def group_entries(groups: Sequence[tuple[str, str, int]]) -> list[bytes]:
    """Return the values of ``groups/0``, ``groups/1``, ..."""
    parts = (list(groups[start : start + GROUPS]) for start in range(0, len(groups), GROUPS))
    return [msgspec.msgpack.encode(Waiting(counts=part)) for part in parts]
