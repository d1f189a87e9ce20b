"""The joiner's task keeps its two inputs in step, and a restore changes nothing."""

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from faust.types import TP
from hypothesis import given, settings
from hypothesis import strategies as st

from streamapp.core.events import Arrivals, GroupArrivals, ScoredBatch, Tick, Verdict
from streamapp.core.join import STEP
from streamapp.core.joining.state import ROW_BYTES
from streamapp.core.settings import ModelSettings, Seconds, Settings
from streamapp.errors import CheckpointError
from streamapp.stream.codec import decode_scored, encode_scored
from streamapp.stream.joining import (
    HELD,
    MESSAGE_BYTES,
    PIECE,
    PROOF_MARGIN,
    SLACK,
    JoinerTask,
    decode_only,
    split_arrivals,
)
from streamapp.stream.portion import FIRST
from streamapp.stream.producer import Acknowledged, Record
from streamapp.stream.records import Records
from streamapp.stream.task import Misaligned
from streamapp.stream.transport import Batch, EndProof
from tests.stream.doubles import START, Bench, Broker, commit, outcome, prediction, run

P, O = "t.predictions", "t.outcomes"  # noqa: E741
PREDICTIONS, OUTCOMES = TP(P, 0), TP(O, 0)
WIDE = 20_000
"""Predictions with a kilobyte of features."""
SHORT = Settings(defaults=ModelSettings(outcome_window=Seconds(10), grace=Seconds(5), remember=Seconds(4)))


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path, settings=SHORT)


async def opened(bench: Bench) -> JoinerTask:
    task = JoinerTask(0, bench.around())
    await task.open()
    return task


def predict(broker: Broker, *times: float) -> None:
    """Append one prediction for each time after START, which is event time and log time."""
    for time in times:
        number = broker.end(P)
        broker.append(P, prediction(number, START + time), key=f"p{number}".encode(), at=START + time)


def observe(broker: Broker, *pairs: tuple[int, float]) -> None:
    for number, time in pairs:
        broker.append(O, outcome(number, START + time), key=f"p{number}".encode(), at=START + time)


def verdicts(broker: Broker) -> list[tuple[int, str, int, float]]:
    """Return what committed ``scored`` says: prediction's offset, verdict, outcome's offset, outcome's log time."""
    rows = []
    for record in broker.records("t.scored"):
        message = decode_scored(record.value or b"")
        if isinstance(message, ScoredBatch):
            columns = (message.offset, message.verdict, message.outcome_offset, message.outcome_log_time)
            rows += [
                (int(a), Verdict(int(b)).name, int(c), -1.0 if d != d else float(d))
                for a, b, c, d in zip(*columns, strict=True)
            ]
    return sorted(rows)


def without_outcomes(bench: Bench) -> None:
    """Let nothing hold predictions back: outcomes are proven to be empty."""
    bench.proofs[OUTCOMES] = EndProof(requested=0.0, offset=0)


def ticks(records: list[Record]) -> list[Tick]:
    messages = [decode_scored(r.value or b"") for r in records if r.topic == "t.scored"]
    return [message for message in messages if isinstance(message, Tick)]


# -- batches and positions ---------------------------------------------------------------------------------------------


def test_a_batch_behind_a_gap_is_refused_and_says_where_to_seek(bench: Bench) -> None:
    async def work() -> None:
        predict(bench.broker, *range(9))
        without_outcomes(bench)
        task = await opened(bench)
        await task.handle(bench.broker.batch(P, 0, 3))
        with pytest.raises(Misaligned) as caught:
            await task.handle(bench.broker.batch(P, 5, 9))
        assert (caught.value.tp, caught.value.position) == (PREDICTIONS, 3)
        assert task.joiner.predictions_applied == 3

    run(work())


def test_a_gap_behind_held_batches_drops_them_too_and_seeks_to_what_was_applied(bench: Bench) -> None:
    async def work() -> None:
        predict(bench.broker, 0, *range(100, 108))
        observe(bench.broker, (0, 0))
        task = await opened(bench)
        await task.handle(bench.broker.batch(O, 0, 1))
        await task.handle(bench.broker.batch(P, 0, 1))
        await task.handle(bench.broker.batch(P, 1, 4))
        assert any(task._held.values())
        with pytest.raises(Misaligned) as caught:
            await task.handle(bench.broker.batch(P, 6, 8))
        assert caught.value.position == 1
        assert not any(task._held.values())

    run(work())


