"""Exactness of workers on a real Apache Kafka: nothing lost, nothing doubled, whatever happens to them."""

import json
import signal
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from streamapp.core.events import ScoredBatch
from streamapp.stream.codec import decode_scored
from tests.integration.oracle import expected, stream
from tests.integration.workers import Deployment, until

pytestmark = [pytest.mark.integration, pytest.mark.timeout(240)]

PAIRS = 20_000


@pytest.fixture
def deployment(kafka: Any, tmp_path: Path, prefix: str) -> Iterator[Deployment]:
    deployment = Deployment(kafka.bootstrap, tmp_path, prefix)
    yield deployment
    deployment.close()


def assert_equals_oracle(deployment: Deployment, seed: int, pairs: int = PAIRS, *, start: float) -> None:
    """Wait until everything has been resolved, and compare every group and every verdict with the input."""
    oracle = expected(stream(pairs, start=start, seed=seed))
    outcomes = sum(group.outcomes for group in oracle.values())
    predictions = sum(group.predictions for group in oracle.values())
    until(
        lambda: (
            sum(g["predictions"] for g in deployment.groups("fraud").values()) >= predictions
            and deployment.resolved("fraud") >= outcomes
        ),
        "all outcomes joined",
    )
    groups = deployment.groups("fraud")
    assert groups.keys() == oracle.keys()
    for name, want in oracle.items():
        got = groups[name]
        assert got["predictions"] == want.predictions
        assert got["outcomes"] == want.outcomes
        assert got["pending"] == want.predictions - want.outcomes
        assert got["metrics"]["brier"] == pytest.approx(want.brier, abs=1e-9)
        assert got["metrics"]["accuracy"] == pytest.approx(want.accuracy, abs=1e-9)
    verdicts = scored_verdicts(deployment)
    assert len(verdicts) == outcomes
    assert max(verdicts.values()) == 1


def scored_verdicts(deployment: Deployment) -> Counter[tuple[int, int]]:
    """Return how often each prediction, by partition and offset, has a verdict in committed ``scored``."""
    verdicts: Counter[tuple[int, int]] = Counter()
    for record in deployment.read("scored"):
        message = decode_scored(record.value)
        if isinstance(message, ScoredBatch):
            verdicts.update((message.partition, int(offset)) for offset in message.offset)
    return verdicts


