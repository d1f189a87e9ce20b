"""What Prometheus sees: names and labels of the contract, counters of the process, gauges of the owner."""

import gc
import re
import shutil
import subprocess
from dataclasses import replace
from typing import Any, get_args, get_type_hints

import numpy as np
import pytest
from prometheus_client import generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.samples import Sample

from docs.tables import labels
from streamapp.catalogue import FAMILIES
from streamapp.core import quantiles
from streamapp.core.learner import LearnResult
from streamapp.core.report import DetectorReport, GroupReport, ModelReport
from streamapp.core.settings import ModelSettings, Seconds, Settings
from streamapp.exposition import LATENCY_BOUNDS, MOST_NEWS, Exposition, Snapshot
from streamapp.families import BOUNDS, Vocabulary
from streamapp.stream.complaints import REASONS
from streamapp.stream.quarantine import QUARANTINED
from tests.conftest import leave_out

# From the contract; one for each series that exists today.
CONTRACT = {
    "streamapp_events_total": ("topic", "status"),
    "streamapp_predictions_total": ("model", "group"),
    "streamapp_outcomes_total": ("model", "group"),
    "streamapp_expired_total": ("model", "group"),
    "streamapp_prediction_latency_seconds": ("model", "group"),
    "streamapp_outcome_delay_seconds": ("model", "group"),
    "streamapp_loss": ("model", "group", "loss"),
    "streamapp_baseline_loss": ("model", "group", "baseline", "loss"),
    "streamapp_score_bin_total": ("model", "group", "bin", "outcome"),
    "streamapp_metric": ("model", "group", "metric"),
    "streamapp_skill_ratio": ("model", "group", "baseline"),
    "streamapp_drift_score": ("model", "group", "detector"),
    "streamapp_drift_threshold": ("model", "group", "detector"),
    "streamapp_signals_total": ("model", "group", "kind", "severity", "detector"),
    "streamapp_retrain_requests_total": ("model", "group", "reason"),
    "streamapp_model_updates_total": ("model", "group", "status"),
    "streamapp_model_updated_timestamp_seconds": ("model", "version"),
    "streamapp_model_info": ("model", "task", "team"),
    "streamapp_pending_predictions": ("partition",),
    "streamapp_log_time_seconds": ("partition",),
    "streamapp_rejected_total": ("topic", "reason"),
    "streamapp_window_samples": ("model", "group"),
    "streamapp_updated_timestamp_seconds": ("model", "group"),
    "streamapp_detector_state": ("model", "group", "detector", "state"),
    "streamapp_latency_slo_seconds": ("model",),
    "streamapp_retrain_deadline_timestamp_seconds": ("model",),
    "streamapp_learner_progress_timestamp_seconds": ("model",),
    "streamapp_recoveries_total": ("role", "reason"),
    "streamapp_restore_seconds": ("role", "partition"),
    "streamapp_reread_records_total": ("role", "topic"),
    "streamapp_parked": ("role", "partition", "reason"),
    "streamapp_consumer_lag_records": ("topic", "partition"),
    "streamapp_checkpoint_age_seconds": ("role", "partition"),
    "streamapp_checkpoint_bytes": ("role", "partition"),
    "streamapp_label_overflow_total": ("label",),
}

SETTINGS = Settings(models={"fraud": ModelSettings(team="risk", latency_slo=Seconds(0.2))})
LATENCIES = np.array([0.0004, 0.002, 0.003, 0.02, 0.3, 42.0])


