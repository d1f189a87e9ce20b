"""What must hold after every scenario, whatever happened."""

import dataclasses
import math
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import msgspec

from streamapp.core.events import Arrivals, Position, RetrainRequest, ScoredBatch, Signal, Verdict
from streamapp.core.monitor import Monitor
from streamapp.core.settings import Settings
from streamapp.stream.codec import decode_scored, encode_event
from streamapp.stream.recent import KEPT
from streamapp.stream.topics import Topics
from tests.faults.logs import Log, committed, newest
from tests.faults.oracle import Expected, Raw, Times, expected, row
from tests.faults.updates import check_updates

OUTPUTS = ("scored", "signals", "retrain", "model-updates", "dead-letters", "checkpoints-monitor")

SCORED_PARTITIONS = 2

Inputs = dict[tuple[str, int], dict[int, Raw]]
"""Records by topic and partition, then by offset."""


def inputs(broker: str, topics: Topics) -> Inputs:
    """Return what is in the two input topics now."""
    log = committed(broker, topics, ("predictions", "outcomes"))
    return {
        key: {r.offset: (r.offset, r.timestamp / 1000, r.value) for r in records}
        for key, records in log.records.items()
    }


def due(read: Inputs, partitions: int, times: Times, until: float) -> list[Expected]:
    """Ask the oracle what must follow from the inputs up to a log time, by partition."""

    def of(topic: str, number: int) -> list[Raw]:
        return [raw for _, raw in sorted(read.get((topic, number), {}).items())]

    return [expected(of("predictions", number), of("outcomes", number), times, until) for number in range(partitions)]


def check(
    broker: str,
    topics: Topics,
    settings: Settings,
    oracle: Sequence[Expected],
    *,
    updates: Collection[str],
    exempt: Collection[str] = (),
) -> Counter[str]:
    """Hold everything that is committed against the oracle and against the core run straight through.

    Args:
        broker: Where to begin.
        topics: Of the deployment.
        settings: Of the models.
        oracle: What must follow from the inputs, by partition.
        updates: Ids of model updates that must be there.
        exempt: Names of tasks that have stopped for a reason: what they left undone is not missed.

    Returns:
        How much of each kind was compared.
    """
    log = committed(broker, topics, OUTPUTS)
    compared: Counter[str] = Counter()
    places = _verdicts(log, oracle, exempt, compared)
    _dead_letters(log, topics, oracle, exempt, compared)
    said: dict[tuple[str, str], list[bytes]] = defaultdict(list)
    for number in range(SCORED_PARTITIONS):
        if f"monitor-{number}" not in exempt:
            _afterwards(number, log, topics, settings, said, compared)
    _published(log, said, {model for model, number in places.items() if f"monitor-{number}" in exempt}, compared)
    check_updates(log, settings, updates, compared)
    return compared


# -- verdicts


def verdicts(broker: str, topics: Topics, oracle: Sequence[Expected], *, exempt: Collection[str] = ()) -> None:
    """Hold the verdicts alone against the oracle."""
    _verdicts(committed(broker, topics, ["scored"]), oracle, exempt, Counter())


def _verdicts(log: Log, oracle: Sequence[Expected], exempt: Collection[str], compared: Counter[str]) -> dict[str, int]:
    """Compare verdicts, and return in which partition of ``scored`` each model is."""
    found: list[dict[int, tuple[Any, ...]]] = [{} for _ in oracle]
    order: dict[tuple[int, str], list[int]] = defaultdict(list)
    accepted: list[Counter[tuple[str, str]]] = [Counter() for _ in oracle]
    places: dict[str, set[int]] = defaultdict(set)
    for record in log.of("scored"):
        message = decode_scored(record.value)
        if isinstance(message, ScoredBatch):
            places[message.model].add(record.partition)
            for i, offset in enumerate(message.offset.tolist()):
                where = f"prediction {message.partition}/{offset}, scored {record.partition}/{record.offset} row {i}"
                assert offset not in found[message.partition], f"a second verdict: {where}"
                found[message.partition][offset] = _row(message, i)
                order[message.partition, message.model].append(offset)
        elif isinstance(message, Arrivals):
            places[message.model].add(record.partition)
            for group in message.groups:
                accepted[message.partition][message.model, group.group] += group.predictions
    for number, want in enumerate(oracle):
        more = found[number].keys() - want.rows.keys()
        assert not more, f"partition {number}: verdicts on what was not accepted: {sorted(more)[:10]}"
        for offset in found[number].keys() - want.lost:
            row, wanted = found[number][offset], want.rows[offset]
            assert row == wanted, f"prediction {number}/{offset}: {row} != {wanted}"
        if f"joiner-{number}" in exempt:
            compared["verdicts before a task was parked"] += len(found[number])
            continue
        missing = want.rows.keys() - found[number].keys()
        assert not missing, f"partition {number}: {len(missing)} predictions have no verdict: {sorted(missing)[:10]}"
        _lost(number, want, found[number])
        for model in {wanted[0] for wanted in want.rows.values()}:
            resolved = [offset for offset in order[number, model] if offset not in want.lost]
            wanted_order = [
                offset for offset, wanted in want.rows.items() if wanted[0] == model and offset not in want.lost
            ]
            assert resolved == wanted_order, f"partition {number}: rows of {model} in another order"
        assert accepted[number] == want.accepted, f"arrivals of {number}: {accepted[number]} != {want.accepted}"
        compared["verdicts"] += len(want.rows)
        compared.update(str(row[9]).lower() for row in found[number].values())
    assert all(len(partitions) == 1 for partitions in places.values()), f"a model in two partitions: {dict(places)}"
    return {model: partition for model, (partition,) in places.items()}


