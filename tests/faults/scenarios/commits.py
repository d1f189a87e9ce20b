"""What happens to commits: they fail, take too long, or nobody hears of them."""

import time

from streamapp.stream.producer import COMMIT_DEADLINE, TRANSACTION_TIMEOUT_MS
from tests.faults.checks import SCORED_PARTITIONS
from tests.faults.process import Process
from tests.faults.proxy import Fate, Trap, Where
from tests.faults.run import PARTITIONS, Run
from tests.faults.scenarios.scenario import Scenario
from tests.faults.wire import Api, Fault

PAIRS = 3000
RATE = 300
FATAL = (Fault.UNKNOWN_SERVER_ERROR, Fault.INVALID_PRODUCER_EPOCH, Fault.INVALID_TXN_STATE)
ALONE, ALONE_SHORT = 30.0, 10.0
"""Seconds for which nobody takes over."""
TASKS = PARTITIONS + 2 * SCORED_PARTITIONS
SLACK = 3.0
SWEEP = 1.0
"""Seconds between two looks of the broker at transactions that have run out of time."""


def commit_fails(run: Run) -> None:
    """A commit is answered with an error, whether it has happened or not."""
    worker = _at_work(run)
    _meanwhile_committed(run, worker, Fault.COORDINATOR_NOT_AVAILABLE)
    places = [Where.REQUEST, Where.ANSWER]
    run.draw.shuffle(places)
    for count, where in enumerate(places, 1):
        fault = run.draw.choice(FATAL)
        _caught(run, where, Fate.FAULT, fault)
        _back_again(run, worker, count)
        run.confirm(f"a commit was answered with {fault.name} {where.value}, and work was taken up again")


def commit_answer_lost(run: Run) -> None:
    """A commit happens, and nobody hears of it: the connection breaks, or goes silent."""
    worker = _at_work(run)
    _caught(run, Where.ANSWER, Fate.RESET)
    run.until_rows()
    run.confirm("a connection broke after a commit had happened")
    _caught(run, Where.ANSWER, Fate.MUTE)
    _back_again(run, worker, 1, f"commit took more than {COMMIT_DEADLINE:g} s")
    run.confirm("a commit happened without an answer, and work was taken up again behind it")


def commit_times_out(run: Run) -> None:
    """A commit does not reach the broker: the connection breaks, or goes silent."""
    worker = _at_work(run)
    _caught(run, Where.REQUEST, Fate.RESET)
    run.until_rows()
    run.confirm("a connection broke before a commit had arrived")
    _caught(run, Where.REQUEST, Fate.MUTE)
    _back_again(run, worker, 1, f"commit took more than {COMMIT_DEADLINE:g} s")
    run.confirm("a commit never arrived, and work was taken up again before it")


def transaction_longer_than_its_timeout(run: Run) -> None:
    """A commit reaches the broker when it has given the transaction up already."""
    worker = _at_work(run)
    trap = _caught(run, Where.REQUEST, Fate.HOLD)
    time.sleep(TRANSACTION_TIMEOUT_MS / 1000 + SWEEP + run.draw.uniform(0.5, 1.5))
    run.proxy.let_go(trap)
    _back_again(run, worker, 1)
    run.confirm("a transaction ran out of time, and work was taken up again before it")


def dies_in_mid_transaction(run: Run) -> None:
    """A joiner dies with its transaction open, and nobody takes over: readers wait no longer than they must."""
    alone = ALONE if run.long else ALONE_SHORT
    session = str(alone + 10)
    doomed = run.start(proxied=True, STREAMAPP_SESSION_TIMEOUT=session)
    other = run.start(STREAMAPP_SESSION_TIMEOUT=session)
    run.until_ready(doomed, other)
    run.until(lambda: other.tasks and doomed.tasks, "both have tasks")
    run.produce(int(100 * (alone + 20)), 100)
    run.until_rows()
    # Some transactions have no rows: of those that have, the broker holds some when it answers.
    rows = run.topics.scored.encode()
    trap = run.proxy.set(Trap(api=Api.PRODUCE, where=Where.ANSWER, fate=Fate.HOLD, client="joiner-", content=rows))
    run.until(trap.caught.is_set, "rows of a joiner caught before their commit")
    run.kill(doomed)
    began = time.monotonic()
    run.proxy.drop(trap)
    # The other worker's transactions open and close all the while: only what is there now must come to be read.
    held = run.surgery.held_back("scored")
    assert held, "nothing was held back"
    run.until(lambda: run.surgery.readable("scored", held), "readers of scored go on")
    waited = time.monotonic() - began
    assert waited < TRANSACTION_TIMEOUT_MS / 1000 + SWEEP + SLACK, f"readers of scored waited for {waited:.1f} s"
    run.confirm(f"readers of scored waited for {waited:.1f} s")
    while time.monotonic() - began < alone:
        run.until_rows()
        assert len(other.tasks) < TASKS, "somebody has taken over"
    run.confirm(f"nobody had taken over after {alone:g} s, and the other worker went on")
    run.until(lambda: len(other.tasks) == TASKS, "the other worker takes over")


def _at_work(run: Run) -> Process:
    worker = run.start(supervised=True, proxied=True)
    run.until_ready(worker)
    run.produce(PAIRS, RATE)
    run.until_rows()
    return worker


def _caught(run: Run, where: Where, fate: Fate, fault: Fault = Fault.UNKNOWN_SERVER_ERROR) -> Trap:
    role = run.draw.choice(["joiner-", "joiner-", "monitor-"])
    trap = run.proxy.set(Trap(api=Api.END_TXN, where=where, fate=fate, client=role, fault=fault))
    run.until(trap.caught.is_set, f"a commit of {role} caught {where.value}")
    run.say(f"a commit of {trap.client_caught}, {where.value}: {fate.value}")
    return trap


def _meanwhile_committed(run: Run, worker: Process, fault: Fault) -> None:
    _caught(run, Where.REQUEST, Fate.FAULT, fault)
    run.until_rows()
    assert "ending (" not in worker.said, f"{fault.name} passes by itself"
    run.confirm(f"a commit was answered with {fault.name}, and tried again")


def _back_again(run: Run, worker: Process, count: int, *words: str) -> None:
    """Wait until a worker has ended, and another has taken up its work by itself."""
    run.until_says(worker, "ending (", *words, times=count)
    run.until_says(worker, "ready: ", times=count + 1)
    run.until_ready(worker)


KIND = "a commit that fails, times out, or whose answer is lost; a transaction longer than its timeout"

SCENARIOS = (
    Scenario(kind=KIND, play=commit_fails, times=10),
    Scenario(kind=KIND, play=commit_answer_lost, times=10),
    Scenario(kind=KIND, play=commit_times_out, times=10),
    Scenario(kind=KIND, play=transaction_longer_than_its_timeout, times=10),
    Scenario(
        kind="a joiner dies in mid-transaction and nobody takes over for 30 s",
        play=dies_in_mid_transaction,
        times=5,
        shows=("joined", "expired"),
    ),
)
