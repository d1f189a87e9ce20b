"""The runtime owns tasks: what it commits and when, what it parks, and how it ends."""

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from functools import reduce
from pathlib import Path
from typing import Any

import msgspec
import pytest
from aiokafka.errors import IllegalStateError, OffsetOutOfRangeError
from faust.types import TP

from streamapp.config import ROLES
from streamapp.core.events import BeforeAfter, RetrainRequest, ScoredRange, Tick, Window
from streamapp.core.settings import Settings
from streamapp.errors import CheckpointError, ConfigError
from streamapp.stream import runtime
from streamapp.stream.codec import encode_event, encode_scored
from streamapp.stream.joining import FULL_ROWS, MANY_ROWS, MOST_ROWS, READ_BYTES, JoinerTask
from streamapp.stream.learning import LearnerTask
from streamapp.stream.producer import CommitFailed, Record, TooLarge
from streamapp.stream.records import Records
from streamapp.stream.runtime import BEHIND, Runtime
from streamapp.stream.transport import Batch, EndProof, FetchFailed
from streamapp.stream.view import readiness
from streamapp.stream.watchdog import STUCK_AFTER, UNASSIGNED_AFTER
from streamapp.web.server import Readiness
from tests.stream.doubles import START, Bench, Broker, Stored, prediction, run
from tests.stream.stage import Stage, rounds, until

NOTHING = Records.of([])


def set_at(task: Any, name: str, value: float) -> None:
    """Set what a name with dots in it says."""
    *owners, last = name.split(".")
    setattr(reduce(getattr, owners, task), last, value)


BROKEN = Records.of([Stored(0, 0, None, object())])  # type: ignore[arg-type]
"""One record whose value no broker could have sent."""


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    return Stage(tmp_path)


# -- what is ours ------------------------------------------------------------------------------------------------------


def test_assigned_tasks_are_taken_over_and_committed_at_every_interval(stage: Stage) -> None:
    async def work() -> None:
        await stage.own("joiner-0", "monitor-1", "learner-0")
        assert sorted(map(str, stage.runtime.tasks.values())) == ["joiner-0", "learner-0", "monitor-1"]
        assert stage.runtime.ready
        loop = asyncio.create_task(stage.runtime.run())
        await until(lambda: stage.checkpoints("monitor-1") == 1)
        await until(lambda: stage.checkpoints("joiner-0"))  # with it its tick comes, which is in what is handed over
        await stage.ticks(1, 3)
        await until(lambda: stage.position("monitor-1") == stage.broker.end("t.scored", 1))
        loop.cancel()

    run(work())


def test_revoking_commits_what_was_applied_and_then_nothing_more(stage: Stage) -> None:
    async def work() -> None:
        await stage.own("monitor-0", "monitor-1")
        loop = asyncio.create_task(stage.runtime.run())
        await rounds(stage)
        await stage.ticks(0, 2)
        await stage.runtime.revoke()
        assert stage.position("monitor-0") == 2
        assert not stage.runtime.ready
        before = stage.checkpoints("monitor-0"), stage.checkpoints("monitor-1")
        await stage.ticks(0, 2)
        await rounds(stage)
        await stage.runtime.revoke()
        assert (stage.checkpoints("monitor-0"), stage.checkpoints("monitor-1")) == before
        await stage.own("monitor-0", "monitor-1")
        await stage.ticks(0, 0)
        await until(lambda: stage.position("monitor-0") == 4)
        loop.cancel()

    run(work())


def test_revoking_waits_for_a_commit_that_is_under_way(stage: Stage) -> None:
    async def work() -> None:
        await stage.own("monitor-0")
        producer = stage.producer("monitor-0")
        producer.gate.clear()
        loop = asyncio.create_task(stage.runtime.run())
        await until(lambda: producer.waiting)
        assert not stage.task("monitor-0").wants_commit
        revoking = asyncio.create_task(stage.runtime.revoke())
        await rounds(stage)
        assert not revoking.done()
        producer.gate.set()
        await revoking
        assert stage.checkpoints("monitor-0") == 1
        loop.cancel()

    run(work())


def test_a_commit_that_waited_for_the_last_one_is_not_done_after_it(stage: Stage) -> None:
    async def work() -> None:
        await stage.own("monitor-0")
        slow = stage.producer("monitor-0")
        slow.gate.clear()
        revoking = asyncio.create_task(stage.runtime.revoke())
        await until(lambda: slow.waiting)
        stage.task("monitor-0")._dirty = True
        committing = asyncio.create_task(stage.runtime._commit(stage.task("monitor-0")))
        await rounds(stage)
        slow.gate.set()
        await asyncio.gather(revoking, committing)
        assert len(slow.commits) == 1
        assert stage.task("monitor-0").wants_commit

    run(work())


