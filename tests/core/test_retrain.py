"""The retrain policy as scripts: rows and signals in, requests out."""

from typing import Any, Literal

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from msgspec.structs import replace

from streamapp.core.events import Position, RetrainRequest, Signal, SignalKind
from streamapp.core.retrain import SHARE, STRETCHES, RetrainPolicy
from streamapp.core.settings import RetrainSettings, Seconds
from streamapp.errors import CheckpointError

SETTINGS = RetrainSettings(cooldown=Seconds(100), minimum_rows=50, deadline=Seconds(1000))


def signal(
    name: str = "s1",
    kind: SignalKind = "drift",
    severity: Literal["warn", "act"] = "act",
    detector: str = "policy",
) -> Signal:
    return Signal(
        id=name,
        model="m",
        group="g",
        kind=kind,
        severity=severity,
        detector=detector,
        at=0.0,
        emitted_at=0.0,
        value=None,
        reference=None,
        direction="up",
        evidence={},
    )


class Script:
    """A policy, one scored message after the other, ten rows each."""

    def __init__(self, settings: RetrainSettings = SETTINGS) -> None:
        self.policy = RetrainPolicy("m", "g", settings)
        self.offset = 0
        self.made = 0

    def message(
        self, *, asks: dict[str, Any] | None = None, clock: float = 0.0, version: str = "v1", loss: float = 1.0
    ) -> RetrainRequest | None:
        self.offset += 2  # another model's messages lie between
        ts = float(self.offset)
        self.policy.rows(self.offset, 10, ts, ts + 1.0, 10 * loss, version)
        if asks is not None:
            self.policy.ask(asks.pop("signal", signal()), **{"before": 0.1, "after": 0.2} | asks)
        return self.advance(clock)

    def advance(self, clock: float) -> RetrainRequest | None:
        return self.policy.advance(clock, Position(3, self.offset), self.name)

    def name(self) -> str:
        self.made += 1
        return f"r{self.made}"

    def many(self, count: int, **kwargs: Any) -> list[RetrainRequest]:
        return [request for request in (self.message(**kwargs) for _ in range(count)) if request]


def test_request_waits_for_enough_rows_since_the_change_and_names_them() -> None:
    script = Script()
    assert script.many(10, loss=0.25) == []
    assert script.message(asks={"rows_since_change": 25}, loss=0.5) is None  # the change lies in message 9, at 18
    assert script.message(loss=0.5) is None
    assert script.message(loss=0.5, clock=5.0) is None
    request = script.message(loss=0.5, clock=6.0)
    assert request is not None
    assert (request.id, request.model, request.group, request.reason) == ("r1", "m", "g", "drift")
    assert request.signals == ("s1",)
    assert (request.scored.partition, request.scored.from_, request.scored.cause) == (3, 18, 28)
    assert (request.window.from_, request.window.to, request.window.rows) == (18.0, 29.0, 60)
    assert request.at == 29.0
    assert request.metrics.before == 0.25
    assert request.metrics.after == pytest.approx((2 * 0.25 + 4 * 0.5) / 6)
    assert request.deadline == 1006.0
    assert script.policy.deadline == 1006.0


def test_losses_that_are_unknown_leave_the_detectors_own_means() -> None:
    script = Script()
    script.many(10, loss=float("nan"))
    request = script.message(asks={"rows_since_change": 60})
    assert request is not None
    assert (request.metrics.before, request.metrics.after) == (0.1, 0.2)


def test_one_request_is_open_at_a_time_and_the_next_waits_for_the_cooldown() -> None:
    script = Script()
    script.many(10)
    assert script.message(asks={"rows_since_change": 60}, clock=0.0) is not None
    assert script.message(asks={"signal": signal("s2"), "rows_since_change": 60}, clock=10.0) is None
    assert script.advance(999.9) is None
    assert script.policy.deadline == 1000.0
    assert script.advance(1000.0) is None
    assert script.policy.deadline is None
    assert script.advance(1099.9) is None
    request = script.advance(1100.0)
    assert request is not None
    assert request.signals == ("s2",)
    assert script.advance(9999.0) is None


