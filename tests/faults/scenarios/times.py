"""What happens to time: outcomes come late and out of order, or nothing comes at all."""

import time

from tests.faults.load import Item, widened
from tests.faults.oracle import Times
from tests.faults.run import PARTITIONS, Run
from tests.faults.scenarios.scenario import Scenario

PAIRS = 2000
RATE = 500
OVERDUE, WIDE = 30_000, 3000
"""Predictions, and bytes of the features of each."""
DAY = 86_400.0


def nightly_upload(run: Run) -> None:
    """A week's predictions, then a week's outcomes, each at once and shuffled; the worker is killed in between."""
    items = run.events(2 * PAIRS, plain=True)
    made: dict[bytes, float] = {}
    for topic, key, event in items:
        assert isinstance(event, dict)
        if topic == "predictions":
            event["ts"] = made[key] = -run.draw.uniform(DAY, 8 * DAY)
        else:  # known within a day
            event["ts"] = made[key] + run.draw.uniform(0, DAY)
    worker = run.start()
    run.send(_shuffled(run, items, "predictions"))
    run.until_ready(worker)
    run.wait(0.0, 2.0)
    run.kill(worker)
    outcomes = _shuffled(run, items, "outcomes")
    run.send(outcomes)
    worker = run.start()
    run.until_rows(len(outcomes) // 2)
    run.stop(worker)
    run.until_ready(run.start())


def idle_topic(run: Run) -> None:
    """No outcome comes for the whole window, and then no prediction: what is overdue expires all the same."""
    worker = run.start()
    run.until_ready(worker)
    items = run.events(PAIRS)
    run.send([item for item in items if item[0] == "predictions"], RATE)
    run.end_load()
    run.until_rows(100)
    run.confirm("predictions expired while no outcome had come")
    _until_all_resolved(run)
    run.confirm("all predictions expired while nothing came")
    run.produce(PAIRS, RATE)


def silence_while_nobody_works(run: Run) -> None:
    """More expires while no worker runs than a transaction holds; the worker that takes it up is killed meanwhile."""
    worker = run.start()
    run.until_ready(worker)
    before = worker.peak_memory
    wide = [widened(item, WIDE) for item in run.events(OVERDUE) if item[0] == "predictions"]
    run.send(wide)
    run.wait(1.0, 3.0)
    run.kill(worker)
    run.say("wait until all of it has expired")
    time.sleep(run.times.window + run.times.grace)
    worker = run.start()
    run.until_rows(1000)
    run.kill(worker)
    assert run.unresolved() > 1000, "all had its verdict when the worker was killed"
    run.confirm("the worker was killed when some of it had its verdict")
    worker = run.start()
    _until_all_resolved(run)
    more = worker.peak_memory - before
    run.confirm(f"{worker.name} took {more >> 20} MiB more than one with nothing to do")
    run.produce(PAIRS, RATE)


def one_partition_without_data(run: Run) -> None:
    """One partition is never written to: it holds nobody up, before and after a restart."""
    empty = run.draw.randrange(PARTITIONS)
    worker = run.start()
    run.send([item for item in run.events(PAIRS) if run.partition_of(item[1]) != empty], 2 * RATE)
    run.end_load()
    run.stop(worker)
    worker = run.start()
    run.send([item for item in run.events(PAIRS) if run.partition_of(item[1]) != empty], 2 * RATE)
    run.until_ready(worker)
    _until_all_resolved(run)
    assert not run.verdicts()[empty], "the empty partition has verdicts"
    run.confirm(f"all was resolved while partition {empty} was empty")


def _shuffled(run: Run, items: list[Item], topic: str) -> list[Item]:
    chosen = [item for item in items if item[0] == topic]
    run.draw.shuffle(chosen)
    return chosen


def _until_all_resolved(run: Run) -> None:
    run.end_load()
    due = [part.rows.keys() for part in run.due()]
    run.until(lambda: all(run.verdicts()[n] >= offsets for n, offsets in enumerate(due)), "all resolved")


KIND = "a nightly upload; a topic idle for the whole window; one partition without data"

SCENARIOS = (
    Scenario(
        kind=KIND,
        play=nightly_upload,
        times=5,
        times_of=Times(window=DAY, grace=2 * DAY),
        shows=("joined",),
    ),
    Scenario(kind=KIND, play=idle_topic, times=3, shows=("joined", "expired")),
    Scenario(
        kind=KIND,
        play=silence_while_nobody_works,
        times=5,
        times_of=Times(window=8.0, grace=1.0),
        shows=("joined", "expired"),
    ),
    Scenario(kind=KIND, play=one_partition_without_data, times=3, shows=("joined", "expired")),
)
