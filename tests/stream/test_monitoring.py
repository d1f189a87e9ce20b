"""The monitor's task: what it reads once, it says once; what it cannot read, it keeps."""

import random
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pytest
from faust.types import TP

from streamapp.core.events import Position, RetrainRequest, Signal, Tick, Verdict
from streamapp.core.monitor import Monitor
from streamapp.core.settings import ModelSettings, RetrainSettings, Settings
from streamapp.errors import CheckpointError
from streamapp.stream.codec import decode_scored, encode_scored
from streamapp.stream.monitoring import MonitorTask
from streamapp.stream.producer import Record
from tests.core.rows import Row, batch
from tests.stream.doubles import START, Bench, commit, run

SCORED = TP("t.scored", 0)
NERVOUS = Settings(
    defaults=ModelSettings(
        reference_rows=64,
        cycle=None,
        budget=20,
        window_rows=50,
        detectors=({"name": "adwin", "clock": 4, "grace_period": 5}, "e-sr"),
        retrain=RetrainSettings(minimum_rows=1, cooldown=5.0, deadline=50.0),  # type: ignore[arg-type]
    )
)


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path, settings=NERVOUS)


def drifting(bench: Bench, messages: int = 30, *, model: str = "fraud") -> None:
    """Append a tick, then rows that are wrong at times at first, and nearly always in the second half."""
    bench.broker.append(SCORED.topic, encode_scored(Tick(partition=0, log_time=START)), at=START)
    draw = random.Random(1)
    for number in range(1, messages):
        rate = 0.95 if number >= messages // 2 else 0.3
        rows = [
            Row(prediction=True, outcome=draw.random() >= rate, ts=START + 30 * number + i, id_hash=100 * number + i)
            for i in range(30)
        ]
        value = encode_scored(batch(rows, model=model))
        bench.broker.append(SCORED.topic, value, key=model.encode(), at=START + number)


async def opened(bench: Bench) -> MonitorTask:
    task = MonitorTask(0, bench.around())
    await task.open()
    return task


async def through(bench: Bench, task: MonitorTask, *ends: int) -> list[Record]:
    """Let a task read up to each end, committing there, and return what it said."""
    said = []
    for end in ends:
        await task.handle(bench.broker.batch(SCORED.topic, task.position(SCORED), end))
        said += [record for record in await commit(task) if "checkpoints" not in record.topic]
    return said


def test_signals_and_requests_become_cloud_events_keyed_by_model(bench: Bench) -> None:
    drifting(bench)

    async def work() -> list[Record]:
        return await through(bench, await opened(bench), 30)

    said = run(work())
    signals = [record for record in said if record.topic == "t.signals"]
    requests = [record for record in said if record.topic == "t.retrain"]
    assert signals
    assert requests
    assert len(signals) + len(requests) == len(said)
    for record, kind, cls in (
        *((signal, "signal", Signal) for signal in signals),
        *((request, "retrain", RetrainRequest) for request in requests),
    ):
        event = msgspec.json.decode(record.value or b"", type=cls)
        headers = dict(record.headers)
        assert (record.key, record.partition) == (b"fraud", None)
        assert headers["ce_id"].decode() == event.id
        assert headers["ce_type"].decode() == f"streamapp.{kind}"
        assert headers["ce_source"].decode() == f"/{record.topic}"
        assert headers["ce_specversion"] == b"1.0"
        assert headers["content-type"] == b"application/json"
        said_at = event.emitted_at if isinstance(event, Signal) else event.at
        assert datetime.fromisoformat(headers["ce_time"].decode()) == datetime.fromtimestamp(said_at, UTC)
    assert len({dict(record.headers)["ce_id"] for record in said}) == len(said)


@pytest.mark.parametrize("ends", [(7, 30), (1, 2, 16, 17, 18, 30), tuple(range(1, 31))])
def test_a_restart_after_any_commit_says_the_same_as_never_stopping(bench: Bench, ends: tuple[int, ...]) -> None:
    drifting(bench)

    async def work() -> tuple[list[Record], list[Record]]:
        whole = await through(bench, await opened(Bench(bench.folder, broker=bench.broker, settings=NERVOUS)), 30)
        bench.broker.logs.pop((bench.topics.checkpoints("monitor"), 0))
        parts: list[Record] = []
        for end in ends:
            task = await opened(bench)
            # What was applied since the last commit is lost with the process.
            await task.handle(bench.broker.batch(SCORED.topic, task.position(SCORED), end))
            again = await opened(bench)
            parts += await through(bench, again, end)
        return whole, parts

    whole, parts = run(work())
    assert parts == whole


def test_preparing_a_commit_leaves_nothing_to_work_out_and_says_the_same(bench: Bench) -> None:
    drifting(bench)

    async def work(*, prepared: bool) -> list[Record]:
        task = await opened(bench)
        await task.handle(bench.broker.batch(SCORED.topic, 0, 30))
        if prepared:
            with pytest.raises(RuntimeError, match="held"):
                task.monitor.take()
            await task.prepare()
            task.monitor.take(0)  # would raise
        outputs, _ = task.outcome()
        return outputs

    assert run(work(prepared=True)) == run(work(prepared=False))


