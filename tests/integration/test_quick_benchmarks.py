"""Benchmarks run, and say what they found. What they find is not looked at here: nothing in the suite measures time."""

import json
import subprocess
import sys
from typing import Any

import pytest

pytestmark = pytest.mark.integration


def quick(name: str, *arguments: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks", name, "--quick", "--json", *arguments]
    done = subprocess.run(command, capture_output=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr.decode()[-3000:]
    report: dict[str, Any] = json.loads(done.stdout)
    return report


def test_publisher_measures_both_clients(kafka) -> None:
    report = quick("publisher", "--broker", kafka.bootstrap)
    for client in ("kafka-python", "confluent-kafka"):
        assert report[client]["sustained"]["median"] > 0
        assert 0 < report[client]["call_median_us"]["median"] <= report[client]["call_max_us"]["max"]


def test_replay_and_the_core_alone_come_to_the_same_summary() -> None:
    report = quick("replay")  # which fails if they do not
    assert report["pairs_per_cpu_second"]["core"]["median"] > 0


def test_latency_counts_every_outcome_once(kafka) -> None:
    report = quick("latency", "--broker", kafka.bootstrap)
    assert report["outcomes"] > 0
    assert 0 < report["latency"]["p50"] <= report["latency"]["p99"] <= report["latency"]["max"]


def test_stalls_are_looked_for_in_scrapes_and_checkpoints(kafka) -> None:
    report = quick("stalls", "--broker", kafka.bootstrap)
    assert report["scrape"]["series"] > 0
    assert report["checkpoint"]["pending"] == 2000


def test_restore_brings_back_what_waited(kafka) -> None:
    report = quick("restore", "--broker", kafka.bootstrap, "--stores", "memory")  # which fails if anything is missing
    assert report["dense"]["reread"] == report["dense"]["pending"] == report["faust"]["memory"]["pending"]
    assert report["sparse"]["pending"] == 40
    assert [found["pairs"] for found in report["backlog"]] == [1000, 4000]