def test_what_comes_between_two_assignments_is_left_to_whoever_is_assigned(stage: Stage) -> None:
    async def work() -> None:
        await stage.own("monitor-0")
        await stage.runtime.revoke()
        await stage.ticks()
        tp = TP("t.scored", 0)
        assert stage.task("monitor-0").position(tp) == 0
        await stage.own("monitor-0")
        await stage.ticks(0, 0)
        assert stage.task("monitor-0").position(tp) == 1

    run(work())


def test_a_batch_that_had_to_wait_goes_to_the_task_of_that_moment(stage: Stage) -> None:
    async def work() -> None:
        await stage.own("monitor-0")
        former = stage.task("monitor-0")
        async with stage.runtime._working:
            applying = asyncio.create_task(stage.ticks())
            await rounds(stage)
            await stage.own("monitor-1")
            await stage.own("monitor-0")
        await applying
        tp = TP("t.scored", 0)
        assert (former.position(tp), stage.task("monitor-0").position(tp)) == (0, 1)

    run(work())


def test_a_task_that_was_given_up_meanwhile_is_not_committed(stage: Stage) -> None:
    async def work() -> None:
        await stage.own("monitor-0")
        former, producer = stage.task("monitor-0"), stage.producer("monitor-0")
        async with stage.runtime._working:
            committing = asyncio.create_task(stage.runtime._commit(former))
            await rounds(stage)
            await stage.own("monitor-1")
        await committing
        assert former.wants_commit
        assert not producer.commits
        assert stage.runtime.ending is None

    run(work())


def test_one_batch_at_a_time_is_applied_and_a_commit_comes_in_its_turn(stage: Stage) -> None:
    async def work() -> None:
        await stage.own("monitor-0", "monitor-1")
        order: list[str] = []

        def slowly(name: str) -> None:
            task = stage.task(name)

            async def handle(batch: object) -> None:
                order.append(f"{name} begins")
                await asyncio.sleep(0)
                order.append(f"{name} ends")

            task.handle = handle

        slowly("monitor-0")
        slowly("monitor-1")
        take = stage.task("monitor-0").take
        stage.task("monitor-0").take = lambda: order.append("commit") or take()
        stage.task("monitor-0")._dirty = True
        await asyncio.gather(
            stage.ticks(0), stage.ticks(1), stage.runtime._commit(stage.task("monitor-0")), stage.ticks(0)
        )
        assert order == [
            *("monitor-0 begins", "monitor-0 ends", "monitor-1 begins", "monitor-1 ends"),
            *("commit", "monitor-0 begins", "monitor-0 ends"),
        ]

    run(work())


@pytest.mark.parametrize(("counted", "limit"), [("waiting", FULL_ROWS), ("_read", READ_BYTES), ("joiner.room", 0)])
def test_a_full_task_is_committed_before_more_is_applied(stage: Stage, counted: str, limit: int) -> None:
    async def work() -> None:
        await stage.own("joiner-0")
        task = stage.task("joiner-0")
        stage.consumer.proofs[TP("t.outcomes", 0)] = EndProof(0.0, 0)
        stage.broker.append("t.predictions", prediction(0, START))
        stage.broker.append("t.predictions", prediction(1, START))
        await stage.runtime.handle(stage.broker.batch("t.predictions", 0, 1))
        set_at(task, counted, limit)
        await stage.runtime.handle(stage.broker.batch("t.predictions", 1, 2))
        assert stage.position("joiner-0") == 1
        assert task.position(TP("t.predictions", 0)) == 2

    run(work())


def test_the_loop_goes_round_between_what_two_tasks_take_out_for_their_commits(stage: Stage) -> None:
    async def work() -> None:
        await stage.own("monitor-0", "monitor-1")
        producers = [stage.producer("monitor-0"), stage.producer("monitor-1")]
        for producer in producers:
            producer.gate.clear()
        seen: set[int] = set()
        committing = asyncio.create_task(stage.runtime._commit_all(list(stage.runtime.tasks.values())))
        while 2 not in seen:
            await asyncio.sleep(0)
            seen.add(sum(producer.waiting for producer in producers))
        assert 1 in seen
        for producer in producers:
            producer.gate.set()
        await committing

    run(work())


def test_the_loop_goes_round_between_what_a_task_takes_out_and_the_records_made_of_it(stage: Stage) -> None:
    async def work() -> None:
        await stage.own("monitor-0")
        task, producer = stage.task("monitor-0"), stage.producer("monitor-0")
        producer.gate.clear()
        take, taken = task.take, asyncio.Event()

        def noted() -> Iterator[Record]:
            taken.set()
            return take()  # type: ignore[no-any-return]

        task.take = noted
        committing = asyncio.create_task(stage.runtime._commit(task))
        turns = 0
        while not producer.waiting:
            await asyncio.sleep(0)
            turns += taken.is_set()
        assert turns > 1
        producer.gate.set()
        await committing

    run(work())


