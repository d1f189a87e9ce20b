"""A service that sends a user's id as the group does not bring a worker down."""

import pytest

from tests.integration.workers import Deployment, until

NOW = 1_772_366_400.0
GROUPS = 30_000


@pytest.mark.integration
def test_thirty_thousand_groups_leave_a_worker_at_work(kafka, tmp_path, prefix):
    deployment = Deployment(kafka.bootstrap, tmp_path, prefix)
    try:
        deployment.create_topics()
        worker = deployment.start()
        until(worker.ready, "ready")
        answer = {"model": "fraud", "ts": NOW, "scores": 0.5}
        deployment.publish(
            ("predictions", {**answer, "prediction_id": f"p{n}", "group": f"user-{n}"}) for n in range(GROUPS)
        )
        deployment.publish(
            ("outcomes", {"prediction_id": f"p{n}", "ts": NOW, "outcome": n % 2 == 0}) for n in range(GROUPS)
        )
        until(lambda: deployment.resolved("fraud") == GROUPS, "every outcome", timeout=90)
        groups = deployment.groups("fraud")
        assert len(groups) == deployment.partitions * 100 + 1
        assert groups["other"]["outcomes"] == GROUPS - deployment.partitions * 100
        assert deployment.summary()["events"]["predictions"]["other_group"] == groups["other"]["predictions"]
        status, metrics = worker.get("/metrics")
        assert status == 200
        assert (
            f'streamapp_label_overflow_total{{label="group"}} {float(groups["other"]["outcomes"])}' in metrics.decode()
        )
        assert worker.ready()
        assert worker.stop() == 0
        again = deployment.start()
        until(again.ready, "ready again")
        until(lambda: deployment.groups("fraud").keys() == groups.keys(), "the same groups")
        assert {name: group["outcomes"] for name, group in deployment.groups("fraud").items()} == {
            name: group["outcomes"] for name, group in groups.items()
        }
    finally:
        deployment.close()
