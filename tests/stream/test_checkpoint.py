"""A checkpoint gives back what was committed, or says why it cannot; it never begins anew in silence."""

import re
from collections.abc import Mapping

import msgspec
import pytest
from faust.types import TP
from hypothesis import given
from hypothesis import strategies as st

from streamapp.errors import CheckpointError
from streamapp.stream.checkpoint import MAX_VALUE, Checkpoint, Failure, InputMark, digest
from tests.stream.doubles import Broker, Stored, run

TOPIC = "t.checkpoints-joiner"
INPUT = TP("t.predictions", 0)


def write(broker: Broker, checkpoint: Checkpoint, entries: Mapping[bytes, bytes | None], *marks: InputMark) -> None:
    inputs = dict(zip((INPUT,), marks or (InputMark(0),), strict=True))
    for record in checkpoint.records(entries, inputs):
        broker.append(record.topic, record.value, partition=record.partition or 0, key=record.key)


async def load(broker: Broker) -> tuple[Checkpoint, dict[bytes, bytes] | None]:
    checkpoint = Checkpoint(TOPIC, 0)
    return checkpoint, await checkpoint.load(broker.reader())


@given(
    st.lists(
        st.dictionaries(
            st.binary(min_size=1, max_size=3).filter(lambda key: key != b"input"), st.none() | st.binary(max_size=20)
        ),
        min_size=1,
        max_size=6,
    )
)
def test_what_is_loaded_is_the_newest_value_of_each_key_without_the_removed_ones(
    steps: list[dict[bytes, bytes | None]],
) -> None:
    broker, checkpoint = Broker(), Checkpoint(TOPIC, 0)
    expected: dict[bytes, bytes | None] = {}
    for number, step in enumerate(steps):
        write(broker, checkpoint, step, InputMark(number))
        expected |= step

    restored, entries = run(load(broker))
    assert entries == {key: value for key, value in expected.items() if value is not None}
    assert restored.bytes == checkpoint.bytes
    assert restored.bytes == sum(len(value) for value in latest(broker).values() if value is not None)


def latest(broker: Broker) -> dict[bytes | None, bytes | None]:
    return {record.key: record.value for record in broker.records(TOPIC)}


def test_a_partition_without_records_is_a_task_that_never_committed() -> None:
    assert run(load(Broker()))[1] is None


def test_a_checkpoint_whose_every_key_was_removed_is_a_task_that_never_committed() -> None:
    broker = Broker()
    broker.append(TOPIC, b"x", key=b"meta")
    broker.append(TOPIC, None, key=b"meta")
    assert run(load(broker))[1] is None


def test_a_missing_input_key_beside_others_is_damage() -> None:
    broker = Broker()
    broker.append(TOPIC, b"x", key=b"meta")
    with pytest.raises(CheckpointError, match="'input' is missing beside 1 others"):
        run(load(broker))


@pytest.mark.parametrize("value", [b"", b"\xc1", b"\x81", msgspec.msgpack.encode({"format": "1"})])
def test_damaged_bytes_in_the_input_key_are_damage(value: bytes) -> None:
    broker = Broker()
    broker.append(TOPIC, value, key=b"input")
    with pytest.raises(CheckpointError, match="cannot be read"):
        run(load(broker))


def test_another_format_is_refused_with_the_way_out() -> None:
    broker = Broker()
    broker.append(TOPIC, msgspec.msgpack.encode({"format": 2, "inputs": {}}), key=b"input")
    with pytest.raises(CheckpointError, match="format 2, but this version reads 1: run the version that wrote it"):
        run(load(broker))


@pytest.mark.parametrize("value", [None, b"other", b""])
def test_a_value_that_is_missing_or_altered_is_noticed(value: bytes | None) -> None:
    broker = Broker()
    write(broker, Checkpoint(TOPIC, 0), {b"meta": b"m", b"page": b"p"}, InputMark(0))
    run(load(broker))[0].verify_sum()
    broker.append(TOPIC, value, key=b"page")
    with pytest.raises(CheckpointError, match="values are not those that were written together: one is missing"):
        run(load(broker))[0].verify_sum()


