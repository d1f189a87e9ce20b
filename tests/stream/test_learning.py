"""The learner's task: every request is answered once, whatever cuts its job off."""

import asyncio
import json
import random
from collections.abc import Iterator
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from faust.types import TP

from streamapp.artifacts import ArtifactStore
from streamapp.core.events import (
    Artifact,
    BeforeAfter,
    ModelUpdate,
    RetrainRequest,
    ScoredRange,
    Tick,
    Window,
)
from streamapp.core.learning.learned import INPUTS, LearnedModel
from streamapp.core.settings import LearnerSettings, ModelSettings, Settings
from streamapp.errors import CheckpointError
from streamapp.stream import learning
from streamapp.stream.codec import decode_scored, encode_event, encode_scored
from streamapp.stream.learning import LearnerTask
from streamapp.stream.producer import Record
from tests.core.rows import Row, batch
from tests.stream.doubles import START, Bench, commit, run, settle

RETRAIN = TP("t.retrain", 0)
SETTINGS = Settings(defaults=ModelSettings(learner=LearnerSettings(warmup=10, proof_rows=20)))


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path, settings=SETTINGS)


def teach(
    bench: Bench, messages: int = 10, *, model: str = "fraud", rows: int = 20, names: Iterator[str] | None = None
) -> None:
    """Append scored rows from which something can be learned; each has a feature of the next of these names."""
    draw = random.Random(bench.broker.end("t.scored"))
    for _ in range(messages):
        points = [(draw.random(), draw.random()) for _ in range(rows)]
        more = [{next(names): 1.0} if names else {} for _ in points]
        features = [json.dumps({"a": a, "b": b, **one}).encode() for (a, b), one in zip(points, more, strict=True)]
        message = replace(
            batch([Row(outcome=a > b, scores=0.5, version="v1") for a, b in points], model=model),
            features=b"".join(features),
            feature_ends=np.cumsum([len(each) for each in features]).astype(np.int64),
        )
        bench.broker.append("t.scored", encode_scored(message), key=model.encode(), at=START)


def ask(bench: Bench, name: str, **changes: Any) -> int:
    """Append a request and return its offset."""
    request = RetrainRequest(
        id=name,
        model="fraud",
        group="default",
        reason="drift",
        signals=("s",),
        at=START,
        window=Window(from_=START, to=START, rows=100),
        scored=ScoredRange(partition=0, from_=0, cause=5),
        metrics=BeforeAfter(before=None, after=None),
        deadline=START + 1000,
        task="binary",
    )
    value = encode_event(msgspec.structs.replace(request, **changes))
    return bench.broker.append(RETRAIN.topic, value, key=b"fraud", at=START)


async def opened(bench: Bench, store: Any = None) -> LearnerTask:
    task = LearnerTask(0, bench.around())
    task.retry_seconds = 0.0
    if store is not None:
        task.store = store
    await task.open()
    return task


async def read(bench: Bench, task: LearnerTask) -> None:
    await task.handle(bench.broker.batch(RETRAIN.topic, task.position(RETRAIN)))


async def finished(task: LearnerTask, jobs_left: int = 0) -> None:
    """Wait until so few jobs are left, or one has failed."""
    while task.learning > jobs_left and task.failure is None:
        await asyncio.sleep(0.001)


async def answers(bench: Bench, task: LearnerTask) -> list[ModelUpdate]:
    """Let a task read and answer everything, and return its answers as committed."""
    await read(bench, task)
    await finished(task)
    assert task.failure is None
    return updates(await commit(task))


def updates(records: list[Record]) -> list[ModelUpdate]:
    found = [record for record in records if record.topic == "t.model-updates"]
    return [msgspec.json.decode(record.value or b"", type=ModelUpdate) for record in found]


def letters(records: list[Record]) -> list[tuple[bytes, bytes]]:
    found = [record for record in records if record.topic == "t.dead-letters"]
    return [(dict(record.headers)["offset"], dict(record.headers)["reason"]) for record in found]


