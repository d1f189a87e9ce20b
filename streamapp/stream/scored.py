"""The encoding of the internal topic ``scored``: columns as bytes, behind a version and a kind.

First byte: version 1. Second: ``R`` rows, ``A`` arrivals, ``T`` tick. Then msgpack, with columns of numbers as
:mod:`streamapp.stream.columns` packs them.
"""

from collections.abc import Callable
from functools import lru_cache

import msgspec
import numpy as np
from msgspec import Struct

from streamapp.core.events import (
    SOURCES,
    Arrivals,
    Codes,
    Floats,
    Ints,
    Kind,
    Names,
    Scored,
    ScoredBatch,
    Tick,
    Values,
    Verdict,
)
from streamapp.errors import DecodeError
from streamapp.stream import columns

VERSION = 1
MAX_ROWS = 1_000_000
_ROW_BYTES = 128
"""What the numbers of a row take, at most."""
# As plain numbers: looking up a member of an enumeration costs as much as checking a column.
_STRING = int(Kind.STRING)
_KINDS_END, _VERDICTS_END = len(Kind), len(Verdict)
_WORDED = bytes((Kind.BOOL, Kind.STRING))


class _Labels(Struct, array_like=True):
    kind: bytes
    number: bytes
    words: tuple[str, ...]


class _Strings(Struct, array_like=True):
    code: bytes
    words: tuple[str, ...]


class _Rows(Struct, array_like=True):
    rows: int
    model: str
    partition: int
    group: _Strings
    version: _Strings
    series: _Strings
    unit: _Strings
    verdict: bytes
    offset: bytes
    outcome_offset: bytes
    id_hash: bytes
    ts: bytes
    log_time: bytes
    outcome_ts: bytes
    outcome_log_time: bytes
    prediction: _Labels
    score: bytes
    classes: tuple[str, ...]
    probabilities: bytes
    outcome: _Labels
    loss: bytes
    outcome_source: bytes
    latency: bytes
    features: bytes
    feature_lengths: bytes


_encode = msgspec.msgpack.Encoder().encode
_rows = msgspec.msgpack.Decoder(_Rows).decode
_KINDS: dict[int, Callable[[bytes], Scored]] = {
    ord("R"): lambda data: _batch(_rows(data)),
    ord("A"): msgspec.msgpack.Decoder(Arrivals).decode,
    ord("T"): msgspec.msgpack.Decoder(Tick).decode,
}


def encode_scored(message: Scored) -> bytes:
    """Return a message of ``scored`` as bytes."""
    if isinstance(message, ScoredBatch):
        return b"\x01R" + _encode(_packed(message))
    return (b"\x01A" if isinstance(message, Arrivals) else b"\x01T") + _encode(message)


def decode_scored(data: bytes) -> Scored:
    """Return the message in some bytes; its arrays may be read-only.

    Raises:
        DecodeError: The bytes are not what :func:`encode_scored` makes, or of another version.
    """
    if len(data) < 2 or data[0] != VERSION:
        found = f"version {data[0]}" if data else "no bytes"
        raise DecodeError(f"expected a `scored` message of version {VERSION}, got {found}")
    decode = _KINDS.get(data[1])
    if decode is None:
        raise DecodeError(f"expected rows, arrivals or a tick, got kind {data[1:2]!r}")
    try:
        return decode(data[2:])
    except DecodeError:
        raise
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, ValueError, KeyError) as error:
        raise DecodeError(f"`scored` message cannot be read: {error}") from error


def split(batch: ScoredBatch, limit_bytes: int) -> list[ScoredBatch]:
    """Cut rows so that each part is encoded in fewer than *limit_bytes*, unless a single row takes more."""
    n = len(batch)
    row = _ROW_BYTES + 8 * len(batch.classes)
    room = max(limit_bytes - 256 - len(batch.model.encode()) - sum(_sizes(batch.classes)), 1)
    worded: tuple[Names | Values, ...] = (
        batch.group,
        batch.version,
        batch.series,
        batch.unit,
        batch.prediction,
        batch.outcome,
    )
    sizes = [_sizes(column.words) for column in worded]
    if n * (row + sum(max(found, default=0) for found in sizes)) + len(batch.features) < room:
        return [batch]
    lengths = _steps(batch.feature_ends) + row
    for column, found in zip(worded, sizes, strict=True):
        if found:
            # As if no row shared its words with another one.
            lengths += np.array([*found, 0], np.int64)[_word_codes(column)]
    ends = np.cumsum(lengths)
    parts, start = [], 0
    while start < n:
        before = int(ends[start - 1]) if start else 0
        end = max(int(np.searchsorted(ends, before + room, side="left")), start + 1)
        parts.append(batch if start == 0 and end >= n else _part(batch, start, end))
        start = end
    return parts


