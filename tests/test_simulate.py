"""The simulated services: the pure simulation, its files, and its threads on the embedded broker."""

import dataclasses
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kafka import KafkaConsumer, KafkaProducer, TopicPartition

from streamapp.artifacts import ArtifactStore
from streamapp.core.events import ModelUpdate, Outcome, Prediction, UpdateMetrics
from streamapp.core.learning.learned import LearnedModel
from streamapp.core.pickling import dumps
from streamapp.core.settings import ModelSettings
from streamapp.errors import ConfigError, StreamappError
from streamapp.simulate import record, services, simulation
from streamapp.simulation import DATASETS, SCENARIOS, Answering, Dataset, Scenario, Simulation, load
from streamapp.simulation.models import Answer, pretrain
from streamapp.simulation.services import Services
from streamapp.stream.topics import Topics, create, plan

SHUTTLE = load("shuttle")
STEADY = Scenario(kind="none")


class Coin:
    """Answers the same to everybody."""

    def predict(self, features: dict[str, float]) -> Answer:
        return True, 0.5


def coins() -> dict[str, Answering]:
    return {group: Answering("v1", Coin()) for group in ("champion", "challenger")}


def events(count: int = 500, scenario: Scenario = STEADY, **options: object) -> list:
    return list(Simulation(SHUTTLE, scenario, coins(), **options).events(1e9, count))


def predictions(script: list) -> list[Prediction]:
    return [event for _, event in script if isinstance(event, Prediction)]


def outcomes(script: list) -> list[Outcome]:
    return [event for _, event in script if isinstance(event, Outcome)]


# What is published


def test_one_seed_gives_one_stream():
    assert events(seed=3) == events(seed=3)
    assert events(seed=3) != events(seed=4)


@given(
    seed=st.integers(0, 1000),
    rate=st.floats(1, 5000),
    missing=st.floats(0, 1),
    repeated=st.floats(0, 1),
    delay=st.tuples(st.floats(0, 1), st.floats(1, 5)),
)
@settings(max_examples=30, deadline=None)
def test_events_come_when_due_and_outcomes_after_their_predictions(seed, rate, missing, repeated, delay):
    script = events(60, seed=seed, rate=rate, missing=missing, repeated=repeated, delay=delay)
    times = [due for due, _ in script]
    assert times == sorted(times)
    assert all(event.ts == due for due, event in script)
    made = {event.prediction_id: event.ts for event in predictions(script)}
    assert len(made) == 60
    first = {event.prediction_id: event.ts for event in reversed(outcomes(script))}
    assert all(delay[0] - 1e-6 <= ts - made[each] <= delay[1] + 1e-6 for each, ts in first.items())


def test_shares_of_groups_and_of_outcomes_are_as_asked():
    script = events(20_000, missing=0.05, repeated=0.02)
    made, came = predictions(script), outcomes(script)
    assert sum(event.group == "champion" for event in made) / 20_000 == pytest.approx(0.8, abs=0.02)
    ids = {event.prediction_id for event in came}
    assert 1 - len(ids) / 20_000 == pytest.approx(0.05, abs=0.01)
    assert (len(came) - len(ids)) / 20_000 == pytest.approx(0.02, abs=0.005)
    assert (made[-1].ts - made[0].ts) / 20_000 == pytest.approx(1 / 300, rel=0.05)


def test_a_unit_stays_in_its_group():
    groups: dict[str, set[str]] = {}
    for event in predictions(events(5000)):
        groups.setdefault(event.unit, set()).add(event.group)
    assert len(groups) < 5000
    assert all(len(each) == 1 for each in groups.values())


def test_every_event_is_one_that_the_contract_allows():
    for name in DATASETS:
        simulated = simulation(name, "abrupt", at=0.5)
        for _, event in simulated.events(1e9, 300):
            read = msgspec.json.decode(msgspec.json.encode(event), type=type(event))
            assert read.prediction_id == event.prediction_id
            if isinstance(read, Prediction) and isinstance(read.scores, dict):
                assert sum(read.scores.values()) == pytest.approx(1, abs=1e-9)


def test_a_new_version_answers_from_the_moment_it_is_put_in():
    answering = coins()
    stream = Simulation(SHUTTLE, Scenario(), answering).events(1e9, 200)
    before = predictions(list(itertools.islice(stream, 100)))
    answering["champion"] = Answering("v2", Coin())
    after = predictions(list(stream))
    assert {event.version for event in before} == {"v1"}
    assert {event.version for event in after if event.group == "champion"} == {"v2"}
    assert {event.version for event in after if event.group == "challenger"} == {"v1"}


