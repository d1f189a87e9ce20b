import json
import struct
from dataclasses import fields

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamapp.core.events import (
    Arrivals,
    Artifact,
    BeforeAfter,
    GroupArrivals,
    ModelUpdate,
    Names,
    Outcome,
    Prediction,
    RetrainRequest,
    ScoredBatch,
    ScoredRange,
    Signal,
    Tick,
    UpdateMetrics,
    Values,
    Verdict,
    Window,
)
from streamapp.errors import DecodeError
from streamapp.stream import codec
from streamapp.stream.codec import (
    decode_outcomes,
    decode_predictions,
    decode_retrain,
    decode_scored,
    decode_update,
    encode_event,
    encode_scored,
    split,
)
from tests.core.ends import NO_OUTCOME, scored

GOOD = {"prediction_id": "a", "model": "fraud", "ts": 1700000000, "prediction": True}
TRUTH = {"prediction_id": "a", "ts": 1700000000, "outcome": True}


def prediction(**changes):
    return json.dumps({**GOOD, **changes}).encode()


def outcome(**changes):
    return json.dumps({**TRUTH, **changes}).encode()


def without(message, name):
    return json.dumps({key: value for key, value in message.items() if key != name}).encode()


# Messages in


def test_every_field_of_a_prediction_is_read():
    [event] = decode_predictions(
        [
            b'{"prediction_id":"a","model":"m","ts":1.5,"group":"b","prediction":"x","scores":{"x":0.75,"y":0.25},'
            b'"features": {"f":1},"version":"v1","latency":0.5,"unit":"u","propensity":0.5,"propensities":{"b":1},'
            b'"experiment":"e","series":"s","tags":{"t":"1"},"unknown":[1,2]}'
        ]
    )
    assert isinstance(event, Prediction)
    assert bytes(event.features) == b'{"f":1}'
    assert (event.ts, event.prediction, event.scores) == (1.5, "x", {"x": 0.75, "y": 0.25})
    assert (event.group, event.version, event.latency, event.unit, event.series) == ("b", "v1", 0.5, "u", "s")
    assert (event.propensity, event.propensities, event.experiment, event.tags) == (0.5, {"b": 1.0}, "e", {"t": "1"})


@pytest.mark.parametrize(
    ("ts", "seconds"),
    [
        (1700000000, 1700000000.0),
        (1700000000.25, 1700000000.25),
        ("2023-11-14T22:13:20Z", 1700000000.0),
        ("2023-11-15T00:13:20.250+02:00", 1700000000.25),
        (0, 0.0),
    ],
)
def test_times_are_seconds_whatever_they_were(ts, seconds):
    for [event] in (decode_predictions([prediction(ts=ts)]), decode_outcomes([outcome(ts=ts)])):
        assert event.ts == seconds
        assert type(event.ts) is float


def test_numbers_come_as_floats_and_bools_as_bools():
    events = decode_predictions([prediction(prediction=1), prediction(prediction=True), prediction(prediction="1")])
    assert [type(event.prediction) for event in events] == [float, bool, str]


def test_null_is_the_same_as_leaving_a_field_out():
    [event] = decode_predictions([prediction(features=None, scores=None, version=None)])
    assert event == decode_predictions([prediction()])[0]