def _lost(number: int, want: Expected, found: Mapping[int, tuple[Any, ...]]) -> None:
    """Compare what retention removed: which group an offset was of is not known then, only how many of each."""
    wrong = {offset: found[offset][9] for offset in want.lost if found[offset][9] != "LOST"}
    assert not wrong, f"partition {number}: removed while pending, but {wrong}"
    groups = [Counter(rows[offset][:2] for offset in want.lost) for rows in (found, want.rows)]
    assert groups[0] == groups[1], f"partition {number}: lost {groups[0]} instead of {groups[1]}"


def _row(batch: ScoredBatch, i: int) -> tuple[Any, ...]:
    outcome_offset = int(batch.outcome_offset[i])
    prediction = {
        "model": batch.model,
        "group": batch.group[i],
        "version": batch.version[i],
        "ts": float(batch.ts[i]),
        "prediction": batch.prediction[i],
        "scores": _number(batch.score[i]),
        "latency": _number(batch.latency[i]),
        "features": msgspec.json.decode(batch.feature_bytes(i) or b"null"),
    }
    outcome = {"ts": _number(batch.outcome_ts[i]), "outcome": batch.outcome[i]}
    return row(
        prediction,
        float(batch.log_time[i]),
        Verdict(int(batch.verdict[i])).name,
        outcome,
        outcome_offset,
        _number(batch.outcome_log_time[i]),
    )


def _number(value: Any) -> float | None:
    return None if math.isnan(value) else float(value)


def _dead_letters(
    log: Log, topics: Topics, oracle: Sequence[Expected], exempt: Collection[str], compared: Counter[str]
) -> None:
    wanted: Counter[tuple[str, int, int]] = Counter()
    for number, want in enumerate(oracle):
        wanted.update({(topic, number, offset): count for (topic, offset), count in want.dead.items()})
    found: Counter[tuple[str, int, int]] = Counter()
    for record in log.of("dead-letters"):
        headers = {name: value.decode() for name, value in record.headers}
        found[headers["topic"].removeprefix(topics.prefix), int(headers["partition"]), int(headers["offset"])] += 1
    missing = {key: count for key, count in (wanted - found).items() if f"joiner-{key[1]}" not in exempt}
    assert not missing, f"dead letters: missing {missing}"
    assert not found - wanted, f"dead letters: too many {found - wanted}"
    compared["dead letters"] += found.total()


# -- everything after


