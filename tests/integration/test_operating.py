"""What an operator does to a running deployment, and what a deployment tells its operator, on a real broker."""

import json
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from kafka import KafkaAdminClient, KafkaProducer

from streamapp.config import ProcessConfig
from streamapp.stream.reader import Reader
from streamapp.stream.topics import create, plan
from tests.integration.workers import Deployment, Worker, until
from tests.stream.doubles import run

pytestmark = pytest.mark.integration

NOW = 1_772_366_400.0
SUPERVISED = ("-m", "streamapp", "worker")
DEFECTIVE = ("-m", "tests.integration.defective", "supervise")


class Supervised(Worker):
    """A worker that is started again whenever it ends."""

    def __init__(self, deployment: Deployment, command: tuple[str, ...]) -> None:
        self.log = deployment.folder / f"worker-{len(deployment.workers)}.log"
        self._file = self.log.open("wb")
        self._process = subprocess.Popen(
            [sys.executable, *command],
            env={**deployment.environ, "PATH": "/usr/bin:/bin"},
            stdout=self._file,
            stderr=self._file,
            cwd=Path(__file__).parents[2],
        )
        deployment.workers.append(self)

    @property
    def url(self) -> str | None:
        """Where its status page is now: it moves with each start."""
        lines = [line for line in self.log.read_text(errors="replace").splitlines() if "status page at " in line]
        return lines[-1].split("status page at ")[1].split(",")[0] if lines else None

    def close(self) -> None:
        if self.exit_code is None:
            self.stop()
        super().close()

    def reason(self) -> dict[str, Any]:
        """Return what /readyz says."""
        status, body = self.get("/readyz")
        return json.loads(body) if status else {}

    def counted(self, name: str, **labels: str) -> float:
        """Return the value of a series, 0 where there is none."""
        text = self.get("/metrics")[1].decode()
        wanted = {f'{key}="{value}"' for key, value in labels.items()}
        for line in text.splitlines():
            found = re.fullmatch(rf"{name}\{{(.*)\}} (.*)", line)
            if found and wanted <= set(found[1].split(",")):
                return float(found[2])
        return 0.0


@pytest.fixture
def deployment(kafka: Any, tmp_path: Path, prefix: str) -> Iterator[Deployment]:
    found = Deployment(kafka.bootstrap, tmp_path, prefix, partitions=2)
    found.create_topics()
    yield found
    found.close()


def pairs(model: str, first: int, count: int, *, right: bool = True) -> list[tuple[str, dict[str, Any]]]:
    events: list[tuple[str, dict[str, Any]]] = []
    for n in range(first, first + count):
        answer = {"prediction_id": f"{model}{n}", "model": model, "ts": NOW, "prediction": True}
        events.append(("predictions", answer))
        events.append(("outcomes", {"prediction_id": f"{model}{n}", "ts": NOW, "outcome": right}))
    return events


def finish(deployment: Deployment, *arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "streamapp", *arguments],
        env={**deployment.environ, "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        stdin=subprocess.DEVNULL,
    )


def letters(deployment: Deployment, reason: str) -> list[dict[str, Any]]:
    found = json.loads(deployment.command("dead-letters", "list", "--reason", reason, "--json"))
    return list(found["letters"])


def test_one_model_is_forgotten_while_its_worker_runs_and_everything_else_is_intact(deployment: Deployment) -> None:
    worker = Supervised(deployment, SUPERVISED)
    until(worker.ready, "ready")
    deployment.publish([*pairs("fraud", 0, 60, right=False), *pairs("churn", 0, 60, right=False)])
    waiting = {"prediction_id": "late", "model": "fraud", "ts": time.time(), "prediction": True}
    deployment.publish([("predictions", waiting)])
    until(lambda: deployment.resolved("fraud") == deployment.resolved("churn") == 60, "60 outcomes of both")
    until(lambda: deployment.groups("fraud")["default"]["pending"] == 1, "one waits")
    before = deployment.groups("churn")

    refused = finish(deployment, "checkpoint", "reset", "--model", "fraud")
    assert refused.returncode == 1
    assert "entries" in refused.stderr
    assert "say --yes to do it" in refused.stderr
    unknown = finish(deployment, "checkpoint", "reset", "--model", "fruad", "--yes")
    assert unknown.returncode == 1
    assert "did you mean 'fraud'?" in unknown.stderr
    assert deployment.resolved("fraud") == 60

    done = finish(deployment, "checkpoint", "reset", "--model", "fraud", "--yes", "--json")
    assert done.returncode == 0, done.stderr
    assert [each["role"] for each in json.loads(done.stdout)["forgotten"]] == ["monitor"]
    until(
        lambda: worker.counted("streamapp_recoveries_total", role="monitor", reason="fenced") == 1, "fenced, and told"
    )
    until(lambda: worker.ready() and deployment.groups("churn") == before, "the other model is as it was")
    until(lambda: deployment.groups("fraud").get("default", {}).get("pending") == 1, "what waits is still counted")
    assert deployment.resolved("fraud") == 0

    deployment.publish([*pairs("fraud", 100, 40), *pairs("churn", 100, 40)])
    deployment.publish([("outcomes", {"prediction_id": "late", "ts": time.time(), "outcome": True})])
    until(lambda: deployment.resolved("fraud") == 41 and deployment.resolved("churn") == 100, "both went on")
    group = deployment.groups("fraud")["default"]
    assert (group["predictions"], group["outcomes"], group["pending"]) == (41, 41, 0)
    assert group["metrics"]["accuracy"] == 1.0
    assert deployment.groups("churn")["default"]["metrics"]["accuracy"] == 0.4