BAD_PREDICTIONS = [
    (None, "empty", "no bytes"),
    (b"", "empty", "no bytes"),
    (b"  ", "empty", "white space"),
    (b"{", "malformed", "truncated"),
    (b"\xef\xbb\xbf" + prediction(), "malformed", "byte 0"),
    (prediction() + b"x", "malformed", "trailing"),
    (b"[]", "wrong_type", "expected `object`, got `array`"),
    (b'"secret"', "wrong_type", "expected `object`, got `str`"),
    (prediction(prediction_id=7), "wrong_type", "expected `str`, got `int` - at `$.prediction_id`"),
    (prediction(prediction=[1]), "wrong_type", "got `array` - at `$.prediction`"),
    (prediction(features=[1]), "wrong_type", "expected `object`, got `array` - at `$.features`"),
    (prediction(features=3), "wrong_type", "expected `object`, got `number` - at `$.features`"),
    (prediction(tags={"a": 1}), "wrong_type", "expected `str`, got `int` - at `$.tags[...]`"),
    (without(GOOD, "model"), "missing_field", "`model`"),
    (without(GOOD, "prediction"), "missing_field", "`prediction` or `scores`"),
    (prediction(prediction_id=""), "empty_id", "$.prediction_id"),
    (prediction(model=""), "out_of_range", "length >= 1 - at `$.model`"),
    (prediction(prediction_id="x" * 1025), "out_of_range", "length <= 1024 - at `$.prediction_id`"),
    (prediction(scores=1.5), "out_of_range", "expected `float` <= 1.0, got 1.5 - at `$.scores`"),
    (prediction(latency=-1), "out_of_range", "expected `float` >= 0.0, got -1 - at `$.latency`"),
    (prediction(propensity=0), "out_of_range", "expected `float` > 0.0, got 0 - at `$.propensity`"),
    (prediction(scores={"a": 1.5}), "out_of_range", "expected `float` <= 1.0 - at `$.scores[...]`"),
    (prediction(ts=-1), "out_of_range", "expected `float` >= 0.0, got -1 - at `$.ts`"),
    (prediction(ts="1969-12-31T23:59:59Z"), "out_of_range", "from 1970 to 5138"),
    (prediction(ts="9999-12-31T23:59:59Z"), "out_of_range", "from 1970 to 5138"),
    (
        prediction(ts=1700000000123),
        "milliseconds",
        "expected seconds, not what looks like milliseconds, got 1700000000123 - at `$.ts`",
    ),
    (prediction(ts=1700000000123456), "milliseconds", "got 1700000000123456 - at `$.ts`"),
    (prediction(ts="2023-11-14T22:13:20"), "no_time_zone", "add Z - at `$.ts`"),
    (prediction(ts="yesterday"), "bad_time", "RFC 3339"),
    (prediction(ts=True), "wrong_type", "got `bool` - at `$.ts`"),
    (prediction(ts=float("nan")), "not_finite", "finite"),
    (prediction(latency=float("-inf")), "not_finite", "finite"),
    (prediction(latency="X").replace(b'"X"', b"1e999"), "not_finite", "expected a finite `float`, got 1e999"),
    (prediction(model="X").replace(b"X", b"\xff"), "bad_encoding", "UTF-8"),
    (prediction(features={"a": "X"}).replace(b"X", b"\xff"), "bad_encoding", "UTF-8"),
    (prediction(features={"a": 1}).replace(b"1}", b"\xff}"), "bad_encoding", "UTF-8"),
    (prediction(x="X").replace(b'"X"', b"[" * 5000 + b"]" * 5000), "too_deep", "nested"),
    (prediction(x="X" * 1_000_000), "too_large", "at most 1000000 bytes"),
    (prediction(scores={"a": 0.5, "b": 0.4}), "bad_sum", "got 0.9 - at `$.scores`"),
    (prediction(scores={}), "bad_sum", "got 0 - at `$.scores`"),
    (prediction(scores={str(i): 1 / 1001 for i in range(1001)}), "too_many_classes", "1001"),
]
BAD_OUTCOMES = [
    (without(TRUTH, "outcome"), "missing_field", "`outcome`, `loss` or `status`"),
    (outcome(outcome={}), "wrong_type", "got `object` - at `$.outcome`"),
    (outcome(loss=2), "out_of_range", "expected `float` <= 1.0, got 2 - at `$.loss`"),
    (outcome(source="guess"), "unknown_value", "$.source"),
    (outcome(status="later"), "unknown_value", "$.status"),
    (outcome(revision=1.5), "wrong_type", "$.revision"),
    (outcome(ts=1700000000123), "milliseconds", "looks like milliseconds"),
    (None, "empty", "no bytes"),
]


@pytest.mark.parametrize(
    ("decode", "value", "reason", "text"),
    [(decode_predictions, *case) for case in BAD_PREDICTIONS] + [(decode_outcomes, *case) for case in BAD_OUTCOMES],
)
def test_a_bad_message_says_where_what_was_found_and_what_was_expected(decode, value, reason, text):
    [error] = decode([value])
    assert isinstance(error, DecodeError)
    assert error.reason == reason
    assert text in str(error)
    assert reason in codec.REASONS


@pytest.mark.parametrize("case", BAD_PREDICTIONS[5:])
def test_an_error_never_shows_text_of_the_message(case):
    secret = case[0].replace(b'"fraud"', b'"hunter2"') if case[0] else b""
    assert "hunter2" not in str(decode_predictions([secret])[0])


def test_what_says_that_no_outcome_will_come_needs_no_outcome():
    for value in (outcome(outcome=None, status="never"), outcome(outcome=None, loss=0.5)):
        assert isinstance(decode_outcomes([value])[0], Outcome)


@given(
    st.lists(
        st.sampled_from(
            [prediction(), None, b"", b"{", b"[]", prediction(ts="x"), prediction(ts="2020-01-01T00:00:00Z")]
        )
    )
)
def test_errors_stand_where_their_messages_stood(values):
    assert list(map(repr, decode_predictions(values))) == [repr(decode_predictions([value])[0]) for value in values]


@settings(max_examples=300)
@given(st.binary(max_size=60) | st.text(max_size=60).map(str.encode))
def test_no_bytes_whatever_make_decoding_fail(value):
    for decode in (decode_predictions, decode_outcomes):
        [error] = decode([value])
        assert isinstance(error, DecodeError)
        assert error.reason in codec.REASONS


