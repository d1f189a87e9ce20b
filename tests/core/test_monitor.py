from dataclasses import replace
from itertools import combinations_with_replacement, cycle, islice

import msgspec
import numpy as np
import pandas as pd
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from streamapp.core import quantiles
from streamapp.core.events import Arrivals, GroupArrivals, Position, RetrainRequest, Signal, Tick, Verdict
from streamapp.core.losses import LARGEST
from streamapp.core.monitor import Monitor
from streamapp.core.monitoring import known, model, series
from streamapp.core.monitoring.books import Books
from streamapp.core.monitoring.clock import Clock
from streamapp.core.monitoring.findings import look_closely
from streamapp.core.monitoring.model import ModelMonitor
from streamapp.core.settings import ModelSettings, RetrainSettings, Settings
from streamapp.errors import CheckpointError
from tests.core.rows import Row, batch, part

QUICK = ModelSettings(
    reference_rows=64,
    cycle=None,
    budget=2000,
    window_rows=50,
    detectors=({"name": "adwin", "clock": 4, "grace_period": 5}, "e-sr"),
    retrain=RetrainSettings(minimum_rows=20, cooldown=10.0),
)


NERVOUS = msgspec.structs.replace(
    QUICK, budget=20, retrain=RetrainSettings(minimum_rows=1, cooldown=5.0, deadline=50.0)
)


class Log:
    """A partition of ``scored``: applies messages, and remembers them and the checkpoint."""

    def __init__(self, settings: ModelSettings = QUICK) -> None:
        self.settings = Settings(defaults=settings)
        self.monitor = Monitor(3, self.settings)
        self.messages = []
        self.outputs = []
        self.stored = {}

    def apply(self, message, timestamp: float | None = None):
        self.hold(message, timestamp)
        return self.release()

    def hold(self, message, timestamp: float | None = None) -> None:
        position = Position(3, 2 * len(self.messages), float(len(self.messages)) if timestamp is None else timestamp)
        self.messages.append((message, position))
        self.monitor.hold(message, position)

    def release(self):
        found = self.monitor.release()
        self.outputs += found
        return found

    def commit(self, budget: int = 1 << 20):
        entries = self.monitor.take(budget)
        for key, data in entries.items():
            if data is None:
                self.stored.pop(key, None)
            else:
                assert len(data) < 512_000
                self.stored[key] = data
        return entries

    def restart(self) -> list:
        """Restore, and apply again what the checkpoint does not have; return what followed from that."""
        self.monitor = Monitor.restore(3, self.settings, self.stored)
        again = []
        for message, position in self.messages:
            if position.offset >= self.monitor.applied:
                again += self.monitor.apply(message, position)
        return again

    def begins_with_something_new(self) -> bool:
        """Tell whether what a restore reads again begins with a message that some model lacks, if there is any."""
        monitor = Monitor.restore(3, self.settings, self.stored)
        mine = [message for message, position in self.messages if position.offset == monitor.applied]
        return bool(mine) or monitor.applied == monitor._meta.applied

    def group(self, name: str = "default", model: str = "fraud") -> dict:
        return self.monitor.summary()[model]["groups"][name]


def arrivals(counts: dict[str, int], latencies: list[float] = [], log_time: float = 0.0, model="fraud") -> Arrivals:  # noqa: B006
    return Arrivals(
        model=model,
        partition=0,
        log_time=log_time,
        groups=tuple(
            GroupArrivals(
                group=group,
                predictions=count,
                latency=quantiles.count(np.array(latencies)),
                latency_sum=sum(latencies),
                scores={},
            )
            for group, count in counts.items()
        ),
    )


def errors(pattern: list[bool], start: int = 0, **fields) -> list[Row]:
    """Return rows whose answer is wrong where the pattern says so."""
    return [
        Row(prediction=True, outcome=not wrong, ts=float(start + i), id_hash=start + i + 1, **fields)
        for i, wrong in enumerate(pattern)
    ]


def noisy(rate: float, n: int, seed: int = 0) -> list[bool]:
    return (np.random.default_rng(seed).random(n) < rate).tolist()


def plain(outputs) -> list:
    """Return outputs without what depends on how rows were cut into messages."""
    found = []
    for signal in outputs:
        if isinstance(signal, Signal):
            evidence = {key: value for key, value in signal.evidence.items() if key != "signal"}
            found.append(msgspec.structs.replace(signal, id="", emitted_at=0.0, evidence=evidence))
    return found


def test_every_verdict_is_counted_and_the_rest_is_pending():
    log = Log()
    log.apply(arrivals({"a": 5, "b": 2}))
    log.apply(
        batch(
            [
                Row(outcome=True, scores=0.5, group="a"),
                Row(verdict=Verdict.EXPIRED, group="a", scores=0.5),
                Row(verdict=Verdict.CENSORED, group="b", scores=0.5),
                Row(verdict=Verdict.LOST, group="a", scores=0.5),
            ]
        )
    )
    keys = ("predictions", "outcomes", "expired", "censored", "lost", "pending")
    assert [log.group("a")[key] for key in keys] == [5, 1, 1, 0, 1, 2]
    assert [log.group("b")[key] for key in keys] == [2, 0, 0, 1, 0, 1]


def test_only_joined_rows_are_scored():
    log = Log()
    rows = errors([False, True, True])
    log.apply(batch([rows[0], replace(rows[1], verdict=Verdict.CENSORED), rows[2]]))
    assert log.group()["metrics"]["accuracy"] == 0.5


def test_latency_and_delay_quantiles_are_within_two_percent():
    rng = np.random.default_rng(1)
    latencies, delays = rng.lognormal(-3, 1, 2000), rng.lognormal(2, 1.5, 800) - 1.0
    log = Log()
    log.apply(arrivals({"default": 1000}, latencies[:1000].tolist()))
    log.apply(arrivals({"default": 1000}, latencies[1000:].tolist()))
    log.apply(batch([Row(outcome=True, scores=0.5, outcome_ts=float(d), id_hash=i) for i, d in enumerate(delays)]))
    found = log.group()
    for name, q in (("p50", 0.5), ("p95", 0.95), ("p99", 0.99)):
        assert found["latency"][name] == pytest.approx(np.quantile(latencies, q), rel=0.02)
        if name != "p99":
            assert found["outcome_delay"][name] == pytest.approx(np.quantile(np.maximum(delays, 0), q), rel=0.02)
    report = log.monitor.report()[0].groups[0]
    assert report.delay_sum == pytest.approx(np.maximum(delays, 0).sum())
    assert sum(report.delay.values()) == 800


