"""The newest events of each model survive a restart, and never outgrow a checkpoint's value."""

from hypothesis import given
from hypothesis import strategies as st

from streamapp.core.events import Signal
from streamapp.stream.checkpoint import MAX_VALUE
from streamapp.stream.recent import KEPT, Recent


def signal(number: int, model: str = "m", filling: int = 0) -> Signal:
    return Signal(
        id=str(number),
        model=model,
        group="g",
        kind="drift",
        severity="warn",
        detector="adwin",
        at=0.0,
        emitted_at=0.0,
        value=None,
        reference=None,
        direction="up",
        evidence={"filling": "x" * filling},
    )


@given(st.lists(st.lists(st.sampled_from(["a", "b/c", "é"]), max_size=150), max_size=4))
def test_what_is_restored_is_the_newest_of_each_model_and_everything_else_is_left(steps: list[list[str]]) -> None:
    recent, entries = Recent("signals"), {b"other": b"x", b"recent/retrain/a": b"y"}
    expected: dict[str, list[str]] = {}
    for number, step in enumerate(steps):
        for place, model in enumerate(step):
            event = signal(1000 * number + place, model)
            recent.add(model, event)
            expected.setdefault(model, []).append(event.id)
        entries |= {key: value for key, value in recent.take().items() if value is not None}

    restored = Recent("signals")
    assert restored.restore(entries) == {b"other": b"x", b"recent/retrain/a": b"y"}
    for model, ids in expected.items():
        assert [event["id"] for event in restored.of(model)] == ids[-KEPT:]
    assert restored.take() == {}


def test_only_models_with_new_events_are_written() -> None:
    recent = Recent("signals")
    recent.add("a", signal(1, "a"))
    recent.add("b", signal(2, "b"))
    assert set(recent.take()) == {b"recent/signals/a", b"recent/signals/b"}
    recent.add("b", signal(3, "b"))
    assert set(recent.take()) == {b"recent/signals/b"}


def test_the_oldest_events_are_dropped_where_all_together_are_too_large_to_be_stored() -> None:
    recent = Recent("signals")
    for number in range(KEPT):
        recent.add("m", signal(number, filling=30_000))
    (value,) = recent.take().values()
    assert value is not None
    assert MAX_VALUE - 40_000 < len(value) <= MAX_VALUE
    assert [event["id"] for event in recent.of("m")] == [str(number) for number in range(KEPT)][-len(recent.of("m")) :]


def test_models_without_events_have_none() -> None:
    assert Recent("signals").of("m") == []