# The topic ``scored``

LABELS = st.none() | st.booleans() | st.floats(-1e9, 1e9) | st.sampled_from(["a", "b", "ü"])
WORDS = st.none() | st.sampled_from(["x", "y", ""])
SCORES = st.none() | st.floats(0, 1) | st.sampled_from([{"a": 1.0}, {"a": 0.25, "b": 0.75}, {"c": 1.0}])
FEATURES = st.sampled_from([b"", b"{}", b'{"a":1}', b'{"a":"' + b"x" * 300 + b'"}'])


@st.composite
def rows(draw):
    answer = Prediction(
        prediction_id=draw(st.text(min_size=1, max_size=5)),
        model="m",
        ts=draw(st.floats(0, 1e10)),
        group=draw(st.sampled_from(["g", "h"])),
        prediction=draw(LABELS),
        scores=draw(SCORES),
        features=msgspec.Raw(draw(FEATURES)),
        version=draw(WORDS),
        series=draw(WORDS),
        unit=draw(WORDS),
        latency=draw(st.none() | st.floats(0, 10)),
    )
    log_time, offset = draw(st.floats(0, 1e10)), draw(st.integers(0, 2**40))
    verdict = draw(st.sampled_from(list(Verdict)))
    if verdict in (Verdict.EXPIRED, Verdict.LOST):
        return (answer, offset, log_time, verdict, NO_OUTCOME, -1, float("nan"))
    truth = Outcome(
        prediction_id="i",
        ts=draw(st.floats(0, 1e10)),
        outcome=draw(LABELS),
        loss=draw(st.none() | st.floats(0, 1)),
        source=draw(st.sampled_from(["observed", "human", "assumed"])),
    )
    return (answer, offset, log_time, verdict, truth, draw(st.integers(-1, 2**40)), draw(st.floats(0, 1e10)))


BATCHES = st.lists(rows(), min_size=1, max_size=12).map(lambda rows: scored(3, rows)[0])


def assert_same(left, right):
    assert type(left) is type(right)
    if isinstance(left, ScoredBatch):
        for field in fields(left):
            a, b = getattr(left, field.name), getattr(right, field.name)
            if isinstance(a, np.ndarray):
                assert (a.dtype, a.shape) == (b.dtype, b.shape), field.name
                np.testing.assert_array_equal(a, b, err_msg=field.name)
            elif isinstance(a, Names | Values):
                assert [a[i] for i in range(len(left))] == [b[i] for i in range(len(right))], field.name
            else:
                assert a == b, field.name
    else:
        assert left == right


@given(BATCHES)
def test_scored_rows_come_back_as_they_went(batch):
    assert_same(decode_scored(encode_scored(batch)), batch)


@given(st.lists(rows(), min_size=1, max_size=8))
def test_columns_hold_what_the_rows_said(table):
    [batch] = scored(3, table)
    for i, (answer, offset, log_time, verdict, truth, outcome_offset, outcome_log_time) in enumerate(table):
        assert batch.group[i] == answer.group
        assert (batch.version[i], batch.series[i], batch.unit[i]) == (answer.version, answer.series, answer.unit)
        assert batch.prediction[i] == answer.prediction
        assert type(batch.prediction[i]) is type(answer.prediction)
        assert batch.outcome[i] == truth.outcome
        assert (batch.offset[i], batch.outcome_offset[i], batch.verdict[i]) == (offset, outcome_offset, verdict)
        np.testing.assert_equal(
            [batch.ts[i], batch.log_time[i], batch.outcome_ts[i], batch.outcome_log_time[i]],
            [answer.ts, log_time, truth.ts, outcome_log_time],
        )
        assert batch.feature_bytes(i) == bytes(answer.features)
        shares = dict(zip(batch.classes, batch.probabilities[i].tolist(), strict=True))
        if isinstance(answer.scores, dict):
            assert {name: share for name, share in shares.items() if share} == answer.scores
            assert np.isnan(batch.score[i])
        else:
            assert np.isnan(list(shares.values())).all()
            np.testing.assert_equal(batch.score[i], np.nan if answer.scores is None else answer.scores)


def test_rows_that_name_very_many_classes_are_cut_into_batches():
    table = [
        (
            Prediction(prediction_id="i", model="m", ts=1.0, scores={f"{i}-{j}": 1 / 600 for j in range(600)}),
            *(i, 1.0, Verdict.JOINED, Outcome(prediction_id="i", ts=1.0, outcome=f"{i}-0"), i, 1.0),
        )
        for i in range(4)
    ]
    batches = scored(0, table)
    assert [batch.offset.tolist() for batch in batches] == [[0], [1], [2], [3]]
    assert len(scored(0, table[:1] * 4)) == 1