def test_assumed_outcome_has_no_delay():
    log = Log()
    log.apply(batch([Row(outcome=True, scores=0.5, source="assumed", outcome_ts=99.0)]))
    assert log.group()["outcome_delay"] == {"p50": None, "p95": None}
    assert log.group()["outcomes"] == 1


def test_versions_tell_rows_loss_and_time():
    rows = [
        Row(outcome=True, scores=0.5, version="v1", ts=3.0, id_hash=1),
        Row(outcome=True, scores=0.9, version="v2", ts=4.0, id_hash=2),
        Row(outcome=True, scores=0.7, version="v1", ts=1.0, id_hash=3),
        Row(outcome=True, prediction=True, ts=1.0, id_hash=4),
    ]
    log = Log()
    log.apply(batch(rows))
    assert log.group()["versions"] == {
        "v1": {"rows": 2, "loss": pytest.approx((0.25 + 0.09) / 2), "first": 1.0, "last": 3.0},
        "v2": {"rows": 1, "loss": pytest.approx(0.01), "first": 4.0, "last": 4.0},
    }


def test_versions_kept_are_bounded():
    log = Log(ModelSettings(detectors=()))
    for i in range(250):
        log.apply(batch([Row(outcome=True, scores=0.5, version=f"v{i}", ts=float(i), id_hash=i)]))
    assert list(log.group()["versions"]) == [f"v{i}" for i in range(150, 250)]


def test_task_is_settled_by_the_first_row_that_tells():
    log = Log()
    log.apply(batch([Row(loss=0.5)]))
    assert log.monitor.summary()["fraud"]["task"] is None
    log.apply(batch([Row(outcome=3.0, prediction=4.0, id_hash=2)]))
    assert log.monitor.summary()["fraud"]["task"] == "regression"
    (signal,) = log.apply(batch([Row(outcome="x", prediction="y", id_hash=3)]))
    assert (signal.kind, signal.severity, signal.evidence["reason"]) == ("data_quality", "warn", "outcome_type")
    assert (log.group()["outcomes"], log.group()["unscorable"]) == (3, 1)


def test_unscorable_rows_are_reported_once_for_each_group_reason_and_version():
    log = Log()
    log.apply(batch(errors([False], version="v1")))
    bad = Row(outcome="x", prediction="y", version="v1", ts=7.0)
    (first,) = log.apply(batch([bad, bad, replace(bad, ts=8.0)]))
    assert first.at == 7.0
    assert log.apply(batch([bad])) == ()
    (other,) = log.apply(batch([replace(bad, group="b")]))
    assert other.group == "b"
    log.apply(batch(errors([False], version="v2", start=20)))
    assert len(log.apply(batch([replace(bad, version="v2", ts=30.0)]))) == 1


def test_rise_of_the_loss_warns_and_acts_and_names_both_levels():
    log = Log()
    log.apply(batch(errors(noisy(0.3, 400, 1))))
    assert log.outputs == []
    log.apply(batch(errors(noisy(0.95, 150, 2), start=400)))
    drifts = [signal for signal in log.outputs if signal.kind == "drift"]
    assert {signal.detector for signal in drifts} == {"adwin", "e-sr", "policy"}
    by_detector = {signal.detector: signal for signal in drifts}
    act = by_detector["policy"]
    assert (act.severity, act.direction, act.kind) == ("act", "up", "drift")
    assert act.evidence["signal"] == by_detector["e-sr"].id
    assert act.reference < 0.4 < 0.7 < act.value
    assert 400 <= act.at < 500
    # 16 rows apart, remembered.
    assert 380 <= act.evidence["from"] <= act.at
    assert all(signal.severity == "warn" for signal in drifts if signal.detector != "policy")


def test_fall_of_the_loss_is_a_recovery_and_asks_for_nothing():
    log = Log()
    log.apply(Tick(partition=0, log_time=1.0))
    log.apply(batch(errors(noisy(0.8, 400, 1))))
    log.apply(batch(errors(noisy(0.02, 400, 2), start=400)))
    assert {(s.kind, s.severity, s.direction) for s in log.outputs} == {("recovery", "warn", "down")}


def test_drift_asks_for_training_once_and_a_new_version_ends_the_request():
    log = Log()
    log.apply(Tick(partition=0, log_time=1.0))
    log.apply(batch(errors(noisy(0.3, 400, 1), version="v1")))
    first = 2 * len(log.messages)
    for i in range(5):
        log.apply(batch(errors(noisy(0.95, 40, 2 + i), start=400 + 40 * i, version="v1")))
    (request,) = [output for output in log.outputs if isinstance(output, RetrainRequest)]
    assert request.window.rows >= 20
    assert request.scored.partition == 3
    assert first - 2 <= request.scored.from_ <= request.scored.cause
    (signal,) = request.signals
    assert [s.detector for s in log.outputs if isinstance(s, Signal) and s.id == signal] == ["policy"]
    deadline = log.monitor.report()[0].groups[0].retrain_deadline
    assert deadline == request.deadline == 1.0 + 86400
    log.apply(batch(errors(noisy(0.05, 10), start=700, version="v2")))
    report = log.monitor.report()[0].groups[0]
    assert (report.retrain_deadline, report.version, report.version_since) == (None, "v2", 700.0)


def test_detectors_start_anew_with_a_new_version():
    log = Log()
    log.apply(batch(errors(noisy(0.3, 400, 1), version="v1")))
    assert {d.state for d in log.monitor.report()[0].groups[0].detectors} == {"watching"}
    log.apply(batch(errors(noisy(0.9, 50, 2), start=400, version="v2")))
    assert log.outputs == []


