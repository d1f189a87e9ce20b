"""A publisher takes exactly what the joiner will accept."""

from decimal import Decimal
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamapp.core.events import Outcome, Prediction
from streamapp.errors import DecodeError
from streamapp.publishing.encoding import encode
from streamapp.stream.codec import decode_outcomes, decode_predictions

WORDS = st.sampled_from(["", "a", "fraud", "ключ", "x" * 300])
NUMBERS = st.sampled_from([0, 0.5, 1, 1.0, 1.5, -1.0, 3, 1e11, 1.7e9, 1_700_000_000_000])
ANYTHING = st.one_of(st.none(), st.booleans(), NUMBERS, WORDS, st.just([1]), st.just({"a": 0.5, "b": 0.5}))
TIMES = st.one_of(NUMBERS, st.sampled_from(["2026-01-01T00:00:00Z", "2026-01-01T00:00:00", "1960-01-01T00:00:00Z"]))
PREDICTIONS = st.fixed_dictionaries(
    {"model": WORDS},
    optional={
        "prediction_id": WORDS,
        "ts": TIMES,
        "prediction": ANYTHING,
        "scores": ANYTHING,
        "features": ANYTHING,
        "latency": ANYTHING,
        "tags": ANYTHING,
        "unknown": ANYTHING,
    },
)
OUTCOMES = st.fixed_dictionaries(
    {},
    optional={
        "prediction_id": WORDS,
        "ts": TIMES,
        "outcome": ANYTHING,
        "loss": ANYTHING,
        "status": st.sampled_from([None, "never", "ever"]),
        "source": st.sampled_from(["human", "ghost"]),
    },
)


@given(PREDICTIONS | OUTCOMES)
def test_a_mapping_is_taken_exactly_if_the_joiner_accepts_it_and_for_the_same_reason_if_not(
    event: dict[str, Any],
) -> None:
    value = msgspec.json.encode(event)
    expected: Prediction | Outcome | DecodeError = (
        decode_predictions([value])[0] if "model" in event else decode_outcomes([value])[0]
    )
    if isinstance(expected, DecodeError):
        with pytest.raises(DecodeError) as found:
            encode(event)
        assert (found.value.reason, str(found.value)) == (expected.reason, str(expected))
    else:
        assert encode(event) == (isinstance(expected, Prediction), expected.prediction_id.encode(), value)


@pytest.mark.parametrize("features", [b"[]", b"7", b'{"a": "\xff"}', b"nul"])
def test_features_that_are_no_object_are_refused_however_they_came_into_a_struct(features: bytes) -> None:
    with pytest.raises(DecodeError):
        encode(Prediction("a", "fraud", 1.0, scores=0.5, features=msgspec.Raw(features)))


def test_an_event_too_large_for_a_message_is_refused() -> None:
    with pytest.raises(DecodeError) as found:
        encode({"prediction_id": "a", "model": "m", "ts": 1.0, "scores": 0.5, "tags": {"big": "x" * 1_000_000}})
    assert found.value.reason == "too_large"


def test_a_decimal_is_a_number() -> None:
    _, _, value = encode({"prediction_id": "a", "ts": Decimal("1.5"), "outcome": Decimal("12.50")})
    assert decode_outcomes([value]) == [Outcome("a", 1.5, outcome=12.5)]
    _, _, value = encode(Prediction("a", "m", 1.0, prediction=Decimal("0.1"), latency=Decimal(3)))  # type: ignore[arg-type]
    assert decode_predictions([value]) == [Prediction("a", "m", 1.0, prediction=0.1, latency=3.0)]


@pytest.mark.parametrize("number", ["NaN", "sNaN", "Infinity", "-Infinity"])
@pytest.mark.parametrize("name", ["ts", "outcome", "loss"])
def test_a_decimal_that_is_not_finite_is_refused(name: str, number: str) -> None:
    with pytest.raises(DecodeError) as found:
        encode({"prediction_id": "a", "ts": 1.0, "outcome": 1.0, name: Decimal(number)})
    assert (found.value.reason, str(found.value)) == ("not_finite", f"expected a finite number - at `$.{name}`")


@pytest.mark.parametrize("given", [b"a", bytearray(b"a"), memoryview(b"a")])
def test_bytes_are_no_id(given: Any) -> None:
    for event in ({"prediction_id": given, "ts": 1.0, "outcome": True}, Outcome(given, 1.0, outcome=True)):
        with pytest.raises(DecodeError) as found:
            encode(event)
        assert str(found.value) == "expected `str`, got `bytes` - at `$.prediction_id`"
        assert found.value.reason == "wrong_type"