def test_a_record_that_a_bug_cannot_pass_parks_its_task_and_is_moved_by_the_command_that_it_names(
    deployment: Deployment,
) -> None:
    worker = Supervised(deployment, DEFECTIVE)
    until(worker.ready, "ready")
    deployment.publish(pairs("fraud", 0, 40))
    until(lambda: deployment.resolved("fraud") == 40, "all is well")
    bomb = {"prediction_id": "bomb", "model": "fraud", "ts": NOW, "prediction": True}
    deployment.publish([("predictions", bomb), *pairs("fraud", 100, 40)])

    def parked() -> dict[str, str]:
        found = worker.reason()
        return {name: text for name, text in found.get("details", {}).items() if "streamapp skip" in text}

    until(parked, "parked, and named", 120)
    ((task, text),) = parked().items()
    assert re.fullmatch(r"joiner-[01]", task)
    assert "failed 3 times in a row" in text
    assert "RuntimeError('a bug in the decoder')" in text
    number = task[-1]
    assert worker.counted("streamapp_parked", role="joiner", partition=number, reason="defect") == 1
    assert worker.counted("streamapp_recoveries_total", role="joiner", reason="failed") == 2
    assert worker.counted("streamapp_recoveries_total", role="joiner", reason="parked_defect") == 1
    # The other partition goes on: its share of the pairs is there.
    others = len([1 for record in deployment.read("predictions") if str(record.partition) != number])
    assert others > 20
    until(lambda: deployment.resolved("fraud") >= others, "the other partition goes on")

    command = shlex.split(text[text.index("streamapp skip") :])[1:]
    offset = int(command[-1])
    (record,) = [r for r in deployment.read("predictions") if r.offset == offset and str(r.partition) == number]
    assert record.key == b"bomb"
    moved = finish(deployment, *command)
    assert moved.returncode == 0, moved.stderr
    assert f"{task} leaves it out" in moved.stdout
    until(worker.ready, "ready again", 60)
    until(lambda: deployment.resolved("fraud") == 80, "everything else has its verdict")
    (letter,) = letters(deployment, "quarantined")
    assert (letter["topic"], letter["source_offset"]) == (deployment.topics.predictions, offset)
    assert worker.counted("streamapp_rejected_total", topic="predictions", reason="quarantined") == 1
    again = finish(deployment, *command)
    assert again.returncode == 0
    assert "was moved to" in again.stdout
    assert len(letters(deployment, "quarantined")) == 1
    late = finish(deployment, *command[:-1], "0")
    assert late.returncode == 1
    assert "was applied before" in late.stdout
    assert finish(deployment, *command[:-1], "99999").returncode == 2


