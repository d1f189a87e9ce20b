"""The whole demo, as a user starts it: on the embedded broker."""

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from streamapp.embedded import unavailable
from tests.conftest import leave_out
from tests.integration.workers import until

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


def answered(summary: dict[str, Any]) -> int:
    """Return how many rows the first version that was accepted for the champion has answered."""
    model = summary.get("models", {}).get("shuttle")
    accepted = (
        [u for u in model["model_updates"] if (u["group"], u["status"]) == ("champion", "accepted")] if model else []
    )
    versions = model["groups"]["champion"]["versions"] if accepted else {}
    return int(versions[accepted[0]["version"]]["rows"]) if accepted and accepted[0]["version"] in versions else 0


def test_within_a_minute_drift_is_found_training_asked_for_and_the_loss_is_down_again(tmp_path: Path) -> None:
    told = tmp_path / "told"
    with told.open("w") as err:
        demo = subprocess.Popen([*DEMO, "--json"], stdout=subprocess.PIPE, stderr=err, text=True)
    try:
        until(lambda: "status page" in told.read_text() or demo.poll() is not None, "the demo has begun")
        url = next(line.split()[-1] for line in told.read_text().splitlines() if line.startswith("status page"))

        def learned() -> bool:
            with urllib.request.urlopen(f"{url}/api/summary", timeout=60) as answer:
                return answered(json.load(answer)) > 500 or demo.poll() is not None

        until(learned, "the new version answers", timeout=240)
        demo.send_signal(signal.SIGINT)
        out, _ = demo.communicate(timeout=60)
    finally:
        demo.kill()
        demo.communicate()
    assert demo.returncode == 0, told.read_text()
    summary = json.loads(out)
    model = summary["models"]["shuttle"]
    champion = model["groups"]["champion"]
    acts = [s for s in model["signals"] if (s["group"], s["kind"], s["severity"]) == ("champion", "drift", "act")]
    assert acts, told.read_text()
    assert any(request["group"] == "champion" for request in model["retrain"]), told.read_text()
    assert answered(summary) > 100
    accepted = [u for u in model["model_updates"] if (u["group"], u["status"]) == ("champion", "accepted")]
    version = champion["versions"][accepted[0]["version"]]
    assert version["loss"] < accepted[0]["metrics"]["incumbent"] / 2
    # By the stream's own time: how long the services take to begin is a matter of the machine.
    assert accepted[0]["at"] - min(each["first"] for each in champion["versions"].values()) < 60
    assert champion["skill"]["prior"] > 0
    events = summary["events"]
    assert events["predictions"]["read"] == events["predictions"]["accepted"] > 5000
    outcomes = events["outcomes"]
    assert outcomes["read"] == sum(count for name, count in outcomes.items() if name != "read")
    for group in model["groups"].values():
        verdicts = ("outcomes", "expired", "censored", "lost", "pending")
        assert group["predictions"] == sum(group[name] for name in verdicts)


def test_a_demo_that_is_to_last_so_long_ends_by_itself_with_its_summary() -> None:
    done = subprocess.run([*DEMO, "--for", "15", "--json"], capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout).keys() == {"models", "events"}


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
