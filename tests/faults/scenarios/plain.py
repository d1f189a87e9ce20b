"""Nothing bad happens to workers in these, or one thing: the least in which a certain defect shows."""

import time

from tests.faults.proxy import Fate, Trap, Where
from tests.faults.run import Run
from tests.faults.scenarios.scenario import Scenario
from tests.faults.wire import Api

PAIRS = 2000
RATE = 800
SEEN = 2.0
"""Seconds within which whoever reads what is not committed has done so."""


def restarted_once(run: Run) -> None:
    """A worker is stopped in order, and another goes on."""
    first = run.start()
    run.until_ready(first)
    run.produce(PAIRS, RATE)
    run.until_rows()
    run.until_sent(0.8)
    run.stop(first)
    _begun(run)


def killed_before_committing(run: Run) -> None:
    """A worker dies when all of a transaction has arrived but its end, and there was time to read it."""
    first = run.start(proxied=True)
    run.until_ready(first)
    run.produce(PAIRS, RATE / 2)
    run.until_rows()
    trap = run.proxy.set(Trap(api=Api.END_TXN, where=Where.REQUEST, fate=Fate.HOLD, client="joiner-"))
    run.until(trap.caught.is_set, "a commit of a joiner caught")
    time.sleep(SEEN)
    run.kill(first)
    run.proxy.drop(trap)
    _begun(run)


def stale_owner_wakes(run: Run) -> None:
    """An owner that has much to commit sleeps, another takes over, and it wakes."""
    stale = run.start(alone=True)
    run.until_ready(stale)
    run.produce(PAIRS, RATE / 2)
    run.until_rows()
    time.sleep(SEEN / 2)
    run.pause(stale)
    rows = run.rows_from_now()
    run.until_ready(run.start())
    run.until_rows(since=rows)
    run.resume(stale)
    run.end_load()


def _begun(run: Run) -> None:
    """Start another worker, and wait until it is there; with some defects it is never ready."""
    worker = run.start()
    run.until(lambda: worker.get("/readyz")[0], f"{worker.name} answers")


SHOWS = ("joined", "expired")

SCENARIOS = (
    Scenario(kind="none", play=restarted_once, times=0, shows=SHOWS),
    Scenario(kind="none", play=killed_before_committing, times=0, shows=SHOWS),
    Scenario(
        kind="`SIGSTOP` for longer than the session timeout, then `SIGCONT`",
        play=stale_owner_wakes,
        times=10,
        environ={"STREAMAPP_COMMIT_INTERVAL": str(SEEN)},
        shows=SHOWS,
    ),
)