def group(name: str = "champion", **changes: Any) -> GroupReport:
    report = GroupReport(
        group=name,
        predictions=6,
        outcomes=4,
        expired=1,
        censored=0,
        lost=0,
        pending=1,
        unscorable=0,
        latency=quantiles.count(LATENCIES),
        latency_sum=float(LATENCIES.sum()),
        delay={},
        delay_sum=0.0,
        loss="brier",
        losses={"brier": (0.5, 4), "error": (1.0, 4)},
        baseline_losses={("prior", "brier"): (0.8, 3)},
        skill={"prior": 0.25, "majority": None},
        score_bins={(0, "false"): 3, (9, "true"): 1},
        window_rows=4,
        window_metrics={"brier": 0.125, "roc_auc": None},
        detectors=(DetectorReport(name="e-sr", state="watching", score=2.0, threshold=100.0),),
        version="v1",
        version_since=1.7e9,
        retrain_deadline=1.8e9,
        updated=1.7e9,
    )
    return replace(report, **changes)


def model(*groups: GroupReport, name: str = "fraud") -> ModelReport:
    return ModelReport(model=name, task="binary", control=None, groups=groups or (group(),), clock=1.7e9)


def value(exposition: Exposition, name: str, **labels: str) -> float | None:
    return exposition.registry.get_sample_value(name, labels)


FRAUD = {"model": "fraud", "group": "champion"}


def test_the_catalogue_is_the_contract() -> None:
    assert {family.name: family.labels for family in FAMILIES} == CONTRACT


def test_counters_end_in_total_and_everything_has_a_meaning() -> None:
    for family in FAMILIES:
        assert family.name.endswith("_total") == (family.type == "counter")
        assert family.help.endswith(".")


def test_an_empty_process_exposes_its_event_counters_at_zero() -> None:
    exposition = Exposition(Settings())
    assert value(exposition, "streamapp_events_total", topic="predictions", status="accepted") == 0
    assert value(exposition, "streamapp_events_total", topic="outcomes", status="late") == 0


def test_gauges_counters_and_summaries_carry_the_report() -> None:
    exposition = Exposition(SETTINGS)
    exposition.publish(Snapshot(models=(model(),)))
    assert value(exposition, "streamapp_predictions_total", **FRAUD) == 6
    assert value(exposition, "streamapp_outcomes_total", **FRAUD) == 4
    assert value(exposition, "streamapp_expired_total", **FRAUD) == 1
    assert value(exposition, "streamapp_loss_sum", **FRAUD, loss="brier") == 0.5
    assert value(exposition, "streamapp_loss_count", **FRAUD, loss="brier") == 4
    assert value(exposition, "streamapp_baseline_loss_sum", **FRAUD, baseline="prior", loss="brier") == 0.8
    assert value(exposition, "streamapp_score_bin_total", **FRAUD, bin="9", outcome="true") == 1
    assert value(exposition, "streamapp_metric", **FRAUD, metric="brier") == 0.125
    assert value(exposition, "streamapp_skill_ratio", **FRAUD, baseline="prior") == 0.25
    assert value(exposition, "streamapp_drift_score", **FRAUD, detector="e-sr") == 2
    assert value(exposition, "streamapp_drift_threshold", **FRAUD, detector="e-sr") == 100
    assert value(exposition, "streamapp_detector_state", **FRAUD, detector="e-sr", state="watching") == 1
    assert value(exposition, "streamapp_detector_state", **FRAUD, detector="e-sr", state="collecting") == 0
    assert value(exposition, "streamapp_model_info", model="fraud", task="binary", team="risk") == 1
    assert value(exposition, "streamapp_latency_slo_seconds", model="fraud") == 0.2
    assert value(exposition, "streamapp_retrain_deadline_timestamp_seconds", model="fraud") == 1.8e9
    assert value(exposition, "streamapp_model_updated_timestamp_seconds", model="fraud", version="v1") == 1.7e9
    assert value(exposition, "streamapp_window_samples", **FRAUD) == 4


def test_an_undefined_figure_is_no_series_rather_than_nan() -> None:
    exposition = Exposition(SETTINGS)
    exposition.publish(Snapshot(models=(model(),)))
    assert value(exposition, "streamapp_metric", **FRAUD, metric="roc_auc") is None
    assert value(exposition, "streamapp_skill_ratio", **FRAUD, baseline="majority") is None
    assert b"nan" not in generate_latest(exposition.registry).lower()