def test_a_request_is_answered_with_a_model_that_can_be_fetched(bench: Bench) -> None:
    teach(bench)
    ask(bench, "r1")

    async def work() -> LearnerTask:
        task = await opened(bench)
        (update,) = await answers(bench, task)
        assert (update.id, update.request, update.status, update.version) == (
            "r1-update",
            "r1",
            "accepted",
            "learned-1",
        )
        assert update.parent is None
        assert update.artifact is not None
        LearnedModel.load(ArtifactStore(bench.config.artifacts).get(update.artifact))
        assert task.position(RETRAIN) == 1
        assert task.updates.of("fraud") == [msgspec.to_builtins(update)]
        await task.close()
        return task

    run(work())


def test_an_estimator_that_does_not_fit_the_task_is_a_rejection_and_stops_nobody_else(tmp_path: Path) -> None:
    unfit = ModelSettings(learner=LearnerSettings(model="river.linear_model.PAClassifier"))
    bench = Bench(tmp_path, settings=Settings(models={"price": unfit}, defaults=SETTINGS.defaults))
    teach(bench)
    ask(bench, "r1", model="price", task="regression")
    ask(bench, "r2")

    async def work() -> None:
        task = await opened(bench)
        first, second = await answers(bench, task)
        assert (first.request, first.status, first.at, first.rows_learned) == ("r1", "rejected", START, 0)
        assert (second.request, second.status) == ("r2", "accepted")
        assert task.counters.updates["price", "default", "rejected"] == 1
        assert task.position(RETRAIN) == 2
        await task.close()

    run(work())


