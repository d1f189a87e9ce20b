"""What must hold after every scenario, whatever happened."""

import dataclasses
import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from kafka import KafkaConsumer, TopicPartition

from streamapp.core.events import Arrivals, Position, RetrainRequest, ScoredBatch, Signal, Verdict
from streamapp.core.monitor import Monitor
from streamapp.core.settings import Settings
from streamapp.stream.codec import decode_scored, encode_event
from streamapp.stream.recent import KEPT
from streamapp.stream.topics import Topics
from tests.faults.oracle import Expected, expected, row


class Log:
    """Committed records of some topics, read on as they come."""

    def __init__(self, broker: str, topics: Topics, *names: str) -> None:
        self._topics = topics
        self._consumer = KafkaConsumer(
            bootstrap_servers=broker,
            isolation_level="read_committed",
            enable_auto_commit=False,
            fetch_max_wait_ms=50,
            max_partition_fetch_bytes=4 << 20,
        )
        self._parts = [
            TopicPartition(topics.full(name), number)
            for name in names
            for number in sorted(self._consumer.partitions_for_topic(topics.full(name)) or ())
        ]
        self._consumer.assign(self._parts)
        self._consumer.seek_to_beginning(*self._parts)
        self.records: dict[tuple[str, int], list[Any]] = defaultdict(list)
        """By topic, without prefix, and partition."""

    def more(self, timeout: float = 0.2) -> dict[tuple[str, int], list[Any]]:
        """Return what came since the last time."""
        got = {
            (tp.topic.removeprefix(self._topics.prefix), tp.partition): batch
            for tp, batch in self._consumer.poll(timeout_ms=int(timeout * 1000), max_records=100_000).items()
        }
        for key, batch in got.items():
            self.records[key].extend(batch)
        return got

    def whole(self) -> "Log":
        """Read all that is committed now."""
        ends = self._consumer.end_offsets(self._parts)
        while any(self._consumer.position(tp) < ends[tp] for tp in self._parts):
            self.more()
        return self

    def of(self, topic: str) -> list[Any]:
        """Return the records of all partitions of a topic."""
        return [r for (name, _), records in sorted(self.records.items()) if name == topic for r in records]

    def close(self) -> None:
        self._consumer.close()


def inputs(broker: str, topics: Topics, partitions: int) -> list[Expected]:
    """Ask the oracle what must follow from the two input topics, by partition."""
    log = Log(broker, topics, "predictions", "outcomes").whole()
    log.close()
    raw = {key: [(r.offset, r.timestamp / 1000, r.value) for r in records] for key, records in log.records.items()}
    return [
        expected(raw.get(("predictions", number), ()), raw.get(("outcomes", number), ()))
        for number in range(partitions)
    ]


def check(broker: str, topics: Topics, settings: Settings, oracle: Sequence[Expected]) -> Counter[str]:
    """Hold everything that is committed against the oracle and against the core run straight through.

    Returns:
        How much of each kind was compared.
    """
    names = ("scored", "signals", "retrain", "model-updates", "dead-letters", "checkpoints-monitor")
    log = Log(broker, topics, *names).whole()
    log.close()
    compared: Counter[str] = Counter()
    _verdicts(log, oracle, compared)
    _dead_letters(log, topics, oracle, compared)
    _afterwards(log, topics, settings, compared)
    return compared


# -- verdicts


def _verdicts(log: Log, oracle: Sequence[Expected], compared: Counter[str]) -> None:
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
        missing = want.rows.keys() - found[number].keys()
        assert not missing, f"partition {number}: {len(missing)} predictions have no verdict: {sorted(missing)[:10]}"
        more = found[number].keys() - want.rows.keys()
        assert not more, f"partition {number}: verdicts on what was not accepted: {sorted(more)[:10]}"
        for offset, wanted in want.rows.items():
            assert found[number][offset] == wanted, f"prediction {number}/{offset}: {found[number][offset]} != {wanted}"
        for model in {wanted[0] for wanted in want.rows.values()}:
            wanted_order = [offset for offset, wanted in want.rows.items() if wanted[0] == model]
            assert order[number, model] == wanted_order, f"partition {number}: rows of {model} in another order"
        assert accepted[number] == want.accepted, f"arrivals of {number}: {accepted[number]} != {want.accepted}"
        compared["verdicts"] += len(want.rows)
        compared.update(str(wanted[9]).lower() for wanted in want.rows.values())
    assert all(len(partitions) == 1 for partitions in places.values()), f"a model in two partitions: {dict(places)}"


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


