"""Twenty thousand messages, half of them bad, through a worker on a real Kafka. The long form: tests.hostile."""

import time
import urllib.request
from typing import Any

import pytest

from streamapp.core.join import Limits
from streamapp.exposition import CAP
from tests.hostile.generator import Generator
from tests.hostile.run import memory, trial
from tests.integration.workers import Deployment, Worker, until

MEMORY = 220 << 20
"""Bytes that a worker may need for it, beyond what it needs for nothing: the messages alone are 300 MiB."""


@pytest.mark.integration
def test_a_hostile_stream_is_counted_and_kept_and_stops_nothing(kafka: Any, tmp_path: Any, prefix: str) -> None:
    messages = Generator(5000, 11, bad=1.0, odd=0.2, huge=0.03, now=time.time())
    found = trial(kafka.bootstrap, tmp_path, prefix, messages)
    assert found.problems == []
    assert found.bad > 8000
    assert len(found.kinds) > 100
    assert found.bytes > 1.2 * MEMORY
    assert found.rss_peak - found.rss_before < MEMORY


NAMES = 6000
MODEL = 100_000
"""Bytes that a model may take in a worker that is scraped: its state, its report, now and before, and its counts."""


@pytest.mark.integration
def test_thousands_of_names_of_every_kind_leave_a_worker_at_work(kafka: Any, tmp_path: Any, prefix: str) -> None:
    deployment = Deployment(kafka.bootstrap, tmp_path, prefix)
    now = time.time()
    try:
        deployment.create_topics()
        worker = deployment.start()
        until(worker.ready, "ready")
        before = memory(worker)[0]
        deployment.publish(
            (
                "predictions",
                {
                    **{name: f"{name[0]}{n}" for name in ("model", "group", "version", "series", "unit", "experiment")},
                    "prediction_id": f"p{n}",
                    "ts": now,
                    "scores": 0.5,
                    "features": {f"f{n}": 1},
                    "tags": {f"t{n}": f"x{n}"},
                },
            )
            for n in range(NAMES)
        )
        deployment.publish(("outcomes", {"prediction_id": f"p{n}", "ts": now, "outcome": True}) for n in range(NAMES))
        events: dict[str, Any] = {}

        def accepted() -> bool:
            events.update(deployment.summary()["events"])
            return bool(events.get("outcomes", {}).get("accepted") == NAMES)

        until(accepted, "every outcome", timeout=90)
        # Each of four joiners knows a thousand models; of those the metrics show five hundred.
        taken = NAMES - events["predictions"]["other_model"]
        assert taken <= deployment.partitions * Limits().models
        until(lambda: len(deployment.summary()["models"]) == taken + 1, "every model that was taken", timeout=90)
        until(lambda: len(shown(scraped(worker))) == CAP + 1, "as many models in the metrics as may be", timeout=90)
        for _ in range(3):  # memory stands after the second
            page = scraped(worker)
        told = [line for line in page.splitlines() if line.startswith('streamapp_label_overflow_total{label="model"}')]
        assert float(told[0].split()[-1]) >= events["predictions"]["other_model"] + taken - CAP
        assert memory(worker)[1] - before < taken * MODEL
        assert worker.ready()
        assert worker.stop() == 0
    finally:
        deployment.close()


def scraped(worker: Worker) -> str:
    with urllib.request.urlopen(f"{worker.url}/metrics", timeout=60) as answer:
        return answer.read().decode()


def shown(page: str) -> set[str]:
    return {line.split('model="')[1].split('"')[0] for line in page.splitlines() if 'model="' in line}