def test_values_add_up_however_often_they_were_written_and_removed() -> None:
    broker = Broker()
    checkpoint = Checkpoint(TOPIC, 0)
    for entries in ({b"meta": b"m", b"page": b"p"}, {b"page": None, b"more": b"x"}, {b"meta": b"n"}, {b"never": None}):
        write(broker, checkpoint, entries, InputMark(0))
    later = run(load(broker))[0]
    later.verify_sum()
    write(broker, later, {b"page": b"q", b"more": None}, InputMark(0))
    run(load(broker))[0].verify_sum()


def test_an_older_checkpoint_without_a_sum_is_taken_as_it_is() -> None:
    broker = Broker()
    broker.append(TOPIC, b"x", key=b"meta")
    broker.append(TOPIC, msgspec.msgpack.encode({"format": 1, "inputs": {}}), key=b"input")
    run(load(broker))[0].verify_sum()


def test_a_value_that_no_topic_takes_is_refused_and_named() -> None:
    checkpoint = Checkpoint(TOPIC, 0)
    with pytest.raises(CheckpointError, match=re.escape(f"the value of b'pages' has {MAX_VALUE + 1} bytes")):
        checkpoint.records({b"pages": bytes(MAX_VALUE + 1)}, {INPUT: InputMark(0)})
    assert checkpoint.records({b"pages": bytes(MAX_VALUE)}, {INPUT: InputMark(0)})