@pytest.mark.parametrize(("start", "end"), [(0, 2), (1, 3), (0, 3)])
def test_what_was_applied_before_is_left_out_without_seeking(bench: Bench, start: int, end: int) -> None:
    async def work() -> None:
        predict(bench.broker, *range(6))
        without_outcomes(bench)
        task = await opened(bench)
        await task.handle(bench.broker.batch(P, 0, 3))
        await task.handle(bench.broker.batch(P, start, end))
        assert task.position(PREDICTIONS) == 3
        await task.handle(bench.broker.batch(P, start, 6))
        assert task.position(PREDICTIONS) == 6
        assert task.joiner.buffered() == 6

    run(work())


def test_a_batch_without_records_moves_the_position_only(bench: Bench) -> None:
    async def work() -> None:
        predict(bench.broker, 0)
        without_outcomes(bench)
        task = await opened(bench)
        await task.handle(bench.broker.batch(P, 0, 1))
        before = task.marks[PREDICTIONS]
        await task.handle(Batch(tp=PREDICTIONS, start=1, end=4, records=Records.of([])))
        assert task.position(PREDICTIONS) == 4
        assert (task.marks[PREDICTIONS].last, task.marks[PREDICTIONS].digest) == (before.last, before.digest)

    run(work())


# -- alignment ---------------------------------------------------------------------------------------------------------


def test_an_input_that_runs_ahead_is_held_until_the_other_catches_up(bench: Bench) -> None:
    async def work() -> None:
        predict(bench.broker, 0, 1, 2 * SLACK, 2 * SLACK + 1)
        observe(bench.broker, (0, 0), (1, SLACK + 5))
        task = await opened(bench)
        await task.handle(bench.broker.batch(O, 0, 1))
        await task.handle(bench.broker.batch(P, 0, 2))
        assert task.position(PREDICTIONS) == 2
        await task.handle(bench.broker.batch(P, 2, 3))
        await task.handle(bench.broker.batch(P, 3, 4))
        assert task.position(PREDICTIONS) == 2
        assert task.paused() == {PREDICTIONS}
        await task.handle(bench.broker.batch(O, 1, 2))
        assert task.position(PREDICTIONS) == 4
        assert task.paused() == set()

    run(work())


