"""Workers as processes, and what they say of themselves, for tests on a real broker."""

import asyncio
import http.client
import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import msgspec
from aiokafka import AIOKafkaProducer
from kafka import KafkaConsumer, KafkaProducer, TopicPartition

from streamapp.stream.topics import Topics, create, plan

SESSION_TIMEOUT = 6.0


class Worker:
    """One worker process without anybody to restart it."""

    def __init__(self, environ: Mapping[str, str], log: Path) -> None:
        self.log = log
        self._file = log.open("wb")
        self._process = subprocess.Popen(
            [sys.executable, "-m", "agents"], env={**os.environ, **environ}, stdout=self._file, stderr=self._file
        )

    @property
    def url(self) -> str | None:
        """Where its status page is, once it says so; what was started again says it again."""
        for line in reversed(self.log.read_text(errors="replace").splitlines()):
            if "status page at " in line:
                return line.split("status page at ")[1].split(",")[0]
        return None

    def get(self, path: str) -> tuple[int, bytes]:
        """Return status and body of one of its pages; status 0 while it does not answer."""
        if self.url is None or self._process.poll() is not None:
            return 0, b""
        try:
            with urllib.request.urlopen(self.url + path, timeout=60) as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as error:
            return error.code, error.read()
        except (OSError, http.client.HTTPException):  # the latter where it ends in the middle of its answer
            return 0, b""

    def ready(self) -> bool:
        return self.get("/readyz")[0] == 200

    @property
    def tasks(self) -> set[str]:
        """Names of the tasks that it runs, none while it is not ready."""
        status, body = self.get("/readyz")
        return set(json.loads(body)["details"]["tasks"]) if status == 200 else set()

    def summary(self) -> dict[str, Any]:
        status, body = self.get("/api/summary")
        return json.loads(body) if status == 200 else {"models": {}, "events": {}}

    def send(self, number: int) -> None:
        self._process.send_signal(number)

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def stop(self, timeout: float = 30.0) -> int:
        """SIGTERM, and return the exit code."""
        if self._process.poll() is None:
            self._process.terminate()
        return self._process.wait(timeout)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def exit_code(self) -> int | None:
        return self._process.poll()

    def close(self) -> None:
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGCONT)
            self.kill()
        self._file.close()


class Deployment:
    """Topics with a prefix of their own, and the workers on them."""

    def __init__(
        self, broker: str, folder: Path, prefix: str, *, models: str = "", partitions: int = 4, replication: int = 1
    ) -> None:
        self.broker = broker
        self.replication = replication
        self.folder = folder
        self.topics = Topics(prefix)
        self.partitions = partitions
        self.workers: list[Worker] = []
        self.models = folder / "models.toml"
        self.models.write_text(models)
        self.environ = {
            "STREAMAPP_BROKER": broker,
            "STREAMAPP_TOPIC_PREFIX": prefix,
            "STREAMAPP_GROUP_ID": prefix.rstrip("."),
            "STREAMAPP_PARTITIONS": str(partitions),
            "STREAMAPP_SCORED_PARTITIONS": "2",
            "STREAMAPP_MODELS": str(self.models),
            "STREAMAPP_DATA": str(folder / "data"),
            "STREAMAPP_WEB_PORT": "0",
            "STREAMAPP_SESSION_TIMEOUT": str(SESSION_TIMEOUT),
            "STREAMAPP_COMMIT_INTERVAL": "0.1",
            "PYTHONUNBUFFERED": "1",
        }

    def create_topics(self) -> None:
        plans = plan(self.topics, partitions=self.partitions, scored_partitions=2)
        create(self.broker, plans, replication=self.replication)

    def start(self, **environ: str) -> Worker:
        log = self.folder / f"worker-{len(self.workers)}.log"
        worker = Worker({**self.environ, **environ}, log)
        self.workers.append(worker)
        return worker

    def command(self, *arguments: str) -> str:
        """Run a command line on this deployment, and return what it prints."""
        command = [sys.executable, "-m", "streamapp", *arguments]
        environ = {**os.environ, **self.environ}
        return subprocess.run(command, env=environ, check=True, stdout=subprocess.PIPE, text=True, timeout=60).stdout

    def summary(self) -> dict[str, Any]:
        """Return the models of all workers together, and their events added up."""
        models: dict[str, Any] = {}
        events: dict[str, dict[str, int]] = {}
        for worker in self.workers:
            part = worker.summary()
            models |= part["models"]
            for topic, counts in part["events"].items():
                total = events.setdefault(topic, {})
                for name, count in counts.items():
                    total[name] = total.get(name, 0) + count
        return {"models": models, "events": events}

    def groups(self, model: str) -> dict[str, Any]:
        return self.summary()["models"].get(model, {}).get("groups", {})

    def resolved(self, model: str) -> int:
        groups = self.groups(model).values()
        return sum(g["outcomes"] + g["expired"] + g["censored"] + g["lost"] for g in groups)

    def publish(self, events: Iterable[tuple[str, Mapping[str, Any] | bytes]]) -> None:
        """Send ("predictions" | "outcomes", event) pairs, keyed as producers must."""
        kafka = KafkaProducer(bootstrap_servers=self.broker, linger_ms=5, batch_size=1 << 17)
        for topic, event in events:
            if isinstance(event, bytes):
                kafka.send(self.topics.full(topic), key=b"x", value=event)
            else:
                key = str(event["prediction_id"]).encode()
                kafka.send(self.topics.full(topic), key=key, value=msgspec.json.encode(event))
        kafka.flush()
        kafka.close()

    def publish_compressed(self, events: Iterable[tuple[str, Mapping[str, Any]]], codec: str) -> None:
        """The same, compressed, through aiokafka: kafka-python wants another library for each codec."""

        async def publish() -> None:
            async with AIOKafkaProducer(bootstrap_servers=self.broker, compression_type=codec, linger_ms=5) as kafka:
                sent = [
                    await kafka.send(
                        self.topics.full(topic), key=str(e["prediction_id"]).encode(), value=msgspec.json.encode(e)
                    )
                    for topic, e in events
                ]
                await asyncio.gather(*sent)

        asyncio.run(publish())

    def read(self, topic: str) -> list[Any]:
        """Return every committed record of a topic."""
        consumer = KafkaConsumer(
            bootstrap_servers=self.broker, isolation_level="read_committed", enable_auto_commit=False
        )
        name = self.topics.full(topic)
        parts = [TopicPartition(name, p) for p in sorted(consumer.partitions_for_topic(name) or ())]
        consumer.assign(parts)
        consumer.seek_to_beginning(*parts)
        ends = consumer.end_offsets(parts)
        records = []
        while any(consumer.position(tp) < ends[tp] for tp in parts):
            for batch in consumer.poll(timeout_ms=200).values():
                records.extend(batch)
        consumer.close()
        return records

    def close(self) -> None:
        for worker in self.workers:
            worker.close()


def until(condition: Callable[[], object], what: str, timeout: float = 60.0) -> None:
    """Wait until something holds, and fail with *what* if it never does."""
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {timeout:g} s: {what}")
        time.sleep(0.1)