@pytest.mark.parametrize("what", ["an entry", "the positions"])
def test_what_was_refused_does_not_count_as_written(what: str) -> None:
    checkpoint = Checkpoint(TOPIC, 0)
    checkpoint.records({}, {INPUT: InputMark(3)})
    entries: dict[bytes, bytes | None] = {b"pages": bytes(MAX_VALUE + 1)} if what == "an entry" else {}
    if what == "the positions":
        checkpoint.quarantined = {INPUT.topic: set(range(1 << 40, (1 << 40) + MAX_VALUE // 8))}
    with pytest.raises(CheckpointError, match=f"bytes; {MAX_VALUE} is the most"):
        checkpoint.records(entries, {INPUT: InputMark(5)})
    assert checkpoint.inputs == {INPUT.topic: InputMark(3)}


# -- is the log still the same one? ------------------------------------------------------------------------------------


def applied(broker: Broker, end: int) -> InputMark:
    """Return the mark of who applied everything before *end*."""
    return InputMark(0).moved(broker.batch(INPUT.topic, 0, end))


async def verify(broker: Broker) -> dict[TP, InputMark]:
    checkpoint, entries = await load(broker)
    assert entries is not None
    return await checkpoint.verify(broker.reader(), (INPUT,))


def log(count: int, *, word: bytes = b"value") -> Broker:
    broker = Broker()
    for number in range(count):
        broker.append(INPUT.topic, word + str(number).encode(), key=b"k")
    return broker


def test_marks_come_back_where_the_log_is_the_same() -> None:
    broker = log(5)
    mark = applied(broker, 3)
    write(broker, Checkpoint(TOPIC, 0), {}, mark)
    assert run(verify(broker)) == {INPUT: mark}
    assert (mark.position, mark.last) == (3, 2)


def test_another_number_of_partitions_is_refused() -> None:
    broker = log(5)
    checkpoint = Checkpoint(TOPIC, 0)
    checkpoint.partitions = 4
    write(broker, checkpoint, {}, applied(broker, 3))

    async def verify_with(partitions: int) -> None:
        await (await load(broker))[0].verify(broker.reader(), (INPUT,), partitions)

    run(verify_with(4))
    with pytest.raises(CheckpointError, match=r"written for 4 partitions of t\.predictions, now there are 6"):
        run(verify_with(6))


def test_a_log_made_anew_is_recognised_by_its_last_applied_record() -> None:
    old, new = log(5), log(5, word=b"other")
    write(new, Checkpoint(TOPIC, 0), {}, applied(old, 3))
    with pytest.raises(CheckpointError, match=r"offset 2 of t\.predictions\[0\] is not the record that was applied"):
        run(verify(new))


@pytest.mark.parametrize("length", [0, 1, 2])
def test_a_log_that_is_shorter_than_what_was_applied_is_refused(length: int) -> None:
    new = log(length)
    write(new, Checkpoint(TOPIC, 0), {}, applied(log(5), 3))
    with pytest.raises(CheckpointError):
        run(verify(new))


def test_a_position_that_retention_overtook_is_refused_with_the_way_out() -> None:
    broker = log(9)
    write(broker, Checkpoint(TOPIC, 0), {}, applied(broker, 3))
    broker.drop_before(INPUT.topic, 4)
    with pytest.raises(
        CheckpointError, match=r"position 3 .* is gone, the log now starts at 4.*; restore the topic, or"
    ):
        run(verify(broker))


def test_a_position_at_the_start_of_the_log_is_taken_without_the_record_before_it() -> None:
    broker = log(9)
    mark = applied(broker, 4)
    write(broker, Checkpoint(TOPIC, 0), {}, mark)
    broker.drop_before(INPUT.topic, 4)
    assert run(verify(broker)) == {INPUT: mark}


@pytest.mark.parametrize("again", [0, 3, 9])
def test_a_topic_made_anew_is_recognised_by_its_id_whatever_lies_in_it(again: int) -> None:
    old = log(5)
    old.ids = {INPUT.topic: "first"}
    checkpoint = Checkpoint(TOPIC, 0)
    checkpoint.identify(old.ids)
    new = log(again)
    new.ids = {INPUT.topic: "second"}
    write(new, checkpoint, {}, applied(old, 3))
    with pytest.raises(CheckpointError, match="made anew: its id is second, positions are of first; restore"):
        run(verify(new))


def test_a_log_that_was_cut_and_grew_again_is_recognised_although_the_topic_is_the_same() -> None:
    old, new = log(5), log(5, word=b"other")
    old.ids = new.ids = {INPUT.topic: "first"}
    checkpoint = Checkpoint(TOPIC, 0)
    checkpoint.identify(old.ids)
    write(new, checkpoint, {}, applied(old, 3))
    with pytest.raises(CheckpointError, match="made anew or truncated"):
        run(verify(new))


def test_a_checkpoint_without_ids_is_accepted_once_and_completed() -> None:
    broker = log(5)
    write(broker, Checkpoint(TOPIC, 0), {}, applied(broker, 3))
    broker.ids = {INPUT.topic: "first"}

    async def complete() -> None:
        checkpoint, _ = await load(broker)
        assert checkpoint.logs == {}
        marks = await checkpoint.verify(broker.reader(), (INPUT,))
        write(broker, checkpoint, {}, marks[INPUT])

    run(complete())
    broker.ids = {INPUT.topic: "second"}
    with pytest.raises(CheckpointError, match="made anew"):
        run(verify(broker))


def test_a_broker_that_tells_no_ids_leaves_those_that_are_known() -> None:
    broker = log(5)
    checkpoint = Checkpoint(TOPIC, 0)
    checkpoint.identify({INPUT.topic: "first"})
    write(broker, checkpoint, {}, applied(broker, 3))

    async def again() -> None:
        found, _ = await load(broker)
        marks = await found.verify(broker.reader(), (INPUT,))
        write(broker, found, {}, marks[INPUT])

    run(again())
    assert run(load(broker))[0].logs == {INPUT.topic: "first"}


def test_one_record_is_read_to_recognise_a_log() -> None:
    broker = log(50)
    write(broker, Checkpoint(TOPIC, 0), {}, applied(broker, 40))
    broker.reads.clear()
    run(verify(broker))
    assert [read for read in broker.reads if read[0] == INPUT.topic] == [(INPUT.topic, 0, 39)]


# -- what stands in the way --------------------------------------------------------------------------------------------


def test_quarantined_offsets_are_kept_until_nothing_before_them_is_read_again() -> None:
    broker = log(9)
    checkpoint = Checkpoint(TOPIC, 0)
    checkpoint.quarantined = {INPUT.topic: {7, 4}}
    write(broker, checkpoint, {}, applied(broker, 3))
    found, _ = run(load(broker))
    assert found.quarantined == {INPUT.topic: {4, 7}}
    found.passed(INPUT.topic, 4)
    assert found.quarantined == {INPUT.topic: {4, 7}}
    found.passed(INPUT.topic, 5)
    write(broker, found, {}, applied(broker, 5))
    assert run(load(broker))[0].quarantined == {INPUT.topic: {7}}


def test_a_note_changes_nothing_but_what_it_is_about() -> None:
    broker = log(9)
    checkpoint = Checkpoint(TOPIC, 0)
    checkpoint.identify({INPUT.topic: "first"})
    checkpoint.quarantined = {INPUT.topic: {7}}
    mark = applied(broker, 3)
    write(broker, checkpoint, {b"meta": b"x"}, mark)
    record = checkpoint.note(Failure(INPUT.topic, 5, 2))
    broker.append(record.topic, record.value, key=record.key)
    found, entries = run(load(broker))
    assert entries == {b"meta": b"x"}
    assert (found.inputs, found.logs, found.quarantined) == ({INPUT.topic: mark}, checkpoint.logs, {INPUT.topic: {7}})
    assert found.failure == Failure(INPUT.topic, 5, 2)


def test_a_note_of_a_task_that_never_committed_says_where_it_begins() -> None:
    broker = Broker()
    checkpoint = Checkpoint(TOPIC, 0)
    checkpoint.begin({INPUT: InputMark(4)})
    record = checkpoint.note(Failure(INPUT.topic, 5, 1))
    broker.append(record.topic, record.value, key=record.key)
    found, entries = run(load(broker))
    assert entries == {}
    assert found.inputs == {INPUT.topic: InputMark(4)}


def test_what_an_earlier_version_wrote_is_read() -> None:
    broker = Broker()
    old = {"format": 1, "inputs": {INPUT.topic: {"position": 4, "last": 3, "digest": 9}}}
    broker.append(TOPIC, msgspec.msgpack.encode(old), key=b"input")
    found, entries = run(load(broker))
    assert entries == {}
    assert found.inputs == {INPUT.topic: InputMark(4, 3, 9)}
    assert (found.logs, found.quarantined, found.failure) == ({}, {}, None)


def test_a_checkpoint_of_other_topics_is_refused() -> None:
    broker = log(3)
    checkpoint = Checkpoint(TOPIC, 0)
    for record in checkpoint.records({}, {TP("t.outcomes", 0): InputMark(0)}):
        broker.append(record.topic, record.value, key=record.key)
    with pytest.raises(CheckpointError, match=r"it has no position for t\.predictions"):
        run(verify(broker))


def test_the_digest_tells_key_value_and_time_apart() -> None:
    records = [
        Stored(0, 1000, b"k", b"v"),
        Stored(0, 1000, b"k", b"w"),
        Stored(0, 1000, b"l", b"v"),
        Stored(0, 1001, b"k", b"v"),
        Stored(0, 1000, None, None),
    ]
    assert len({digest(record) for record in records}) == len(records)


def test_a_mark_keeps_the_last_record_over_a_batch_without_records() -> None:
    broker = log(3)
    mark = applied(broker, 3)
    assert mark.moved(broker.batch(INPUT.topic, 3, 7)) == InputMark(7, mark.last, mark.digest)


def test_bytes_follow_what_is_replaced_and_removed() -> None:
    checkpoint = Checkpoint(TOPIC, 0)
    checkpoint.records({b"a": bytes(100), b"b": bytes(50)}, {INPUT: InputMark(0)})
    both = checkpoint.bytes
    checkpoint.records({b"a": bytes(10)}, {INPUT: InputMark(0)})
    assert checkpoint.bytes == both - 90
    checkpoint.records({b"a": None, b"never": None}, {INPUT: InputMark(0)})
    assert checkpoint.bytes == both - 100
