"""No bytes stop the decoder, and it takes exactly what a slow reader of plain JSON takes."""

import json
import os
import random
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from streamapp.core.events import Outcome, Prediction
from streamapp.errors import DecodeError
from streamapp.stream.codec import MAX_BYTES, REASONS, decode_outcomes, decode_predictions
from tests.hostile import reference
from tests.hostile.generator import Generator, Sent

JOINERS_OWN = {"future", "before_prediction", "type_mismatch"}
"""What only the joiner can find."""
SECRET = "hunter2"
EXAMPLES = int(os.environ.get("STREAMAPP_TEST_EXAMPLES", "400"))
"""Of each property; more of them find rarer things."""
DECODERS = [(decode_predictions, reference.prediction), (decode_outcomes, reference.outcome)]
GOOD = {"prediction_id": "a", "model": "m", "ts": 1.7e9, "prediction": True}

# Events, and what looks like them

_LIKE_A_TIME = (
    r"[0-9]{4}-[01][0-9]-[0-3][0-9][Tt _][0-2][0-9]:[0-6][0-9]:[0-6][0-9]"
    r"(\.[0-9]{0,12})?([Zz]|[+-][0-2][0-9](:?[0-6][0-9])?)?"
)
TIMES = st.one_of(
    st.floats(-1e3, 2e11),
    st.integers(-1, 10**14),
    st.datetimes().map(lambda at: at.isoformat() + "Z"),
    st.from_regex(_LIKE_A_TIME, fullmatch=True),
)
TEXTS = st.text(max_size=6) | st.sampled_from(
    ["", "\x00", "a" * 256, "a" * 257, "\N{GRINNING FACE}" * 256, "never", "human"]
)
NUMBERS = st.floats(allow_nan=False) | st.integers() | st.sampled_from([0, 1, -0.0, 5e-324, 1e308, 0.1, 10**30])
ANY = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=6,
)
SHARES = st.dictionaries(TEXTS, st.floats(0, 1) | st.sampled_from([0.5, 1.0]), max_size=3)
FIELDS: dict[str, st.SearchStrategy[Any]] = {
    "prediction_id": TEXTS,
    "model": TEXTS,
    "group": TEXTS,
    "ts": TIMES,
    "prediction": st.booleans() | TEXTS | NUMBERS,
    "scores": st.floats(0, 1) | SHARES,
    "features": st.dictionaries(TEXTS, ANY, max_size=3),
    "version": TEXTS,
    "latency": NUMBERS,
    "unit": TEXTS,
    "propensity": st.floats(0, 1),
    "propensities": SHARES,
    "experiment": TEXTS,
    "series": TEXTS,
    "tags": st.dictionaries(TEXTS, TEXTS, max_size=3),
    "outcome": st.booleans() | TEXTS | NUMBERS,
    "loss": st.floats(0, 1),
    "source": st.sampled_from(["observed", "human", "assumed", "hearsay"]),
    "status": st.sampled_from(["never", "ever"]),
    "revision": st.integers() | NUMBERS,
    "unknown": ANY,
}
SNIPPETS = [
    *(b"NaN", b"Infinity", b"-", b"1e999", b"1e-999", b"-0", b"01", b"1.", b".5", b"0x1", b"null", b"true", b"tru"),
    *(b'"', b"{", b"}", b"[", b"]", b",", b":", b"\\", b"\\u", b"\\ud800", b"\\udc00", b"\\u0000", b"\\x", b" ", b"\n"),
    *(b"\x00", b"\x7f", b"\x80", b"\xff", b"\xc3\xa9", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xef\xbb\xbf"),
    *(b'"ts":1,', b'"ts":"x",', b'"scores":2,', b'"prediction_id":"",', b'"features":[],', b'"revision":1.0,'),
]


@st.composite
def messages(draw: st.DrawFn) -> bytes:
    """Events with some fields of any kind, written in some way, and then perhaps damaged."""
    some = draw(st.lists(st.sampled_from(list(FIELDS)), max_size=4))
    changed = [(name, draw(FIELDS[name] if draw(st.booleans()) else ANY)) for name in some]
    event: list[tuple[str, Any]] = [*GOOD.items(), ("outcome", True), *changed]
    ascii_only = draw(st.booleans())
    comma, colon = draw(st.sampled_from([(",", ":"), (", ", ": "), (" ,\r\n", "\t: ")]))
    members = [
        json.dumps(name, ensure_ascii=ascii_only) + colon + json.dumps(value, ensure_ascii=ascii_only)
        for name, value in draw(st.permutations(event))
    ]
    value = bytearray(("{" + comma.join(members) + "}").encode("utf-8", "surrogatepass"))
    for _ in range(draw(st.sampled_from([0, 0, 1, 1, 2, 4]))):
        place = draw(st.integers(0, len(value)))
        length = draw(st.sampled_from([0, 0, 1, 3, 10]))
        value[place : place + length] = draw(st.sampled_from(SNIPPETS) | st.binary(max_size=3))
    return bytes(value)


def agree(found: Any, wanted: dict[str, Any] | None) -> bool:
    if wanted is None:
        return isinstance(found, DecodeError)
    if isinstance(found, DecodeError):
        return False
    return all(same(getattr(found, name), value) for name, value in wanted.items() if name != "features")


def same(found: Any, wanted: Any) -> bool:
    if isinstance(wanted, float):
        # Digits of a second beyond the sixth are rounded by both, but not alike.
        return type(found) is float and abs(found - wanted) <= 2e-6 * max(1.0, abs(wanted) * 1e-10)
    return type(found) is type(wanted) and found == wanted


@settings(max_examples=EXAMPLES, suppress_health_check=[HealthCheck.too_slow])
@given(messages())
def test_what_is_taken_is_what_a_reader_of_plain_json_takes(value: bytes) -> None:
    for decode, wanted in DECODERS:
        [found] = decode([value])
        assert agree(found, wanted(value)), (found, wanted(value))


@settings(max_examples=EXAMPLES)
@given(st.binary(max_size=200) | messages() | st.sampled_from(SNIPPETS).map(lambda part: part * 300))
def test_whatever_comes_is_an_event_or_has_a_reason(value: bytes) -> None:
    for decode, _ in DECODERS:
        [found] = decode([value])
        if isinstance(found, DecodeError):
            assert found.reason in set(REASONS) - JOINERS_OWN
            assert 0 < len(str(found)) < 300


@settings(max_examples=EXAMPLES // 4)
@given(st.lists(messages() | st.binary(max_size=5) | st.none(), max_size=30))
def test_a_message_is_read_alike_alone_and_between_others(values: list[bytes | None]) -> None:
    for decode, _ in DECODERS:
        assert list(map(shown, decode(values))) == [shown(decode([value])[0]) for value in values]


def shown(event: Prediction | Outcome | DecodeError) -> object:
    if isinstance(event, DecodeError):
        return event.reason, str(event)
    return repr(event).replace(repr(getattr(event, "features", None)), ""), bytes(getattr(event, "features", b""))


@settings(max_examples=EXAMPLES)
@given(messages(), st.data())
def test_an_error_shows_no_text_of_the_message(value: bytes, data: st.DataObject) -> None:
    marked = bytearray(value)
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, len(marked)))
        marked[place:place] = data.draw(st.sampled_from([b"%s", b'"%s"', b'"%s":'])) % SECRET.encode()
    for decode, _ in DECODERS:
        [found] = decode([bytes(marked)])
        assert not isinstance(found, DecodeError) or SECRET not in str(found)