def test_what_cannot_be_read_becomes_a_dead_letter_and_the_rest_goes_on(bench: Bench) -> None:
    tick = encode_scored(Tick(partition=0, log_time=START))
    for value in (tick, b"", None, b"\x01X", b"\x02R", tick):
        bench.broker.append(SCORED.topic, value, at=START)

    async def work() -> tuple[list[Record], MonitorTask]:
        task = await opened(bench)
        return await through(bench, task, 6), task

    letters, task = run(work())
    assert [letter.topic for letter in letters] == ["t.dead-letters"] * 4
    assert [letter.value for letter in letters] == [b"", b"", b"\x01X", b"\x02R"]
    assert [dict(letter.headers)["offset"] for letter in letters] == [b"1", b"2", b"3", b"4"]
    assert {dict(letter.headers)["topic"] for letter in letters} == {b"t.scored"}
    assert sum(task.counters.rejected.values()) == 4
    assert task.monitor.applied == 6


def test_a_dead_letter_is_not_written_again_after_a_restart(bench: Bench) -> None:
    bench.broker.append(SCORED.topic, encode_scored(Tick(partition=0, log_time=START)), at=START)
    bench.broker.append(SCORED.topic, b"bad", at=START)

    async def work() -> list[Record]:
        said = await through(bench, await opened(bench), 2)
        for _ in range(2):
            task = await opened(bench)
            said += await through(bench, task, 2)
        bench.broker.append(SCORED.topic, b"worse", at=START)
        return said + await through(bench, await opened(bench), 3)

    assert [letter.value for letter in run(work())] == [b"bad", b"worse"]


def many_models(bench: Bench) -> list[str]:
    """Append so many rows of models, each twice, that one commit has no room for all of them; return their names."""
    draw = random.Random(1)
    models = [f"model-{number}" for number in range(60)]
    for model in [*models, *models]:
        end = bench.broker.end(SCORED.topic)
        rows = [
            Row(scores=draw.random(), outcome=draw.random() < 0.5, ts=START + end, id_hash=10_000 * end + i + 1)
            for i in range(500)
        ]
        bench.broker.append(SCORED.topic, encode_scored(batch(rows, model=model)), key=model.encode(), at=START + end)
    return models


def test_a_dead_letter_is_not_written_again_where_a_restart_falls_into_catching_up(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    models = many_models(bench)
    bench.broker.append(SCORED.topic, b"bad", at=START + 200)

    async def work() -> list[Record]:
        before = await opened(bench)
        said = await through(bench, before, len(models))
        said += await through(bench, before, 2 * len(models) + 1)
        catching_up = await opened(bench)
        start = catching_up.position(SCORED)
        assert start < 2 * len(models)
        said += await through(bench, catching_up, start + 1)
        return said + await through(bench, await opened(bench), 2 * len(models) + 1)

    letters = [record for record in run(work()) if record.topic == "t.dead-letters"]
    assert [letter.value for letter in letters] == [b"bad"]


def test_models_that_did_not_fit_into_a_commit_are_brought_up_to_date_from_the_log(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    models = many_models(bench)

    async def work() -> None:
        before = await opened(bench)
        await through(bench, before, len(models))
        await through(bench, before, 2 * len(models))
        after = await opened(bench)
        assert len(models) <= after.position(SCORED) < 2 * len(models)
        assert after.marks[SCORED].last == 2 * len(models) - 1
        await through(bench, after, 2 * len(models))
        assert after.monitor.summary() == before.monitor.summary()
        assert after.monitor.report() == before.monitor.report()
        for _ in range(len(models)):  # each commit has room for one at least
            await commit(after)
        assert (await opened(bench)).position(SCORED) == 2 * len(models)

    run(work())


def test_rows_give_the_same_whether_they_were_encoded_or_not() -> None:
    draw = random.Random(3)
    direct, decoded = Monitor(0, NERVOUS), Monitor(0, NERVOUS)
    for number in range(20):
        same = number % 2 == 0
        rows = [
            Row(
                prediction=draw.random() < 0.3,
                scores=None if same else draw.random(),
                outcome=draw.random() < 0.3,
                loss=None if same or draw.random() < 0.9 else 0.5,
                group="a" if same else draw.choice("ab"),
                version="v1",
                verdict=Verdict.JOINED if same else draw.choice(list(Verdict)),
                source="assumed" if number % 4 == 0 else "observed",
                ts=START + 30 * number + i,
                id_hash=100 * number + i,
            )
            for i in range(30)
        ]
        message, position = batch(rows), Position(0, number, START + number)
        assert decoded.apply(decode_scored(encode_scored(message)), position) == direct.apply(message, position)
    assert decoded.report() == direct.report()
    assert decoded.summary() == direct.summary()
    assert decoded.take() == direct.take()


def test_recent_events_and_reports_are_there_after_a_restart(bench: Bench) -> None:
    drifting(bench)

    async def work() -> tuple[MonitorTask, MonitorTask]:
        before = await opened(bench)
        await through(bench, before, 30)
        return before, await opened(bench)

    before, after = run(work())
    for was, now in ((before.signals, after.signals), (before.requests, after.requests)):
        assert was.of("fraud")
        assert msgspec.json.encode(now.of("fraud")) == msgspec.json.encode(was.of("fraud"))
    assert after.restored == before.monitor.report()
    assert after.position(SCORED) == 30


@pytest.mark.parametrize("damage", [b"", b"\xc1\xc1", b"\x00" * 40, b"\x93\x01\x02\x03"])
def test_damage_in_any_entry_is_a_checkpoint_error_and_nothing_else(bench: Bench, damage: bytes) -> None:
    drifting(bench)
    topic = bench.topics.checkpoints("monitor")

    async def work() -> None:
        await through(bench, await opened(bench), 30)
        saved = bench.broker.records(topic)
        for key in {record.key for record in saved}:
            bench.broker.logs[topic, 0] = list(saved)
            bench.broker.append(topic, damage, key=key)
            with pytest.raises(CheckpointError):
                await opened(bench)

    run(work())