def test_histogram_buckets_count_what_numpy_counts() -> None:
    exposition = Exposition(SETTINGS)
    exposition.publish(Snapshot(models=(model(),)))
    for bound in LATENCY_BOUNDS:
        found = value(exposition, "streamapp_prediction_latency_seconds_bucket", **FRAUD, le=str(bound))
        assert found == int((bound >= LATENCIES).sum())
    assert value(exposition, "streamapp_prediction_latency_seconds_bucket", **FRAUD, le="+Inf") == len(LATENCIES)
    assert value(exposition, "streamapp_prediction_latency_seconds_count", **FRAUD) == len(LATENCIES)
    assert value(exposition, "streamapp_prediction_latency_seconds_sum", **FRAUD) == pytest.approx(LATENCIES.sum())


@pytest.mark.parametrize(
    ("name", "field"), [("prediction_latency", "latency"), ("outcome_delay", "delay")], ids=["latency", "delay"]
)
def test_what_equals_the_end_of_a_bucket_is_in_it(name: str, field: str) -> None:
    series = f"streamapp_{name}_seconds"
    exposition = Exposition(SETTINGS)
    exposition.publish(Snapshot(models=(model(group(**{field: quantiles.count(np.array(BOUNDS[series]))})),)))
    found = [value(exposition, f"{series}_bucket", **FRAUD, le=str(bound)) for bound in BOUNDS[series]]
    assert found == list(range(1, len(BOUNDS[series]) + 1))


@pytest.mark.parametrize("name", BOUNDS)
def test_the_documentation_names_the_ends_of_buckets_as_they_are_exported(name: str) -> None:
    exposition = Exposition(SETTINGS)
    exposition.publish(Snapshot(models=(model(),)))
    page = generate_latest(exposition.registry).decode()
    exported = [end for end in re.findall(rf'{name}_bucket.*le="(.+?)"', page) if end != "+Inf"]
    documented = re.findall(rf"^\| `le`, `{name}` \| (.+) \|$", labels(), re.MULTILINE)
    assert documented == [", ".join(exported)]


def test_counts_from_before_a_take_over_are_not_this_process_s() -> None:
    exposition = Exposition(SETTINGS)
    exposition.adopt([model(group(predictions=1000, outcomes=900))])
    assert value(exposition, "streamapp_predictions_total", **FRAUD) == 0
    exposition.publish(Snapshot(models=(model(group(predictions=1003, outcomes=901)),)))
    assert value(exposition, "streamapp_predictions_total", **FRAUD) == 3
    assert value(exposition, "streamapp_outcomes_total", **FRAUD) == 1


def test_a_model_that_goes_elsewhere_keeps_its_counters_and_loses_its_gauges() -> None:
    exposition = Exposition(SETTINGS)
    exposition.publish(Snapshot(models=(model(),)))
    exposition.publish(Snapshot(models=(model(group(predictions=8)),)))
    exposition.publish(Snapshot())
    assert value(exposition, "streamapp_predictions_total", **FRAUD) == 8
    assert value(exposition, "streamapp_window_samples", **FRAUD) is None
    assert value(exposition, "streamapp_model_info", model="fraud", task="binary", team="risk") is None


def test_a_model_that_comes_back_is_counted_on_from_where_it_was_taken_over() -> None:
    exposition = Exposition(SETTINGS)
    exposition.publish(Snapshot(models=(model(group(predictions=10)),)))
    exposition.publish(Snapshot())
    exposition.adopt([model(group(predictions=50))])
    exposition.publish(Snapshot(models=(model(group(predictions=52)),)))
    assert value(exposition, "streamapp_predictions_total", **FRAUD) == 12


