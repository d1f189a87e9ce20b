"""A soak on Apache Kafka: so short that it shows only that it runs; and, with the faults, the one that is judged."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.faults.process import ROOT
from tests.kafka import Given, Kafka

pytestmark = pytest.mark.integration

HASTY = ("lag bounded", "metrics within", "the load was sent", "nothing else ended")
JUDGED = ("memory", "checkpoint of the joiner", "checkpoint of the monitor", "file descriptors", "threads", "each")
"""What two minutes are long enough for."""
COMMAND = [sys.executable, "-m", "tests.soak"]


@pytest.mark.timeout(900)
def test_a_soak_that_is_interrupted_has_verdicts_that_balance_and_writes_its_report(
    kafka: Kafka | Given, tmp_path: Path
) -> None:
    arguments = ["--rate", "200", "--models", "4", "--report", str(tmp_path), "--broker", kafka.bootstrap]
    told = tmp_path / "told"
    with told.open("w") as out:
        soak = subprocess.Popen([*COMMAND, *arguments], cwd=ROOT, stdout=out, stderr=subprocess.STDOUT, process_group=0)
        try:
            while "restart of worker 1" not in told.read_text() and soak.poll() is None:
                time.sleep(0.2)
            os.killpg(soak.pid, signal.SIGINT)  # as Ctrl-C does
            assert soak.wait(200) == 1, told.read_text()[-3000:]
        finally:
            soak.kill()
            soak.wait()
    report = json.loads((tmp_path / "soak.json").read_text())
    assert report["interrupted"] is True
    assert report["holds"] is False
    assert report["problems"] == []
    assert report["balance"]["predictions"] > 0
    found = {finding["what"]: finding["holds"] for finding in report["findings"]}
    assert found == {
        "everything": None,
        "each prediction has one verdict": True,
        "nothing else ended, failed or was parked": True,
    }
    assert all(worker["rss"] > 0 for sample in report["samples"] for worker in sample["workers"])
    assert "memory, MiB" in (tmp_path / "soak.svg").read_text()


@pytest.mark.faults
@pytest.mark.timeout(900)
def test_nothing_grows_in_two_minutes_near_the_capacity(tmp_path: Path) -> None:
    done = subprocess.run(
        [*COMMAND, "--minutes", "2", "--report", str(tmp_path)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    report = json.loads((tmp_path / "soak.json").read_text())
    told = done.stdout[-6000:] + done.stderr[-3000:]
    # How far it lags behind, and who is fenced for being slow, is a matter of what else the machine does.
    grown = [each for each in report["findings"] if each["holds"] is False and not each["what"].startswith(HASTY)]
    assert grown == [], told
    seen = [each["what"] for each in report["findings"] if each["holds"]]
    for what in JUDGED:
        assert any(each.startswith(what) for each in seen), f"nothing is said of: {what}\n{told}"
    assert report["balance"]["predictions"] == report["balance"]["verdicts"] > 100_000
