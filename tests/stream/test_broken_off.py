"""What was broken off half-way is never committed: whoever cancels, panics or fails there, the process ends."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from aiokafka import TopicPartition
from faust.types import TP

from streamapp.core.events import RetrainRequest
from streamapp.stream.learning import LearnerTask
from streamapp.stream.monitoring import MonitorTask
from streamapp.stream.producer import Record
from streamapp.stream.reader import Reader
from streamapp.stream.runtime import TASKS
from tests.stream.doubles import run
from tests.stream.stage import Stage, rounds, until


class Panic(BaseException):
    """What code below Python raises when it gives up: no Exception."""


def test_a_commit_that_was_cancelled_after_its_taking_is_not_followed_by_another(tmp_path: Path) -> None:
    taken = asyncio.Event()

    class Slow(MonitorTask):
        def take(self) -> Iterator[Record]:
            taken.set()
            return super().take()

    stage = Stage(tmp_path, make={**TASKS, "monitor": Slow})

    async def work() -> None:
        await stage.own("monitor-0")
        await stage.runtime._commit(stage.task("monitor-0"))
        await stage.ticks(0, 2)
        taken.clear()
        committing = asyncio.create_task(stage.runtime._commit(stage.task("monitor-0")))
        await taken.wait()
        committing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await committing
        await stage.ticks(0, 1)
        await stage.runtime._commit(stage.task("monitor-0"))
        await until(lambda: stage.exits)

    run(work())
    assert stage.exits == [1]
    assert stage.position("monitor-0") == 0
    assert "broken off" in str(stage.runtime.ending)


def test_a_batch_that_ended_in_a_panic_is_not_committed_and_ends_the_process(tmp_path: Path) -> None:
    class Panicking(MonitorTask):
        def digest(self, batch: Any) -> None:
            raise Panic("index out of bounds")

    stage = Stage(tmp_path, make={**TASKS, "monitor": Panicking})

    async def work() -> None:
        await stage.own("monitor-0")
        await stage.runtime._commit(stage.task("monitor-0"))
        await stage.ticks(0, 1)
        await until(lambda: stage.exits)

    run(work())
    assert stage.exits == [1]
    assert "index out of bounds" in str(stage.runtime.ending)
    assert stage.position("monitor-0") == 0


def test_a_panic_while_learning_is_a_failure_of_the_job(tmp_path: Path) -> None:
    class Panicking(LearnerTask):
        async def _work(self, request: RetrainRequest) -> None:
            raise Panic("index out of bounds")

    stage = Stage(tmp_path, make={**TASKS, "learner": Panicking})

    async def work() -> None:
        await stage.own("learner-0")
        task = stage.task("learner-0")
        await task._run(type("Record", (), {"offset": 3}), type("Request", (), {"model": "m", "group": "g"}))
        assert isinstance(task.failure, Exception)
        loop = asyncio.create_task(stage.runtime.run())
        await until(lambda: stage.exits)
        await loop

    run(work())
    assert stage.exits == [1]


def test_a_task_whose_taking_over_survives_its_end_is_not_kept(tmp_path: Path) -> None:
    go = asyncio.Event()

    class Deaf(MonitorTask):
        async def open(self) -> None:
            if self.partition == 0:
                try:
                    await asyncio.Event().wait()
                except asyncio.CancelledError:
                    await go.wait()  # answered at the same moment: the cancellation got lost
            await super().open()

    stage = Stage(tmp_path, make={**TASKS, "monitor": Deaf})
    stage.broker.holds = True

    async def work() -> None:
        assigning = asyncio.create_task(stage.runtime.assign({TP("t.scored", 0), TP("t.scored", 1)}))
        await until(lambda: len(stage.broker.producers) == 2)
        revoking = asyncio.create_task(stage.runtime.revoke())
        await rounds(stage)
        for producer in stage.broker.producers:
            producer.gate.set()
        elsewhere = asyncio.create_task(stage.runtime.assign(set()))
        await rounds(stage)
        go.set()
        await asyncio.gather(revoking, assigning, elsewhere)
        await rounds(stage)
        assert stage.runtime.tasks == {}

    run(work())
    assert all(producer.stopped for producer in stage.broker.producers)
    assert stage.exits == []


def test_reading_again_does_not_answer_a_cancellation_with_what_came_at_the_same_moment() -> None:
    class Fetcher:
        _wait_consume_future = None

        def __init__(self) -> None:
            self._records: dict[Any, Any] = {}

        def _create_fetch_waiter(self) -> Any:
            self.waiter = asyncio.get_running_loop().create_future()
            return self.waiter

        def _notify(self, _: Any) -> None:
            pass

    async def work() -> None:
        reader = Reader.__new__(Reader)
        fetcher = Fetcher()
        reader._consumer = type("Consumer", (), {"_fetcher": fetcher})()
        reading = asyncio.create_task(reader._columns(TopicPartition("t", 0)))
        await asyncio.sleep(0)
        fetcher.waiter.set_result(None)
        await asyncio.sleep(0)  # told of it, but it has not run yet
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading

    run(work())