def test_what_the_clock_measures_is_added_to_the_latency():
    ticks = itertools.count(step=2.0)
    simulated = Simulation(SHUTTLE, Scenario(), coins(), clock=lambda: next(ticks))
    assert all(2.0 < event.latency < 3.0 for event in predictions(list(simulated.events(1e9, 50))))


# What changes


@pytest.mark.parametrize("kind", SCENARIOS)
def test_nothing_changes_before_the_moment_of_change(kind):
    changing = events(1000, Scenario(kind=kind, at=2.0))
    steady = events(1000, STEADY)
    early = [pair for pair in changing if pair[0] < 1e9 + 2.0]
    assert len(early) > 500
    assert early == steady[: len(early)]


def test_an_abrupt_change_swaps_the_features_of_every_row_after_it():
    changed = predictions(events(1000, Scenario(kind="abrupt", at=0.0)))
    steady = predictions(events(1000, STEADY))
    names = list(SHUTTLE.rows[0][0])
    for new, old in zip(changed, steady, strict=True):
        before, after = msgspec.json.decode(old.features), msgspec.json.decode(new.features)
        assert list(after.values()) == [before[name] for name in names[1:] + names[:1]]


def test_a_gradual_change_takes_its_span():
    scenario = Scenario(kind="gradual", at=10.0, span=20.0)
    assert [scenario.relation(at) for at in (0.0, 10.0, 15.0, 30.0, 99.0)] == [0.0, 0.0, 0.25, 1.0, 1.0]


def test_changed_inputs_come_from_a_region_and_keep_their_relation():
    rows = {tuple(features.values()): outcome for features, outcome in SHUTTLE.rows}
    feature, least = SHUTTLE.region
    script = events(1000, Scenario(kind="inputs", at=0.0), missing=0.0)
    truths = {event.prediction_id: event.outcome for event in outcomes(script)}
    for event in predictions(script):
        features = msgspec.json.decode(event.features)
        assert features[feature] >= least
        assert rows[tuple(features.values())] == truths[event.prediction_id]


def losses(script: list, lower: float, upper: float, group: str = "champion") -> float:
    """Mean loss of the predictions made in an interval of the stream: Brier, or absolute."""
    made = {event.prediction_id: event for event in predictions(script)}
    found = []
    for event in outcomes(script):
        prediction = made[event.prediction_id]
        if prediction.group != group or not lower <= prediction.ts - 1e9 < upper:
            continue
        if isinstance(prediction.scores, dict):
            each = sum((score - (name == event.outcome)) ** 2 for name, score in prediction.scores.items())
        elif prediction.scores is not None:
            each = (prediction.scores - event.outcome) ** 2
        else:
            each = abs(prediction.prediction - event.outcome)
        found.append(each)
    return float(np.mean(found))


@pytest.mark.parametrize("name", DATASETS)
def test_an_abrupt_change_hurts_both_models_and_can_be_learned_again(name):
    data = load(name)
    answering = pretrain(data, seed=7)
    script = list(Simulation(data, Scenario(at=12.0), answering).events(1e9, 8000))
    for group in ("champion", "challenger"):
        assert losses(script, 12, 99, group) > 2 * losses(script, 0, 12, group)
    relearned = {**answering, "champion": pretrain_on(data, [data.changed(row) for row in data.rows])}
    again = list(Simulation(data, Scenario(at=0.0), relearned).events(1e9, 4000))
    assert losses(again, 0, 99) < 0.7 * losses(script, 12, 99)


def pretrain_on(data: Dataset, rows: list) -> Answering:
    """Return the champion as it would be, had it learned from other rows of the same data set."""
    return pretrain(dataclasses.replace(data, rows=tuple(rows)), seed=8)["champion"]


def test_nothing_changing_hurts_nobody():
    script = list(simulation("shuttle", "none").events(1e9, 8000))
    assert losses(script, 12, 99) == pytest.approx(losses(script, 0, 12), abs=0.01)


@pytest.mark.parametrize(
    "arguments",
    [
        {"dataset": "iris"},
        {"scenario": "earthquake"},
        {"at": -1.0},
        {"rate": 0.0},
        {"missing": 2.0},
        {"shares": {"champion": 0.5}},
    ],
)
def test_arguments_that_cannot_be_right_are_refused(arguments):
    with pytest.raises(ConfigError):
        simulation(**arguments)


# Files