def test_scraping_twice_counts_nothing_twice() -> None:
    exposition = Exposition(SETTINGS)
    exposition.publish(Snapshot(models=(model(),), signals={("fraud", "champion", "drift", "act", "policy"): 2}))
    assert generate_latest(exposition.registry) == generate_latest(exposition.registry)


def test_the_stream_does_not_wait_for_a_scrape_that_is_being_worked_out() -> None:
    exposition = Exposition(SETTINGS)
    with exposition._lock:
        exposition.adopt([model(group(predictions=6))])
        exposition.publish(Snapshot(models=(model(group(predictions=7)),)))
        exposition.forget([("other", None)])
    assert value(exposition, "streamapp_predictions_total", model="fraud", group="champion") == 1


def test_what_nobody_scrapes_does_not_grow() -> None:
    exposition = Exposition(SETTINGS)
    for number in range(10 * MOST_NEWS):
        exposition.publish(Snapshot(models=(model(group(predictions=number), name=f"m{number}"),)))
    assert len(exposition._news) <= MOST_NEWS
    assert value(exposition, "streamapp_predictions_total", model="m5", group="champion") == 5


def test_a_new_snapshot_is_asked_for_before_each_scrape() -> None:
    counts = iter(range(1, 4))

    def renew() -> None:
        exposition.publish(Snapshot(models=(model(group(predictions=next(counts))),)))

    exposition = Exposition(SETTINGS, renew=renew)
    seen = [value(exposition, "streamapp_predictions_total", model="fraud", group="champion") for _ in range(3)]
    assert seen == [1, 2, 3]


def test_samples_are_made_as_somebody_goes_through_them_and_not_kept() -> None:
    exposition = Exposition(SETTINGS)
    exposition.publish(Snapshot(models=tuple(model(name=f"m{number}") for number in range(50))))
    before = samples_alive()
    seen = most = 0
    for family in exposition.registry.collect():
        for number, _ in enumerate(family.samples):
            seen += 1
            if number % 100 == 0:
                most = max(most, samples_alive() - before)
    assert seen > 2000
    assert most < 50  # a histogram's


def samples_alive() -> int:
    return sum(isinstance(each, Sample) for each in gc.get_objects())


def test_a_family_can_be_gone_through_again() -> None:
    exposition = Exposition(SETTINGS)
    exposition.publish(Snapshot(models=(model(),)))
    for family in exposition.registry.collect():
        assert list(family.samples) == list(family.samples)


def test_what_may_be_counted_later_is_there_at_zero() -> None:
    exposition = Exposition(SETTINGS)
    exposition.publish(Snapshot(models=(model(),)))
    drift = {**FRAUD, "kind": "drift"}
    assert value(exposition, "streamapp_signals_total", **drift, severity="warn", detector="e-sr") == 0
    assert value(exposition, "streamapp_signals_total", **drift, severity="act", detector="policy") == 0
    recovery = {**FRAUD, "kind": "recovery", "severity": "warn", "detector": "e-sr"}
    assert value(exposition, "streamapp_signals_total", **recovery) == 0
    quality = {**FRAUD, "kind": "data_quality", "severity": "warn", "detector": "unscorable"}
    assert value(exposition, "streamapp_signals_total", **quality) == 0
    assert value(exposition, "streamapp_retrain_requests_total", **FRAUD, reason="drift") == 0
    for status in get_args(get_type_hints(LearnResult)["status"]):
        assert value(exposition, "streamapp_model_updates_total", **FRAUD, status=status) == 0
    for reason in (*REASONS, QUARANTINED):
        for topic in ("predictions", "outcomes"):
            assert value(exposition, "streamapp_rejected_total", topic=topic, reason=reason) == 0
    for reason in ("failed", "stuck", "killed"):
        assert value(exposition, "streamapp_recoveries_total", role="worker", reason=reason) == 0