def test_a_task_that_is_far_behind_commits_less_often(stage: Stage) -> None:
    async def work() -> None:
        await stage.own("monitor-0")
        loop = asyncio.create_task(stage.runtime.run())
        await until(lambda: stage.checkpoints("monitor-0") == 1)
        for _ in range(5):
            behind(stage)
        await stage.runtime.handle(stage.broker.batch("t.scored", 0, 2))
        await rounds(stage)
        assert stage.checkpoints("monitor-0") == 1
        stage.bench.clock.now += BEHIND * stage.bench.config.commit_interval
        await until(lambda: stage.position("monitor-0") == 2)
        await stage.runtime.handle(stage.broker.batch("t.scored", 2, 5))
        await until(lambda: stage.position("monitor-0") == 5)
        loop.cancel()

    run(work())


@pytest.mark.parametrize(("counted", "limit"), [("waiting", MANY_ROWS), ("_read", READ_BYTES // 2), ("joiner.room", 0)])
def test_a_commit_that_has_grown_large_is_not_put_off(stage: Stage, counted: str, limit: int) -> None:
    async def work() -> None:
        await stage.own("joiner-0")
        loop = asyncio.create_task(stage.runtime.run())
        await until(lambda: stage.checkpoints("joiner-0") == 1)
        stage.consumer.proofs[TP("t.outcomes", 0)] = EndProof(0.0, 0)
        for number in range(10):
            stage.broker.append("t.predictions", prediction(number, START))
        await stage.runtime.handle(stage.broker.batch("t.predictions", 0, 1))
        await rounds(stage)
        assert stage.checkpoints("joiner-0") == 1
        set_at(stage.task("joiner-0"), counted, limit)
        await until(lambda: stage.position("joiner-0") == 1)
        loop.cancel()

    run(work())


def test_a_commit_of_many_models_may_grow_larger_until_it_is_not_put_off(stage: Stage) -> None:
    async def work() -> None:
        await stage.own("joiner-0")
        task = stage.task("joiner-0")
        models = task.joiner._state.groups.models
        crowded_at: list[int] = []
        for known in (1, 49, 50, 100, 125, 1000):
            for number in range(len(models), known):
                models.code(f"model-{number}")
            rows = range(0, FULL_ROWS, 400)
            crowded_at.append(next(n for n in rows if setattr(task, "waiting", n) or task.crowded))
        assert crowded_at == [MANY_ROWS, MANY_ROWS, MANY_ROWS, 2 * MANY_ROWS, MOST_ROWS, MOST_ROWS]
        assert MOST_ROWS < FULL_ROWS

    run(work())


def test_a_record_that_carries_its_producers_time_parks_the_task_before_it_moves_log_time(stage: Stage) -> None:
    async def work() -> None:
        await stage.own("joiner-0", "joiner-1")
        task = stage.task("joiner-0")
        stage.broker.append("t.predictions", prediction(0, START))
        batch = stage.broker.batch("t.predictions", 0, 1)
        batch.records.by_broker[0] = False
        await stage.runtime.handle(batch)
        assert task.parked_for == "timestamps"
        assert "LogAppendTime" in task.parked
        assert task.joiner.log_time is None
        assert stage.task("joiner-1").parked is None
        assert stage.runtime.ending is None

    run(work())


def test_tasks_that_stay_ours_keep_their_memory_and_the_others_are_closed(stage: Stage) -> None:
    async def work() -> None:
        await stage.own("monitor-0", "monitor-1")
        stays, goes = stage.task("monitor-0"), stage.task("monitor-1")
        await stage.runtime.revoke()
        await stage.own("monitor-0", "joiner-1")
        assert stage.task("monitor-0") is stays
        assert not stays.producer.stopped
        assert goes.producer.stopped
        assert sorted(map(str, stage.runtime.tasks.values())) == ["joiner-1", "monitor-0"]

    run(work())


def test_positions_are_what_the_tasks_have_applied(stage: Stage) -> None:
    async def work() -> None:
        await stage.own("monitor-0", "learner-0")
        await stage.ticks(0, 3)
        positions = await stage.runtime.positions(stage.consumer.assigned)
        assert positions == {TP("t.scored", 0): 3, TP("t.retrain", 0): 0}
        assert stage.consumer.proofs == {}

    run(work())


def test_revoking_while_tasks_are_taken_over_gives_them_up_whole(stage: Stage) -> None:
    async def work() -> None:
        stage.broker.holds = True
        assigning = asyncio.create_task(stage.runtime.assign({TP("t.scored", 0), TP("t.scored", 1)}))
        await until(lambda: len(stage.broker.producers) == 2)
        await stage.runtime.revoke()
        await assigning
        assert stage.runtime.tasks == {}
        assert all(producer.stopped for producer in stage.broker.producers)
        assert not stage.runtime.ready
        assert stage.exits == []
        stage.broker.holds = False
        await stage.own("monitor-0")
        assert stage.runtime.ready

    run(work())


def test_half_a_joiner_is_refused(stage: Stage) -> None:
    async def work() -> None:
        await stage.runtime.assign({TP("t.predictions", 0)})
        await until(lambda: stage.exits)
        assert stage.runtime.ending is not None
        assert "is ours but not that of t.outcomes" in stage.runtime.ending

    run(work())
    assert stage.exits == [1]


def test_partitions_of_other_roles_are_left_alone(tmp_path: Path) -> None:
    stage = Stage(tmp_path, roles=("monitor",))

    async def work() -> None:
        await stage.own("monitor-0", "joiner-0")
        assert [str(task) for task in stage.runtime.tasks.values()] == ["monitor-0"]

    run(work())


def test_no_partitions_at_all_is_ready(stage: Stage) -> None:
    run(stage.own())
    assert stage.runtime.ready


# -- what is parked ----------------------------------------------------------------------------------------------------


def damage(broker: Broker) -> None:
    broker.append("t.checkpoints-monitor", b"x", key=b"meta")


def test_a_damaged_checkpoint_parks_its_task_and_the_others_go_on(stage: Stage) -> None:
    damage(stage.broker)

    async def work() -> None:
        await stage.own("monitor-0", "monitor-1")
        parked = stage.task("monitor-0")
        assert "it is damaged" in parked.parked
        assert not stage.runtime.ready
        assert stage.runtime.recoveries["monitor", "parked_checkpoint"] == 1
        assert stage.consumer.paused == {TP("t.scored", 0)}
        assert stage.consumer.seeks == [{TP("t.scored", 1): 0}]
        loop = asyncio.create_task(stage.runtime.run())
        await stage.runtime.handle(Batch(tp=TP("t.scored", 0), start=0, end=1, records=NOTHING))
        await stage.ticks(1, 2)
        await until(lambda: stage.position("monitor-1") == 2)
        assert stage.checkpoints("monitor-0") == 0
        await stage.runtime.commit_group()
        assert stage.consumer.group == {TP("t.scored", 1): 2}
        await stage.runtime.revoke()
        await stage.own("monitor-0", "monitor-1")
        assert stage.task("monitor-0") is parked
        assert not stage.runtime.ready
        loop.cancel()

    run(work())
    assert stage.exits == []


@pytest.mark.parametrize("error", [TooLarge("3 MB"), CheckpointError("a value of 1 MB")])
def test_what_can_never_be_committed_parks_its_task_and_the_others_go_on(stage: Stage, error: Exception) -> None:
    async def work() -> None:
        await stage.own("monitor-0", "monitor-1")
        stage.producer("monitor-0").failure = error
        loop = asyncio.create_task(stage.runtime.run())
        await until(lambda: stage.task("monitor-0").parked)
        assert stage.task("monitor-0").parked == str(error)
        await stage.ticks(1)
        await until(lambda: stage.position("monitor-1") == 1)
        loop.cancel()

    run(work())
    assert stage.exits == []


def test_a_parked_task_does_not_keep_the_process_from_stopping_in_order(stage: Stage) -> None:
    damage(stage.broker)

    async def work() -> None:
        await stage.own("monitor-0", "monitor-1")
        await stage.ticks(1)
        stage.runtime.stop()
        await until(lambda: stage.exits)
        assert stage.position("monitor-1") == 1

    run(work())
    assert stage.exits == [0]


@pytest.mark.parametrize(
    ("error", "reason", "says"),
    [
        (OffsetOutOfRangeError({}), "position", "retention overtook it"),
        (ValueError("bad batch"), "input", "ValueError: bad batch"),
    ],
)
def test_a_partition_that_cannot_be_read_parks_its_task(stage: Stage, error: Exception, reason: str, says: str) -> None:
    async def work() -> None:
        await stage.own("joiner-0", "monitor-0")
        stage.runtime.failed(FetchFailed(TP("t.outcomes", 0), error))
        task = stage.task("joiner-0")
        assert task.parked_for == reason
        assert says in task.parked
        assert "t.outcomes[0]" in task.parked
        assert stage.consumer.paused >= set(task.inputs)
        stage.runtime.failed(FetchFailed(TP("t.outcomes", 0), error))
        stage.runtime.failed(FetchFailed(TP("t.outcomes", 1), error))
        assert stage.runtime.recoveries["joiner", f"parked_{reason}"] == 1
        assert stage.task("monitor-0").parked is None

    run(work())


def request(**changes: Any) -> bytes:
    return encode_event(
        msgspec.structs.replace(
            RetrainRequest(
                id="r1",
                model="m",
                group="default",
                reason="drift",
                signals=(),
                at=START,
                window=Window(from_=START, to=START, rows=1),
                scored=ScoredRange(partition=0, from_=0, cause=0),
                metrics=BeforeAfter(before=None, after=None),
                deadline=START,
                task="binary",
            ),
            **changes,
        )
    )


@pytest.mark.parametrize("error", [CheckpointError("the artifact is gone"), ConfigError("cannot be stored")])
def test_a_job_that_would_fail_again_parks_the_learner(stage: Stage, error: Exception) -> None:
    async def work() -> None:
        await stage.own("learner-0", "monitor-0")
        loop = asyncio.create_task(stage.runtime.run())
        task = stage.task("learner-0")
        assert isinstance(task, LearnerTask)
        task.failure = error
        await until(lambda: task.parked)
        assert task.parked == str(error)
        assert stage.runtime.ending is None
        loop.cancel()

    run(work())


def test_any_other_failure_of_a_job_ends_the_process(stage: Stage) -> None:
    async def work() -> None:
        await stage.own("learner-0")
        stage.task("learner-0").failure = RuntimeError("a bug")
        await asyncio.wait_for(stage.runtime.run(), 5)
        await until(lambda: stage.exits)

    run(work())
    assert stage.exits == [1]


# -- what comes in -----------------------------------------------------------------------------------------------------


def test_a_gap_is_answered_by_seeking_back(stage: Stage) -> None:
    async def work() -> None:
        await stage.own("monitor-0")
        await stage.runtime.handle(Batch(tp=TP("t.scored", 0), start=5, end=9, records=NOTHING))
        assert stage.consumer.seeks[-1] == {TP("t.scored", 0): 0}

    run(work())


def test_what_was_read_twice_is_not_answered_by_seeking(stage: Stage) -> None:
    async def work() -> None:
        await stage.own("monitor-0")
        await stage.ticks(0, 3)
        seeks = len(stage.consumer.seeks)
        await stage.runtime.handle(stage.broker.batch("t.scored", 0, 2))
        assert len(stage.consumer.seeks) == seeks
        assert stage.task("monitor-0").position(TP("t.scored", 0)) == 3

    run(work())


def test_a_seek_that_fails_since_the_partition_was_taken_away_is_no_failure(stage: Stage) -> None:
    async def work() -> None:
        await stage.own("monitor-0")
        stage.consumer.seek_error = IllegalStateError("no current assignment")
        await stage.runtime.handle(Batch(tp=TP("t.scored", 0), start=5, end=9, records=NOTHING))

    run(work())
    assert stage.exits == []


def test_nothing_is_sought_between_two_assignments(stage: Stage) -> None:
    async def work() -> None:
        await stage.own("monitor-0")
        await stage.runtime.revoke()
        seeks = len(stage.consumer.seeks)
        await stage.runtime.handle(Batch(tp=TP("t.scored", 0), start=5, end=9, records=NOTHING))
        assert len(stage.consumer.seeks) == seeks

    run(work())


def test_a_bug_ends_the_process_and_names_topic_partition_and_offsets(
    stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    async def work() -> None:
        await stage.own("monitor-0")
        await stage.runtime.handle(Batch(tp=TP("t.scored", 0), start=0, end=2, records=BROKEN))
        await until(lambda: stage.exits)

    run(work())
    assert stage.exits == [1]
    assert "t.scored[0] offsets 0 to 1" in caplog.text


def test_the_joiner_pauses_the_input_that_runs_ahead_and_resumes_it(stage: Stage) -> None:
    async def work() -> None:
        await stage.own("joiner-0")
        stage.consumer.clear_proofs()
        for number in range(3):
            stage.broker.append("t.predictions", prediction(number, START))
            await stage.runtime.handle(stage.broker.batch("t.predictions", number, number + 1))
        assert stage.consumer.paused == {TP("t.predictions", 0)}
        stage.consumer.proofs[TP("t.outcomes", 0)] = EndProof(0.0, 0)
        loop = asyncio.create_task(stage.runtime.run())
        await until(lambda: not stage.consumer.paused)
        assert stage.task("joiner-0").position(TP("t.predictions", 0)) == 3
        loop.cancel()

    run(work())


def test_batches_of_tasks_that_are_not_ours_are_left_alone(stage: Stage) -> None:
    run(stage.runtime.handle(Batch(tp=TP("t.scored", 0), start=5, end=9, records=NOTHING)))
    assert stage.consumer.seeks == []


# -- how it ends -------------------------------------------------------------------------------------------------------


def test_a_failed_commit_ends_the_process_exactly_once_and_nothing_is_committed_after_it(stage: Stage) -> None:
    async def work() -> None:
        await stage.own("monitor-0", "monitor-1")
        failing = stage.producer("monitor-0")
        failing.gate.clear()
        loop = asyncio.create_task(stage.runtime.run())
        await until(lambda: failing.waiting)
        await stage.ticks()
        second = asyncio.create_task(stage.runtime._commit(stage.task("monitor-0")))
        failing.failures = [CommitFailed("no answer")]
        failing.gate.set()
        await asyncio.gather(second, loop)
        await until(lambda: stage.exits)
        await rounds(stage)
        assert failing.commits == []
        await stage.runtime.handle(stage.broker.batch("t.scored", 1))
        stage.runtime.end("again")
        stage.runtime.stop()
        await rounds(stage)

    run(work())
    assert stage.exits == [1]
    assert stage.runtime.ending == "monitor-0: no answer"
    assert stage.consumer.left
    assert all(producer.stopped for producer in stage.broker.producers)


def test_being_fenced_ends_the_process(stage: Stage, tmp_path: Path) -> None:
    other = Stage(tmp_path / "other", broker=stage.broker)

    async def work() -> None:
        await stage.own("monitor-0")
        await other.own("monitor-0")
        await stage.ticks()
        await asyncio.wait_for(stage.runtime.run(), 5)
        await until(lambda: stage.exits)
        assert stage.broker.records("t.checkpoints-monitor") == []

    run(work())
    assert stage.exits == [1]
    assert other.exits == []


def test_a_take_over_that_fails_ends_the_process(stage: Stage) -> None:
    async def work() -> None:
        made = stage.runtime.around.producer

        def failing(*args: Any) -> Any:
            producer = made(*args)
            producer.failure = CommitFailed("start took more than 30 s")  # type: ignore[attr-defined]
            return producer

        stage.runtime.around.producer = failing
        await stage.own("monitor-0")
        await until(lambda: stage.exits)
        assert stage.runtime.tasks == {}
        assert stage.broker.producers[0].stopped

    run(work())
    assert stage.exits == [1]


def test_a_task_that_cannot_even_be_made_ends_the_process(stage: Stage) -> None:
    async def work() -> None:
        def failing(*_: Any) -> Any:
            raise ConfigError("no such thing")

        stage.runtime.around.producer = failing
        await stage.own("monitor-0", "monitor-1")
        await until(lambda: stage.exits)

    run(work())
    assert stage.exits == [1]


def test_stopping_commits_lets_go_and_exits_0(stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")

    async def work() -> None:
        await stage.own("monitor-0", "monitor-1")
        await stage.ticks(0, 2)
        stage.runtime.stop()
        stage.runtime.stop()
        await until(lambda: stage.exits)
        await rounds(stage)

    run(work())
    assert stage.exits == [0]
    assert stage.position("monitor-0") == 2
    assert not stage.consumer.flows
    assert stage.consumer.left
    assert stage.consumer.group == {TP("t.scored", 0): 2, TP("t.scored", 1): 0}
    assert all(producer.stopped for producer in stage.broker.producers)
    assert "final checkpoints written: monitor-0, monitor-1" in caplog.text


def test_the_commit_loop_does_not_meet_a_producer_that_stopping_has_closed(stage: Stage) -> None:
    async def work() -> None:
        await stage.own("joiner-0", "monitor-0")
        loop = asyncio.create_task(stage.runtime.run())
        await until(lambda: stage.checkpoints("monitor-0") and stage.checkpoints("joiner-0"))
        stage.bench.clock.now += 5  # the joiner's tick is due: its last commit is slow
        slow = stage.producer("joiner-0")
        slow.gate.clear()
        stage.runtime.stop()
        await until(lambda: slow.waiting)
        await stage.ticks()
        await rounds(stage)
        slow.gate.set()
        await until(lambda: stage.exits)
        await loop

    run(work())
    assert stage.exits == [0]


def test_a_commit_that_fails_while_stopping_exits_1(stage: Stage) -> None:
    async def work() -> None:
        await stage.own("monitor-0", "monitor-1")
        stage.producer("monitor-0").failure = CommitFailed("no answer")
        stage.runtime.stop()
        await until(lambda: stage.exits)

    run(work())
    assert stage.exits == [1]
    assert stage.consumer.left


@pytest.mark.parametrize("gate", ["group_gate", "leave_gate"])
def test_a_group_that_does_not_answer_does_not_keep_a_process_from_ending_in_order(
    stage: Stage, gate: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runtime, "GROUP_DEADLINE", 0.01)

    async def work() -> None:
        await stage.own("monitor-0")
        await stage.ticks(0, 2)
        getattr(stage.consumer, gate).clear()
        stage.runtime.stop()
        await until(lambda: stage.exits)

    run(work())
    assert stage.exits == [0]
    assert stage.position("monitor-0") == 2
    assert all(producer.stopped for producer in stage.broker.producers)


def test_stopping_before_anything_was_assigned_exits_0(tmp_path: Path) -> None:
    stage = Stage(tmp_path)
    stage.runtime._consumer = None

    async def work() -> None:
        stage.runtime.stop()
        await until(lambda: stage.exits)

    run(work())
    assert stage.exits == [0]


def test_stopping_while_tasks_are_taken_over_exits_0(stage: Stage) -> None:
    async def work() -> None:
        stage.broker.holds = True
        assigning = asyncio.create_task(stage.runtime.assign({TP("t.scored", 0)}))
        await until(lambda: stage.broker.producers)
        stage.runtime.stop()
        await until(lambda: stage.exits)
        await assigning
        assert not stage.runtime.ready

    run(work())
    assert stage.exits == [0]
    assert stage.broker.producers[0].stopped


def test_an_assignment_that_comes_while_stopping_begins_nothing(stage: Stage) -> None:
    async def work() -> None:
        await stage.own("monitor-0")
        loop = asyncio.create_task(stage.runtime.run())
        await until(lambda: stage.checkpoints("monitor-0"))
        stage.consumer.group_gate.clear()
        stage.runtime.stop()
        await rounds(stage)
        await stage.own("monitor-0", "monitor-1")
        assert not stage.runtime.ready
        await rounds(stage)
        assert [str(task) for task in stage.runtime.tasks.values()] == ["monitor-0"]
        assert len(stage.broker.producers) == 1  # nobody who has taken over is fenced
        stage.consumer.group_gate.set()
        await until(lambda: stage.exits)
        await loop

    run(work())
    assert stage.exits == [0]


def test_stopping_in_the_middle_of_revoking_waits_for_its_commits(stage: Stage) -> None:
    async def work() -> None:
        await stage.own("monitor-0")
        producer = stage.producer("monitor-0")
        producer.gate.clear()
        revoking = asyncio.create_task(stage.runtime.revoke())
        await until(lambda: producer.waiting)
        stage.runtime.stop()
        await rounds(stage)
        assert stage.exits == []
        producer.gate.set()
        await revoking
        await until(lambda: stage.exits)

    run(work())
    assert stage.exits == [0]
    assert stage.checkpoints("monitor-0") == 1


# -- a task that does not move -----------------------------------------------------------------------------------------


def behind(stage: Stage, topic: str = "t.scored") -> None:
    """Append a record that nobody hands over."""
    stage.broker.append(topic, encode_scored(Tick(partition=0, log_time=START)))


async def watched(stage: Stage, seconds: float) -> None:
    """Let the commit loop go round at every so many seconds, for long enough to see a stuck task."""
    for _ in range(int(2 * STUCK_AFTER / seconds) + 1):
        stage.bench.clock.now += seconds
        await rounds(stage, 3)


def test_a_task_with_lag_that_does_not_move_ends_the_process(stage: Stage) -> None:
    async def work() -> None:
        await stage.own("monitor-0")
        behind(stage)
        loop = asyncio.create_task(stage.runtime.run())
        await watched(stage, 10)
        await until(lambda: stage.exits)
        await loop

    run(work())
    assert stage.exits == [1]
    assert "no progress for 60 s" in str(stage.runtime.ending)


def test_ticks_alone_are_no_progress_of_a_joiner(stage: Stage) -> None:
    async def work() -> None:
        await stage.own("joiner-0")
        behind(stage, "t.predictions")
        loop = asyncio.create_task(stage.runtime.run())
        await watched(stage, 10)
        assert stage.checkpoints("joiner-0") > 3
        await until(lambda: stage.exits)
        await loop

    run(work())
    assert stage.exits == [1]


def test_a_record_after_a_long_silence_is_no_reason_to_end(stage: Stage) -> None:
    async def work() -> None:
        await stage.own("learner-0", "monitor-0")
        loop = asyncio.create_task(stage.runtime.run())
        await rounds(stage)
        stage.bench.clock.now += 3600
        await rounds(stage)
        behind(stage)
        stage.broker.append("t.retrain", request())
        await rounds(stage)
        assert stage.runtime.ending is None
        loop.cancel()

    run(work())


def test_a_joiner_whose_other_input_neither_comes_nor_ends_is_stuck(stage: Stage) -> None:
    async def work() -> None:
        await stage.own("joiner-0")
        stage.consumer.clear_proofs()
        for number in range(3):
            stage.broker.append("t.predictions", prediction(number, START))
        await stage.runtime.handle(stage.broker.batch("t.predictions", 0, 1))
        loop = asyncio.create_task(stage.runtime.run())
        await watched(stage, 10)
        assert isinstance(stage.task("joiner-0"), JoinerTask)
        assert "no progress" in (stage.runtime.ending or "")
        loop.cancel()

    run(work())


def test_a_joiner_that_waits_for_the_end_of_a_transaction_says_so_and_is_not_stuck(
    stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    outcomes = TP("t.outcomes", 0)

    async def work() -> None:
        await stage.own("joiner-0")
        stage.consumer.clear_proofs()
        stage.broker.append("t.predictions", prediction(0, START))
        await stage.runtime.handle(stage.broker.batch("t.predictions", 0, 1))
        loop = asyncio.create_task(stage.runtime.run())
        stage.consumer.transactions[outcomes] = 0
        states = []
        for _ in range(4):
            await watched(stage, 40)
            states.append(readiness(stage.runtime, Readiness(ready=True)).reason)
        assert stage.runtime.ending is None
        assert states == ["no progress for 30 s"] * 4  # also right after it was said once more
        stage.consumer.transactions[outcomes] = 1  # there is something to read before it
        await watched(stage, 10)
        assert "no progress" in (stage.runtime.ending or "")
        loop.cancel()

    run(work())
    assert "joiner-0: has waited 60 s for the end of a transaction" in caplog.text
    assert "t.outcomes[0] since offset 0" in caplog.text


def test_a_long_rebalance_does_not_count_as_standing_still(stage: Stage) -> None:
    async def work() -> None:
        await stage.own("monitor-0")
        loop = asyncio.create_task(stage.runtime.run())
        await rounds(stage)
        await stage.runtime.revoke()
        behind(stage)
        stage.bench.clock.now += 10 * STUCK_AFTER
        await stage.own("monitor-0")
        await rounds(stage)
        assert stage.runtime.ending is None
        loop.cancel()

    run(work())


# -- the group's own positions -----------------------------------------------------------------------------------------


def test_a_task_that_never_committed_does_not_count_as_having_worked(stage: Stage) -> None:
    async def work() -> None:
        await stage.own("monitor-0")
        await stage.runtime.commit_group()
        assert stage.consumer.group == {}

    run(work())


def test_an_empty_checkpoint_of_a_group_that_has_worked_parks_the_task(stage: Stage) -> None:
    stage.consumer.group = {TP("t.scored", 0): 7}

    async def work() -> None:
        await stage.own("monitor-0")
        assert "holds no checkpoint" in stage.task("monitor-0").parked

    run(work())


def test_a_store_of_models_that_no_driver_knows_is_refused_at_once(tmp_path: Path) -> None:
    config = replace(Bench(tmp_path).config, artifacts="nosuch://bucket")
    with pytest.raises(ConfigError, match="STREAMAPP_ARTIFACTS: nosuch://bucket"):
        Runtime(config, Settings(), ROLES)
    Runtime(config, Settings(), ("joiner", "monitor"))


# -- an assignment that does not come ----------------------------------------------------------------------------------


async def unassigned(stage: Stage) -> None:
    """Let the commit loop go round for a long time."""
    for _ in range(20):
        stage.bench.clock.now += UNASSIGNED_AFTER / 10
        await rounds(stage, 3)


def test_a_revocation_that_no_assignment_follows_ends_the_process(stage: Stage) -> None:
    async def work() -> None:
        await stage.own("monitor-0")
        loop = asyncio.create_task(stage.runtime.run())
        await stage.runtime.revoke()
        await unassigned(stage)
        await until(lambda: stage.exits)
        await loop

    run(work())
    assert stage.exits == [1]
    assert stage.runtime.ending == "nothing was assigned for 300 s"


def test_taking_tasks_over_may_take_its_time(stage: Stage) -> None:
    async def work() -> None:
        loop = asyncio.create_task(stage.runtime.run())
        stage.broker.holds = True
        assigning = asyncio.create_task(stage.runtime.assign({TP("t.scored", 0)}))
        await unassigned(stage)
        assert stage.runtime.ending is None
        stage.broker.producers[0].gate.set()
        await assigning
        await unassigned(stage)
        assert stage.runtime.ready
        loop.cancel()

    run(work())
