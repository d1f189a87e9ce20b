"""Joiner and monitor count every message of a hostile stream once, under what it is, and keep what they refuse."""

import json
import random
from collections import Counter
from typing import Any

import msgspec
import pytest
from prometheus_client import generate_latest

from streamapp.core.events import Position
from streamapp.core.join import InputBatch, Joiner
from streamapp.core.monitor import Monitor
from streamapp.core.settings import Settings
from streamapp.exposition import Exposition, Snapshot
from streamapp.modelsfile import parse_models
from streamapp.stream.codec import decode_outcomes, decode_predictions, decode_scored, encode_event, encode_scored
from tests.hostile.generator import MODEL, SETTINGS, Generator, Sent

NOW = 1.7e9
PAIRS = 1500
BATCH = 700


def batch(sent: list[Sent], first: int) -> InputBatch:
    values = [message.value for message in sent]
    decode = decode_predictions if sent[0].topic == "predictions" else decode_outcomes
    return InputBatch(
        offsets=range(first, first + len(sent)),
        timestamps=[NOW + (first + n) / 1000 for n in range(len(sent))],
        keys=[message.key for message in sent],
        values=values,
        events=decode(values),
    )


@pytest.mark.parametrize("bad", [0.0, 1.0, 5.0])
def test_every_message_of_a_hostile_stream_is_counted_once(bad: float) -> None:
    settings = parse_models(SETTINGS)
    joiner, monitor = Joiner(0, settings, partitions=1), Monitor(0, settings)
    given: dict[str, list[Sent]] = {"predictions": [], "outcomes": []}
    for message in Generator(PAIRS, 7, bad=bad, odd=0.4, huge=0.003, now=NOW):
        given[message.topic].append(message)
    counts: Counter[Any] = Counter()
    dead: list[tuple[str, int, str, bytes | None]] = []
    offset = 0
    for start in range(0, max(map(len, given.values())), BATCH):
        for topic, take in (("predictions", joiner.predictions), ("outcomes", joiner.outcomes)):
            if some := given[topic][start : start + BATCH]:
                take(batch(some, start))
        offset = _take(joiner, monitor, counts, dead, offset)
    end = NOW + max(map(len, given.values())) / 1000 + 100
    joiner.advance(predictions=end, outcomes=end)
    _take(joiner, monitor, counts, dead, offset)
    for topic, some in given.items():
        fates = Counter(message.fate for message in some if not message.rejected)
        fates["rejected"] = sum(message.rejected for message in some)
        assert {name: counts[topic, name] for name in fates} == dict(fates)
        assert counts[topic, "read"] == len(some)
    assert sorted(dead) == sorted(
        (topic, place, message.fate, message.value)
        for topic, some in given.items()
        for place, message in enumerate(some)
        if message.rejected
    )
    groups = monitor.summary()[MODEL]["groups"].values()
    assert monitor.summary().keys() == {MODEL}
    assert sum(group["outcomes"] for group in groups) == PAIRS
    assert all(0 <= group["metrics"]["brier"] <= 1 for group in groups)


def _take(joiner: Joiner, monitor: Monitor, counts: Counter[Any], dead: list[Any], offset: int) -> int:
    output = joiner.take()
    counts.update(output.counts)
    dead += [(letter.topic, letter.offset, letter.reason, letter.value) for letter in output.dead_letters]
    for message in (*output.arrivals, *output.rows):
        monitor.apply(decode_scored(encode_scored(message)), Position(0, offset, NOW))
        offset += 1
    monitor.take()
    return offset


LABELS = (True, False, "", "a", "b\x00", 0, 1, -1, 0.5, 1e308, -1e308, 5e-324, "\N{GRINNING FACE}" * 200, "1", "true")
SCORES = (0, 1, 0.5, 5e-324, {"a": 1.0}, {"": 0.5, "b\x00": 0.5}, {"a": 0.25, "other": 0.75}, None, None)


@pytest.mark.filterwarnings("ignore:(overflow|invalid value|divide by zero) encountered:RuntimeWarning")
@pytest.mark.parametrize("seed", range(6))
def test_answers_and_outcomes_of_any_type_and_size_leave_everything_at_work(seed: int) -> None:
    """Services of one model contradict each other about what it answers; nothing of it may stop the stream."""
    draw = random.Random(seed)
    settings = Settings() if seed % 2 else parse_models('[defaults]\ndetectors = ["adwin", "e-sr", "page-hinkley"]\n')
    joiner, monitor = Joiner(0, settings, partitions=1), Monitor(0, settings)
    exposition = Exposition(settings)
    entries: dict[bytes, bytes] = {}
    offset = 0
    few = draw.randrange(1, len(LABELS))
    for start in range(0, 1200, 300):
        some: dict[str, list[Sent]] = {"predictions": [], "outcomes": []}
        for n in range(start, start + 300):
            event: dict[str, Any] = {"prediction_id": f"p{n}", "ts": NOW - 10}
            labels = LABELS if draw.random() < 0.2 else LABELS[:few]
            answer = {
                **event,
                "model": draw.choice(("m", "m", "n\n{}", "other")),
                "group": draw.choice(("g", "other", "\u202e")),
                "prediction": draw.choice(labels),
                "scores": draw.choice(SCORES),
                "latency": draw.choice((0, 5e-324, 1.7e308, 0.1)),
                "series": draw.choice((None, "", str(n))),
                "version": draw.choice((None, "", "v1", f"v{n % 40}")),
                "unit": str(n),
                "features": {str(n): draw.choice(LABELS)},
            }
            truth = {**event, **draw.choice(({"outcome": draw.choice(labels)}, {"loss": draw.random()}))}
            truth |= draw.choice(({}, {}, {"status": "never"}, {"source": "human"}))
            for topic, each in (("predictions", answer), ("outcomes", truth)):
                some[topic].append(Sent(topic, f"p{n}".encode(), json.dumps(each).encode(), "", ""))
        joiner.predictions(batch(some["predictions"], start))
        joiner.outcomes(batch(some["outcomes"], start))
        joiner.advance(predictions=NOW + start + 300, outcomes=NOW + start + 300)
        output = joiner.take()
        assert not [letter for letter in output.dead_letters if letter.reason != "type_mismatch"]
        for message in (*output.arrivals, *output.rows):
            for event_out in monitor.apply(decode_scored(encode_scored(message)), Position(0, offset, NOW)):
                assert json.loads(encode_event(event_out))
            offset += 1
        entries = {key: value for key, value in (entries | monitor.take()).items() if value is not None}
        exposition.publish(Snapshot(models=monitor.report()))
        assert generate_latest(exposition.registry)
    summary = msgspec.json.encode(monitor.summary())
    assert sum(group["outcomes"] for model in json.loads(summary).values() for group in model["groups"].values()) > 100
    again = Monitor.restore(0, settings, {key: value for key, value in entries.items() if value is not None})
    assert msgspec.json.encode(again.summary()) == summary