def test_what_is_forgotten_makes_room_for_other_values() -> None:
    exposition = Exposition(SETTINGS, cap=2)
    exposition.publish(Snapshot(models=(model(name="a"), model(name="b"))))
    exposition.registry.get_sample_value("streamapp_outcomes_total")
    exposition.publish(Snapshot(models=(model(name="b"), model(name="c"))))
    exposition.forget([("a", "champion"), ("a", None)])
    labels = {"group": "champion"}
    assert value(exposition, "streamapp_outcomes_total", model="a", **labels) is None
    assert value(exposition, "streamapp_outcomes_total", model="b", **labels) == 4
    assert value(exposition, "streamapp_outcomes_total", model="c", **labels) == 4
    assert value(exposition, "streamapp_label_overflow_total", label="model") is None


def many(**outcomes: int) -> tuple[ModelReport, ...]:
    """Return models of one group that have had so many outcomes, of so many predictions and with so much loss."""
    return tuple(
        model(group(outcomes=n, predictions=n, latency={0: n}, losses={"brier": (float(n), n)}), name=name)
        for name, n in outcomes.items()
    )


def others(exposition: Exposition) -> tuple[float | None, ...]:
    """Return counters of each type that models share beyond the cap."""
    names = {"model": "other", "group": "champion"}
    return (
        value(exposition, "streamapp_outcomes_total", **names),
        value(exposition, "streamapp_prediction_latency_seconds_count", **names),
        value(exposition, "streamapp_loss_sum", **names, loss="brier"),
        value(exposition, "streamapp_loss_count", **names, loss="brier"),
    )


def test_what_is_counted_as_other_never_falls() -> None:
    exposition = Exposition(SETTINGS, cap=2)
    exposition.publish(Snapshot(models=many(a=10, b=10, c=5000, d=70)))
    assert others(exposition) == (5070,) * 4
    exposition.publish(Snapshot(models=many(b=10, c=5000, d=71)))
    exposition.forget([("a", "champion"), ("a", None)])
    assert others(exposition) == (5071,) * 4
    exposition.publish(Snapshot(models=many(b=10, c=5001)))
    exposition.forget([("d", "champion"), ("d", None)])
    assert others(exposition) == (5072,) * 4
    exposition.publish(Snapshot(models=many(b=10, c=5001, e=3, f=1)))
    assert others(exposition) == (5073,) * 4
    assert value(exposition, "streamapp_outcomes_total", model="e", group="champion") == 3
    assert value(exposition, "streamapp_label_overflow_total", label="model") == 3


def test_one_that_was_other_and_is_forgotten_comes_back_under_its_name_where_there_is_room() -> None:
    exposition = Exposition(SETTINGS, cap=1)
    exposition.publish(Snapshot(models=many(a=10, b=20)))
    assert others(exposition) == (20,) * 4
    exposition.publish(Snapshot())
    exposition.forget([("a", "champion"), ("a", None), ("b", "champion"), ("b", None)])
    exposition.publish(Snapshot(models=many(b=3)))
    assert others(exposition) == (20,) * 4
    assert value(exposition, "streamapp_outcomes_total", model="b", group="champion") == 3


def test_a_model_that_is_forgotten_takes_its_other_groups_with_it() -> None:
    exposition = Exposition(SETTINGS, cap=1)
    exposition.publish(Snapshot(models=(model(group("x"), group("y"), name="a"),)))
    assert value(exposition, "streamapp_outcomes_total", model="a", group="other") == 4
    exposition.publish(Snapshot())
    exposition.forget([("a", "y")])
    assert value(exposition, "streamapp_outcomes_total", model="a", group="other") == 4
    exposition.forget([("a", "x"), ("a", None)])
    assert value(exposition, "streamapp_outcomes_total", model="a", group="other") is None


