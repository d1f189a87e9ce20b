"""What a bug cannot pass parks one task after three tries, whoever made them, and says which record it is."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from faust.types import TP

from streamapp.core.events import BeforeAfter, RetrainRequest, ScoredRange, Tick, Window
from streamapp.stream.checkpoint import Checkpoint
from streamapp.stream.codec import encode_event, encode_scored
from streamapp.stream.failures import TRIES
from streamapp.stream.joining import JoinerTask
from streamapp.stream.learning import LearnerTask
from streamapp.stream.monitoring import MonitorTask
from streamapp.stream.producer import CommitFailed, Record
from streamapp.stream.runtime import TASKS
from streamapp.stream.transport import EndProof
from streamapp.stream.view import readiness, snapshot
from streamapp.web.server import Readiness
from tests.stream.doubles import START, Broker, outcome, prediction, run
from tests.stream.stage import Stage, rounds, until

PREDICTIONS, OUTCOMES, SCORED, RETRAIN = (
    TP(f"t.{topic}", 0) for topic in ("predictions", "outcomes", "scored", "retrain")
)
BAD = 7
"""Offset of what the defects below cannot pass."""


class CannotRead(JoinerTask):
    """Fails as soon as it is handed a certain prediction."""

    def digest(self, batch: Any) -> None:
        if batch.tp == PREDICTIONS and BAD in {record.offset for record in batch.records} - set(self.left_out):
            raise RuntimeError("boom")
        super().digest(batch)

    @property
    def left_out(self) -> Any:
        return self.quarantined(PREDICTIONS.topic)


class CannotSettle(CannotRead):
    """Fails when that prediction's turn comes, which some outcome brings about."""

    def digest(self, batch: Any) -> None:
        JoinerTask.digest(self, batch)
        if BAD not in self.left_out and self.joiner.totals["predictions"]["read"] > BAD:
            raise RuntimeError("boom")


class CannotSay(CannotRead):
    """Fails when what follows from that prediction is to be committed."""

    def outcome(self) -> Any:
        if BAD not in self.left_out and self.joiner.totals["predictions"]["read"] > BAD:
            raise RuntimeError("boom")
        return super().outcome()


class CannotEncode(CannotRead):
    """Fails only when what follows from that prediction is encoded, one by one."""

    def digest(self, batch: Any) -> None:
        JoinerTask.digest(self, batch)

    def outcome(self) -> Any:
        outputs, state = super().outcome()
        bad = BAD not in self.left_out and self.joiner.totals["predictions"]["read"] > BAD

        def encoded() -> Iterator[Record]:
            yield from outputs
            if bad:
                raise RuntimeError("boom")

        return encoded(), state


class CannotApply(MonitorTask):
    """Fails on a certain message."""

    def digest(self, batch: Any) -> None:
        if BAD in {record.offset for record in batch.records} - set(self.quarantined(SCORED.topic)):
            raise RuntimeError("boom")
        super().digest(batch)


class Deployment:
    """Workers on one broker, one after the other."""

    def __init__(self, folder: Path, joiner: Any = JoinerTask, monitor: Any = MonitorTask) -> None:
        self.broker = Broker()
        self.make: dict[str, Any] = {**TASKS, "joiner": joiner, "monitor": monitor}
        self._folder = folder
        self._workers = 0

    def worker(self) -> Stage:
        self._workers += 1
        return Stage(self._folder / str(self._workers), broker=self.broker, make=self.make)

    def pairs(self, count: int = 20) -> None:
        for number in range(count):
            self.broker.append(PREDICTIONS.topic, prediction(number, START + number), at=START + number)
            self.broker.append(OUTCOMES.topic, outcome(number, START + number), at=START + number + 0.5)

    def ticks(self, count: int = 20) -> None:
        for number in range(count):
            value = encode_scored(Tick(partition=0, log_time=START + number))
            self.broker.append(SCORED.topic, value, at=START + number)

    def failure(self, name: str) -> Any:
        """Return what the checkpoint of a task says of its failures."""
        role, number = name.split("-")

        async def load() -> Any:
            checkpoint = Checkpoint(f"t.checkpoints-{role}", int(number))
            await checkpoint.load(self.broker.reader())
            return checkpoint.failure

        return run(load())


async def feed(stage: Stage, name: str, size: int = 4) -> None:
    """Hand a task what lies before it, bit by bit, for as long as it takes anything."""
    task = stage.task(name)
    for tp in task.inputs:
        stage.consumer.proofs[tp] = EndProof(0.0, stage.broker.end(tp.topic))
    moved = True
    while moved and task.parked is None and stage.runtime.ending is None:
        moved = False
        for tp in task.inputs:
            start, end = task.position(tp), stage.broker.end(tp.topic)
            if start < end:
                await stage.runtime.handle(stage.broker.batch(tp.topic, start, min(start + size, end)))
            moved |= task.position(tp) > start
        if task.parked is None and stage.runtime.ending is None:
            await stage.runtime._commit(task)