def test_an_input_is_held_when_much_of_it_waits_for_the_other_however_near_in_time(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("streamapp.stream.joining.AHEAD", 4)

    async def scenario() -> None:
        predict(bench.broker, 0, 1)
        observe(bench.broker, (0, 0), (1, 1.1), (1, 1.2), (1, 1.3), (1, 1.4), (1, 1.5), (1, 1.6))
        task = await opened(bench)
        await task.handle(bench.broker.batch(P, 0, 2))
        for start in range(7):
            await task.handle(bench.broker.batch(O, start, start + 1))
        assert (task.joiner.buffered(), task.position(OUTCOMES)) == (4, 5)
        predict(bench.broker, 9)
        await task.handle(bench.broker.batch(P, 2, 3))
        assert task.position(OUTCOMES) == 7

    run(scenario())


def test_an_input_that_runs_ahead_is_released_when_the_other_is_proven_at_its_end(bench: Bench) -> None:
    async def work() -> None:
        predict(bench.broker, 0)
        observe(bench.broker, (0, 100))
        task = await opened(bench)
        await task.handle(bench.broker.batch(O, 0, 1))
        assert task.position(OUTCOMES) == 0
        bench.proofs[PREDICTIONS] = EndProof(requested=0.0, offset=1)
        await task.advance()
        assert task.position(OUTCOMES) == 0, "a proof for another position proves nothing"
        await task.handle(bench.broker.batch(P, 0, 1))
        await task.advance()
        assert task.position(OUTCOMES) == 1

    run(work())


def test_of_two_heads_the_lower_log_time_goes_first(bench: Bench) -> None:
    async def work() -> None:
        predict(bench.broker, 100)
        observe(bench.broker, (0, 101), (1, 99))
        task = await opened(bench)
        await task.handle(bench.broker.batch(P, 0, 1))
        await task.handle(bench.broker.batch(O, 0, 1))
        assert (task.position(PREDICTIONS), task.position(OUTCOMES)) == (1, 1)

    run(work())


def test_no_more_is_held_than_what_pauses_an_input(bench: Bench) -> None:
    async def work() -> None:
        predict(bench.broker, *range(HELD))
        task = await opened(bench)
        for number in range(HELD):
            assert task.paused() == set()
            await task.handle(bench.broker.batch(P, number, number + 1))
        assert task.paused() == {PREDICTIONS}
        task.clear()
        assert task.paused() == set()

    run(work())


def test_a_batch_is_joined_piece_by_piece_and_what_a_commit_has_no_room_for_is_held(bench: Bench) -> None:
    async def work() -> None:
        predict(bench.broker, *(number / 1000 for number in range(3 * PIECE)))
        observe(bench.broker, *((number, 4.0) for number in range(3 * PIECE)))
        task = await opened(bench)
        without_outcomes(bench)
        await task.handle(bench.broker.batch(P, 0))
        assert task.position(PREDICTIONS) == 3 * PIECE
        task.joiner.room = ROW_BYTES
        bench.proofs[PREDICTIONS] = EndProof(requested=0.0, offset=3 * PIECE)
        task.joiner.advance(predictions=START + 5)
        await task.handle(bench.broker.batch(O, 0))
        assert task.full
        assert task.position(OUTCOMES) == PIECE
        for pieces in (1, 2, 3):
            assert task.position(OUTCOMES) == pieces * PIECE
            await commit(task)
            assert len(verdicts(bench.broker)) == pieces * PIECE
            task.joiner.room = ROW_BYTES
            await task.advance()
        assert {verdict for _, verdict, _, _ in verdicts(bench.broker)} == {"JOINED"}

    run(work())


def test_what_a_silence_ends_at_once_goes_out_in_transactions_of_the_usual_size(bench: Bench) -> None:
    async def work() -> None:
        wide = "x" * 1000
        for number in range(WIDE):
            at = START + number / 2000
            value = prediction(number, at, features={"wide": wide})
            bench.broker.append(P, value, key=f"p{number}".encode(), at=at)
        task = await opened(bench)
        without_outcomes(bench)
        await task.handle(bench.broker.batch(P, 0))
        task.joiner.advance(outcomes=START + 14)
        assert task.joiner.pending() == WIDE
        await commit(task)
        task.joiner.advance(predictions=START + 3600, outcomes=START + 3600)
        sizes, told = [], []
        behind = True
        while behind:
            behind = task.joiner.behind
            records = await commit(task)
            sizes.append(sum(len(record.value or b"") for record in records))
            told += [tick.log_time for tick in ticks(records)]
            bench.clock.now += 1.0
            await task.advance()
        assert len(sizes) >= 3
        assert max(sizes) < FIRST + (STEP + PIECE) * 1200
        assert len(verdicts(bench.broker)) == WIDE
        assert told == sorted(told)

    run(work())


# -- time that passes where nothing comes in ---------------------------------------------------------------------------


async def pair_waiting_for_a_proof(bench: Bench) -> JoinerTask:
    """Return a joiner that has applied a prediction and nothing else, and was told the broker's time."""
    predict(bench.broker, 0)
    without_outcomes(bench)
    task = await opened(bench)
    await task.handle(bench.broker.batch(P, 0, 1))
    task.acknowledged(Acknowledged(timestamp=START + 50, received=7.0))
    return task


@pytest.mark.parametrize(
    ("requested", "offset", "takes_effect"), [(7.1, 0, True), (7.0, 0, False), (6.9, 0, False), (7.1, 1, False)]
)
def test_a_proof_counts_only_if_asked_for_after_the_broker_had_told_its_time(
    bench: Bench, requested: float, offset: int, takes_effect: bool
) -> None:
    async def work() -> None:
        task = await pair_waiting_for_a_proof(bench)
        bench.proofs[OUTCOMES] = EndProof(requested, offset)
        await task.advance()
        assert task.joiner.outcomes_log_time == (START + 50 - PROOF_MARGIN if takes_effect else None)

    run(work())


def test_a_proof_does_not_count_while_something_of_the_input_is_held(bench: Bench) -> None:
    async def work() -> None:
        predict(bench.broker, 0)
        observe(bench.broker, (0, 100))
        task = await opened(bench)
        await task.handle(bench.broker.batch(O, 0, 1))
        assert any(task._held.values())
        task.acknowledged(Acknowledged(timestamp=START + 50, received=7.0))
        bench.proofs[OUTCOMES] = EndProof(requested=8.0, offset=0)
        await task.advance()
        assert task.joiner.outcomes_log_time is None

    run(work())


def test_a_time_of_the_broker_is_used_once(bench: Bench) -> None:
    async def work() -> None:
        task = await pair_waiting_for_a_proof(bench)
        bench.proofs[OUTCOMES] = EndProof(requested=8.0, offset=0)
        await task.advance()
        await commit(task)
        before = task.joiner.log_time
        await task.advance()
        assert task.joiner.log_time == before

    run(work())


def test_time_passes_also_where_commits_come_faster_than_fetches_are_answered(bench: Bench) -> None:
    async def work() -> None:
        task = await opened(bench)
        for step in range(40):  # a commit every 0.25 s; fetches of 0.5 s, asked for just before every other commit
            now = 100 + step * 0.25
            task.acknowledged(Acknowledged(timestamp=START + now, received=now))
            requested = 100 + ((now - 100) // 0.5 - 1) * 0.5 - 0.01
            bench.proofs = {tp: EndProof(requested, 0) for tp in task.inputs}
            task.around.end_proof = bench.proofs.get
            await task.advance()
        assert task.joiner.log_time is not None
        assert task.joiner.log_time > START + 105

    run(work())


def test_time_passes_also_where_one_broker_is_always_the_first_to_answer(bench: Bench) -> None:
    async def work() -> None:
        task = await opened(bench)
        lead = dict(zip(task.inputs, (0.1, 0.3), strict=True))  # two brokers lead the inputs
        for step in range(40):
            now = step * 0.25
            if step % 4 == 0:
                task.acknowledged(Acknowledged(timestamp=START + now, received=now))
            for tp, first in lead.items():  # fetches of 0.5 s, the first ones asked for at these times
                answered = (now - first) // 0.5 - 1
                bench.proofs[tp] = EndProof(first + answered * 0.5, 0)
            await task.advance()
        assert task.joiner.log_time is not None
        assert task.joiner.log_time > START + 7

    run(work())


def test_what_is_applied_while_records_are_being_made_belongs_to_the_next_commit(tmp_path: Path) -> None:
    def told(*, at_once: bool) -> list[list[Record]]:
        bench = Bench(tmp_path, settings=SHORT)
        predict(bench.broker, *range(40))
        observe(bench.broker, *((number, number + 1.0) for number in range(20)))

        async def work() -> list[list[Record]]:
            task = await opened(bench)
            await task.handle(bench.broker.batch(P, 0, 20))
            await task.handle(bench.broker.batch(O, 0, 10))
            first = task.take()
            if at_once:
                first = iter(list(first))
            await task.handle(bench.broker.batch(P, 20))
            await task.handle(bench.broker.batch(O, 10))
            return [list(first), list(task.take())]

        return run(work())

    first, then = told(at_once=False)
    assert [first, then] == told(at_once=True)
    assert any(record.topic == "t.scored" for record in first)
    assert any(record.topic == "t.scored" for record in then)


def test_ticks_come_about_once_a_second_also_when_idle_and_go_to_every_monitor(bench: Bench) -> None:
    bench.options = {"scored_partitions": 3}

    async def work() -> None:
        task = await opened(bench)
        sent = []
        for _ in range(40):
            if task.wants_commit:
                sent.append(ticks(await commit(task)))
            bench.clock.now += 0.25
        assert len(sent) == 10
        assert all(tick == [Tick(partition=0, log_time=0.0)] * 3 for tick in sent)
        assert {r.partition for r in task.take() if r.topic == "t.scored"} <= {0, 1, 2}

    run(work())


def test_commits_between_two_ticks_have_none(bench: Bench) -> None:
    async def work() -> None:
        predict(bench.broker, 0, 1)
        task = await opened(bench)
        assert ticks(await commit(task))
        bench.clock.now += 0.5
        without_outcomes(bench)
        await task.handle(bench.broker.batch(P, 0, 2))
        assert task.wants_commit
        assert not ticks(await commit(task))

    run(work())


def test_without_transactions_our_own_clock_stands_in_for_the_brokers(bench: Bench) -> None:
    bench.options = {"transactions": False}

    async def work() -> None:
        task = await opened(bench)
        bench.broker.clock.now = START + 30
        task.acknowledged(Acknowledged(timestamp=None, received=1.0))
        bench.proofs.update({tp: EndProof(2.0, 0) for tp in task.inputs})
        await task.advance()
        assert task.joiner.log_time == START + 30 - PROOF_MARGIN

    run(work())


# -- what goes out -----------------------------------------------------------------------------------------------------


def test_what_cannot_be_read_becomes_a_dead_letter_with_the_bytes_as_they_came(bench: Bench) -> None:
    values = [b"{", None, b"", b'{"prediction_id": "a", "model": "m", "ts": 1e99}', b"\xff"]

    async def work() -> list[Record]:
        for value in values:
            bench.broker.append(P, value, key=None, at=START)
        without_outcomes(bench)
        task = await opened(bench)
        await task.handle(bench.broker.batch(P, 0))
        task.acknowledged(Acknowledged(START + 50, 1.0))
        bench.proofs.update({PREDICTIONS: EndProof(2.0, 5), OUTCOMES: EndProof(2.0, 0)})
        await task.advance()
        assert task.counters.rejected == {}
        records = await commit(task)
        assert sum(task.counters.rejected.values()) == len(values)
        return records

    letters = [record for record in run(work()) if record.topic == "t.dead-letters"]
    assert [letter.value for letter in letters] == [value or b"" for value in values]
    assert [dict(letter.headers)["offset"] for letter in letters] == [b"0", b"1", b"2", b"3", b"4"]


def test_arrivals_of_very_many_groups_are_cut_into_messages_that_fit() -> None:
    groups = tuple(
        GroupArrivals(
            group=f"{number:0256d}",
            predictions=number,
            latency=dict.fromkeys(range(10), 1 << 40),
            latency_sum=float(number),
            scores=dict.fromkeys(range(10), 1 << 40),
        )
        for number in range(5000)
    )
    whole = Arrivals(model="m", partition=0, log_time=1.0, groups=groups)
    parts = list(split_arrivals(whole))
    assert tuple(group for part in parts for group in part.groups) == groups
    assert max(len(encode_scored(part)) for part in parts) <= MESSAGE_BYTES
    assert min(len(encode_scored(part)) for part in parts[:-1]) > MESSAGE_BYTES / 4
    assert {(part.model, part.partition, part.log_time) for part in parts} == {("m", 0, 1.0)}


def test_arrivals_of_few_groups_stay_one_message() -> None:
    whole = Arrivals(model="m", partition=0, log_time=1.0, groups=())
    assert list(split_arrivals(whole)) == [whole]


# -- restore -----------------------------------------------------------------------------------------------------------


def test_a_first_start_begins_where_the_logs_begin(bench: Bench) -> None:
    async def work() -> None:
        predict(bench.broker, *range(9))
        bench.broker.drop_before(P, 4)
        task = await opened(bench)
        assert (task.position(PREDICTIONS), task.position(OUTCOMES)) == (4, 0)
        assert task.wants_commit

    run(work())


def test_an_empty_checkpoint_of_a_group_that_has_worked_is_refused(bench: Bench) -> None:
    bench.worked = {OUTCOMES}
    with pytest.raises(CheckpointError, match=r"has worked on t\.outcomes before.*holds no checkpoint"):
        run(opened(bench))


@pytest.mark.parametrize("damage", [b"", b"\xc1\xc1", b"\x00" * 40, b"\x93\x01\x02\x03"])
def test_damage_in_any_entry_is_a_checkpoint_error_and_nothing_else(bench: Bench, damage: bytes) -> None:
    async def work() -> None:
        predict(bench.broker, *range(5))
        observe(bench.broker, (0, 1), (9, 2))
        task = await opened(bench)
        await task.handle(bench.broker.batch(P, 0))
        await task.handle(bench.broker.batch(O, 0))
        await commit(task)
        topic = bench.topics.checkpoints("joiner")
        keys = {record.key for record in bench.broker.records(topic)}
        assert len(keys) > 3
        saved = list(bench.broker.logs[topic, 0])
        for key in keys:
            bench.broker.logs[topic, 0] = list(saved)
            bench.broker.append(topic, damage, key=key)
            with pytest.raises(CheckpointError):
                await opened(bench)

    run(work())


Script = list[tuple[str, int]]


def scripts() -> Any:
    steps = st.tuples(st.sampled_from(["predictions", "outcomes", "commit", "crash", "prove"]), st.integers(1, 4))
    return st.lists(steps, max_size=40)


@st.composite
def streams(draw: Any) -> Broker:
    """Return inputs of up to a minute: outcomes early, in time, late, twice and never."""
    broker = Broker()
    times = sorted(draw(st.lists(st.floats(0, 60), min_size=1, max_size=12)))
    predict(broker, *times)
    pairs = draw(st.lists(st.tuples(st.integers(0, len(times)), st.floats(0, 60)), max_size=16))
    observe(broker, *sorted(pairs, key=lambda pair: pair[1]))
    return broker


async def play(bench: Bench, script: Script) -> list[tuple[int, str, int, float]]:
    """Run a joiner through a script, then to the end of both inputs, and return its verdicts."""
    bench.broker.clock.now = START + 61
    task = await opened(bench)

    async def read(topic: str, count: int) -> None:
        tp = TP(topic, 0)
        held = task._held[tp]
        start = held[-1].end if held else task.position(tp)
        await task.handle(bench.broker.batch(topic, start, min(start + count, bench.broker.end(topic))))

    def prove() -> None:
        bench.clock.now += 1
        ends = {tp: EndProof(bench.broker.clock() + 1, bench.broker.end(tp.topic)) for tp in task.inputs}
        bench.proofs.update(ends)

    for action, count in script:
        if action in ("predictions", "outcomes"):
            await read(f"t.{action}", count)
        elif action == "commit":
            bench.clock.now += count / 4
            await commit(task)
        elif action == "prove":
            prove()
            await task.advance()
        else:
            bench.proofs.clear()
            task = await opened(bench)
    bench.broker.clock.now = START + 1000
    prove()
    while [tp for tp in task.inputs if task.position(tp) < bench.broker.end(tp.topic)]:
        await read(P, 4)
        await read(O, 4)
    await commit(task)
    await commit(task)
    for _ in range(3):
        prove()
        await task.advance()
        await commit(task)
    return verdicts(bench.broker)


@settings(max_examples=60, deadline=None)
@given(streams(), scripts())
def test_crashes_and_the_way_inputs_were_read_change_no_verdict(broker: Broker, script: Script) -> None:
    with tempfile.TemporaryDirectory() as folder:
        plain = Bench(Path(folder), broker=copy(broker), settings=SHORT)
        expected = run(play(plain, []))
        assert {row[0] for row in expected} == set(range(broker.end(P)))
        other = Bench(Path(folder), broker=copy(broker), settings=SHORT)
        assert run(play(other, script)) == expected


def copy(broker: Broker) -> Broker:
    new = Broker()
    new.logs = {key: list(log) for key, log in broker.logs.items()}
    return new


def test_a_newer_owner_fences_the_older_one(bench: Bench) -> None:
    async def work() -> None:
        predict(bench.broker, 0)
        older = await opened(bench)
        newer = await opened(bench)
        await commit(newer)
        with pytest.raises(Exception, match="another one is the owner"):
            await commit(older)

    run(work())


def test_only_what_a_restore_needs_is_decoded() -> None:
    seen: list[bytes] = []

    def decode(values: list[bytes]) -> list[str]:
        seen.extend(values)
        return [value.decode() for value in values]

    needed = np.array([False, True, True, False])
    assert decode_only(decode, needed)([b"a", b"b", b"c", b"d"]) == [None, "b", "c", None]
    assert seen == [b"b", b"c"]
    assert decode_only(decode, ~needed & needed)([b"a", b"b", b"c", b"d"]) == [None] * 4
    assert decode_only(decode, needed | ~needed) is decode
