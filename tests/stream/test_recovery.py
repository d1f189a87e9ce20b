"""Every take-over, fence, failed commit, re-read record and refused checkpoint is said and counted."""

import asyncio
import io
import json
import logging
from pathlib import Path
from typing import Any

import pytest
from faust.types import TP

from streamapp.core.events import Tick
from streamapp.stream.codec import encode_scored
from streamapp.stream.logs import JsonFormatter
from streamapp.stream.producer import CommitFailed, Fenced
from streamapp.stream.view import snapshot
from tests.core.rows import Row, batch
from tests.stream.doubles import START, Broker, outcome, prediction, run
from tests.stream.stage import Stage, until
from tests.stream.test_failures import feed

PREDICTIONS = TP("t.predictions", 0)


@pytest.fixture
def broker() -> Broker:
    return Broker()


def worker(folder: Path, broker: Broker) -> Stage:
    return Stage(folder, broker=broker)


def pairs(broker: Broker, count: int = 20, first: int = 0) -> None:
    for number in range(first, first + count):
        broker.append(PREDICTIONS.topic, prediction(number, START + number), at=START + number)
        if number % 2:
            broker.append("t.outcomes", outcome(number, START + number), at=START + number + 0.5)


def work(stage: Stage, name: str) -> Stage:
    async def go() -> None:
        await stage.own(name)
        await feed(stage, name)

    run(go())
    return stage