def test_late_rows_of_an_older_version_are_not_shown_to_detectors():
    quick = Log()
    quick.apply(batch(errors(noisy(0.3, 400, 1), version="v1")))
    quick.apply(batch(errors(noisy(0.3, 300, 2), start=400, version="v2")))
    late = [replace(row, ts=100.0) for row in errors([True] * 60, start=800, version="v1")]
    quick.apply(batch(late))
    assert quick.outputs == []
    assert quick.group()["versions"]["v1"]["rows"] == 460


def test_versions_that_answer_side_by_side_are_watched():
    log = Log()
    rows = errors(noisy(0.3, 400, 1)) + errors(noisy(0.95, 150, 2), start=400)
    log.apply(batch([replace(row, version=f"v{i % 2}") for i, row in enumerate(rows)]))
    assert "policy" in {signal.detector for signal in log.outputs}


@pytest.mark.parametrize("loss", ["absolute", "squared"])
def test_losses_of_numbers_are_scaled_by_the_first_ones(loss):
    rng = np.random.default_rng(3)
    log = Log(msgspec.structs.replace(QUICK, loss=loss, detectors=("e-sr",), budget=200))
    wrong = np.concatenate((rng.normal(0, 1, 1000), rng.normal(0, 4, 200)))
    rows = [Row(outcome=0.0, prediction=1e6 * w, ts=float(i), id_hash=i + 1) for i, w in enumerate(wrong)]
    for start in range(0, 1200, 100):
        log.apply(batch(rows[start : start + 100]))
    kinds = [(signal.kind, signal.severity) for signal in log.outputs]
    assert ("drift", "act") in kinds
    act = next(signal for signal in log.outputs if signal.severity == "act")
    assert act.at >= 1000
    expected = np.abs(1e6 * wrong[:1000]) ** (2 if loss == "squared" else 1)
    assert act.reference == pytest.approx(expected.mean(), rel=0.4)


@pytest.mark.parametrize("wrong", [{"prediction": 1e308}, {"outcome": -1e101}, {"loss": 1e308}])
def test_one_number_beyond_all_reason_is_unscorable_and_spoils_nothing(wrong):
    settings = msgspec.structs.replace(QUICK, loss="squared")
    rng = np.random.default_rng(4)
    pairs = enumerate(zip(rng.normal(0, 1, 200), rng.normal(0, 1, 200), strict=True))
    rows = [Row(outcome=t, prediction=p, ts=float(i), log_time=float(i), id_hash=i + 1) for i, (t, p) in pairs]
    others = rows[:150] + rows[151:]
    spoilt, without = Log(settings), Log(settings)
    (signal,) = spoilt.apply(batch([*rows[:150], replace(rows[150], **wrong), *rows[151:]]))
    without.apply(batch(others))
    assert (signal.kind, signal.evidence["reason"]) == ("data_quality", "too_large")
    found, expected = spoilt.group(), without.group()
    assert (found["unscorable"], expected["unscorable"]) == (1, 0)
    assert found["metrics"] == expected["metrics"]
    squares = [(row.outcome - row.prediction) ** 2 for row in others]
    assert found["metrics"]["rmse"] == pytest.approx(np.sqrt(np.mean(squares)))
    for name, baseline in found["baselines"].items():
        assert baseline == pytest.approx(expected["baselines"][name], rel=0.2), name