def fail(deployment: Deployment, name: str, times: int = 1) -> list[Stage]:
    """Let workers fail on a task, one after the other."""
    workers = []
    for _ in range(times):
        stage = deployment.worker()
        workers.append(stage)

        async def work(stage: Stage = stage) -> None:
            await stage.own(name)
            await feed(stage, name)
            await until(lambda: stage.exits)

        run(work())
        assert stage.exits == [1]
    return workers


async def parked(stage: Stage, name: str) -> Any:
    """Let a worker fail once too often, and return the task once it is known what is to be done."""
    await feed(stage, name)
    task = stage.task(name)
    await until(lambda: not stage.runtime._failures.searching)
    assert task.parked_for == "defect"
    return task


DEFECTS: list[Any] = [
    ({"joiner": CannotRead}, "joiner-0", PREDICTIONS),
    ({"joiner": CannotSettle}, "joiner-0", PREDICTIONS),
    ({"joiner": CannotSay}, "joiner-0", PREDICTIONS),
    ({"joiner": CannotEncode}, "joiner-0", PREDICTIONS),
    ({"monitor": CannotApply}, "monitor-0", SCORED),
]


@pytest.mark.parametrize(("made", "name", "tp"), DEFECTS)
def test_the_third_failure_at_one_place_parks_the_task_and_names_the_record_and_the_command(
    tmp_path: Path, made: Any, name: str, tp: TP, caplog: pytest.LogCaptureFixture
) -> None:
    deployment = Deployment(tmp_path, **made)
    deployment.pairs()
    deployment.ticks()
    fail(deployment, name, TRIES - 1)
    assert deployment.failure(name).count == TRIES - 1
    stage = deployment.worker()

    async def work() -> None:
        await stage.own(name)
        task = await parked(stage, name)
        command = f"streamapp skip --topic {tp.topic} --partition 0 --offset {BAD}"
        assert command in task.parked
        assert "failed 3 times in a row" in task.parked
        assert "RuntimeError('boom')" in task.parked
        assert command in caplog.text
        shown = readiness(stage.runtime, Readiness(ready=True))
        assert not shown.ready
        assert command in shown.details[name]
        role, number = name.split("-")
        assert snapshot(stage.runtime, ()).parked == {(role, int(number)): "defect"}
        assert stage.runtime.recoveries[role, "parked_defect"] == 1
        assert stage.consumer.paused >= set(task.inputs)

    run(work())
    assert stage.exits == []


def test_the_other_tasks_go_on_beside_one_that_is_parked(tmp_path: Path) -> None:
    deployment = Deployment(tmp_path, monitor=CannotApply)
    deployment.ticks()
    fail(deployment, "monitor-0", TRIES - 1)
    stage = deployment.worker()

    async def work() -> None:
        await stage.own("monitor-0", "monitor-1")
        await parked(stage, "monitor-0")
        loop = asyncio.create_task(stage.runtime.run())
        await stage.ticks(1, 3)
        await until(lambda: stage.position("monitor-1") == 3)
        assert stage.position("monitor-0") <= BAD
        loop.cancel()

    run(work())
    assert stage.exits == []


def test_nothing_of_a_failed_task_is_committed(tmp_path: Path) -> None:
    deployment = Deployment(tmp_path, joiner=CannotSettle)
    deployment.pairs()
    (stage,) = fail(deployment, "joiner-0")
    before = len(deployment.broker.records("t.scored"))
    run(stage.runtime._commit(stage.task("joiner-0"), last=True))
    assert len(deployment.broker.records("t.scored")) == before


def test_failures_are_counted_until_the_place_is_passed(tmp_path: Path) -> None:
    deployment = Deployment(tmp_path, monitor=CannotApply)
    deployment.ticks()
    fail(deployment, "monitor-0", TRIES - 1)
    deployment.make["monitor"] = MonitorTask  # a version without the defect is started
    stage = deployment.worker()

    async def work() -> None:
        await stage.own("monitor-0")
        await feed(stage, "monitor-0")

    run(work())
    assert deployment.failure("monitor-0") is None
    assert stage.position("monitor-0") == 20


def test_a_version_without_the_defect_goes_on_although_the_task_was_parked(tmp_path: Path) -> None:
    deployment = Deployment(tmp_path, monitor=CannotApply)
    deployment.ticks()
    fail(deployment, "monitor-0", TRIES - 1)

    async def fails() -> None:
        stage = deployment.worker()
        await stage.own("monitor-0")
        await parked(stage, "monitor-0")

    run(fails())
    deployment.make["monitor"] = MonitorTask
    stage = deployment.worker()

    async def passes() -> None:
        await stage.own("monitor-0")
        await feed(stage, "monitor-0")
        assert stage.task("monitor-0").parked is None

    run(passes())
    assert deployment.failure("monitor-0") is None


