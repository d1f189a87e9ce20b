"""What happens to topics: made anew, truncated, overtaken by retention, given more partitions."""

from tests.faults.oracle import Expected, Times
from tests.faults.run import PARTITIONS, Run
from tests.faults.scenarios.scenario import Scenario

PAIRS = 2000
RATE = 800
JOINERS = tuple(f"joiner-{number}" for number in range(PARTITIONS))
MONITORS = ("monitor-0", "monitor-1")


def topic_made_anew(run: Run) -> None:
    """A topic is deleted and made again while nobody looks, and is longer than it was when somebody does."""
    _worked(run)
    name = run.draw.choice(["predictions", "outcomes"])
    run.surgery.delete([name])
    run.surgery.make()
    run.produce(2 * PAIRS)
    worker = run.start()
    for task in JOINERS:
        run.until_parked(worker, task, run.topics.full(name), "made anew")
    run.check()


def topic_made_anew_under_way(run: Run) -> None:
    """A topic is deleted and made again while a worker reads it, and grows beyond where that worker was."""
    worker = run.start(supervised=True)
    run.produce(PAIRS, RATE)
    run.until_sent()
    run.until_rows()
    run.keep_inputs()
    name = run.draw.choice(["predictions", "outcomes"])
    run.surgery.delete([name])
    run.surgery.make()
    run.produce(2 * PAIRS)
    for task in JOINERS:
        run.until_parked(worker, task, run.topics.full(name), "made anew")
    run.check()


def scored_made_anew(run: Run) -> None:
    """The topic between joiners and monitors is made anew: monitors stay as they are, joiners go on."""
    _worked(run)
    run.surgery.delete(["scored"])
    run.surgery.make()
    rows = run.rows_from_now()
    worker = run.start()
    run.produce(PAIRS, RATE)
    for task in MONITORS:
        run.until_parked(worker, task, run.topics.scored)
    run.until_rows(since=rows)
    run.confirm("the joiners went on")
    run.exempt.update(JOINERS)  # what they had said before is gone with the topic
    run.check()


def topic_truncated(run: Run) -> None:
    """The end of a partition is lost with a disk, and it grows again beyond where its task was."""
    _worked(run)
    name = run.draw.choice(["predictions", "outcomes"])
    run.broker.lose_end(run.topics.full(name), 0)
    run.produce(2 * PAIRS)
    worker = run.start()
    run.until_parked(worker, "joiner-0", f"{run.topics.full(name)}[0]", "truncated")
    run.check()


def offsets_out_of_range(run: Run) -> None:
    """Retention removes what tasks have not read yet: of one while it is stopped, of another while it sleeps."""
    _worked(run)
    run.produce(PAIRS)
    name = run.draw.choice(["predictions", "outcomes"])
    run.surgery.truncate(name, {0: -1})
    rows = run.rows_from_now()
    worker = run.start()
    run.until_parked(worker, "joiner-0", f"{run.topics.full(name)}[0]", "retention")
    run.until_rows(since=rows)
    run.pause(worker)
    run.produce(PAIRS)
    run.keep_inputs()
    run.surgery.truncate(name, {1: -1})
    run.resume(worker)
    run.until_parked(worker, "joiner-1", f"{run.topics.full(name)}[1]", "retention")
    run.check()


def retention_overtook_pending(run: Run) -> None:
    """Retention removes predictions that wait: refused, and counted as lost where that is configured."""
    worker = run.start()
    run.until_ready(worker)
    items = run.events(PAIRS, plain=True)
    answered = {key for topic, key, _ in items if topic == "outcomes"}
    items = [item for item in items if item[1] in answered]
    predictions, outcomes = ([item for item in items if item[0] == topic] for topic in ("predictions", "outcomes"))
    half = len(outcomes) // 2
    run.send(predictions)
    run.send(outcomes[:half])
    left = len(predictions) - half
    run.until(lambda: sum(worker.metric("streamapp_pending_predictions").values()) == left, f"{left} predictions wait")
    run.stop(worker)
    before, verdicts = run.due(), run.verdicts()
    bounds = {number: _middle(before[number], verdicts[number]) for number in (0, 1)}
    run.surgery.truncate("predictions", bounds)
    run.lost = {number: _waiting(before[number], verdicts[number], end) for number, end in bounds.items()}
    worker = run.start()
    for number, offsets in run.lost.items():
        words = (f"{len(offsets)} records", f"offsets {min(offsets)}", "STREAMAPP_ALLOW_LOST")
        run.until_parked(worker, f"joiner-{number}", *words)
    rows = run.rows_from_now()
    run.send(outcomes[half:])
    run.until_rows(since=rows)
    run.confirm("the other tasks went on")
    run.stop(worker)
    run.mended()
    run.until_ready(run.start(STREAMAPP_ALLOW_LOST="true"))


def partition_counts(run: Run) -> None:
    """Topics get more partitions than they had, or than the others have: no worker begins."""
    worker = run.start()
    run.produce(PAIRS, RATE)
    run.until_sent()
    run.until_rows()
    name, other = run.draw.sample(["predictions", "outcomes"], 2)
    more = PARTITIONS + 2
    run.surgery.widen(name, more)
    run.until_ended(run.start(alone=True), 2, run.topics.full(name), f"{more} partitions, expected {PARTITIONS}")
    run.confirm(f"{name} with more partitions than {other} was refused")
    run.until_ready(worker)
    run.stop(worker)
    run.surgery.widen(other, more)
    run.surgery.widen("checkpoints-joiner", more)
    worker = run.start(STREAMAPP_PARTITIONS=str(more))
    for task in JOINERS:
        run.until_parked(worker, task, f"{PARTITIONS} partitions", f"now there are {more}")


def _worked(run: Run) -> None:
    """Let a worker work and stop."""
    worker = run.start()
    run.produce(PAIRS, RATE)
    run.until_sent()
    run.until_rows()
    run.stop(worker)
    run.keep_inputs()


def _middle(part: Expected, verdicts: set[int]) -> int:
    """Return the offset before which half of what waits lies."""
    waiting = sorted(part.rows.keys() - verdicts)
    return waiting[len(waiting) // 2]


def _waiting(part: Expected, verdicts: set[int], end: int) -> frozenset[int]:
    return frozenset(offset for offset in part.rows if offset < end and offset not in verdicts)


ANEW = "a topic deleted and re-created; a topic truncated and regrown; offsets out of range"
SHOWS = ("joined", "expired", "censored")

SCENARIOS = (
    Scenario(kind=ANEW, play=topic_made_anew, times=3, shows=()),
    Scenario(kind=ANEW, play=topic_made_anew_under_way, times=3, shows=()),
    Scenario(kind=ANEW, play=scored_made_anew, times=3, shows=()),
    Scenario(kind=ANEW, play=topic_truncated, times=3, shows=("joined",)),
    Scenario(kind=ANEW, play=offsets_out_of_range, times=3, shows=SHOWS),
    Scenario(
        kind="retention overtook pending predictions",
        play=retention_overtook_pending,
        times=3,
        times_of=Times(window=120, grace=3),
        shows=("joined", "lost"),
    ),
    Scenario(kind="topics with different or changed partition counts", play=partition_counts, times=3, shows=()),
)