def test_the_first_take_over_says_that_nothing_was_stored(
    tmp_path: Path, broker: Broker, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    stage = work(worker(tmp_path, broker), "joiner-0")
    assert stage.runtime.recoveries == {("joiner", "began"): 1}
    assert "joiner-0: began in" in caplog.text
    assert "nothing was stored; goes on from t.predictions@0, t.outcomes@0" in caplog.text


def test_a_joiner_says_what_it_restored_from_which_offsets_and_counts_what_it_read_again(
    tmp_path: Path, broker: Broker, caplog: pytest.LogCaptureFixture
) -> None:
    pairs(broker)
    work(worker(tmp_path, broker), "joiner-0")
    caplog.set_level(logging.INFO)
    caplog.clear()
    stage = work(worker(tmp_path, broker), "joiner-0")
    assert stage.runtime.recoveries == {("joiner", "restored"): 1}
    task = stage.task("joiner-0")
    again = task.recovery.reread[PREDICTIONS.topic]
    assert (again.start, again.end) == (0, 20)
    assert stage.runtime.around.counters.reread["joiner", "predictions"] == again.records == 20
    (line,) = [record for record in caplog.records if "restored in" in record.getMessage()]
    said = line.getMessage()
    assert "20 records of t.predictions read again from 0 to 20" in said
    assert "goes on from t.predictions@20, t.outcomes@10" in said
    assert f"from {task.recovery.entries:,} entries, {task.recovery.size:,} bytes" in said
    shown = snapshot(stage.runtime, ())
    assert shown.restore_seconds == {("joiner", 0): task.recovery.seconds}
    assert shown.reread["joiner", "predictions"] == 20


def test_a_monitor_counts_what_it_is_shown_again(tmp_path: Path, broker: Broker) -> None:
    def message(model: str, number: int) -> None:
        rows = batch([Row(prediction=True, outcome=True, id_hash=number + 1)], model=model)
        broker.append("t.scored", encode_scored(rows), at=START + number)

    for number in range(4):
        message("ab"[number % 2], number)
    first = worker(tmp_path, broker)

    async def leave_some_behind() -> None:
        await first.own("monitor-0")
        await feed(first, "monitor-0")
        for number in range(4, 8):
            message("ab"[number % 2], number)
        task = first.task("monitor-0")
        await first.runtime.handle(broker.batch("t.scored", 4))
        assert task.monitor.release() == ()
        records = task.monitor.take(0)  # as where there are more models than one commit writes
        marks = task.stored_marks()
        for record in task.checkpoint.records(records, marks):
            broker.append(record.topic, record.value, key=record.key)

    run(leave_some_behind())
    stage = work(worker(tmp_path, broker), "monitor-0")
    assert stage.runtime.around.counters.reread == {("monitor", "scored"): 4}
    again = stage.task("monitor-0").recovery.reread["t.scored"]
    assert (again.start, again.end) == (4, 8)


@pytest.mark.parametrize(("error", "reason"), [(Fenced("another"), "fenced"), (CommitFailed("no answer"), "aborted")])
def test_fences_and_failed_commits_are_counted_for_the_process_that_comes_next(
    tmp_path: Path, broker: Broker, error: Exception, reason: str
) -> None:
    stage = worker(tmp_path, broker)

    async def fail() -> None:
        await stage.own("monitor-0")
        stage.producer("monitor-0").failures = [error]
        await stage.runtime._commit(stage.task("monitor-0"))
        await until(lambda: stage.exits)

    run(fail())
    assert stage.runtime.ended_by == ("monitor", reason)
    assert stage.runtime.recoveries["monitor", reason] == 1


def test_a_process_goes_on_counting_where_those_before_it_ended(tmp_path: Path) -> None:
    stage = Stage(tmp_path, recoveries={("monitor", "fenced"): 2})
    run(stage.own("monitor-0"))
    assert snapshot(stage.runtime, ()).recoveries == {("monitor", "fenced"): 2, ("monitor", "began"): 1}


def test_a_refused_checkpoint_is_counted_and_said(
    tmp_path: Path, broker: Broker, caplog: pytest.LogCaptureFixture
) -> None:
    broker.append("t.checkpoints-monitor", b"x", key=b"meta")
    stage = worker(tmp_path, broker)
    run(stage.own("monitor-0"))
    assert stage.runtime.recoveries == {("monitor", "parked_checkpoint"): 1}
    assert "monitor-0: parked (checkpoint):" in caplog.text


def test_in_json_what_happened_has_fields_of_its_own(
    tmp_path: Path, broker: Broker, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    pairs(broker)
    work(worker(tmp_path, broker), "joiner-0")
    work(worker(tmp_path, broker), "joiner-0")
    broker.append("t.checkpoints-monitor", b"x", key=b"meta")
    run(worker(tmp_path, broker).own("monitor-0"))
    stage = worker(tmp_path, broker)
    run(_end(stage))
    lines = [json.loads(JsonFormatter().format(record)) for record in caplog.records if hasattr(record, "details")]
    events = {line["event"]: line for line in lines}
    assert events.keys() == {"began", "restored", "parked", "ending"}
    restored = events["restored"]
    assert restored["task"] == "joiner-0"
    assert restored["positions"] == {"t.predictions": 20, "t.outcomes": 10}
    assert restored["reread"]["t.predictions"] == {"from": 0, "to": 20, "records": 20}
    assert restored["seconds"] >= 0
    assert (events["parked"]["task"], events["parked"]["reason"]) == ("monitor-0", "checkpoint")
    assert (events["ending"]["role"], events["ending"]["reason"]) == ("worker", "failed")


async def _end(stage: Stage) -> None:
    stage.runtime.end("for no reason")
    await until(lambda: stage.exits)


# -- the topics that a task has in memory ------------------------------------------------------------------------------


def test_a_topic_that_is_made_anew_while_its_task_stays_ours_parks_the_task(tmp_path: Path, broker: Broker) -> None:
    stage = worker(tmp_path, broker)
    broker.ids = {"t.scored": "first"}

    async def go() -> None:
        await stage.own("monitor-0", "joiner-0")
        await stage.runtime.revoke()
        await stage.own("monitor-0", "joiner-0")
        assert stage.task("monitor-0").parked is None
        broker.ids = {"t.scored": "second"}
        await stage.runtime.revoke()
        await stage.own("monitor-0", "joiner-0")
        assert stage.task("monitor-0").parked_for == "identity"
        assert "its id is second, positions are of first" in stage.task("monitor-0").parked
        assert stage.task("joiner-0").parked is None

    run(go())


def test_a_topic_that_was_made_anew_between_two_workers_parks_the_task(tmp_path: Path, broker: Broker) -> None:
    broker.ids = {"t.scored": "first"}
    for number in range(3):
        broker.append("t.scored", encode_scored(Tick(partition=0, log_time=START)), at=START + number)
    work(worker(tmp_path, broker), "monitor-0")
    broker.ids = {"t.scored": "second"}
    stage = worker(tmp_path, broker)
    run(stage.own("monitor-0"))
    assert stage.task("monitor-0").parked_for == "checkpoint"


def test_ids_that_cannot_be_asked_for_park_nothing(tmp_path: Path, broker: Broker) -> None:
    stage = worker(tmp_path, broker)

    async def go() -> None:
        await stage.own("monitor-0")
        await stage.runtime.revoke()

        def broken(_: Any) -> Any:
            raise OSError("no broker")

        stage.runtime.around.reader = broken
        await stage.own("monitor-0")
        assert stage.task("monitor-0").parked is None

    run(go())


# -- parked, and mended ------------------------------------------------------------------------------------------------


def test_a_parked_task_whose_checkpoint_is_written_by_somebody_ends_the_process(tmp_path: Path, broker: Broker) -> None:
    broker.append("t.checkpoints-monitor", b"x", key=b"meta")
    stage = worker(tmp_path, broker)

    async def go() -> None:
        await stage.own("monitor-0", "monitor-1")
        await until(lambda: stage.runtime.parking._ends)
        await stage.runtime.parking.look()
        assert stage.exits == []
        broker.append("t.checkpoints-monitor", None, key=b"meta")
        await stage.runtime.parking.look()
        await until(lambda: stage.exits)

    run(go())
    assert stage.runtime.ended_by == ("monitor", "mended")
    after = worker(tmp_path, broker)
    run(after.own("monitor-0", "monitor-1"))
    assert after.runtime.ready


def test_looking_at_parked_tasks_survives_a_broker_that_does_not_answer(tmp_path: Path, broker: Broker) -> None:
    broker.append("t.checkpoints-monitor", b"x", key=b"meta")
    stage = worker(tmp_path, broker)

    async def go() -> None:
        await stage.own("monitor-0")

        def broken(_: Any) -> Any:
            raise OSError("no broker")

        stage.runtime.around.reader = broken
        await stage.runtime.parking.look()
        await asyncio.sleep(0)

    run(go())
    assert stage.exits == []


def test_a_text_line_says_the_same_without_fields() -> None:
    stream = io.StringIO()
    logger = logging.Logger("streamapp.test")
    logger.addHandler(logging.StreamHandler(stream))
    logger.warning("parked", extra={"details": {"event": "parked"}})
    assert stream.getvalue() == "parked\n"