def test_names_of_features_beyond_the_most_are_left_out_counted_and_said(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    teach(bench, 80, names=(f"n{number}" for number in count()))
    ask(bench, "r1", scored=ScoredRange(partition=0, from_=0, cause=70))

    async def work() -> None:
        task = await opened(bench)
        (update,) = await answers(bench, task)
        left_out = 2 + update.rows_learned - INPUTS
        assert left_out > 400
        assert task.counters.overflow == {("feature",): left_out}
        assert f"{left_out} values were not learned from" in caplog.text
        await task.close()

    run(work())


def test_a_later_request_builds_on_the_model_before_it_also_after_a_restart(bench: Bench) -> None:
    teach(bench)
    ask(bench, "r1")

    async def work() -> None:
        task = await opened(bench)
        await answers(bench, task)
        await task.close()
        ask(bench, "r2")
        task = await opened(bench)
        (update,) = await answers(bench, task)
        assert (update.version, update.parent) == ("learned-2", "learned-1")
        await task.close()

    run(work())


def test_a_job_that_was_cut_off_begins_again_and_answers_the_same(bench: Bench) -> None:
    ask(bench, "r1")

    async def work() -> tuple[list[ModelUpdate], list[ModelUpdate]]:
        teach(bench, 7)
        cut = await opened(bench)
        await read(bench, cut)
        while "fraud" not in cut.last_learned:
            await asyncio.sleep(0.001)
        await commit(cut)
        assert cut.learning == 1
        await cut.close()
        assert cut.failure is None
        teach(bench, 3)
        again = await opened(bench)
        assert again.position(RETRAIN) == 0
        found = await answers(bench, again)
        await again.close()
        bench.broker.logs.pop((bench.topics.checkpoints("learner"), 0))
        whole = await opened(bench)
        expected = await answers(bench, whole)
        await whole.close()
        return found, expected

    found, expected = run(work())
    assert found == expected
    assert found[0].status == "accepted"


def test_the_position_is_the_oldest_unfinished_request_and_finished_ones_are_not_done_again(bench: Bench) -> None:
    teach(bench, model="quick")
    ask(bench, "slow", scored=ScoredRange(partition=0, from_=0, cause=5))
    ask(bench, "quick", model="quick")
    ask(bench, "late", deadline=START + 1)

    async def work() -> None:
        task = await opened(bench)
        await read(bench, task)
        await finished(task, jobs_left=2)
        assert [update.request for update in updates(await commit(task))] == ["quick"]
        assert task.position(RETRAIN) == 3
        assert task.stored_marks()[RETRAIN].position == 0
        await task.close()

        again = await opened(bench)
        assert again.position(RETRAIN) == 0
        await read(bench, again)
        assert again.learning == 2
        bench.broker.append("t.scored", encode_scored(Tick(partition=0, log_time=START)), at=START + 2000)
        await finished(again)
        late = updates(await commit(again))
        assert [(update.request, update.status) for update in late] == [("slow", "expired"), ("late", "expired")]
        assert again.stored_marks()[RETRAIN].position == 3
        await again.close()

    run(work())


def test_a_batch_that_comes_twice_begins_no_second_job(bench: Bench) -> None:
    ask(bench, "r1")

    async def work() -> None:
        task = await opened(bench)
        await read(bench, task)
        task.digest(bench.broker.batch(RETRAIN.topic, 0))
        assert task.learning == 1
        await task.close()

    run(work())


@pytest.mark.parametrize(
    ("value", "reason"),
    [(None, b"malformed"), (b"", b"malformed"), (b"{", b"malformed"), (b"{}", b"missing_field")],
)
def test_what_is_no_request_becomes_a_dead_letter(bench: Bench, value: bytes | None, reason: bytes) -> None:
    bench.broker.append(RETRAIN.topic, value, at=START)

    async def work() -> None:
        task = await opened(bench)
        await read(bench, task)
        ((offset, found),) = letters(await commit(task))
        assert offset == b"0"
        assert found in (reason, b"empty", b"malformed")
        assert sum(task.counters.rejected.values()) == 1
        again = await opened(bench)
        assert again.position(RETRAIN) == 1

    run(work())


@pytest.mark.parametrize(
    "scored",
    [
        ScoredRange(partition=7, from_=0, cause=5),
        ScoredRange(partition=-1, from_=0, cause=5),
        ScoredRange(partition=0, from_=-3, cause=5),
        ScoredRange(partition=0, from_=6, cause=5),
        ScoredRange(partition=0, from_=10**15, cause=10**15),
    ],
)
def test_a_request_for_what_scored_cannot_hold_becomes_a_dead_letter(bench: Bench, scored: ScoredRange) -> None:
    teach(bench)
    ask(bench, "r1", scored=scored)
    ask(bench, "r2")

    async def work() -> None:
        task = await opened(bench)
        await read(bench, task)
        await finished(task)
        assert task.failure is None
        records = await commit(task)
        assert letters(records) == [(b"0", b"out_of_range")]
        assert [update.request for update in updates(records)] == ["r2"]
        await task.close()

    run(work())


def test_a_request_of_a_model_whose_task_nobody_knows_becomes_a_dead_letter(bench: Bench) -> None:
    ask(bench, "r1", task=None)

    async def work() -> None:
        task = await opened(bench)
        await read(bench, task)
        await finished(task)
        records = await commit(task)
        assert letters(records) == [(b"0", b"missing_field")]
        assert updates(records) == []

    run(work())


def test_what_retention_has_removed_is_left_out(bench: Bench) -> None:
    teach(bench, 12)
    bench.broker.drop_before("t.scored", 3)
    ask(bench, "r1")

    async def work() -> None:
        task = await opened(bench)
        (update,) = await answers(bench, task)
        assert update.status == "accepted"
        assert ("t.scored", 0, 3) in bench.broker.reads
        await task.close()

    run(work())


class Flaky:
    """A store that fails some times before it works."""

    def __init__(self, real: ArtifactStore, *failures: Exception) -> None:
        self._real = real
        self._failures = list(failures)
        self.calls = 0

    def _fail(self) -> None:
        self.calls += 1
        if self._failures:
            raise self._failures.pop(0)

    def put(self, name: str, data: bytes) -> Artifact:
        self._fail()
        return self._real.put(name, data)

    def get(self, artifact: Artifact) -> bytes:
        self._fail()
        return self._real.get(artifact)


class DriverError(Exception):
    """What some store's driver raises."""


def test_a_store_that_cannot_be_reached_is_tried_again_and_the_request_is_answered_once(bench: Bench) -> None:
    teach(bench)
    ask(bench, "r1")
    store = Flaky(ArtifactStore(bench.config.artifacts), OSError("full"), PermissionError("no"), DriverError("away"))

    async def work() -> None:
        task = await opened(bench, store)
        (update,) = await answers(bench, task)
        assert update.status == "accepted"
        assert store.calls == 4
        await task.close()

    run(work())


def test_what_other_models_did_is_passed_over_without_a_look_at_it(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    def looked_at(data: bytes) -> Any:
        seen.append(getattr(decode_scored(data), "model", None))
        return decode_scored(data)

    monkeypatch.setattr(learning, "decode_scored", looked_at)
    for _ in range(10):
        teach(bench, 1)
        teach(bench, 3, model="churn")
    ask(bench, "one")

    async def work() -> list[ModelUpdate]:
        task = await opened(bench)
        return await answers(bench, task)

    assert [update.request for update in run(work())] == ["one"]
    assert set(seen) == {"fraud"}


def unreadable(cause: Exception | None) -> CheckpointError:
    """Return what the store raises for an artifact that it cannot give back."""
    error = CheckpointError("artifact cannot be read")
    error.__cause__ = cause
    return error


def test_a_parent_that_cannot_be_reached_is_tried_again(bench: Bench) -> None:
    teach(bench)
    ask(bench, "r1")
    ask(bench, "r2")
    real = ArtifactStore(bench.config.artifacts)

    async def work() -> None:
        task = await opened(bench, real)
        task.store = Flaky(real)
        await read(bench, task)
        await finished(task, jobs_left=1)
        store = task.store = Flaky(real, unreadable(OSError("timed out")), unreadable(ConnectionError("reset")))
        await finished(task)
        assert task.failure is None
        assert store.calls >= 3
        assert [update.version for update in updates(await commit(task))] == ["learned-1", "learned-2"]
        await task.close()

    run(work())


@pytest.mark.parametrize("error", [unreadable(None), unreadable(FileNotFoundError("gone"))])
def test_a_parent_that_is_gone_or_another_stops_the_job_without_an_answer(bench: Bench, error: Exception) -> None:
    teach(bench)
    ask(bench, "r1")

    async def work() -> None:
        task = await opened(bench)
        await answers(bench, task)
        ask(bench, "r2")
        task.store = Flaky(ArtifactStore(bench.config.artifacts), error)
        await read(bench, task)
        await finished(task)
        assert task.failure is error
        assert updates(list(task.take())) == []
        assert task.stored_marks()[RETRAIN].position == 1
        await task.close()

    run(work())


def test_closing_stops_the_jobs_and_the_producer(bench: Bench) -> None:
    ask(bench, "r1")

    async def work() -> None:
        task = await opened(bench)
        await read(bench, task)
        await settle()
        await task.close()
        assert bench.broker.producers[-1].stopped
        assert [job for job in asyncio.all_tasks() if job.get_name().startswith("learn ")] == []

    run(work())


@pytest.mark.parametrize("damage", [b"", b"\xc1", b"\x93\x01"])
def test_damage_in_any_entry_is_a_checkpoint_error_and_nothing_else(bench: Bench, damage: bytes) -> None:
    teach(bench)
    ask(bench, "r1")
    topic = bench.topics.checkpoints("learner")

    async def work() -> None:
        task = await opened(bench)
        await answers(bench, task)
        await task.close()
        saved = bench.broker.records(topic)
        for key in {record.key for record in saved}:
            bench.broker.logs[topic, 0] = list(saved)
            bench.broker.append(topic, damage, key=key)
            with pytest.raises(CheckpointError):
                await opened(bench)

    run(work())