def _dead_letters(log: Log, topics: Topics, oracle: Sequence[Expected], compared: Counter[str]) -> None:
    wanted: Counter[tuple[str, int, int]] = Counter()
    for number, want in enumerate(oracle):
        wanted.update({(topic, number, offset): count for (topic, offset), count in want.dead.items()})
    found: Counter[tuple[str, int, int]] = Counter()
    for record in log.of("dead-letters"):
        headers = {name: value.decode() for name, value in record.headers}
        found[headers["topic"].removeprefix(topics.prefix), int(headers["partition"]), int(headers["offset"])] += 1
    assert found == wanted, f"dead letters: missing {+(wanted - found)}, too many {+(found - wanted)}"
    compared["dead letters"] += found.total()


# -- everything after


def _afterwards(log: Log, topics: Topics, settings: Settings, compared: Counter[str]) -> None:
    """Run the core once over each partition of ``scored``: signals, requests and summaries must be the same."""
    said: dict[tuple[str, str], list[bytes]] = defaultdict(list)
    requests = []
    for number in range(2):
        records = log.records[("scored", number)]
        entries = _newest(log.records[("checkpoints-monitor", number)])
        end = _position(entries, topics)
        straight = Monitor(number, settings)
        events = [event for r in records if r.offset < end for event in _apply(straight, r)]
        for event in events:
            topic = "signals" if isinstance(event, Signal) else "retrain"
            said[topic, event.model].append(encode_event(event))
            if isinstance(event, RetrainRequest):
                requests.append(event.id)
        restored = _restored(number, settings, entries)
        for r in records:
            if restored.applied <= r.offset < end:
                _apply(restored, r)
        _same(f"summary of monitor {number}", restored.summary(), straight.summary())
        _same(f"report of monitor {number}", restored.report(), straight.report())
        for model in straight.summary():
            for topic, of in (("signals", Signal), ("retrain", RetrainRequest)):
                newest = [e for e in events if isinstance(e, of) and e.model == model][-KEPT:]
                stored = entries.get(f"recent/{topic}/{model}".encode())
                kept = msgspec.msgpack.decode(stored) if stored is not None else []
                _same(f"newest {topic} of {model}", kept, newest)
        compared["messages"] += sum(r.offset < end for r in records)
    for topic in ("signals", "retrain"):
        published: dict[str, list[bytes]] = defaultdict(list)
        for record in log.of(topic):
            published[record.key.decode()].append(record.value)
        _once(topic, log)
        for model in {model for name, model in said if name == topic} | published.keys():
            wanted = said[topic, model]
            assert published[model] == wanted, _difference(f"{topic} of {model}", published[model], wanted)
            compared[topic] += len(wanted)
    _once("model-updates", log)
    updates = [msgspec.json.decode(record.value)["request"] for record in log.of("model-updates")]
    assert set(updates) <= set(requests), f"model updates without a request: {set(updates) - set(requests)}"
    compared["model updates"] += len(updates)


def position(records: Sequence[Any], topics: Topics) -> int:
    """Return the position in ``scored`` that the newest of a monitor's checkpoints says, 0 without one."""
    entries = _newest(records)
    return _position(entries, topics) if entries else 0


def _newest(records: Sequence[Any]) -> dict[bytes, bytes]:
    entries = {record.key: record.value for record in records}
    return {key: value for key, value in entries.items() if value is not None}


def _position(entries: Mapping[bytes, bytes], topics: Topics) -> int:
    return int(msgspec.msgpack.decode(entries[b"input"])["inputs"][topics.scored]["position"])


def _restored(number: int, settings: Settings, entries: Mapping[bytes, bytes]) -> Monitor:
    own = {key: value for key, value in entries.items() if key != b"input" and not key.startswith(b"recent/")}
    return Monitor.restore(number, settings, own)


def _apply(monitor: Monitor, record: Any) -> tuple[Signal | RetrainRequest, ...]:
    at = Position(record.partition, record.offset, record.timestamp / 1000)
    return monitor.apply(decode_scored(record.value), at)


def _once(topic: str, log: Log) -> None:
    ids = Counter(msgspec.json.decode(record.value)["id"] for record in log.of(topic))
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