def _sizes(words: tuple[str, ...]) -> list[int]:
    """Return the bytes that each word takes."""
    return [len(word.encode()) + 5 for word in words]


def _word_codes(column: Names | Values) -> Ints:
    """Return the place of each row's word, -1 where it has none."""
    if isinstance(column, Names):
        return column.code.astype(np.int64)
    places: Floats = np.where(column.kind == _STRING, column.number, -1.0)
    return places.astype(np.int64)


def _steps(ends: Ints) -> Ints:
    """Return the lengths of what ends at these places."""
    lengths = ends.astype(np.int64)
    lengths[1:] -= ends[:-1]
    return lengths


def _part(batch: ScoredBatch, start: int, end: int) -> ScoredBatch:
    rows = slice(start, end)
    first = int(batch.feature_ends[start - 1]) if start else 0
    ends = batch.feature_ends[rows] - first
    return ScoredBatch(
        model=batch.model,
        partition=batch.partition,
        group=_names(batch.group, rows),
        version=_names(batch.version, rows),
        series=_names(batch.series, rows),
        unit=_names(batch.unit, rows),
        verdict=batch.verdict[rows],
        offset=batch.offset[rows],
        outcome_offset=batch.outcome_offset[rows],
        id_hash=batch.id_hash[rows],
        ts=batch.ts[rows],
        log_time=batch.log_time[rows],
        outcome_ts=batch.outcome_ts[rows],
        outcome_log_time=batch.outcome_log_time[rows],
        prediction=_labels(batch.prediction, rows),
        score=batch.score[rows],
        classes=batch.classes,
        probabilities=batch.probabilities[rows],
        outcome=_labels(batch.outcome, rows),
        loss=batch.loss[rows],
        outcome_source=batch.outcome_source[rows],
        latency=batch.latency[rows],
        features=batch.features[first : first + int(ends[-1])],
        feature_ends=ends,
    )


def _names(names: Names, rows: slice) -> Names:
    """Return some rows of a column, with the words that they use, in their old order."""
    code = names.code[rows]
    used, places = _used(code, names.words)
    return Names(code=places[code], words=used)


def _labels(values: Values, rows: slice) -> Values:
    kind, number = values.kind[rows], values.number[rows]
    if not values.words:
        return Values(kind=kind, number=number)
    strings = kind == _STRING
    code = number[strings].astype(np.int32)
    used, places = _used(code, values.words)
    number = number.copy()
    number[strings] = places[code]
    return Values(kind=kind, number=number, words=used)


def _used(code: Codes, words: tuple[str, ...]) -> tuple[tuple[str, ...], Codes]:
    """Return the words that are used, and the new code of each old one; that of no word, -1, stays."""
    used = np.flatnonzero(np.bincount(code + 1, minlength=len(words) + 1)[1:])
    places = np.full(len(words) + 1, -1, np.int32)
    places[used] = np.arange(len(used), dtype=np.int32)
    return tuple(words[place] for place in used.tolist()), places


# Columns to bytes


def _packed(batch: ScoredBatch) -> _Rows:
    return _Rows(
        rows=len(batch),
        model=batch.model,
        partition=batch.partition,
        group=_strings(batch.group),
        version=_strings(batch.version),
        series=_strings(batch.series),
        unit=_strings(batch.unit),
        verdict=columns.pack(b"B", batch.verdict),
        offset=columns.pack_counts(batch.offset),
        outcome_offset=columns.pack_counts(batch.outcome_offset + 1),
        id_hash=columns.pack(b"Q", batch.id_hash),
        ts=columns.pack(b"d", batch.ts),
        log_time=columns.pack(b"d", batch.log_time),
        outcome_ts=columns.pack(b"d", batch.outcome_ts),
        outcome_log_time=columns.pack(b"d", batch.outcome_log_time),
        prediction=_values(batch.prediction),
        score=columns.pack(b"d", batch.score),
        classes=batch.classes,
        probabilities=b"d" + np.ascontiguousarray(batch.probabilities, dtype="<f8").tobytes(),
        outcome=_values(batch.outcome),
        loss=columns.pack(b"d", batch.loss),
        outcome_source=columns.pack(b"B", batch.outcome_source),
        latency=columns.pack(b"d", batch.latency),
        features=batch.features,
        feature_lengths=columns.pack_counts(_steps(batch.feature_ends)),
    )


def _strings(names: Names) -> _Strings:
    code = names.code + 1
    data = columns.pack(b"B", code) if len(names.words) < 255 else columns.pack_counts(code)
    return _Strings(code=data, words=names.words)


