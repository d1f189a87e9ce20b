"""What a worker shows of itself is what its tasks are, and readiness never flatters."""

import asyncio
import json
import urllib.request
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from time import monotonic
from typing import Any

import pytest
from faust.types import TP

from streamapp.core.events import Position, Tick
from streamapp.stream.breathing import BREATH, breathing
from streamapp.stream.codec import encode_scored
from streamapp.stream.transport import EndProof
from streamapp.stream.view import (
    KEEPS_UP,
    PICTURE_HOLDS,
    REST,
    SUMMARY_HOLDS,
    View,
    model_reports,
    model_summaries,
    readiness,
    snapshot,
    summary,
)
from streamapp.web.server import Readiness
from tests.core.rows import Row, batch
from tests.stream.doubles import START, commit, prediction, run
from tests.stream.stage import Stage

WAITING = Readiness(ready=False, reason="missing topics: t.scored")


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    return Stage(tmp_path)


def ready(stage: Stage) -> Readiness:
    return readiness(stage.runtime, WAITING)


def test_a_worker_is_ready_when_it_owns_its_tasks_and_keeps_up(stage: Stage) -> None:
    assert ready(stage) is WAITING
    run(stage.own("joiner-0", "monitor-1"))
    assert ready(stage) == Readiness(ready=True, details={"tasks": ["joiner-0", "monitor-1"]})


def test_between_two_assignments_it_is_not_ready(stage: Stage) -> None:
    async def work() -> None:
        await stage.own("monitor-0")
        await stage.runtime.revoke()

    run(work())
    assert readiness(stage.runtime, Readiness(ready=True)).reason == "partitions to be assigned"


def test_a_parked_task_is_named_with_its_reason(stage: Stage) -> None:
    stage.broker.append("t.checkpoints-monitor", b"x", key=b"meta")
    run(stage.own("monitor-0", "monitor-1"))
    found = ready(stage)
    assert (found.ready, found.reason) == (False, "tasks are parked")
    assert list(found.details) == ["monitor-0"]
    assert "it is damaged" in found.details["monitor-0"]
    assert snapshot(stage.runtime, tuple(model_reports(stage.runtime))).parked == {("monitor", 0): "checkpoint"}


def test_lag_without_progress_is_not_ready(stage: Stage) -> None:
    run(stage.own("monitor-0", "monitor-1"))
    stage.broker.append("t.scored", encode_scored(Tick(partition=0, log_time=START)))
    stage.bench.clock.now += KEEPS_UP
    assert ready(stage).ready
    stage.bench.clock.now += 1
    assert ready(stage) == Readiness(ready=False, reason="no progress for 30 s", details={"tasks": ["monitor-0"]})


def test_a_broker_that_does_not_answer_is_not_ready_although_nothing_is_known_to_lag(stage: Stage) -> None:
    run(stage.own("learner-0"))
    stage.consumer.silent = KEEPS_UP
    assert ready(stage).ready
    stage.consumer.silent = KEEPS_UP + 1
    assert ready(stage) == Readiness(ready=False, reason="the broker has not answered for 30 s")
    run(stage.own())
    assert ready(stage).ready  # nothing is read


def test_why_the_process_ends_is_said(stage: Stage) -> None:
    async def work() -> None:
        await stage.own("monitor-0")
        stage.runtime.end("the broker is gone")

    run(work())
    assert ready(stage).reason == "the broker is gone"


def test_a_picture_that_nobody_renews_is_not_ready(stage: Stage) -> None:
    async def work() -> View:
        view = View(stage.runtime)
        view.waits_for("a broker")
        stage.bench.clock.now += 10 * KEEPS_UP
        assert view.readiness().reason == "a broker"
        await stage.own("monitor-0")
        await view.refresh()
        return view

    view = run(work())
    assert view.readiness().ready
    stage.bench.clock.now += KEEPS_UP + 1
    assert view.readiness() == Readiness(ready=False, reason="the worker has not moved for 31 s")


def test_the_snapshot_has_positions_lags_and_checkpoints_of_what_runs(stage: Stage) -> None:
    async def work() -> None:
        await stage.own("joiner-0", "monitor-0", "learner-0")
        stage.consumer.proofs[TP("t.outcomes", 0)] = EndProof(0.0, 0)
        stage.broker.append("t.predictions", prediction(0, START), key=b"p0", at=START)
        await stage.runtime.handle(stage.broker.batch("t.predictions", 0))
        await commit(stage.task("joiner-0"))
        stage.bench.clock.now += 2

    run(work())
    found = snapshot(stage.runtime, tuple(model_reports(stage.runtime)))
    assert found.lag[TP("t.predictions", 0)] == 0
    assert found.lag[TP("t.scored", 0)] == 1
    assert found.pending == {0: 0}
    assert found.checkpoint_age == {("joiner", 0): 2.0}
    assert found.checkpoint_bytes["joiner", 0] > 0
    assert found.parked == {}


def test_the_summary_has_the_models_and_what_was_read(stage: Stage) -> None:
    async def work() -> None:
        await stage.own("joiner-0", "monitor-0")
        rows = [Row(scores=0.7, outcome=True, ts=START)]
        stage.broker.append("t.scored", encode_scored(batch(rows)), key=b"fraud", at=START)
        await stage.runtime.handle(stage.broker.batch("t.scored", 0))

    run(work())
    found = summary(stage.runtime, model_summaries(stage.runtime))
    assert list(found["models"]) == ["fraud"]
    assert {"signals", "decisions", "retrain", "reviews", "model_updates", "groups"} <= set(found["models"]["fraud"])
    assert found["events"]["predictions"] == {"read": 0, "accepted": 0, "rejected": 0, "duplicate": 0}
    assert found["events"]["outcomes"]["waiting"] == 0