ARRIVALS = Arrivals(
    model="m",
    partition=1,
    log_time=5.0,
    groups=(GroupArrivals(group="g", predictions=2, latency={-32768: 1, 7: 1}, latency_sum=0.5, scores={63: 2}),),
)


@pytest.mark.parametrize("message", [ARRIVALS, Tick(partition=2, log_time=1.5)])
def test_arrivals_and_ticks_come_back_as_they_went(message):
    assert decode_scored(encode_scored(message)) == message


@pytest.mark.parametrize("data", [b"", b"\x01", b"\x02R", b"\x01X", b"\x01R", b"\x01T\x80", b"\x00A"])
def test_a_scored_message_of_another_version_or_kind_is_refused(data):
    with pytest.raises(DecodeError):
        decode_scored(data)


@settings(max_examples=200)
@given(BATCHES, st.data())
def test_a_damaged_scored_message_is_refused_or_has_sound_columns(batch, data):
    encoded = bytearray(encode_scored(batch))
    for _ in range(data.draw(st.integers(1, 3))):
        encoded[data.draw(st.integers(2, len(encoded) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(encoded)))
    for message in (bytes(encoded), bytes(encoded[:cut])):
        try:
            found = decode_scored(message)
        except DecodeError:
            continue
        assert isinstance(found, ScoredBatch)
        for i in range(len(found)):
            _ = found.group[i], found.version[i], found.prediction[i], found.outcome[i], found.feature_bytes(i)
            _ = Verdict(int(found.verdict[i]))


def test_a_message_cannot_claim_more_rows_than_there_may_be():
    encoded = encode_scored(scored(0, [ROW])[0])
    hostile = encoded[:2] + encoded[2:].replace(b"\x01\xa1m", b"\xce" + struct.pack(">I", 10**9) + b"\xa1m", 1)
    with pytest.raises(DecodeError, match="expected 0 to 1000000 rows"):
        decode_scored(hostile)


ROW = (
    Prediction(prediction_id="i", model="m", ts=1.0, prediction=True),
    *(0, 1.0, Verdict.JOINED, Outcome(prediction_id="i", ts=1.0, outcome=True), 0, 1.0),
)


@given(BATCHES, st.integers(300, 3000))
def test_parts_of_a_batch_stay_below_the_limit_and_lose_nothing(batch, limit):
    parts = split(batch, limit)
    assert sum(map(len, parts)) == len(batch)
    for part in parts:
        assert len(part) == 1 or len(encode_scored(part)) < limit
        assert_same(decode_scored(encode_scored(part)), part)
    row = 0
    for part in parts:
        for i in range(len(part)):
            assert part.offset[i] == batch.offset[row]
            assert part.feature_bytes(i) == batch.feature_bytes(row)
            assert (part.group[i], part.version[i], part.unit[i]) == (
                batch.group[row],
                batch.version[row],
                batch.unit[row],
            )
            assert (part.prediction[i], part.outcome[i]) == (batch.prediction[row], batch.outcome[row])
            row += 1


# Events out

REQUEST = RetrainRequest(
    id="r",
    model="m",
    group="g",
    reason="drift",
    signals=("s",),
    at=1.0,
    window=Window(from_=0.0, to=1.0, rows=5),
    scored=ScoredRange(partition=0, from_=3, cause=9),
    metrics=BeforeAfter(before=None, after=0.5),
    deadline=2.0,
)
UPDATE = ModelUpdate(
    id="u",
    model="m",
    group="g",
    version="v2",
    parent=None,
    request="r",
    status="accepted",
    at=1.0,
    rows_learned=5,
    metrics=UpdateMetrics(incumbent=0.5, candidate=0.25),
    artifact=Artifact(uri="file:///a", sha256="00", format="pickle"),
)


def test_requests_and_updates_come_back_as_they_went():
    assert decode_retrain(encode_event(REQUEST)) == REQUEST
    assert decode_update(encode_event(UPDATE)) == UPDATE
    assert json.loads(encode_event(REQUEST))["window"] == {"from": 0.0, "to": 1.0, "rows": 5}


def test_a_number_that_is_not_finite_is_null_in_json():
    signal = Signal(
        id="s",
        model="m",
        group="g",
        kind="drift",
        severity="warn",
        detector="adwin",
        at=1.0,
        emitted_at=1.0,
        value=float("nan"),
        reference=None,
        direction="up",
        evidence={},
    )
    assert json.loads(encode_event(signal))["value"] is None


@pytest.mark.parametrize("data", [b"", b"{", b"{}", b"[]", b"\xff"])
def test_a_bad_request_or_update_is_refused(data):
    for decode in (decode_retrain, decode_update):
        with pytest.raises(DecodeError):
            decode(data)