def _values(values: Values) -> _Labels:
    kind, number = columns.pack(b"B", values.kind), values.number
    # Bools and places of words need no eight bytes.
    if len(values.words) < 256 and not kind[1:].translate(None, _WORDED):
        return _Labels(kind=kind, number=columns.pack(b"B", number), words=values.words)
    with np.errstate(invalid="ignore"):
        small = number.astype(np.uint8)
    # Nor do small numbers. A negative zero does.
    exact = bool((small == number).all()) and not np.signbit(number).any()
    data = columns.pack(b"B", small) if exact else columns.pack(b"d", number)
    return _Labels(kind=kind, number=data, words=values.words)


# Bytes to columns


def _batch(rows: _Rows) -> ScoredBatch:
    n = rows.rows
    if not 0 <= n <= MAX_ROWS:
        raise DecodeError(f"expected 0 to {MAX_ROWS} rows, got {n}")
    width = len(rows.classes)
    return ScoredBatch(
        model=rows.model,
        partition=rows.partition,
        group=_read_names(rows.group, n),
        version=_read_names(rows.version, n),
        series=_read_names(rows.series, n),
        unit=_read_names(rows.unit, n),
        verdict=columns.read_codes(rows.verdict, n, _VERDICTS_END),
        offset=columns.read_ints(rows.offset, n, 0),
        outcome_offset=columns.read_ints(rows.outcome_offset, n, 1),
        id_hash=columns.read(rows.id_hash, n, b"Q"),
        ts=columns.read(rows.ts, n, b"d"),
        log_time=columns.read(rows.log_time, n, b"d"),
        outcome_ts=columns.read(rows.outcome_ts, n, b"d"),
        outcome_log_time=columns.read(rows.outcome_log_time, n, b"d"),
        prediction=_read_values(rows.prediction, n),
        score=columns.read(rows.score, n, b"d"),
        classes=rows.classes,
        probabilities=_exactly(rows.probabilities, n * width).reshape(n, width),
        outcome=_read_values(rows.outcome, n),
        loss=columns.read(rows.loss, n, b"d"),
        outcome_source=columns.read_codes(rows.outcome_source, n, len(SOURCES)),
        latency=columns.read(rows.latency, n, b"d"),
        features=rows.features,
        feature_ends=_read_ends(rows.feature_lengths, n, len(rows.features)),
    )


def _read_ends(data: bytes, n: int, size: int) -> Ints:
    """Return where the features of each row end, from their lengths, which make up *size* bytes."""
    lengths = columns.read(data, n, b"BHIq")
    if data[:1] == b"q" and n and not 0 <= lengths.min() <= lengths.max() <= size:
        raise DecodeError(f"expected lengths of features that make up {size} bytes, got {lengths.max()}")
    ends: Ints = np.add.accumulate(lengths.astype(np.int64))
    if (ends.item(-1) if n else 0) != size:
        raise DecodeError(f"expected lengths of features that make up {size} bytes, got {ends[-1:]}")
    return ends


def _read_names(names: _Strings, n: int) -> Names:
    read = _remembered_names if columns.alone(names.code, n) else _names_of
    return read(names.code, names.words, n)


def _names_of(data: bytes, words: tuple[str, ...], n: int) -> Names:
    end = len(words)
    if data[:1] == b"B" and end < 256:
        code = columns.read_codes(data, n, end + 1)
    else:
        code = columns.read(data, n, b"BHIq")
        if n and not 0 <= code.min() <= code.max() <= end:
            raise DecodeError(f"expected codes of {end} words, got up to {code.max()}")
    if n and not code.strides[0]:
        return Names(code=columns.repeated(code[:1].astype(np.int32) - 1, n), words=words)
    places: Codes = code.astype(np.int32)
    places -= 1
    return Names(code=places, words=words)


def _read_values(labels: _Labels, n: int) -> Values:
    kind = columns.read_codes(labels.kind, n, _KINDS_END)
    number = columns.read(labels.number, n, b"Bd")
    if number.itemsize == 1:
        sole = n and not number.strides[0]
        number = columns.repeated(number[:1].astype(np.float64), n) if sole else number.astype(np.float64)
    if _STRING in labels.kind[1:]:
        places = number[kind == _STRING]
        if not ((places >= 0) & (places < len(labels.words)) & (places == np.floor(places))).all():
            raise DecodeError(f"expected places of {len(labels.words)} words")
    return Values(kind=kind, number=number, words=labels.words)


def _exactly(data: bytes, n: int) -> Floats:
    items: Floats = np.frombuffer(data[1:], "<f8")
    if data[:1] != b"d" or len(items) != n:
        raise DecodeError(f"expected {n} probabilities, got {len(items)}")
    return items


_remembered_names = lru_cache(maxsize=columns.REMEMBERED)(_names_of)
