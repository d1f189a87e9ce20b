"""What the monitor forgets is gone from checkpoint, summary and metrics; what is reset begins anew."""

from pathlib import Path
from typing import Any

import msgspec
import pytest
from faust.types import TP

from streamapp.commands.reset import forgetting
from streamapp.core.events import Artifact, Tick
from streamapp.core.settings import Seconds, Settings
from streamapp.errors import CheckpointError
from streamapp.stream.checkpoint import Checkpoint
from streamapp.stream.codec import encode_scored
from streamapp.stream.culprit import unpassed
from streamapp.stream.learning import KEPT_DONE, Learned
from streamapp.stream.monitoring import MonitorTask
from streamapp.stream.recent import Recent
from streamapp.stream.task import Counters
from streamapp.stream.view import View
from tests.core.rows import Row, batch
from tests.stream.doubles import START, Bench, Broker, commit, outcome, prediction, run
from tests.stream.stage import Stage
from tests.stream.test_failures import feed
from tests.stream.test_monitoring import NERVOUS, drifting

SCORED = TP("t.scored", 0)
FORGETFUL = Settings(defaults=msgspec.structs.replace(NERVOUS.defaults, forget_after=Seconds(3600)))


async def through(bench: Bench) -> MonitorTask:
    task = MonitorTask(0, bench.around())
    await task.open()
    await task.handle(bench.broker.batch(SCORED.topic, task.position(SCORED)))
    await commit(task)
    return task


def stored(broker: Broker, role: str = "monitor") -> dict[bytes, bytes]:
    return run(Checkpoint(f"t.checkpoints-{role}", 0).load(broker.reader())) or {}


def tick(broker: Broker, at: float) -> None:
    broker.append(SCORED.topic, encode_scored(Tick(partition=0, log_time=at)), at=at)


def test_a_forgotten_model_leaves_nothing_in_checkpoint_summary_and_counts(tmp_path: Path) -> None:
    bench = Bench(tmp_path, settings=FORGETFUL)
    drifting(bench)
    task = run(through(bench))
    assert any(key.startswith(b"recent/signals/fraud") for key in stored(bench.broker))
    assert task.counters.signals
    tick(bench.broker, START + 2 * 3600)
    task = run(through(bench))
    assert set(stored(bench.broker)) == {b"meta"}
    assert task.signals.of("fraud") == task.requests.of("fraud") == []
    assert task.monitor.summary() == {}
    assert ("fraud", None) in task.forgotten
    assert run(through(bench)).monitor.summary() == {}


def test_counts_of_what_is_forgotten_go_and_others_stay() -> None:
    counters = Counters()
    for model in ("a", "b"):
        for group in ("x", "y"):
            counters.add("signals", (model, group, "drift", "warn", "adwin"))
            counters.add("retrain", (model, group, "drift"))
            counters.add("updates", (model, group, "accepted"))
    counters.forget("a", "x")
    assert {key[:2] for key in counters.signals} == {("a", "y"), ("b", "x"), ("b", "y")}
    counters.forget("b", None)
    for counts in (counters.signals, counters.retrain, counters.updates):
        assert {key[:2] for key in counts} == {("a", "y")}


def test_series_of_what_is_forgotten_are_exported_no_more(tmp_path: Path) -> None:
    stage = Stage(tmp_path, settings=FORGETFUL)

    def rows(model: str, group: str, at: float) -> None:
        found = batch([Row(prediction=True, outcome=True, group=group, ts=at)], model=model)
        stage.broker.append(SCORED.topic, encode_scored(found), at=at)

    async def work() -> None:
        await stage.own("monitor-0")
        view = View(stage.runtime)
        registry = view._exposition.registry

        def shown() -> set[tuple[str, str]]:
            samples = [sample for metric in registry.collect() for sample in metric.samples]
            return {(s.labels["model"], s.labels["group"]) for s in samples if {"model", "group"} <= s.labels.keys()}

        rows("old", "a", START)
        rows("both", "a", START)
        rows("both", "b", START + 3000)
        await feed(stage, "monitor-0")
        await view.refresh()
        assert shown() == {("old", "a"), ("both", "a"), ("both", "b")}
        tick(stage.broker, START + 4000)
        await feed(stage, "monitor-0")
        await view.refresh()
        assert shown() == {("both", "b")}
        rows("old", "a", START + 4001)
        await feed(stage, "monitor-0")
        await view.refresh()
        assert registry.get_sample_value("streamapp_outcomes_total", {"model": "old", "group": "a"}) == 1

    run(work())