@pytest.mark.parametrize("seed", range(3))
def test_every_kind_of_bad_message_gets_its_reason_and_every_good_one_is_taken(seed: int) -> None:
    sent = list(Generator(400, seed, bad=2.0, odd=0.5, huge=0.02, now=1.7e9))
    for topic, decode in (("predictions", decode_predictions), ("outcomes", decode_outcomes)):
        some = [message for message in sent if message.topic == topic]
        for message, found in zip(some, decode([message.value for message in some]), strict=True):
            assert reason(found) == expected(message), (message.kind, found)
            read = (reference.prediction if topic == "predictions" else reference.outcome)(message.value)
            assert (read is None) == isinstance(found, DecodeError), message.kind


def reason(found: object) -> str | None:
    return found.reason if isinstance(found, DecodeError) else None


def expected(message: Sent) -> str | None:
    return message.fate if message.rejected and message.fate not in JOINERS_OWN else None


def test_what_is_longer_than_allowed_is_not_even_read() -> None:
    good = json.dumps(GOOD).encode()
    exactly = good + b" " * (MAX_BYTES - len(good))
    found = decode_predictions([good, exactly, exactly + b" ", b"\xff" * (MAX_BYTES + 1), good, None])
    assert [reason(event) for event in found] == [None, None, "too_large", "too_large", None, "empty"]


def test_bad_ones_anywhere_leave_the_others_of_a_batch_in_their_places() -> None:
    draw = random.Random(1)
    good = [json.dumps({**GOOD, "prediction_id": str(n)}).encode() for n in range(2000)]
    bad: list[bytes | None] = [None, b"", b"{", b"\xff", b"[1]", json.dumps({**GOOD, "ts": "x"}).encode(), b" " * 1001]
    values: list[bytes | None] = list(good)
    places = set(draw.sample(range(2000), 500)) | {0, 1, 1999}
    for place in places:
        values[place] = draw.choice(bad)
    for place, event in enumerate(decode_predictions(values)):
        if place in places:
            assert isinstance(event, DecodeError)
        else:
            assert isinstance(event, Prediction)
            assert event.prediction_id == str(place)
    assert decode_predictions([]) == decode_outcomes([]) == []