def test_a_task_that_was_parked_is_tried_once_more_by_whoever_gets_it(tmp_path: Path) -> None:
    deployment = Deployment(tmp_path, monitor=CannotApply)
    deployment.ticks()
    fail(deployment, "monitor-0", TRIES - 1)
    for _ in range(2):
        stage = deployment.worker()

        async def work(stage: Stage = stage) -> None:
            await stage.own("monitor-0")
            assert stage.task("monitor-0").parked is None
            await parked(stage, "monitor-0")

        run(work())
        assert stage.exits == []
    assert deployment.failure("monitor-0").count == TRIES + 1


@pytest.mark.parametrize("error", [OSError("no disk"), CommitFailed("no answer"), TimeoutError()])
def test_errors_that_no_record_causes_are_not_counted(tmp_path: Path, error: Exception) -> None:
    class Unlucky(MonitorTask):
        def digest(self, batch: Any) -> None:
            raise error

    deployment = Deployment(tmp_path, monitor=Unlucky)
    deployment.ticks()
    fail(deployment, "monitor-0", TRIES + 1)
    assert deployment.failure("monitor-0") is None


def test_a_failure_that_cannot_be_counted_ends_the_process_all_the_same(tmp_path: Path) -> None:
    deployment = Deployment(tmp_path, monitor=CannotApply)
    deployment.ticks()
    stage = deployment.worker()

    async def work() -> None:
        await stage.own("monitor-0")
        await feed(stage, "monitor-0", size=4)

    deployment.make["monitor"] = CannotApply

    async def fenced() -> None:
        await stage.own("monitor-0")
        start = stage.task("monitor-0").position(SCORED)
        stage.producer("monitor-0").failure = CommitFailed("no answer")
        await stage.runtime.handle(stage.broker.batch(SCORED.topic, start))
        await until(lambda: stage.exits)

    run(fenced())
    assert stage.exits == [1]
    assert deployment.failure("monitor-0") is None


def test_a_failure_that_no_record_explains_names_the_place_and_no_command(tmp_path: Path) -> None:
    alive: list[Any] = []

    class Moody(MonitorTask):
        """Fails in a worker, but not when tried."""

        def digest(self, batch: Any) -> None:
            if self in alive and BAD in {record.offset for record in batch.records}:
                raise RuntimeError("boom")
            super().digest(batch)

        async def open(self) -> None:
            alive.append(self)
            await super().open()

    deployment = Deployment(tmp_path, monitor=Moody)
    deployment.ticks()
    fail(deployment, "monitor-0", TRIES - 1)
    stage = deployment.worker()

    async def work() -> None:
        await stage.own("monitor-0")
        task = await parked(stage, "monitor-0")
        assert "streamapp skip" not in task.parked
        assert "offset 8 of t.scored[0]" in task.parked

    run(work())


def test_the_first_of_several_records_is_named(tmp_path: Path) -> None:
    class Twice(CannotApply):
        def digest(self, batch: Any) -> None:
            if {BAD, BAD + 1} & {record.offset for record in batch.records} - set(self.quarantined(SCORED.topic)):
                raise RuntimeError("boom")
            MonitorTask.digest(self, batch)

    deployment = Deployment(tmp_path, monitor=Twice)
    deployment.ticks()
    fail(deployment, "monitor-0", TRIES - 1)
    stage = deployment.worker()

    async def work() -> None:
        await stage.own("monitor-0")
        await feed(stage, "monitor-0", size=20)
        await until(lambda: not stage.runtime._failures.searching)
        assert f"--offset {BAD}" in stage.task("monitor-0").parked

    run(work())


def test_a_job_that_fails_again_and_again_names_its_request(tmp_path: Path) -> None:
    class CannotLearn(LearnerTask):
        async def _work(self, request: RetrainRequest) -> None:
            raise RuntimeError("boom")

    deployment = Deployment(tmp_path)
    deployment.make["learner"] = CannotLearn
    request = RetrainRequest(
        id="r",
        model="m",
        group="g",
        reason="drift",
        signals=("s",),
        at=START,
        window=Window(from_=START, to=START, rows=1),
        scored=ScoredRange(partition=0, from_=0, cause=0),
        metrics=BeforeAfter(before=0.1, after=0.2),
        deadline=START + 100,
        task="binary",
    )
    deployment.broker.append(RETRAIN.topic, encode_event(request))
    workers: list[Stage] = []
    for _ in range(TRIES):
        stage = deployment.worker()
        workers.append(stage)

        async def work(stage: Stage = stage) -> None:
            await stage.own("learner-0")
            await stage.runtime.handle(stage.broker.batch(RETRAIN.topic, 0))
            loop = asyncio.create_task(stage.runtime.run())
            await until(lambda: stage.exits or stage.task("learner-0").parked_for)
            await until(lambda: stage.exits or not stage.runtime._failures.searching)
            await rounds(stage)
            loop.cancel()

        run(work())
    assert [worker.exits for worker in workers] == [[1]] * (TRIES - 1) + [[]]
    assert "streamapp skip --topic t.retrain --partition 0 --offset 0" in workers[-1].task("learner-0").parked