def publish_slowly(deployment: Deployment, seed: int, start: float, steps: Any, pairs: int = PAIRS) -> None:
    """Publish a stream in parts, doing the next of *steps* after each."""
    events = list(stream(pairs, start=start, seed=seed))
    parts = len(steps) + 1
    for number in range(parts):
        deployment.publish(events[len(events) * number // parts : len(events) * (number + 1) // parts])
        if number < len(steps):
            steps[number]()


def test_two_workers_count_every_row_once(deployment: Deployment) -> None:
    deployment.create_topics()
    workers = deployment.start(), deployment.start()
    until(lambda: all(worker.tasks for worker in workers), "both have tasks")
    start = time.time()
    deployment.publish(stream(PAIRS, start=start, seed=1))
    assert_equals_oracle(deployment, 1, start=start)
    tail = ["scored", "tail", "--json", "--from-beginning", "--until-end"]
    shown = deployment.command(*tail).splitlines()
    assert len(shown) == deployment.resolved("fraud")
    assert json.loads(shown[0]).keys() >= {"prediction_id_hash", "verdict", "source_offset", "outcome", "scores"}
    assert [worker.stop() for worker in deployment.workers] == [0, 0]


def test_worker_killed_and_another_started_loses_and_doubles_nothing(deployment: Deployment) -> None:
    deployment.create_topics()
    first = deployment.start()
    until(first.ready, "first worker ready")
    start = time.time()

    def kill_in_mid_work() -> None:
        until(lambda: deployment.resolved("fraud") > 0, "some rows resolved")
        first.kill()

    publish_slowly(deployment, 2, start, [kill_in_mid_work, deployment.start])
    assert_equals_oracle(deployment, 2, start=start)


def test_worker_that_joins_under_backlog_loses_and_doubles_nothing(deployment: Deployment) -> None:
    deployment.create_topics()
    start = time.time()
    deployment.publish(stream(PAIRS, start=start, seed=3))
    deployment.start()
    until(lambda: deployment.resolved("fraud") > 0, "the first worker has begun")
    deployment.start()
    assert_equals_oracle(deployment, 3, start=start)


def test_stale_owner_that_wakes_lands_nothing_and_ends(deployment: Deployment) -> None:
    deployment.create_topics()
    stale = deployment.start()
    until(stale.ready, "stale worker ready")
    start = time.time()

    def fall_asleep() -> None:
        until(lambda: deployment.resolved("fraud") > 0, "some rows resolved")
        stale.send(signal.SIGSTOP)

    def replace() -> None:
        fresh = deployment.start()
        until(fresh.ready, "the new owner has taken over")
        until(lambda: fresh.summary()["models"], "the new owner has the model")

    def wake() -> None:
        stale.send(signal.SIGCONT)

    publish_slowly(deployment, 4, start, [fall_asleep, replace, wake])
    until(lambda: stale.exit_code is not None, "the stale owner ends")
    assert stale.exit_code == 1
    assert_equals_oracle(deployment, 4, start=start)


@pytest.mark.parametrize("codec", ["gzip", "lz4", "zstd", "snappy"])
def test_compressed_batches_are_read(deployment: Deployment, codec: str) -> None:
    deployment.create_topics()
    deployment.start()
    start = time.time()
    deployment.publish_compressed(stream(2000, start=start, seed=5), codec)
    assert_equals_oracle(deployment, 5, 2000, start=start)


def test_sigterm_writes_a_last_checkpoint_and_exits_0_and_the_next_worker_goes_on(deployment: Deployment) -> None:
    deployment.create_topics()
    first = deployment.start()
    start = time.time()

    def stop() -> None:
        until(lambda: deployment.resolved("fraud") > 0, "some rows resolved")
        assert first.stop() == 0
        assert "final checkpoints written" in first.log.read_text()

    publish_slowly(deployment, 6, start, [stop, deployment.start])
    assert_equals_oracle(deployment, 6, start=start)


def test_bad_input_is_counted_kept_and_never_stops_the_stream(deployment: Deployment) -> None:
    bad = [
        b"",
        b"{",
        b"[1]",
        b'{"prediction_id": "a"}',
        b'{"prediction_id": "", "model": "m", "ts": 1}',
        b'{"prediction_id": "a", "model": "m", "ts": NaN, "prediction": true}',
        b'{"prediction_id": "a", "model": "m", "ts": 1e999, "prediction": true}',
        b'{"prediction_id": "a", "model": "m", "ts": "12", "prediction": true}',
        b'{"prediction_id": "a", "model": "m", "ts": "2024-01-01T00:00:00", "prediction": true}',
        b'{"prediction_id": "a", "model": "m", "ts": 1700000000000, "prediction": true}',
        b'{"prediction_id": "a", "model": "m", "ts": 9999999999, "prediction": true}',
        b'{"prediction_id": "a", "model": "m", "ts": 1, "scores": "0.5"}',
        b'{"prediction_id": "\xff", "model": "m", "ts": 1, "prediction": true}',
        b'{"x":' + b"[" * 50_000 + b"]" * 50_000 + b"}",
        b'{"prediction_id": "' + b"a" * 900_000 + b'", "model": "m", "ts": 1, "prediction": true}',
    ]
    deployment.create_topics()
    worker = deployment.start()
    start = time.time()
    good = list(stream(1000, start=start, seed=7, twice=0))
    deployment.publish([*good[:500], *(("predictions", message) for message in bad), *good[500:]])
    until(lambda: deployment.summary()["events"].get("predictions", {}).get("read") == 1000 + len(bad), "all read")
    events = deployment.summary()["events"]["predictions"]
    assert (events["accepted"], events["rejected"], events["duplicate"]) == (1000, len(bad), 0)
    until(lambda: len(deployment.read("dead-letters")) == len(bad), "all kept")
    letters = deployment.read("dead-letters")
    assert sorted(letter.value for letter in letters) == sorted(bad)
    for letter in letters:
        headers = dict(letter.headers)
        assert headers["topic"].decode() == deployment.topics.predictions
        assert headers["reason"]
        assert headers["error"]
        assert headers["partition"].isdigit()
        assert headers["offset"].isdigit()
    assert worker.exit_code is None
    assert worker.ready()


def test_missing_topics_are_named_with_the_command_that_makes_them(deployment: Deployment) -> None:
    worker = deployment.start()
    until(lambda: "streamapp topics --create" in worker.log.read_text(), "the command is named")
    assert deployment.topics.predictions in worker.log.read_text()
    status, body = worker.get("/readyz")
    assert status == 503
    assert "missing topics" in json.loads(body)["reason"]
    deployment.create_topics()
    until(worker.ready, "ready once the topics are there")


def test_wrong_partition_count_is_refused_with_the_setting(deployment: Deployment) -> None:
    deployment.create_topics()
    worker = deployment.start(STREAMAPP_PARTITIONS="7")
    until(lambda: worker.exit_code is not None, "it refuses")
    assert worker.exit_code == 2
    assert "expected 7 (STREAMAPP_PARTITIONS)" in worker.log.read_text()
    assert "Traceback" not in worker.log.read_text()


def test_workers_with_all_roles_and_with_one_are_not_run_together(deployment: Deployment) -> None:
    deployment.create_topics()
    whole = deployment.start()
    until(whole.ready, "ready")
    alone = deployment.start(STREAMAPP_ONLY="joiner")
    until(lambda: "stop one kind" in alone.log.read_text(), "it says why it waits")
    assert not alone.ready()
    assert whole.stop() == 0
    until(alone.ready, "it goes on once the other kind has gone", timeout=90)
