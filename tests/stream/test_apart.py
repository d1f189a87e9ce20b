"""Producers on a loop of their own: what they do goes on while the stream's loop is at work."""

import asyncio
import threading
from collections.abc import Sequence
from typing import Any

import pytest

from streamapp.config import ProcessConfig
from streamapp.stream import apart
from streamapp.stream.apart import LoopThread, ProducerApart, producer_apart
from streamapp.stream.producer import Acknowledged, CommitFailed, Record
from tests.stream.doubles import run


class Elsewhere:
    """A producer that notes where it is, and takes many turns of the loop for a commit."""

    def __init__(self) -> None:
        self.threads = {threading.get_ident()}
        self.loop = asyncio.get_running_loop()
        self.finished = threading.Event()
        self.cancelled = threading.Event()
        self.stopped = False

    async def start(self) -> None:
        self.threads.add(threading.get_ident())

    async def commit(self, records: Sequence[Record]) -> Acknowledged:
        self.threads.add(threading.get_ident())
        if not records:
            raise CommitFailed("nothing to commit")
        try:
            for _ in range(30):
                await asyncio.sleep(0 if len(records) == 1 else 60)
        except asyncio.CancelledError:
            self.cancelled.set()
            raise
        self.finished.set()
        return Acknowledged(1.0, 2.0)

    async def stop(self) -> None:
        self.threads.add(threading.get_ident())
        self.stopped = True


@pytest.fixture(scope="module")
def home() -> LoopThread:
    return LoopThread("of a test")


RECORD = Record(topic="t", partition=0, key=None, value=None)


async def started(home: LoopThread) -> tuple[ProducerApart, Elsewhere]:
    made: list[Elsewhere] = []

    def make() -> Any:
        made.append(Elsewhere())
        return made[0]

    producer = ProducerApart(home, make)
    assert not made
    await producer.start()
    return producer, made[0]


def test_a_producer_is_made_and_works_on_the_other_loop(home: LoopThread) -> None:
    async def work() -> None:
        producer, there = await started(home)
        assert await producer.commit([RECORD]) == Acknowledged(1.0, 2.0)
        await producer.stop()
        assert there.stopped
        assert there.loop is not asyncio.get_running_loop()
        assert len(there.threads) == 1
        assert threading.get_ident() not in there.threads

    run(work())


def test_a_commit_goes_on_while_the_loop_that_asked_for_it_is_at_work(home: LoopThread) -> None:
    async def work() -> None:
        producer, there = await started(home)
        committing = asyncio.create_task(producer.commit([RECORD]))
        await asyncio.sleep(0)
        assert there.finished.wait(20), "the commit waits for our loop"  # which does not come round meanwhile
        assert not committing.done()
        assert await committing == Acknowledged(1.0, 2.0)

    run(work())


def test_an_error_comes_back(home: LoopThread) -> None:
    async def work() -> None:
        producer, _ = await started(home)
        with pytest.raises(CommitFailed, match="nothing to commit"):
            await producer.commit([])

    run(work())


def test_who_gives_a_commit_up_cancels_it(home: LoopThread) -> None:
    async def work() -> None:
        producer, there = await started(home)
        committing = asyncio.create_task(producer.commit([RECORD, RECORD]))
        await asyncio.sleep(0)
        committing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await committing
        assert await asyncio.to_thread(there.cancelled.wait, 20)

    run(work())


def test_a_commit_on_a_loop_that_does_not_answer_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(apart, "COMMIT_DEADLINE", 0.01)
    monkeypatch.setattr(apart, "MARGIN", 0.01)
    home = LoopThread("of a test that blocks it")
    gate = threading.Event()

    async def work() -> None:
        producer, there = await started(home)
        there.loop.call_soon_threadsafe(gate.wait)
        with pytest.raises(CommitFailed, match="of a test that blocks it does not answer"):
            await producer.commit([RECORD])
        gate.set()

    run(work())


def test_one_that_was_never_started_has_nothing_to_stop(home: LoopThread) -> None:
    run(ProducerApart(home, Elsewhere).stop())  # type: ignore[arg-type]


def test_all_producers_of_a_process_share_one_thread() -> None:
    threads: list[int] = []

    class Noting(Elsewhere):
        def __init__(self, *_: object) -> None:
            super().__init__()
            threads.extend(self.threads)

    async def work() -> None:
        for number in range(3):
            await producer_apart(ProcessConfig(), "joiner", number, make=Noting).start()

    run(work())
    assert len(threads) == 3
    assert len(set(threads)) == 1
    assert threading.get_ident() not in threads