def test_the_largest_numbers_that_count_have_finite_sums():
    log = Log(msgspec.structs.replace(QUICK, loss="squared"))
    ends = (LARGEST, -LARGEST)
    rows = [Row(outcome=ends[i % 2], prediction=ends[i // 2 % 2], ts=float(i), id_hash=i + 1) for i in range(400)]
    log.apply(batch(rows))
    assert log.group()["unscorable"] == 0
    assert log.group()["metrics"]["rmse"] == pytest.approx(LARGEST * np.sqrt(2.0))
    assert log.group()["metrics"]["r2"] == pytest.approx(-1.0)


def test_window_metrics_are_of_the_newest_rows():
    log = Log()
    log.apply(batch(errors([True] * 30 + [False] * 40)))
    log.apply(batch(errors([False] * 5, start=70)))
    report = log.monitor.report()[0].groups[0]
    assert report.window_rows == 50
    assert report.window_metrics["accuracy"] == pytest.approx(45 / 50)
    assert log.group()["metrics"]["accuracy"] == pytest.approx(45 / 75)


def test_summary_of_a_run_is_what_pandas_says():
    rng = np.random.default_rng(9)
    n = 4000
    frame = pd.DataFrame(
        {
            "group": rng.choice(["champion", "challenger"], n, p=[0.8, 0.2]),
            "truth": rng.random(n) < 0.2,
            "verdict": rng.choice([0, 0, 0, 0, 1, 2, 3], n),
        }
    )
    frame["p"] = np.round(np.clip(0.2 + 0.4 * frame.truth + rng.normal(0, 0.2, n), 0, 1), 2)
    rows = [
        Row(outcome=bool(t) if v == 0 else None, scores=p, group=g, verdict=Verdict(v), ts=float(i), id_hash=i + 1)
        for i, (g, t, v, p) in enumerate(frame.itertuples(index=False))
    ]
    log = Log(ModelSettings())
    for start in range(0, n, 333):
        log.apply(batch(rows[start : start + 333]))
    joined = frame[frame.verdict == 0]
    for name, group in joined.groupby("group"):
        found = log.group(name)
        assert found["outcomes"] == len(group)
        assert found["expired"] == ((frame.group == name) & (frame.verdict == 1)).sum()
        metrics = found["metrics"]
        assert metrics["brier"] == pytest.approx(((group.p - group.truth) ** 2).mean(), abs=1e-12)
        assert metrics["accuracy"] == pytest.approx(((group.p >= 0.5) == group.truth).mean(), abs=1e-12)
        ranks = group.p.rank()
        positives = group.truth.sum()
        area = (ranks[group.truth].sum() - positives * (positives + 1) / 2) / positives / (len(group) - positives)
        assert metrics["roc_auc"] == pytest.approx(area, abs=1e-12)


rows_of_a_run = st.lists(
    st.fixed_dictionaries(
        {
            "outcome": st.sampled_from([True, False, False, False, "odd", None]),
            "scores": st.sampled_from([None, 0.1, 0.25, 0.5, 0.9]),
            "prediction": st.sampled_from([None, None, True, False]),
            "loss": st.sampled_from([None, None, None, 0.25]),
            "group": st.sampled_from(["a", "a", "b"]),
            "version": st.sampled_from([None, "v1", "v1", "v1", "v2"]),
            "verdict": st.sampled_from([Verdict.JOINED] * 4 + [Verdict.EXPIRED]),
            "delay": st.integers(-1, 6),
        }
    ),
    min_size=1,
    max_size=12,
)


def expand(parts: list[dict], n: int, seed: int) -> list[Row]:
    """Draw n rows from the kinds given: long runs are needed for detectors to say anything."""
    rng = np.random.default_rng(seed)
    rows = []
    for i in range(n):
        kind = dict(parts[int(rng.integers(len(parts)))])
        delay = kind.pop("delay")
        if i > n // 2 and isinstance(kind["outcome"], bool):
            kind["outcome"] = True
        log = float(i // 3)
        rows.append(
            Row(
                ts=float(i),
                log_time=log,
                outcome_log_time=max(log + delay, 0.0) if kind["verdict"] == Verdict.JOINED else None,
                outcome_ts=float(i) + delay if kind["verdict"] == Verdict.JOINED else None,
                id_hash=i // 2 if i % 7 == 0 else i + 1000,
                **kind,
            )
        )
    return rows


@settings(max_examples=40, deadline=None)
@given(rows_of_a_run, st.integers(0, 99), st.lists(st.integers(1, 40), min_size=1, max_size=4))
def test_rows_at_once_are_as_rows_one_by_one(parts, seed, sizes):
    rows = expand(parts, 260, seed)
    whole = batch(rows)
    once, single = Log(NERVOUS), Log(NERVOUS)
    once.apply(whole, 5.0)
    start, turn = 0, 0
    while start < len(rows):
        size = sizes[turn % len(sizes)] if turn % 2 else 1
        single.apply(part(whole, start, min(start + size, len(rows))), 5.0)
        start, turn = start + size, turn + 1
    # To the bit: sums of floats, too, are carried on row by row.
    assert single.monitor.summary() == once.monitor.summary()
    assert single.monitor.report() == once.monitor.report()
    assert plain(single.outputs) == plain(once.outputs)


@settings(max_examples=15, deadline=None)
@given(st.sampled_from(["numbers", "words"]), st.integers(0, 99), st.lists(st.integers(1, 60), min_size=1, max_size=4))
def test_numbers_and_words_at_once_are_as_one_by_one(kind, seed, sizes):
    rng = np.random.default_rng(seed)
    rows = []
    for i in range(300):
        wrong = rng.random() < (0.2 if i < 200 else 0.9)
        if kind == "numbers":
            answers = {"outcome": float(rng.normal()), "prediction": float(rng.normal(0, 5 if wrong else 1))}
        else:
            word = "abcdef"[int(rng.integers(min(6, 2 + i // 40)))]
            table = rng.dirichlet(np.ones(6))
            answers = {"outcome": word, "scores": dict(zip("fedcba", table.tolist(), strict=True))}
            answers["prediction"] = "a" if wrong else word
        when = {"ts": i / 2, "log_time": i // 3, "outcome_log_time": i // 3 + int(rng.integers(0, 9)), "id_hash": i + 1}
        rows.append(Row(group="ab"[int(rng.random() < 0.3)], series=None if i % 3 else "s", **answers, **when))
    whole = batch(rows)
    once, single = Log(NERVOUS), Log(NERVOUS)
    once.apply(whole, 5.0)
    start, turn = 0, 0
    while start < len(rows):
        size = sizes[turn % len(sizes)] if turn % 2 else 1
        single.apply(part(whole, start, min(start + size, len(rows))), 5.0)
        start, turn = start + size, turn + 1
        single.commit()
        single.restart()
    assert single.monitor.summary() == once.monitor.summary()
    assert single.monitor.report() == once.monitor.report()


def side_by_side(draw: np.random.Generator, n: int) -> list[Row]:
    """Draw rows of groups whose versions answer side by side, some of them late, while a new one comes now and then."""
    rows = []
    for i in range(n):
        newest = i // (n // 3)
        wrong = bool(draw.random() < (0.2 if i < n // 2 else 0.8))
        log = max(0, i // 2 - (int(draw.integers(0, n // 4)) if draw.random() < 0.3 else 0))
        rows.append(
            Row(
                outcome="odd" if draw.random() < 0.02 else wrong,
                scores=float(draw.choice([0.1, 0.4, 0.7])),
                loss=0.25 if draw.random() < 0.05 else None,
                group="ab"[int(draw.random() < 0.3)],
                version=None if draw.random() < 0.1 else f"v{newest - int(draw.integers(0, 2))}",
                ts=float(i),
                log_time=float(log),
                outcome_log_time=float(i // 2 + 1),
                id_hash=i + 1,
            )
        )
    return rows


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 999), st.lists(st.integers(1, 40), min_size=1, max_size=4), st.booleans())
def test_rows_of_known_versions_are_as_if_each_message_was_looked_at_closely(seed, sizes, often):
    whole = batch(side_by_side(np.random.default_rng(seed), 400))
    quick, close = Log(NERVOUS), Log(NERVOUS)
    looked = []
    with pytest.MonkeyPatch.context() as patch:
        for log in (quick, close):
            if log is close:
                patch.setattr(ModelMonitor, "_plain", lambda *_: False)
            patch.setattr(model, "look_closely", lambda *args: looked.append(1) or look_closely(*args))
            start, turn = 0, 0
            while start < len(whole):
                size = sizes[turn % len(sizes)]
                log.hold(part(whole, start, min(start + size, len(whole))), 5.0)
                start, turn = start + size, turn + 1
                if log is close or turn % 5 == 0:
                    log.release()
                if often and turn % 5 == 0:
                    log.commit()
                    log.restart()
            log.release()
            if log is quick:
                messages, closely = turn, len(looked)
    assert quick.monitor.summary() == close.monitor.summary()
    assert quick.monitor.report() == close.monitor.report()
    assert plain(quick.outputs) == plain(close.outputs)
    assert len(looked) - closely == messages
    assert closely <= news(sizes, side_by_side(np.random.default_rng(seed), 400))


def news(sizes: list[int], rows: list[Row]) -> int:
    """Return how many messages bring a version that is new to its group, or come while a group has no loss yet."""
    met, begun, versions = set(), set(), set()
    start = count = 0
    turns = cycle(sizes)
    while start < len(rows):
        message = rows[start : (start := start + next(turns))]
        met |= {row.group for row in message}
        found = {(row.group, row.version) for row in message if row.version is not None}
        count += bool(found - versions or met - begun)
        versions |= found
        begun |= {row.group for row in message if row.outcome != "odd" or row.loss is not None}
    return count


script = st.lists(
    st.one_of(
        st.tuples(st.just("rows"), st.integers(1, 200), st.sampled_from(["fraud", "churn", "x/y~1%"])),
        st.tuples(st.just("tick"), st.integers(0, 1), st.integers(0, 400)),
        st.tuples(st.just("arrive"), st.integers(1, 5), st.sampled_from(["fraud", "churn"])),
        st.tuples(st.just("commit"), st.sampled_from([0, 1, 1 << 20])),
        st.tuples(st.just("restart")),
    ),
    max_size=25,
)


def message_of(step, rows):
    """Return the message that a step of a script is, with the next of the rows."""
    if step[0] == "rows":
        return batch(list(islice(rows, step[1])), model=step[2])
    if step[0] == "tick":
        return Tick(partition=step[1], log_time=float(step[2]))
    return arrivals({"a": step[1], "c~": 1}, [0.1 * step[1]], model=step[2])


@settings(max_examples=60, deadline=None)
@given(script, rows_of_a_run, st.integers(0, 99))
def test_restarts_change_nothing_and_emit_nothing_twice(steps, parts, seed):
    rows = iter(expand(parts, 5000, seed))
    steady, shaken = Log(NERVOUS), Log(NERVOUS)
    committed = 0
    for step in [*steps, ("commit", 0), ("restart",)]:
        if step[0] == "commit":
            shaken.commit(step[1])
            committed = len(shaken.outputs)
            continue
        if step[0] == "restart":
            # What was not committed is derived anew, and the same; what was committed is not.
            lost = shaken.outputs[committed:]
            assert shaken.begins_with_something_new()
            assert shaken.restart() == lost
            continue
        message = message_of(step, rows)
        steady.apply(message)
        shaken.apply(message)
    assert shaken.outputs == steady.outputs
    assert shaken.monitor.summary() == steady.monitor.summary()
    assert shaken.monitor.report() == steady.monitor.report()
    assert shaken.monitor.applied == steady.monitor.applied


@settings(max_examples=60, deadline=None)
@given(script, rows_of_a_run, st.integers(0, 99), st.integers(0, 3), st.randoms(use_true_random=False))
def test_messages_that_are_held_are_as_messages_applied_one_by_one(steps, parts, seed, most, draw):
    rows = iter(expand(parts, 5000, seed))
    applied, held = Log(NERVOUS), Log(NERVOUS)
    said = []
    for step in steps:
        if step[0] in ("commit", "restart"):
            # Somebody looks, some models are worked out, or all that follows is asked for.
            look = {0: held.monitor.report, 1: lambda: list(held.monitor.relieve(most))}.get(draw.randrange(3))
            said += held.monitor.release() if look is None else []
            if look is not None:
                look()
            continue
        message = message_of(step, rows)
        position = Position(3, 2 * len(applied.messages), float(len(applied.messages)))
        applied.apply(message)
        held.monitor.hold(message, position)
    said += held.monitor.release()
    assert said == applied.outputs
    assert held.monitor.report() == applied.monitor.report()
    assert held.monitor.summary() == applied.monitor.summary()
    assert held.monitor.take(1 << 30) == applied.monitor.take(1 << 30)


class Defective(ModelMonitor):
    """Fails on what it holds, once, and has nothing left of it."""

    def _look(self):
        if self._held:
            self._held = []
            raise ZeroDivisionError("as a bug would")


@pytest.mark.parametrize("look", [ModelMonitor.summary, lambda model: model.report(None)])
def test_rows_that_failed_while_somebody_looked_are_not_left_out_but_fail_again(look):
    model = Defective("m", ModelSettings())
    for offset in (0, 2):  # the first rows of a group are not held
        model.hold(batch(errors([False] * 3)), Position(3, offset, 0.0), 0.0)
    for again in (look, look, ModelMonitor.release, ModelMonitor.take):
        with pytest.raises(ZeroDivisionError):
            again(model)


def test_state_is_not_taken_while_what_follows_from_messages_has_not_been_asked_for():
    log = Log()
    log.apply(batch(errors([False] * 5)))
    log.monitor.hold(batch(errors([True] * 5, start=5)), Position(3, 2, 1.0))
    with pytest.raises(RuntimeError, match="released first"):
        log.monitor.take()


def test_few_models_hold_messages_once_the_others_were_relieved():
    log = Log()
    for name in "abc":
        log.apply(batch(errors(noisy(0.3, 400, 1)), model=name))
    for place, name in enumerate("abc"):
        log.monitor.hold(batch(errors(noisy(0.95, 150), start=400), model=name), Position(3, 6 + 2 * place, 3.0))
    assert len(list(log.monitor.relieve(1))) == 2
    assert list(log.monitor.relieve(1)) == []
    models = [signal.model for signal in log.monitor.release()]
    assert models == sorted(models)
    assert set(models) == {"a", "b", "c"}


def test_message_applied_before_changes_nothing():
    log = Log()
    log.apply(batch(errors([False, True])))
    before = log.monitor.summary()
    message, position = log.messages[0]
    assert log.monitor.apply(message, position) == ()
    assert log.monitor.summary() == before


def whole(entries) -> set[bytes]:
    """Return the models that entries bring whole."""
    return {key.split(b"/")[1] for key in entries if key.endswith(b"/head")}


def test_take_writes_models_with_outputs_at_once_and_others_in_turn():
    log = Log()
    for i, name in enumerate("abc"):
        log.apply(batch(errors(noisy(0.3, 400, i)), model=name))
    assert whole(log.commit(0)) == {b"a", b"b", b"c"}
    for i, name in enumerate("ab"):
        log.apply(batch(errors(noisy(0.05, 10, i), start=400), model=name))
    log.apply(batch(errors(noisy(0.95, 150), start=400), model="c"))
    assert log.outputs
    found = log.commit(0)
    assert whole(found) == {b"c"}
    assert {b"model/a", b"model/b"} <= set(found)  # how far they go
    assert set(log.commit(0)) == {b"meta"}  # that was said
    restored = Monitor.restore(3, log.settings, log.stored)
    assert restored.applied == log.messages[3][1].offset
    assert whole(log.commit(1)) == {b"a"}
    assert whole(log.commit(1)) == {b"b"}
    assert set(log.commit(1)) == {b"meta"}


def test_a_model_that_was_idle_for_long_is_read_again_from_the_first_message_that_its_entries_lack():
    log = Log()
    log.apply(batch(errors([True]), model="weekly"))
    log.apply(batch(errors([True]), model="busy"))
    log.commit()
    for number in range(300):
        log.apply(batch(errors([False], start=number + 1), model="busy"))
        log.apply(Tick(partition=0, log_time=float(number)))
        log.commit()
    for name in ("busy", "weekly"):  # the first of them is written, and the budget is spent
        log.apply(batch(errors([False], start=400), model=name))
    lacked = log.messages[-1][1].offset
    assert whole(log.commit(1)) == {b"busy"}
    assert Monitor.restore(3, log.settings, log.stored).applied == lacked
    log.apply(batch(errors([False], start=401), model="busy"))
    log.apply(batch(errors([False], start=401), model="weekly"))
    log.commit(0)
    assert Monitor.restore(3, log.settings, log.stored).applied == lacked
    standing = log.monitor.summary(), log.monitor.report()
    log.restart()
    assert (log.monitor.summary(), log.monitor.report()) == standing


def test_a_tick_is_read_again_if_it_changed_a_model_that_waits_to_be_written():
    log = Log(msgspec.structs.replace(QUICK, forget_after=100.0))
    log.apply(batch([*errors([True], group="old"), *errors([True], start=90, group="new")]))
    log.commit()
    for log_time in (50.0, 60.0, 101.5, 102.0):  # the old group is forgotten at the third
        log.apply(Tick(partition=0, log_time=log_time))
    log.commit(0)
    assert set(log.monitor.summary()["fraud"]["groups"]) == {"new"}
    restored = Monitor.restore(3, log.settings, log.stored)
    assert restored.applied == log.messages[3][1].offset
    assert [report.clock for report in restored.report()] == [60.0]  # as it was before that
    standing = log.monitor.report()
    log.restart()
    assert log.monitor.report() == standing


def test_a_tick_that_changed_nothing_is_not_read_again():
    log = Log()
    log.apply(batch(errors([True])))
    log.commit()
    for log_time in (50.0, 60.0):
        log.apply(Tick(partition=0, log_time=log_time))
    log.commit(0)
    assert Monitor.restore(3, log.settings, log.stored).applied == log.monitor.applied


def test_large_values_are_spread_over_entries_and_missing_ones_noticed():
    log = Log(ModelSettings(detectors=(), window_rows=60_000))
    rng = np.random.default_rng(0)
    rows = [Row(outcome=True, scores=p, id_hash=i) for i, p in enumerate(rng.random(60_000).tolist())]
    log.apply(batch(rows))
    log.commit()
    spread = [key for key in log.stored if b"~" in key]
    assert spread
    expected = log.monitor.summary()
    log.restart()
    assert log.monitor.summary() == expected
    with pytest.raises(CheckpointError, match="lacks"):
        Monitor.restore(3, log.settings, {key: data for key, data in log.stored.items() if key != spread[0]})


def test_damaged_or_foreign_state_is_refused():
    log = Log()
    log.apply(batch(errors([True, False])))
    log.commit()
    for key in log.stored:
        with pytest.raises(CheckpointError):
            Monitor.restore(3, log.settings, {**log.stored, key: b"\x00\x00\xc1"})
    with pytest.raises(CheckpointError, match="watched as binary, its settings now say regression"):
        Monitor.restore(3, Settings(defaults=ModelSettings(task="regression")), log.stored)


def test_a_task_that_is_configured_before_the_first_outcome_is_that_of_the_model():
    log = Log()
    log.apply(arrivals({"default": 3}))
    log.commit()
    log.settings = Settings(defaults=msgspec.structs.replace(QUICK, task="binary", positive="bad"))
    log.restart()
    log.apply(batch([Row(prediction=answer, outcome="bad", id_hash=i) for i, answer in enumerate(["bad", "good"])]))
    log.commit()
    log.restart()
    assert log.monitor.summary()["fraud"]["task"] == "binary"
    found = log.group()
    assert (found["predictions"], found["outcomes"], found["pending"]) == (3, 2, 1)
    assert (found["metrics"]["accuracy"], found["metrics"]["recall"]) == (0.5, 0.5)


def test_losses_that_wait_for_their_scale_come_out_with_the_next_row_if_fewer_are_asked_for_now():
    numbers = msgspec.structs.replace(QUICK, reference_rows=2000, detectors=("adwin",), task="regression")
    log = Log(numbers)
    losses = np.concatenate((np.full(600, 0.5), np.full(600, 5.5))) + np.random.default_rng(5).normal(0, 0.1, 1200)
    rows = [Row(outcome=0.0, prediction=lost, ts=float(i), id_hash=i) for i, lost in enumerate(losses.tolist())]
    log.apply(batch(rows))
    log.commit()
    log.settings = Settings(defaults=msgspec.structs.replace(numbers, reference_rows=500))
    log.restart()
    assert log.apply(Tick(partition=0, log_time=1200.0)) == ()
    later = [replace(row, ts=1200.0 + i, id_hash=1200 + i) for i, row in enumerate(rows[-10:])]
    first, *_ = log.apply(batch(later))
    assert (first.kind, first.detector, first.direction) == ("drift", "adwin", "up")
    assert 600 <= first.at < 1200


def test_same_log_gives_the_same_ids_and_another_log_others():
    def run(timestamp):
        log = Log()
        log.apply(Tick(partition=0, log_time=0.0), timestamp)
        log.apply(batch(errors(noisy(0.3, 400, 1) + noisy(0.95, 150, 2))), timestamp)
        return [output.id for output in log.outputs]

    assert run(1.0) == run(1.0)
    assert len(set(run(1.0))) == len(run(1.0)) > 1
    assert not set(run(1.0)) & set(run(2.0))


def test_model_that_is_silent_for_long_is_forgotten():
    log = Log(msgspec.structs.replace(QUICK, forget_after=100.0))
    log.apply(batch(errors([True]), model="old"))
    log.apply(batch(errors([True], start=90), model="new"))
    log.commit()
    log.apply(Tick(partition=0, log_time=120.0))
    assert set(log.monitor.summary()) == {"new"}
    gone = log.commit()
    assert all(data is None for key, data in gone.items() if key.startswith(b"model/old"))
    log.restart()
    assert set(log.monitor.summary()) == {"new"}


def test_clock_is_the_slowest_joiner_heard_of_lately_and_never_goes_back():
    clock = Clock()
    assert clock.now is None
    clock.tick(0, 100.0, 1000.0)
    assert clock.now == 100.0
    clock.tick(1, 50.0, 1001.0)
    assert clock.now == 100.0
    clock.tick(0, 130.0, 1010.0)
    clock.tick(1, 120.0, 1010.0)
    assert clock.now == 120.0
    clock.tick(0, 200.0, 1039.0)
    assert clock.now == 120.0
    clock.look(1040.0)
    assert clock.now == 200.0
    clock.tick(1, 150.0, 1041.0)
    assert clock.now == 200.0


def test_report_does_not_change_with_later_messages():
    log = Log()
    log.apply(arrivals({"default": 3}, [0.1]))
    log.apply(batch(errors(noisy(0.2, 80))))
    before = log.monitor.report()
    copy = repr(before)
    log.apply(arrivals({"default": 3}, [0.1]))
    log.apply(batch(errors(noisy(0.5, 80), start=80)))
    assert repr(before) == copy
    report = before[0].groups[0]
    assert report.losses["error"][1] == 80
    assert report.baseline_losses["persistence", "error"][1] == report.baseline_losses["majority", "error"][1]
    assert report.updated == 80.0


FORGETFUL = ModelSettings(
    detectors=(), outcome_window=10.0, grace=1.0, remember=1.0, baselines=("prior", "persistence", {"seasonal": 3})
)


# Rows wait that are older than what can be asked for, while what is known has too few that are.
@example([(1, 0, 0.0, True), (60, 1, 90.0, True), (1, 1, 0.0, False)], None, 0, 0.0)
# Only the series has more to forget after the next tick; what all know together has forgotten it before.
@example([(70, 0, 15.0, True), (10, 1, 70.0, True), (5, 1, 10.0, True), (1, 0, 0.0, False)], "s", 0, 0.0)
@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.integers(1, 150) | st.integers(1, 5),
            st.integers(0, 3),
            st.floats(0.0, 15.0) | st.floats(60.0, 90.0),
            st.booleans(),
        ),
        min_size=5,
        max_size=40,
    ),
    st.sampled_from([None, "s"]),
    st.integers(0, 99),
    st.sampled_from([0.0, 30.0]),
)
def test_what_is_forgotten_does_not_depend_on_who_looks_when(steps, series, seed, stray):
    rng = np.random.default_rng(seed)
    applied, held = Log(FORGETFUL), Log(FORGETFUL)
    at = 1000.0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(known, "PAGE", 16)  # so that a few rows are enough to be forgotten
        for size, ticks, seconds, looked_at in steps:
            late = np.where(rng.random(size) < 0.1, rng.uniform(0.0, 60.0 + stray, size), 0.0)
            rows = [
                Row(
                    outcome=bool(rng.random() < 0.3),
                    scores=0.5,
                    ts=at - back,
                    log_time=at - back - 1.0,
                    outcome_log_time=at - back,
                    id_hash=int(rng.integers(1, 1 << 62)),
                    series=series,
                )
                for back in late.tolist()
            ]
            at += seconds
            for message in [batch(rows), *(Tick(partition=0, log_time=at + tick) for tick in range(ticks))]:
                applied.apply(message)
                held.hold(message)
                if looked_at:
                    held.monitor.report()
        held.release()
        assert held.monitor.report() == applied.monitor.report()
        assert held.monitor.summary() == applied.monitor.summary()
        assert held.monitor.take(1 << 30) == applied.monitor.take(1 << 30)


ENTITIES = msgspec.structs.replace(FORGETFUL, baselines=("persistence",))


def points(*times: tuple[float, float] | float, start: int = 0) -> list[Row]:
    """Return rows of one series, by log time of the prediction and, where it is another, of the outcome."""
    pairs = [time if isinstance(time, tuple) else (time, time) for time in times]
    return [
        Row(prediction=0.0, outcome=i * i % 7.0, log_time=log, outcome_log_time=known, id_hash=i + 1, series="s")
        for i, (log, known) in enumerate(pairs, start)
    ]


@pytest.mark.parametrize(
    ("messages", "most"),
    [
        # The last one fills the series up, so that it forgets half.
        ([points(*range(99)), points((40.5, 100.5), start=99), points(101, start=100)], 100),
        # It is the 64th, and all but the newest are older than what can be asked for.
        (
            [points(*range(62)), Tick(partition=0, log_time=1000.0), points(40.5, start=62), points(1000, start=63)],
            1000,
        ),
    ],
    ids=["full", "old"],
)
def test_a_row_asks_before_later_ones_make_its_series_forget(monkeypatch, messages, most):
    monkeypatch.setattr(series, "POINTS_MAX", most)
    looked, held = Log(ENTITIES), Log(ENTITIES)
    rows = 0
    for message in messages:
        message = batch(message) if isinstance(message, list) else message
        rows += 0 if isinstance(message, Tick) else len(message)
        looked.apply(message)
        looked.monitor.summary()
        held.hold(message)
    held.release()
    assert held.monitor.summary() == looked.monitor.summary()
    assert held.group()["baselines"]["persistence"]["rows"] == rows - 1
    assert held.commit() == looked.commit()


@pytest.mark.parametrize("budget", [0, 1 << 20])
def test_what_a_series_forgets_does_not_depend_on_restarts(budget):
    messages = [
        batch(points(*range(70)), model="before"),
        batch(points(70, start=70), model="before"),
        Tick(partition=0, log_time=1000.0),
        batch(points(40.5, start=71), model="before"),
        batch(points(*range(70)), model="after"),
        batch(points(1000, start=72), model="before"),
        batch(points(40.5, start=73), model="before"),
        batch(points(1000, start=70), model="after"),
        batch(points(40.5, start=71), model="after"),
    ]
    steady = Log(ENTITIES)
    for message in messages:
        steady.apply(message)
    for first, second in combinations_with_replacement(range(len(messages)), 2):
        log = Log(ENTITIES)
        for place, message in enumerate(messages):
            log.apply(message)
            if place in (first, second):
                log.commit(budget)
            if place == second:
                log.restart()
        assert log.monitor.summary() == steady.monitor.summary(), (first, second)
        assert log.monitor.report() == steady.monitor.report(), (first, second)


def test_a_checkpoint_that_does_not_say_when_the_newest_tick_was_is_continued_with_the_next():
    steady, log = Log(ENTITIES), Log(ENTITIES)
    for message in (batch(points(*range(70))), Tick(partition=0, log_time=1000.0)):
        steady.apply(message)
        log.apply(message)
    log.commit()
    for key, place in ((b"meta", 0), (b"model/fraud", 2)):
        entry = msgspec.msgpack.decode(log.stored[key][place:])
        del entry["clock"]["ticked"]
        log.stored[key] = log.stored[key][:place] + msgspec.msgpack.encode(entry)
    log.restart()
    for message in (Tick(partition=0, log_time=1001.0), batch(points(1000, 40.5, start=70))):
        steady.apply(message)
        log.apply(message)
    assert log.monitor.summary() == steady.monitor.summary()


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from("abc"),
            st.integers(0, 60),
            st.floats(0.0, 25.0),
            st.integers(0, 2),
            st.sampled_from([None, None, 0, 1, 3000, 1 << 20]),
            st.booleans(),
        ),
        min_size=5,
        max_size=40,
    ),
    st.integers(0, 99),
)
def test_what_ticks_forget_does_not_depend_on_restarts_or_on_what_was_written(steps, seed):
    rng = np.random.default_rng(seed)
    brief = msgspec.structs.replace(FORGETFUL, forget_after=150.0)
    steady, shaken = Log(brief), Log(brief)
    at = 1000.0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(known, "PAGE", 16)  # so that a few rows are enough to be forgotten
        for name, size, seconds, ticks, budget, restart in steps:
            at += seconds
            rows = [
                Row(outcome=bool(rng.random() < 0.3), scores=0.5, ts=at, id_hash=int(rng.integers(1, 1 << 62)))
                for _ in range(size)
            ]
            messages = [batch(rows, model=name)] if rows else []
            for message in [*messages, *(Tick(partition=0, log_time=at + tick) for tick in range(ticks))]:
                for log in (steady, shaken):
                    log.apply(message, at)
            if budget is not None:
                shaken.commit(budget)
            if restart and shaken.stored:
                assert shaken.begins_with_something_new()
                shaken.restart()
        assert shaken.monitor.report() == steady.monitor.report()
        assert shaken.monitor.summary() == steady.monitor.summary()
        for log in (steady, shaken):
            log.commit(1 << 30)
        assert states(shaken) == states(steady)


def states(log: Log) -> dict[bytes, bytes]:
    """Return the checkpoint without what says how far its entries go."""
    return {key: data for key, data in log.stored.items() if key.count(b"/") > 1}


def test_ticks_leave_rows_alone_but_for_once_in_a_while(monkeypatch):
    settled = []
    enter = Books.enter
    monkeypatch.setattr(
        Books, "enter", lambda self, *rows, **how: (settled.append(len(rows[0])), enter(self, *rows, **how))
    )
    log = Log(msgspec.structs.replace(FORGETFUL, baselines=("prior", "persistence")))
    for i in range(1000):  # of a second each: what can be asked for goes back 72 of them
        rows = [Row(outcome=True, scores=0.5, ts=i + k / 60, id_hash=60 * i + k) for k in range(60)]
        log.hold(batch(rows))
        for tick in range(4):
            log.hold(Tick(partition=0, log_time=i + tick / 4))
    log.release()
    # By 2048 of them, and where a page of outcomes, or a quarter of all, can be forgotten.
    assert len(settled) < 60
    assert len(log.monitor.take()[b"model/fraud/known/all/head"]) > 0


def test_state_is_bounded_when_time_goes_on():
    log = Log(ModelSettings(detectors=(), outcome_window=10.0, grace=1.0, remember=1.0))
    sizes = []
    rng = np.random.default_rng(2)
    for i in range(200):
        rows = [
            Row(outcome=bool(y), scores=round(float(p), 2), ts=i + k / 500, id_hash=500 * i + k)
            for k, (y, p) in enumerate(zip(rng.random(500) < 0.2, rng.random(500), strict=True))
        ]
        log.apply(batch(rows))
        log.apply(Tick(partition=0, log_time=float(i)))
        log.commit()
        sizes.append(sum(map(len, log.stored.values())))
    assert max(sizes[150:]) < 1.25 * max(sizes[100:150]) < 3_000_000
