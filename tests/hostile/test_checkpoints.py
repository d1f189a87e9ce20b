"""A checkpoint that somebody else wrote runs nothing: its task is parked and named, and the others go on."""

import os
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest
from kafka import KafkaProducer

from streamapp.core.pickling import MAGIC
from tests.hostile.pickles import Call, dumped, lying, stored
from tests.integration.workers import Deployment, until

PAIRS = 2000


def poisoned(value: Any, hostile: bytes) -> Any:
    """Return what a checkpoint holds with every stored object in it replaced, however deep it lies."""
    if isinstance(value, bytes) and value.startswith(MAGIC):
        return hostile
    if isinstance(value, bytes):
        for start in (0, 2):  # entries of models have two bytes in front
            try:
                inner = msgspec.msgpack.decode(value[start:])
            except (msgspec.DecodeError, UnicodeDecodeError, ValueError):
                continue
            changed = poisoned(inner, hostile) if isinstance(inner, list | dict) else inner
            return value if changed == inner else value[:start] + msgspec.msgpack.encode(changed)
        return value
    if isinstance(value, list):
        return [poisoned(each, hostile) for each in value]
    if isinstance(value, dict):
        return {key: poisoned(each, hostile) for key, each in value.items()}
    return value


@pytest.mark.integration
def test_a_hostile_checkpoint_parks_its_task_and_runs_nothing(kafka: Any, tmp_path: Path, prefix: str) -> None:
    deployment = Deployment(kafka.bootstrap, tmp_path, prefix)
    canary = tmp_path / "canary"
    try:
        deployment.create_topics()
        worker = deployment.start()
        until(worker.ready, "ready")
        now = time.time()
        for model in ("fraud", "churn", "spam", "price"):
            answer = {"model": model, "ts": now, "scores": 0.5}
            deployment.publish(("predictions", {**answer, "prediction_id": f"{model}{n}"}) for n in range(PAIRS // 4))
            deployment.publish(
                ("outcomes", {"prediction_id": f"{model}{n}", "ts": now, "outcome": n % 2 == 0})
                for n in range(PAIRS // 4)
            )
        names = ("fraud", "churn", "spam", "price")
        until(lambda: sum(map(deployment.resolved, names)) == PAIRS, "every outcome")
        assert worker.stop() == 0
        newest: dict[tuple[int, bytes], bytes | None] = {}
        for record in deployment.read("checkpoints-monitor"):
            newest[record.partition, record.key] = record.value
        hostile = {
            0: stored(dumped(Call(os.system, f"touch {canary}"))),
            1: stored(lying()["a detector that makes Rust panic"]),
        }
        changed = {
            place: new
            for place, value in newest.items()
            if value is not None and (new := poisoned(value, hostile[place[0]])) != value
        }
        assert {partition for partition, _ in changed} == {0, 1}, "each partition has a model with a detector"
        writer = KafkaProducer(bootstrap_servers=deployment.broker)
        for (partition, key), value in changed.items():
            writer.send(deployment.topics.checkpoints("monitor"), key=key, value=value, partition=partition)
        writer.flush()
        writer.close()
        again = deployment.start()
        until(lambda: "parked" in again.get("/readyz")[1].decode(), "both monitors are parked")
        until(lambda: again.log.read_text().count("parked (checkpoint)") == 2, "each says why")
        log = again.log.read_text()
        topic = deployment.topics.checkpoints("monitor")
        said = "parked (checkpoint): checkpoint"
        assert f"monitor-0: {said} {topic}[0]: stored object names posix.system, which is not allowed" in log
        assert f"monitor-1: {said} {topic}[1]: stored object cannot be read: PanicException" in log
        # The others go on: predictions and outcomes are joined all the same.
        joined = sum(1 for _ in deployment.read("scored"))
        deployment.publish(
            [
                ("predictions", {"prediction_id": "late", "model": "fraud", "ts": now, "scores": 0.5}),
                ("outcomes", {"prediction_id": "late", "ts": now, "outcome": True}),
            ]
        )
        until(lambda: again.summary()["events"].get("outcomes", {}).get("accepted") == 1, "joiners go on")
        assert sum(1 for _ in deployment.read("scored")) > joined
        metrics = again.get("/metrics")[1].decode()
        for partition in (0, 1):
            assert f'streamapp_parked{{partition="{partition}",reason="checkpoint",role="monitor"}} 1.0' in metrics
        assert 'streamapp_recoveries_total{reason="parked_checkpoint",role="monitor"} 2.0' in metrics
        assert not canary.exists()
        assert again.stop() == 0
    finally:
        deployment.close()