def test_signals_requests_and_updates_of_others_never_fall() -> None:
    signal, request, update = ("drift", "act", "policy"), ("drift",), ("accepted",)

    def counted(**counts: int) -> Snapshot:
        return Snapshot(
            models=many(**counts),
            signals={(name, "champion", *signal): n for name, n in counts.items()},
            retrain_requests={(name, "champion", *request): n for name, n in counts.items()},
            model_updates={(name, "champion", *update): n for name, n in counts.items()},
        )

    def shown() -> tuple[float | None, ...]:
        names = {"model": "other", "group": "champion"}
        return (
            value(exposition, "streamapp_signals_total", **names, kind="drift", severity="act", detector="policy"),
            value(exposition, "streamapp_retrain_requests_total", **names, reason="drift"),
            value(exposition, "streamapp_model_updates_total", **names, status="accepted"),
        )

    exposition = Exposition(SETTINGS, cap=5)
    known = dict.fromkeys("vwxyz", 1)
    exposition.publish(counted(**known, b=5, c=7))
    assert shown() == (12,) * 3
    exposition.publish(counted(**known, c=8))
    exposition.forget([("b", "champion"), ("b", None)])
    assert shown() == (13,) * 3


def test_a_group_of_a_model_that_went_elsewhere_stays_what_it_was_shown_as() -> None:
    exposition = Exposition(SETTINGS, cap=2)
    exposition.publish(
        Snapshot(models=(model(group("w"), group("x"), group("y"), name="b"), model(group("y"), name="a")))
    )
    assert value(exposition, "streamapp_outcomes_total", model="a", group="other") == 4
    exposition.publish(Snapshot(models=(model(group("w"), group("z"), name="b"),)))
    exposition.forget([("b", "x"), ("b", "y")])
    assert value(exposition, "streamapp_outcomes_total", model="a", group="other") == 4
    assert value(exposition, "streamapp_outcomes_total", model="b", group="other") == 4
    assert value(exposition, "streamapp_outcomes_total", model="b", group="z") == 4


def test_room_is_not_given_once_too_many_wait_for_it() -> None:
    words = Vocabulary(1)
    assert words.of("model", "a") == "a"
    assert {words.of("model", f"m{number}") for number in range(200)} == {"other"}
    words.release("model", "a")
    assert words.of("model", "m150") == "other"
    assert words.overflow() == {"model": 100}


def test_a_group_that_is_forgotten_and_comes_back_is_counted_from_its_beginning() -> None:
    exposition = Exposition(SETTINGS)
    exposition.publish(Snapshot(models=(model(group("x"), group("y")),)))
    assert value(exposition, "streamapp_outcomes_total", model="fraud", group="x") == 4
    exposition.publish(Snapshot(models=(model(group("y")),)))
    exposition.forget([("fraud", "x")])
    assert value(exposition, "streamapp_outcomes_total", model="fraud", group="x") is None
    assert value(exposition, "streamapp_outcomes_total", model="fraud", group="y") == 4
    exposition.publish(Snapshot(models=(model(group("x", outcomes=1), group("y")),)))
    assert value(exposition, "streamapp_outcomes_total", model="fraud", group="x") == 1


