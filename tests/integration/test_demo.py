"""The whole demo, as a user starts it: on the embedded broker, within a minute."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from streamapp.embedded import unavailable
from tests.conftest import leave_out

pytestmark = pytest.mark.embedded

DEMO = (sys.executable, "-m", "streamapp", "demo", "--no-browser")


@pytest.fixture(autouse=True)
def _needs_the_embedded_broker() -> None:
    if (reason := unavailable()) is not None:
        leave_out(f"no embedded broker: {reason}")


def descendants(pid: int) -> set[int]:
    """Return the processes below a process, by Linux's own account."""
    found: set[int] = set()
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in map(int, task.read_text().split()):
            found |= {child} | descendants(child)
    return found


def running(pids: set[int]) -> set[int]:
    def state(pid: int) -> str:
        try:
            return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            return "gone"

    return {pid for pid in pids if state(pid) not in ("gone", "Z")}


def gone_within(pids: set[int], seconds: float) -> bool:
    end = time.monotonic() + seconds
    while running(pids):
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True


def test_within_a_minute_drift_is_found_training_asked_for_and_the_loss_is_down_again() -> None:
    began = time.monotonic()
    done = subprocess.run([*DEMO, "--for", "45", "--json"], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert time.monotonic() - began < 60
    summary = json.loads(done.stdout)
    model = summary["models"]["shuttle"]
    champion = model["groups"]["champion"]
    acts = [s for s in model["signals"] if (s["group"], s["kind"], s["severity"]) == ("champion", "drift", "act")]
    assert acts, done.stderr
    assert any(request["group"] == "champion" for request in model["retrain"]), done.stderr
    accepted = [u for u in model["model_updates"] if (u["group"], u["status"]) == ("champion", "accepted")]
    assert accepted, done.stderr
    answered = champion["versions"][accepted[0]["version"]]
    assert answered["rows"] > 100
    assert answered["loss"] < accepted[0]["metrics"]["incumbent"] / 2
    assert champion["skill"]["prior"] > 0
    events = summary["events"]
    assert events["predictions"]["read"] == events["predictions"]["accepted"] > 5000
    outcomes = events["outcomes"]
    assert outcomes["read"] == sum(count for name, count in outcomes.items() if name != "read")
    for group in model["groups"].values():
        verdicts = ("outcomes", "expired", "censored", "lost", "pending")
        assert group["predictions"] == sum(group[name] for name in verdicts)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_however_the_demo_is_ended_nothing_is_left_running(number: signal.Signals) -> None:
    demo = subprocess.Popen(DEMO, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True)
    assert demo.stdout is not None
    try:
        for line in demo.stdout:
            if line.startswith("Ctrl-C"):
                break
        below = descendants(demo.pid)
        assert len(below) >= 3
        os.kill(demo.pid, number)
        assert gone_within(below | {demo.pid}, 60)
        code = demo.wait(60)
        assert code == (0 if number is not signal.SIGKILL else -signal.SIGKILL)
    finally:
        demo.kill()
        demo.stdout.close()
        demo.wait()