# -- what commands change ----------------------------------------------------------------------------------------------


def play(entries: dict[bytes, bytes], changes: dict[bytes, bytes | None]) -> dict[bytes, bytes]:
    """Return entries after changes."""
    return {key: value for key, value in {**entries, **changes}.items() if value is not None}


def test_a_monitor_forgets_one_model_and_keeps_the_others_bit_by_bit(tmp_path: Path) -> None:
    bench = Bench(tmp_path, settings=NERVOUS)
    drifting(bench)
    drifting(bench, model="other")
    run(through(bench))
    entries = stored(bench.broker)
    changes = forgetting("monitor", 0, NERVOUS, entries, "fraud")
    after = play(entries, changes)
    assert {key for key in after if b"fraud" in key} == set()
    kept = {key: value for key, value in entries.items() if b"other" in key}
    assert kept
    assert {key: value for key, value in after.items() if b"other" in key} == kept
    assert forgetting("monitor", 0, NERVOUS, after, "fraud") == {}
    assert forgetting("monitor", 0, NERVOUS, entries, "frau") == {}


def test_a_model_that_cannot_be_read_can_be_forgotten_and_nothing_else_can(tmp_path: Path) -> None:
    bench = Bench(tmp_path, settings=NERVOUS)
    drifting(bench)
    drifting(bench, model="other")
    run(through(bench))
    entries = {**stored(bench.broker), b"model/fraud/group/default": b"\x00\x00\xc1"}
    with pytest.raises(CheckpointError):
        forgetting("monitor", 0, NERVOUS, entries, "other")
    after = play(entries, forgetting("monitor", 0, NERVOUS, entries, "fraud"))
    assert forgetting("monitor", 0, NERVOUS, after, "other")


def test_a_learner_forgets_what_one_model_has_learned() -> None:
    artifact = Artifact(uri="file:///x", sha256="0", format="f")
    recent = Recent("model-updates")
    signal: Any = {"id": "u"}
    entries: dict[bytes, bytes] = {KEPT_DONE: msgspec.msgpack.encode([3])}
    for model, group in (("m", "a"), ("m", "b"), ("n", "a")):
        entries[msgspec.msgpack.encode((model, group))] = msgspec.msgpack.encode(Learned("learned-1", 1, artifact))
        recent.add(model, signal)
    entries |= {key: value for key, value in recent.take().items() if value is not None}
    after = play(entries, forgetting("learner", 0, Settings(), entries, "m"))
    assert set(after) == {KEPT_DONE, msgspec.msgpack.encode(("n", "a")), b"recent/model-updates/n"}
    assert forgetting("learner", 0, Settings(), after, "m") == {}


def test_what_a_task_has_not_applied_for_good_can_still_be_left_out(tmp_path: Path) -> None:
    stage = Stage(tmp_path)
    for number in range(10):
        stage.broker.append("t.predictions", prediction(number, START + number), at=START + number)
    for number in range(4):
        stage.broker.append("t.outcomes", outcome(number, START + number), at=START + number + 0.5)

    async def work() -> dict[str, int]:
        await stage.own("joiner-0")
        await feed(stage, "joiner-0")
        checkpoint = Checkpoint("t.checkpoints-joiner", 0)
        entries = await checkpoint.load(stage.broker.reader())
        assert entries is not None
        return unpassed("joiner", 0, Settings(), entries, checkpoint.inputs)

    # Predictions behind the last outcome wait for their turn, since an outcome may still come before them.
    assert run(work()) == {"t.predictions": 4, "t.outcomes": 4}