# -- once it is mended -------------------------------------------------------------------------------------------------


def quarantine(broker: Broker, role: str, tp: TP, offset: int) -> None:
    """Store that a record is to be left out, as ``streamapp skip`` does."""

    async def work() -> None:
        checkpoint = Checkpoint(f"t.checkpoints-{role}", tp.partition)
        await checkpoint.load(broker.reader())
        checkpoint.quarantined.setdefault(tp.topic, set()).add(offset)
        record = checkpoint.note(None)
        broker.append(record.topic, record.value, key=record.key)

    run(work())


@pytest.mark.parametrize(("made", "name", "tp"), DEFECTS)
def test_a_parked_task_notices_that_it_was_mended_and_passes_the_place_without_the_record(
    tmp_path: Path, made: Any, name: str, tp: TP
) -> None:
    deployment = Deployment(tmp_path, **made)
    deployment.pairs()
    deployment.ticks()
    fail(deployment, name, TRIES - 1)
    stage = deployment.worker()
    role = name.split("-")[0]

    async def mended() -> None:
        await stage.own(name)
        await parked(stage, name)
        await stage.runtime.parking.look()
        assert stage.exits == []
        await asyncio.to_thread(quarantine, deployment.broker, role, tp, BAD)
        await stage.runtime.parking.look()
        await until(lambda: stage.exits)

    run(mended())
    assert stage.exits == [1]
    assert stage.runtime.ended_by == (role, "mended")
    after = deployment.worker()

    async def passes() -> None:
        await after.own(name)
        await feed(after, name)
        assert after.task(name).parked is None

    run(passes())
    assert after.position(name) == 20
    assert after.runtime.around.counters.rejected == {(tp.topic.removeprefix("t."), "quarantined"): 1}
    assert deployment.broker.records("t.dead-letters") == []
    assert deployment.failure(name) is None


def test_a_record_is_left_out_for_as_long_as_restores_read_it_again(tmp_path: Path) -> None:
    deployment = Deployment(tmp_path)
    broker = deployment.broker
    for number in range(20):
        broker.append(PREDICTIONS.topic, prediction(number, START + number), at=START + number)
        if number:  # the first one waits
            broker.append(OUTCOMES.topic, outcome(number, START + number), at=START + number + 0.5)
    first = deployment.worker()
    run(first.own("joiner-0"))
    run(first.runtime._commit(first.task("joiner-0"), last=True))
    quarantine(broker, "joiner", PREDICTIONS, BAD)

    def restarted() -> Stage:
        stage = deployment.worker()

        async def work() -> None:
            await stage.own("joiner-0")
            await feed(stage, "joiner-0", size=500)

        run(work())
        return stage

    assert restarted().runtime.around.counters.rejected == {("predictions", "quarantined"): 1}
    again = restarted()
    assert again.task("joiner-0").quarantined(PREDICTIONS.topic) == {BAD}
    assert again.runtime.around.counters.rejected == {}
    for number in range(20, 2500):  # the first one expires, and restores begin behind the record
        at = START + 4000 + number
        broker.append(PREDICTIONS.topic, prediction(number, at), at=at)
        broker.append(OUTCOMES.topic, outcome(number, at), at=at + 0.5)
    restarted()
    assert restarted().task("joiner-0").quarantined(PREDICTIONS.topic) == set()


def test_a_restore_that_fails_again_and_again_parks_the_task(tmp_path: Path) -> None:
    class CannotRestore(MonitorTask):
        async def restore(self, reader: Any, entries: Any) -> None:
            raise RuntimeError("boom")

    deployment = Deployment(tmp_path, monitor=CannotRestore)
    workers: list[Stage] = []
    for _ in range(TRIES):
        stage = deployment.worker()
        workers.append(stage)

        async def work(stage: Stage = stage) -> None:
            await stage.own("monitor-0", "joiner-0")
            await until(lambda: stage.exits or ("monitor", 0) in stage.runtime.tasks)
            await until(lambda: not stage.runtime._failures.searching)

        run(work())
    assert [worker.exits for worker in workers] == [[1]] * (TRIES - 1) + [[]]
    assert "cannot take over: RuntimeError('boom')" in workers[-1].task("monitor-0").parked
    assert workers[-1].task("joiner-0").parked is None
    assert not workers[-1].runtime.ready