def test_counts_and_gauges_of_the_process_are_shown() -> None:
    exposition = Exposition(SETTINGS)
    exposition.publish(
        Snapshot(
            events={("predictions", "accepted"): 5, ("predictions", "read"): 6},
            rejected={("predictions", "malformed"): 1},
            recoveries={("joiner", "fenced"): 1},
            reread={("joiner", "predictions"): 40},
            restore_seconds={("joiner", 3): 0.5},
            model_updates={("fraud", "champion", "accepted"): 1},
            parked={("joiner", 3): "checkpoint"},
            pending={3: 7},
            log_time={3: 1.7e9},
            lag={("streamapp.outcomes", 3): 9},
            checkpoint_age={("joiner", 3): 0.25},
            checkpoint_bytes={("joiner", 3): 4096},
            learner_progress={"fraud": 1.7e9},
        )
    )
    assert value(exposition, "streamapp_events_total", topic="predictions", status="accepted") == 5
    assert value(exposition, "streamapp_events_total", topic="predictions", status="read") is None
    assert value(exposition, "streamapp_rejected_total", topic="predictions", reason="malformed") == 1
    assert value(exposition, "streamapp_recoveries_total", role="joiner", reason="fenced") == 1
    assert value(exposition, "streamapp_recoveries_total", role="monitor", reason="fenced") == 0
    assert value(exposition, "streamapp_reread_records_total", role="joiner", topic="predictions") == 40
    assert value(exposition, "streamapp_restore_seconds", role="joiner", partition="3") == 0.5
    assert value(exposition, "streamapp_model_updates_total", **FRAUD, status="accepted") == 1
    assert value(exposition, "streamapp_parked", role="joiner", partition="3", reason="checkpoint") == 1
    assert value(exposition, "streamapp_pending_predictions", partition="3") == 7
    assert value(exposition, "streamapp_log_time_seconds", partition="3") == 1.7e9
    assert value(exposition, "streamapp_consumer_lag_records", topic="streamapp.outcomes", partition="3") == 9
    assert value(exposition, "streamapp_checkpoint_age_seconds", role="joiner", partition="3") == 0.25
    assert value(exposition, "streamapp_checkpoint_bytes", role="joiner", partition="3") == 4096
    assert value(exposition, "streamapp_learner_progress_timestamp_seconds", model="fraud") == 1.7e9


def test_predictions_that_the_joiner_counted_as_other_are_told() -> None:
    exposition = Exposition(Settings())
    exposition.publish(Snapshot(events={("predictions", "accepted"): 9, ("predictions", "other_group"): 4}))
    assert value(exposition, "streamapp_label_overflow_total", label="group") == 4
    assert value(exposition, "streamapp_label_overflow_total", label="model") is None
    assert value(exposition, "streamapp_events_total", topic="predictions", status="other_group") is None


def test_label_values_beyond_the_cap_become_other_and_their_counters_add_up() -> None:
    exposition = Exposition(Settings(), cap=3)
    models = tuple(model(group(predictions=1), name=f"m{i}") for i in range(10))
    exposition.publish(Snapshot(models=models))
    assert value(exposition, "streamapp_predictions_total", model="m2", group="champion") == 1
    assert value(exposition, "streamapp_predictions_total", model="other", group="champion") == 7
    assert value(exposition, "streamapp_label_overflow_total", label="model") == 7
    assert value(exposition, "streamapp_label_overflow_total", label="group") is None
    assert value(exposition, "streamapp_window_samples", model="other", group="champion") is not None
    generate_latest(exposition.registry)


def test_what_tasks_left_out_is_counted_as_overflow() -> None:
    exposition = Exposition(Settings())
    exposition.publish(Snapshot(overflow={("feature",): 12}))
    assert value(exposition, "streamapp_label_overflow_total", label="feature") == 12


HOSTILE = 'a"b\\c\nd{}\u2028 é \ud800'


def test_hostile_names_are_escaped() -> None:
    exposition = Exposition(Settings())
    exposition.publish(Snapshot(models=(model(group(HOSTILE, version=HOSTILE), name=HOSTILE),)))
    text = generate_latest(exposition.registry)
    assert b'a\\"b\\\\c\\nd{}' in text
    families = list(parse_openmetrics(generate_openmetrics(exposition.registry).decode()))
    assert {family.name for family in families} >= {"streamapp_window_samples"}


@pytest.mark.prometheus
@pytest.mark.parametrize(
    "snapshot", [Snapshot(), Snapshot(models=(model(), model(name="churn")))], ids=["empty", "full"]
)
def test_promtool_finds_nothing_wrong(snapshot: Snapshot) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        leave_out("promtool is not installed")
    exposition = Exposition(SETTINGS)
    exposition.publish(snapshot)
    done = subprocess.run(
        [promtool, "check", "metrics"], input=generate_latest(exposition.registry), capture_output=True, timeout=30
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