def test_recorded_files_hold_every_event_once_in_order_of_time(tmp_path: Path):
    record(simulation(), tmp_path / "p.jsonl", tmp_path / "o.jsonl", count=400, start=1e9)
    script = list(simulation().events(1e9, 400))
    assert read_lines(tmp_path / "p.jsonl", Prediction) == [each.prediction_id for each in predictions(script)]
    assert read_lines(tmp_path / "o.jsonl", Outcome) == [each.prediction_id for each in outcomes(script)]


def read_lines(path: Path, kind: type) -> list[str]:
    return [msgspec.json.decode(line, type=kind).prediction_id for line in path.read_bytes().splitlines()]


# Threads


@pytest.fixture
def running() -> Iterator[Callable[..., Services]]:
    """Makes services, which end with the test."""
    made: list[Services] = []

    def make(*arguments: Any, **options: Any) -> Services:
        made.append(services(*arguments, **options))
        return made[-1]

    yield make
    for each in made:
        each.stop()


@pytest.mark.embedded
def test_services_publish_what_the_simulation_says(embedded, prefix, running):
    topics = Topics(prefix)
    create(embedded.bootstrap, plan(topics, partitions=1, scored_partitions=1))
    simulated = running(embedded.bootstrap, prefix=prefix, rate=500.0, delay=(0.0, 0.1))
    simulated.start(200)
    assert simulated.wait(30)
    assert simulated.stop()
    published = simulated.publisher
    assert (published.rejected, published.dropped, published.failed) == (0, 0, 0)
    assert published.delivered == published.published
    consumer = KafkaConsumer(bootstrap_servers=embedded.bootstrap, group_id=None, auto_offset_reset="earliest")
    consumer.assign([TopicPartition(topics.predictions, 0), TopicPartition(topics.outcomes, 0)])
    records = []
    while len(records) < published.published:
        records += [each for found in consumer.poll(1000).values() for each in found]
    consumer.close()
    assert sum(each.topic == topics.predictions for each in records) == 200


def learned() -> LearnedModel:
    model = LearnedModel("binary", ModelSettings(), seed=1)
    for features, outcome in SHUTTLE.rows[:50]:
        model.learn(features, outcome)
    return model


def update(store: ArtifactStore, status: str = "accepted", **changes: object) -> ModelUpdate:
    artifact = store.put("shuttle/champion/learned-1", dumps(learned()))
    fields = {
        "id": "u1",
        "model": "shuttle",
        "group": "champion",
        "version": "learned-1",
        "parent": "v1",
        "request": "r1",
        "status": status,
        "at": 1e9,
        "rows_learned": 500,
        "metrics": UpdateMetrics(incumbent=0.3, candidate=0.02),
        "artifact": artifact,
    }
    return ModelUpdate(**{**fields, **changes})


@pytest.mark.embedded
def test_services_take_the_version_that_the_learner_offers(embedded, prefix, running, tmp_path: Path):
    topics = Topics(prefix)
    create(embedded.bootstrap, plan(topics, partitions=1, scored_partitions=1))
    simulated = running(embedded.bootstrap, prefix=prefix, artifacts=str(tmp_path), rate=100.0)
    simulated.start()
    producer = KafkaProducer(bootstrap_servers=embedded.bootstrap)
    offered = msgspec.json.encode(update(ArtifactStore(str(tmp_path))))
    while not simulated.updates:
        # Services begin at the end of the topic, so the offer is repeated until they are there.
        producer.send(topics.model_updates, value=b"not an update")
        producer.send(topics.model_updates, value=offered).get(5)
        assert not simulated.wait(0.2)
    assert simulated.versions == {"champion": "learned-1", "challenger": "v1"}
    producer.close(5)


@pytest.mark.parametrize("changes", [{"status": "rejected", "artifact": None}, {"model": "fraud"}, {"group": "nobody"}])
def test_updates_that_are_not_for_us_change_nothing(running, tmp_path: Path, changes):
    simulated = running("127.0.0.1:9", artifacts=str(tmp_path))
    simulated.take(update(ArtifactStore(str(tmp_path)), **changes))
    assert set(simulated.versions.values()) == {"v1"}
    assert simulated.updates == []


def test_an_artifact_that_is_not_what_the_update_says_is_refused(running, tmp_path: Path):
    simulated = running("127.0.0.1:9", artifacts=str(tmp_path))
    offered = update(ArtifactStore(str(tmp_path)))
    forged = msgspec.structs.replace(offered, artifact=msgspec.structs.replace(offered.artifact, sha256="0" * 64))
    with pytest.raises(StreamappError):
        simulated.take(forged)
    assert set(simulated.versions.values()) == {"v1"}
