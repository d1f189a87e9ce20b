"""What is wrong with a soak is found, and nothing in one in which nothing is."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.soak.judge import Finding, judge
from tests.soak.report import held, write
from tests.soak.run import Soak

RATE = 1000.0
MIB = 2**20
BALANCE = {"predictions": 600_000, "verdicts": 600_000, "doubled": 0, "missing": 0, "dead-letters": 0}
Change = Callable[[int, dict[str, Any]], None]


def made(change: Change = lambda at, sample: None, *, length: int = 600, **fields: Any) -> Soak:
    """Return what a soak without faults would have seen, but for a change of its samples."""
    draw = np.random.default_rng(1)
    soak = Soak(minutes=length / 60, rate=RATE, warm_up=100.0, ended=float(length), machine={})
    soak.balance = dict(BALANCE)
    soak.events = [
        {"at": at, "kind": kind, "worker": 1} for at, kind in ((10.0, "kill -9"), (310.0, "in order")) if at < length
    ]
    for at in range(length):
        away = 10 <= at < 15 or 310 <= at < 315
        noise = draw.normal(size=2)
        workers = [worker(0, 100, 300 + noise[0]), worker(1, 101 + (at >= 10) + (at >= 310), 200 + noise[1])]
        behind = 1_200 + (6_000 if away else 0)
        sample = {
            "at": float(at),
            "rate": RATE,
            "due": RATE * at,
            "predictions": int(RATE * at),
            "verdicts": max(0, int(RATE * at) - behind),
            "scored": 300 * at,
            "lag": {"predictions": 1_000, "outcomes": 1_000, "scored": 200},
            "live": {role: [100 + at % 7, MIB] for role in ("joiner", "monitor", "learner")},
            "counted": {"signals": at, "retrain": at // 2, "model-updates": at // 3, "dead-letters": 0},
            "sent": int(RATE * at),
            "workers": workers[:1] if away else workers,
        }
        change(at, sample)
        soak.samples.append(sample)
    for name, value in fields.items():
        setattr(soak, name, value)
    return soak


def worker(number: int, pid: int, memory: float) -> dict[str, Any]:
    return {
        "worker": number,
        "pid": pid,
        "rss": int(memory * MIB),
        "fds": 60,
        "threads": 12,
        "parked": 0.0,
        "scrape": 0.5,
    }


def failed(soak: Soak) -> list[str]:
    return [finding.what for finding in judge(soak) if not finding.holds]


def leak(at: int, sample: dict[str, Any]) -> None:
    sample["workers"][0]["rss"] += int(at / 60 * MIB)


def more(name: str, each: float) -> Change:
    def change(at: int, sample: dict[str, Any]) -> None:
        sample["workers"][0][name] += int(at * each)

    return change


def fall_behind(at: int, sample: dict[str, Any]) -> None:
    sample["verdicts"] -= min(sample["verdicts"], 40 * at)


def stall_monitors(at: int, sample: dict[str, Any]) -> None:
    sample["lag"]["scored"] += 100 * at


def grow_checkpoint(at: int, sample: dict[str, Any]) -> None:
    sample["live"]["joiner"][1] += 10_000 * at


def keep_entries(at: int, sample: dict[str, Any]) -> None:
    sample["live"]["monitor"][0] += 5 * at


def never_drift(at: int, sample: dict[str, Any]) -> None:
    sample["counted"]["retrain"] = 0


def send_half(at: int, sample: dict[str, Any]) -> None:
    sample["sent"] //= 2


def park(at: int, sample: dict[str, Any]) -> None:
    sample["workers"][0]["parked"] = float(at == 400)


def scrape_slowly(at: int, sample: dict[str, Any]) -> None:
    sample["workers"][0]["scrape"] = 11.0 if at == 400 else 0.5


def test_everything_holds_where_nothing_grows() -> None:
    findings = judge(made())
    assert held(findings), findings
    assert sum(finding.what.startswith("memory") for finding in findings) == 1


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (leak, "memory of worker 0 (process 0): no slope"),
        (more("fds", 0.05), "file descriptors of worker 0 (process 0): none is kept"),
        (more("threads", 0.02), "threads of worker 0 (process 0): none is kept"),
        (fall_behind, "lag bounded: predictions without verdict"),
        (stall_monitors, "lag bounded: rows that no monitor has taken"),
        (grow_checkpoint, "checkpoint of the joiner bounded"),
        (keep_entries, "checkpoint of the monitor bounded"),
        (never_drift, "drifts led to retrain requests, and these to answers"),
        (scrape_slowly, "metrics within 10 s"),
        (send_half, "the load was sent"),
        (park, "nothing else ended, failed or was parked"),
    ],
)
def test_one_thing_that_goes_wrong_is_found_and_nothing_else(change: Change, what: str) -> None:
    assert failed(made(change)) == [what]


def test_files_that_are_opened_and_closed_again_are_not_kept() -> None:
    def come_and_go(at: int, sample: dict[str, Any]) -> None:
        sample["workers"][0]["fds"] += 40 * (at // 30 % 2)

    assert held(judge(made(come_and_go)))


@pytest.mark.parametrize("wrong", [{"verdicts": 599_999, "missing": 1}, {"verdicts": 600_001, "doubled": 1}])
def test_verdicts_that_are_lost_or_doubled_are_found(wrong: dict[str, int]) -> None:
    assert failed(made(balance={**BALANCE, **wrong})) == ["each prediction has one verdict"]


def test_one_lost_and_one_doubled_do_not_make_up_for_each_other() -> None:
    assert failed(made(balance={**BALANCE, "missing": 1, "doubled": 1})) == ["each prediction has one verdict"]


def test_a_process_that_lives_for_a_short_time_is_not_judged_by_its_beginning() -> None:
    def begin(at: int, sample: dict[str, Any]) -> None:
        if len(sample["workers"]) == 2:
            sample["workers"][1]["rss"] += int(min(at % 300, 100) * MIB)

    assert held(judge(made(begin)))


@pytest.mark.parametrize(("rises", "holds"), [(0.8, True), (2.5, False)])
def test_in_a_short_run_memory_may_move_but_not_much(rises: float, holds: bool) -> None:
    def rise(at: int, sample: dict[str, Any]) -> None:
        sample["workers"][0]["rss"] += int(rises * max(at - 100, 0) / 200 * 300 * MIB)

    found = {finding.what: finding.holds for finding in judge(made(rise, length=300))}
    assert found["memory of worker 0 (process 0): not doubled"] is holds


@pytest.mark.parametrize(("each", "holds"), [(20_000, True), (120_000, False)])
def test_in_a_short_run_a_checkpoint_may_fill_but_not_grow_for_ever(each: int, holds: bool) -> None:
    def fill(at: int, sample: dict[str, Any]) -> None:
        sample["live"]["monitor"][1] += each * max(at - 190, 0)

    found = {finding.what: finding.holds for finding in judge(made(fill, length=300))}
    assert found["checkpoint of the monitor bounded"] is holds


@pytest.mark.parametrize(("rises", "holds"), [(0.03, True), (0.3, None)])
def test_memory_without_an_interval_holds_only_if_it_rises_little(rises: float, holds: bool | None) -> None:
    walk = np.cumsum(np.random.default_rng(7).normal(size=600))
    walk = (walk - walk[100:].min()) / np.ptp(walk[100:])
    slow = walk if np.polyfit(np.arange(500), walk[100:], 1)[0] > 0 else 1 - walk

    def wander(at: int, sample: dict[str, Any]) -> None:
        sample["workers"][0]["rss"] = int((1 + rises * slow[at]) * 300 * MIB)

    (memory,) = [finding for finding in judge(made(wander)) if finding.what.startswith("memory")]
    assert "no interval" in memory.found
    assert memory.holds is holds


def test_a_leak_before_the_warm_up_is_over_does_not_count() -> None:
    def fill(at: int, sample: dict[str, Any]) -> None:
        sample["workers"][0]["rss"] += int(min(at, 95) * MIB)

    assert held(judge(made(fill)))


def test_a_run_that_was_too_short_does_not_hold() -> None:
    findings = judge(made(length=100))
    assert [finding.holds for finding in findings if finding.what == "everything"] == [None]
    assert not held(findings)


def test_an_end_that_was_not_waited_for_is_not_taken_for_a_balance() -> None:
    findings = judge(made(balance=None))
    assert [finding for finding in findings if finding.holds is None] == [
        Finding("each prediction has one verdict", None, "the end was not waited for")
    ]


def test_the_report_is_json_with_every_sample_and_a_picture(tmp_path: Path) -> None:
    soak = made()
    findings = judge(soak)
    figures, picture = write(tmp_path / "made", soak, findings)
    report = json.loads(figures.read_text(), parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert report["samples"] == soak.samples
    assert report["holds"] is True
    assert [finding["what"] for finding in report["findings"]] == [finding.what for finding in findings]
    assert "memory, MiB" in picture.read_text()


def test_a_long_run_is_reported_by_some_of_its_samples(tmp_path: Path) -> None:
    soak = made(length=3600)
    figures, _ = write(tmp_path, soak, [])
    assert json.loads(figures.read_text())["samples"] == soak.samples[::3]
    assert len(soak.samples) == 3600


def test_a_report_of_nothing_is_written_too(tmp_path: Path) -> None:
    soak = Soak(minutes=1, rate=RATE, warm_up=30.0, machine={}, interrupted=True)
    figures, picture = write(tmp_path, soak, judge(soak))
    assert json.loads(figures.read_text())["holds"] is False
    assert not picture.exists()