def test_new_version_ends_the_request_and_starts_the_cooldown() -> None:
    script = Script()
    script.many(10)
    assert script.message(asks={"rows_since_change": 60}, clock=0.0) is not None
    assert script.message(clock=50.0, version="v2") is None
    assert script.policy.deadline is None
    assert script.many(10, clock=60.0, version="v2") == []
    assert script.message(clock=70.0, version="v2", asks={"rows_since_change": 60}) is None
    assert script.advance(149.9) is None
    request = script.advance(150.0)
    assert request is not None
    assert request.scored.from_ >= 24  # never rows of v1


def test_late_row_of_an_old_version_ends_nothing() -> None:
    script = Script()
    script.message()
    script.many(9, version="v2")
    assert script.message(asks={"rows_since_change": 60}, version="v2") is not None
    assert script.message(version="v1") is None
    assert script.policy.deadline is not None


def test_new_version_takes_back_what_was_asked() -> None:
    script = Script()
    script.many(3)
    script.message(asks={"rows_since_change": 10})
    assert script.many(20, version="v2") == []


def test_recovery_takes_back_what_the_same_detector_asked() -> None:
    for recovered, requests in (("e-sr", 0), ("adwin", 1)):
        script = Script()
        script.many(3)
        script.message(asks={"signal": replace(signal(), evidence={"detector": "e-sr"}), "rows_since_change": 10})
        script.message(asks={"signal": signal("s2", "recovery", "warn", recovered), "rows_since_change": 5})
        assert len(script.many(20)) == requests


@pytest.mark.parametrize("other", [signal(severity="warn"), signal(kind="degradation"), signal(kind="below_baseline")])
def test_only_configured_act_signals_ask(other: Signal) -> None:
    script = Script()
    script.many(10)
    assert script.message(asks={"signal": other, "rows_since_change": 60}) is None


def test_newest_signal_says_where_the_change_lies() -> None:
    script = Script()
    script.many(10)
    script.message(asks={"rows_since_change": 40})
    script.message(asks={"signal": signal("s2"), "rows_since_change": 10})
    [request] = script.many(4)
    assert request.signals == ("s1", "s2")
    assert request.scored.from_ == 24


def test_change_before_all_that_is_remembered_asks_for_all_of_it() -> None:
    script = Script()
    script.many(5)
    request = script.message(asks={"rows_since_change": 10_000})
    assert request is not None
    assert (request.scored.from_, request.window.rows) == (2, 60)


def test_nothing_happens_before_log_time_is_known() -> None:
    script = Script()
    script.many(10)
    assert script.message(asks={"rows_since_change": 60}, clock=float("-inf")) is None
    assert script.advance(1.0) is not None


@given(st.integers(1, 5000), st.integers(50, 60_000))
@example(2939, 11_531)
@example(30_000, 250_000)
def test_memory_is_bounded_and_a_request_never_leaves_out_a_row_since_the_change(messages: int, since: int) -> None:
    script = Script()
    script.many(messages + 5)
    request = script.message(asks={"rows_since_change": since})
    assert request is not None
    assert len(script.policy._state.stretches) <= STRETCHES
    asked = min(since, 10 * (messages + 6))
    assert request.window.rows >= asked
    assert request.window.rows <= (1 + SHARE) * asked + 10
    assert request.scored.from_ <= script.offset - 2 * ((asked - 1) // 10)


@given(st.lists(st.sampled_from(["rows", "ask", "new", "time"]), max_size=60), st.integers(0, 60))
def test_resuming_from_a_snapshot_changes_nothing(steps: list[str], cut: int) -> None:
    settings = RetrainSettings(cooldown=Seconds(5), minimum_rows=30, deadline=Seconds(10))
    straight, resumed = Script(settings), Script(settings)
    for script in (straight, resumed):
        version = 0
        results = []
        for index, step in enumerate(steps):
            version += step == "new"
            asks = {"signal": signal(f"s{index}"), "rows_since_change": 7 * index} if step == "ask" else None
            if script is resumed and index == cut:
                script.policy = RetrainPolicy.restore("m", "g", settings, script.policy.snapshot())
            if step == "time":
                results.append(script.advance(index + 4.0))
            else:
                results.append(script.message(asks=asks, clock=float(index), version=f"v{version}"))
        if script is straight:
            expected = results
    assert results == expected
    assert resumed.policy.snapshot() == straight.policy.snapshot()


def test_damaged_state_is_refused_by_name() -> None:
    with pytest.raises(CheckpointError, match="m/g"):
        RetrainPolicy.restore("m", "g", SETTINGS, b"\x01")