def test_a_record_of_any_input_can_be_moved_before_its_task_comes_to_it(deployment: Deployment) -> None:
    worker = deployment.start()
    until(worker.ready, "ready")
    deployment.publish(pairs("fraud", 0, 20))
    until(lambda: deployment.resolved("fraud") == 20, "20 outcomes")
    assert worker.stop() == 0
    inputs = ("predictions", "outcomes", "scored", "retrain")
    kafka = KafkaProducer(bootstrap_servers=deployment.broker)
    places = {}
    for name in inputs:
        sent = kafka.send(deployment.topics.full(name), key=b"k", value=b"{junk", partition=1).get(timeout=20)
        places[name] = sent.offset
    kafka.close()
    for name, offset in places.items():
        topic = name if name == "scored" else deployment.topics.full(name)
        moved = finish(deployment, "skip", "--topic", topic, "--partition", "1", "--offset", str(offset))
        assert moved.returncode == 0, moved.stderr
    deployment.publish(pairs("fraud", 100, 20))
    worker = deployment.start()
    until(lambda: deployment.resolved("fraud") == 40, "all others have their verdict")
    until(worker.ready, "ready")
    assert worker.stop() == 0
    found = json.loads(deployment.command("dead-letters", "list", "--json"))
    assert found["reasons"] == {"quarantined": 4}
    assert {(each["topic"], each["source_offset"]) for each in found["letters"]} == {
        (deployment.topics.full(name), offset) for name, offset in places.items()
    }
    positions = {
        topic.removeprefix(deployment.topics.prefix): mark["position"]
        for task in json.loads(deployment.command("checkpoint", "inspect", "--partition", "1", "--json"))["tasks"]
        for topic, mark in task["inputs"].items()
    }
    assert all(positions[name] > offset for name, offset in places.items())
    said = deployment.command("checkpoint", "inspect", "--role", "joiner", "--partition", "1")
    assert f"{deployment.topics.outcomes}: leaves out {places['outcomes']}" in said
    sent = json.loads(deployment.command("dead-letters", "redrive", "--reason", "quarantined", "--json"))
    assert sum(sent["topics"].values()) == 2


def test_a_topic_that_is_made_anew_and_grows_beyond_what_was_read_is_refused(deployment: Deployment) -> None:
    worker = deployment.start()
    until(worker.ready, "ready")
    deployment.publish(pairs("fraud", 0, 40))
    until(lambda: deployment.resolved("fraud") == 40, "40 outcomes")
    assert worker.stop() == 0
    remake(deployment, deployment.topics.predictions)
    deployment.publish(pairs("fraud", 0, 100))
    worker = deployment.start()
    for text in both_parked(worker).values():
        assert "was made anew" in text
        assert "restore the topic, or delete" in text


def test_a_topic_that_is_made_anew_under_a_running_worker_is_refused(deployment: Deployment) -> None:
    worker = Supervised(deployment, SUPERVISED)
    until(worker.ready, "ready")
    deployment.publish(pairs("fraud", 0, 40))
    until(lambda: deployment.resolved("fraud") == 40, "40 outcomes")
    remake(deployment, deployment.topics.predictions)
    deployment.publish([event for event in pairs("fraud", 200, 200) if event[0] == "predictions"])
    assert all("was made anew" in text for text in both_parked(worker).values())
    # At its next start or, where the worker did not notice that the topic had gone, within seconds.
    reasons = ("parked_checkpoint", "parked_identity")
    counts = [worker.counted("streamapp_recoveries_total", role="joiner", reason=reason) for reason in reasons]
    assert sum(counts) == 2


def both_parked(worker: Worker | Supervised) -> dict[str, str]:
    """Wait until both joiners are parked, one after the other, and return what is said of each."""
    said: dict[str, str] = {}

    def look() -> bool:
        nonlocal said
        status, body = worker.get("/readyz")
        page = json.loads(body) if status else {}
        said = page["details"] if page.get("reason") == "tasks are parked" else {}
        return said.keys() == {"joiner-0", "joiner-1"}

    until(look, "both joiners are parked")
    return said


def remake(deployment: Deployment, topic: str) -> None:
    admin = KafkaAdminClient(bootstrap_servers=deployment.broker)
    admin.delete_topics([topic])
    until(lambda: topic not in admin.list_topics(), "deleted")
    admin.close()
    plans = [each for each in plan(deployment.topics, partitions=2, scored_partitions=2) if each.name == topic]
    create(deployment.broker, plans, replication=1)


@pytest.mark.parametrize("codec", [None, "gzip"])
def test_single_records_ends_and_ids_are_read(deployment: Deployment, codec: str | None) -> None:
    topic = deployment.topics.predictions
    kafka = KafkaProducer(bootstrap_servers=deployment.broker, linger_ms=50, compression_type=codec)
    for number in range(500):
        kafka.send(topic, value=b"v%d" % number, partition=0)
    kafka.flush()
    kafka.close()

    async def work() -> None:
        config = ProcessConfig(broker=deployment.broker)
        async with Reader(config) as reader:
            assert await reader.end(topic, 0) == 500
            for offset in (0, 250, 499):
                record = await reader.record(topic, 0, offset)
                assert (record.offset, record.value) == (offset, b"v%d" % offset)
            seen = [r.offset async for records, _ in reader.read(topic, 0, 100) for r in records]
            assert seen == list(range(100, 500))
            ids = await reader.topic_ids([topic, deployment.topics.outcomes, "unknown"])
            assert ids.keys() == {topic, deployment.topics.outcomes}
            assert len(set(ids.values())) == 2

    run(work())