def test_the_pages_are_served_before_there_is_a_broker(tmp_path: Path) -> None:
    view = View(Stage(tmp_path).runtime)
    view.start()
    assert view.web is not None
    try:
        with urllib.request.urlopen(view.web.url + "/api/summary", timeout=10) as answer:
            assert json.loads(answer.read())["models"] == {}
    finally:
        view.web.stop()


def test_monitors_are_adopted_once_each(tmp_path: Path) -> None:
    stage = Stage(tmp_path)

    async def work() -> None:
        view = View(stage.runtime)
        for _ in range(3):
            await stage.own("monitor-0")
            await view.refresh()
            await view.refresh()
            await stage.runtime.revoke()
            await stage.own()
            await view.refresh()

    run(work())


def slowly(turns: list[str], items: int = 4) -> Iterator[int]:
    """Yield items of which each takes longer than a breath."""
    for number in range(items):
        until = monotonic() + 1.5 * BREATH
        while monotonic() < until:
            pass
        turns.append("item")
        yield number


def test_making_a_picture_lets_the_stream_go_on_wherever_it_takes_a_while() -> None:
    turns: list[str] = []

    async def stream() -> None:
        for _ in range(3):
            turns.append("stream")
            await asyncio.sleep(0)

    async def work() -> list[int]:
        beside = asyncio.ensure_future(stream())
        seen = [number async for number in breathing(slowly(turns))]
        await beside
        return seen

    assert run(work()) == [0, 1, 2, 3]
    assert turns[:4] == ["item", "stream", "item", "stream"]


def test_with_a_rest_who_waits_for_a_timer_has_the_loop_between_any_two_pieces() -> None:
    turns: list[str] = []

    async def stream() -> None:
        while True:
            await asyncio.sleep(BREATH / 2)
            turns.append("stream")

    async def work() -> list[int]:
        beside = asyncio.ensure_future(stream())
        await asyncio.sleep(0)
        seen = [number async for number in breathing(slowly(turns), rest=REST)]
        beside.cancel()
        return seen

    assert run(work()) == [0, 1, 2, 3]
    assert turns.count("item") == 4
    assert ("item", "item") not in list(pairwise(turns))


def test_a_picture_is_taken_when_somebody_scrapes(tmp_path: Path) -> None:
    stage = Stage(tmp_path)

    async def scrape(view: View) -> str:
        assert view.web is not None
        with await asyncio.to_thread(urllib.request.urlopen, view.web.url + "/metrics", timeout=10) as answer:
            return str(answer.read().decode())

    async def work() -> None:
        view = View(stage.runtime)
        view.start()
        assert view.web is not None
        try:
            await stage.own("monitor-0")
            assert 'model="fraud"' not in await scrape(view)
            stage.task("monitor-0").monitor.apply(batch([Row(scores=0.5, outcome=True)]), Position(0, 0, START))
            assert 'model="fraud"' not in await scrape(view)
            stage.bench.clock.now += PICTURE_HOLDS
            assert 'streamapp_outcomes_total{group="default",model="fraud"} 1.0' in await scrape(view)
        finally:
            view.web.stop()

    run(work())


def test_scrapes_at_once_share_a_picture(stage: Stage) -> None:
    async def work() -> None:
        view = View(stage.runtime)
        await stage.own("monitor-0")
        await asyncio.gather(view._picture(), view._picture())
        assert len(view._exposition._news) == 2  # adopted once, published once

    run(work())


def test_the_summary_is_made_when_somebody_asks_for_it(tmp_path: Path) -> None:
    stage = Stage(tmp_path)

    async def ask(view: View) -> dict[str, Any]:
        assert view.web is not None
        with await asyncio.to_thread(urllib.request.urlopen, view.web.url + "/api/summary", timeout=10) as answer:
            return dict(json.loads(answer.read()))

    async def work() -> None:
        view = View(stage.runtime)
        view.start()
        assert view.web is not None
        try:
            await stage.own("monitor-0")
            monitor = stage.task("monitor-0").monitor
            assert (await ask(view))["models"] == {}
            monitor.apply(batch([Row(scores=0.5, outcome=True)]), Position(0, 0, START))
            stage.bench.clock.now += SUMMARY_HOLDS
            assert (await ask(view))["models"].keys() == {"fraud"}
        finally:
            view.web.stop()

    run(work())


def test_who_asks_while_a_summary_is_made_is_given_that_one(stage: Stage) -> None:
    names = [f"m{number}" for number in range(100)]

    async def work() -> None:
        view = View(stage.runtime)
        await stage.own("monitor-0")
        for offset, name in enumerate(names):
            rows = batch([Row(scores=0.5, outcome=True)], model=name)
            stage.task("monitor-0").monitor.apply(rows, Position(0, offset, START))

        async def ask() -> list[str]:
            await view._summarise()
            return list(view._summary["models"])

        assert await asyncio.gather(ask(), ask()) == [names, names]

    run(work())


def test_a_summary_that_could_not_be_made_is_made_for_the_next_who_asks(stage: Stage) -> None:
    async def work() -> None:
        view = View(stage.runtime)
        await stage.own("monitor-0")
        task = stage.task("monitor-0")
        task.monitor.apply(batch([Row(scores=0.5, outcome=True)]), Position(0, 0, START))
        signals = task.signals
        del task.signals
        with pytest.raises(AttributeError):
            await view._summarise()
        task.signals = signals
        await view._summarise()
        assert view._summary["models"].keys() == {"fraud"}

    run(work())