def _afterwards(
    number: int,
    log: Log,
    topics: Topics,
    settings: Settings,
    said: dict[tuple[str, str], list[bytes]],
    compared: Counter[str],
) -> None:
    """Run the core once over a partition of ``scored``: what is stored must be the same; note what is to be said."""
    records = log.records[("scored", number)]
    entries = newest(log.records[("checkpoints-monitor", number)])
    end = _position(entries, topics)
    straight = Monitor(number, settings)
    events = [event for r in records if r.offset < end for event in _apply(straight, r)]
    for event in events:
        topic = "signals" if isinstance(event, Signal) else "retrain"
        said[topic, event.model].append(encode_event(event))
    restored = _restored(number, settings, entries)
    for r in records:
        if restored.applied <= r.offset < end:
            _apply(restored, r)
    _same(f"summary of monitor {number}", restored.summary(), straight.summary())
    _same(f"report of monitor {number}", restored.report(), straight.report())
    _same_states(number, _states(restored, entries), _states(straight, {}))
    for model in straight.summary():
        for topic, of in (("signals", Signal), ("retrain", RetrainRequest)):
            recent = [e for e in events if isinstance(e, of) and e.model == model][-KEPT:]
            stored = entries.get(f"recent/{topic}/{model}".encode())
            kept = msgspec.msgpack.decode(stored) if stored is not None else []
            _same(f"newest {topic} of {model}", kept, recent)
    compared["messages"] += sum(r.offset < end for r in records)


def _published(
    log: Log, said: Mapping[tuple[str, str], list[bytes]], stopped: Collection[str], compared: Counter[str]
) -> None:
    """Compare what was published with what is to be said, but for models whose monitor has stopped."""
    for topic in ("signals", "retrain"):
        published: dict[str, list[bytes]] = defaultdict(list)
        for record in log.of(topic):
            published[record.key.decode()].append(record.value)
        _once(topic, log)
        for model in ({model for name, model in said if name == topic} | published.keys()) - set(stopped):
            wanted = said.get((topic, model), [])
            assert published[model] == wanted, _difference(f"{topic} of {model}", published[model], wanted)
            compared[topic] += len(wanted)


def position(records: Sequence[Any], topics: Topics) -> int:
    """Return the position in ``scored`` that the newest of a monitor's checkpoints says, 0 while none was read."""
    entries = newest(records)
    return _position(entries, topics) if b"input" in entries else 0


def _position(entries: Mapping[bytes, bytes], topics: Topics) -> int:
    return int(msgspec.msgpack.decode(entries[b"input"])["inputs"][topics.scored]["position"])


def _restored(number: int, settings: Settings, entries: Mapping[bytes, bytes]) -> Monitor:
    own = {key: value for key, value in entries.items() if key != b"input" and not key.startswith(b"recent/")}
    return Monitor.restore(number, settings, own)


def _states(monitor: Monitor, stored: Mapping[bytes, bytes]) -> dict[bytes, bytes]:
    """Return what a checkpoint of now says of the models, but for when each part of it was written.

    Args:
        monitor: Of which a checkpoint is taken.
        stored: What was in the one that it came from.
    """
    entries: dict[bytes, bytes | None] = {**stored, **monitor.take(1 << 40)}
    return {
        key: value
        for key, value in entries.items()
        if value is not None and key.startswith(b"model/") and b"/" in key[6:]
    }


def _same_states(number: int, found: Mapping[bytes, bytes], wanted: Mapping[bytes, bytes]) -> None:
    other = sorted(key.decode() for key in found.keys() | wanted.keys() if found.get(key) != wanted.get(key))
    assert not other, f"state of monitor {number}, bit for bit: {len(other)} of {len(wanted)} differ: {other[:10]}"


def _apply(monitor: Monitor, record: Any) -> tuple[Signal | RetrainRequest, ...]:
    at = Position(record.partition, record.offset, record.timestamp / 1000)
    return monitor.apply(decode_scored(record.value), at)


def id_of(record: Any) -> str:
    """Return the id of what was published."""
    return str(msgspec.json.decode(record.value)["id"])


def _once(topic: str, log: Log) -> None:
    ids = Counter(id_of(record) for record in log.of(topic))
    twice = [name for name, count in ids.items() if count > 1]
    assert not twice, f"{topic}: more than once: {twice[:5]}"


def _same(what: str, found: object, wanted: object) -> None:
    first, second = _plain(found), _plain(wanted)
    assert first == second, f"{what}:\n{first}\nis not\n{second}"


def _plain(value: Any) -> Any:
    """Return something that compares equal only for equal content, not a number included."""
    if isinstance(value, msgspec.Struct):
        value = msgspec.to_builtins(value)
    if dataclasses.is_dataclass(value):
        value = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {key: _plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    return repr(float(value)) if isinstance(value, float) else value


def _difference(what: str, found: list[bytes], wanted: list[bytes]) -> str:
    missing = [value for value in wanted if value not in found]
    more = [value for value in found if value not in wanted]
    return f"{what}: {len(found)} instead of {len(wanted)}; missing {missing[:2]}, too many {more[:2]}"
