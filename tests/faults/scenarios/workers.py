"""What happens to workers: they die, sleep, join, leave and are replaced."""

from tests.faults.process import Process
from tests.faults.proxy import Fate, Trap, Where
from tests.faults.run import SESSION, SLOW, Run
from tests.faults.scenarios.scenario import Scenario
from tests.faults.wire import Api

PAIRS = 3000
RATE = 500
ENDLESS = 20_000
"""More predictions than can be sent at a fifth of that rate until the last step."""
BACKLOG = 20_000
"""Predictions that are written at once."""
FEWEST = 500
"""Of these that must be without a verdict when it counts."""


def kill_at_random_moments(run: Run) -> None:
    """The only worker is killed again and again: in mid-work, soon after its start, while it takes over."""
    worker = run.start()
    run.until_ready(worker)
    run.produce(PAIRS, RATE)
    run.produce(ENDLESS, RATE / 5)
    run.until_rows()
    for number in range(4):
        # Every second one is still starting or taking over.
        run.wait(*((0.2, 1.5) if number % 2 == 0 else (0.2, 2.0)))
        run.under_load()
        run.kill(worker)
        worker = run.start()
        if number % 2 == 1:
            run.until_ready(worker)
    run.cease()


RESTORES = {
    "fencing its predecessor": (Api.INIT_PRODUCER_ID, b"joiner-"),
    "reading a joiner's checkpoint": (Api.FETCH, b"checkpoints-joiner"),
    "reading predictions again": (Api.FETCH, b"predictions"),
    "reading a monitor's checkpoint": (Api.FETCH, b"checkpoints-monitor"),
}


def kill_during_restore(run: Run) -> None:
    """The only worker is killed at each step of taking over: what it asks the broker is caught, and then it dies."""
    worker = run.start(proxied=True)
    run.until_ready(worker)
    run.produce(PAIRS, RATE)
    run.until_rows()
    steps = list(RESTORES.items())
    run.draw.shuffle(steps)
    for step, (api, content) in steps:
        run.kill(worker)
        killed = _killed_while(run, step, api, content)
        assert "ready: joiner-0" not in killed.said
        worker = run.start(proxied=True)
        if run.draw.random() < 0.5:
            run.until_ready(worker)


def _killed_while(run: Run, step: str, api: Api, content: bytes) -> Process:
    """Start a worker, and kill it when it has asked the broker for this; return it."""
    # Tasks read with clients of their own; the group's consumer has another name. Producers have that of their task.
    client = "aiokafka" if api is Api.FETCH else content.decode()
    where = run.draw.choice([Where.REQUEST, Where.ANSWER])
    trap = run.proxy.set(Trap(api=api, where=where, fate=Fate.HOLD, client=client, content=content))
    worker = run.start(proxied=True)
    run.until(trap.caught.is_set, f"caught while {step}")
    run.confirm(f"killed while {step}, {where.value}")
    run.kill(worker)
    run.proxy.drop(trap)
    return worker


COMMITS = {
    "nothing of its transaction had arrived": (Api.PRODUCE, Where.REQUEST),
    "its transaction had arrived": (Api.PRODUCE, Where.ANSWER),
    "its transaction was about to be committed": (Api.END_TXN, Where.REQUEST),
    "its transaction was committed, and it had not heard of it": (Api.END_TXN, Where.ANSWER),
}


def kill_during_commit(run: Run) -> None:
    """The only worker is killed at each step of a commit; what it has still under way arrives later, or never."""
    worker = run.start(proxied=True)
    run.until_ready(worker)
    run.produce(PAIRS, RATE)
    run.until_rows()
    steps = list(COMMITS.items())
    run.draw.shuffle(steps)
    for step, (api, where) in steps:
        role = run.draw.choice(["joiner-", "joiner-", "monitor-"])
        trap = run.proxy.set(Trap(api=api, where=where, fate=Fate.HOLD, client=role))
        run.until(trap.caught.is_set, f"caught in a commit of {role}")
        run.confirm(f"killed when {step}")
        run.kill(worker)
        worker = run.start(proxied=True)
        _late_or_never(run, trap, worker)


def _late_or_never(run: Run, trap: Trap, worker: Process) -> None:
    """Let what a trap has caught of a dead worker arrive when the next one is ready, or never."""
    if run.draw.random() < 0.5:
        run.until_ready(worker)
        run.proxy.let_go(trap)
    else:
        run.proxy.drop(trap)
        run.until_ready(worker)


LEARNER_RESTORES = {
    "fencing its predecessor": (Api.INIT_PRODUCER_ID, b"learner-"),
    "reading a learner's checkpoint": (Api.FETCH, b"checkpoints-learner"),
}


def kill_while_a_model_is_learned(run: Run) -> None:
    """The only worker is killed at a step of a learner's commit, and while the next one takes the learner over."""
    worker = run.start(proxied=True)
    run.until_ready(worker)
    step, (commit, where) = run.draw.choice(list(COMMITS.items()))
    run.produce(PAIRS, RATE)
    run.until(lambda: run.published("retrain"), "a request for training")
    trap = run.proxy.set(Trap(api=commit, where=where, fate=Fate.HOLD, client="learner-"))
    run.until(trap.caught.is_set, "caught in a commit of a learner", 120)
    run.confirm(f"killed when, of a learner, {step}")
    run.kill(worker)
    step, (api, content) = run.draw.choice(list(LEARNER_RESTORES.items()))
    _killed_while(run, step, api, content)
    _late_or_never(run, trap, run.start(proxied=True))


def joins_under_backlog(run: Run) -> None:
    """A worker joins another while there is much to do."""
    first = run.start(proxied=True)
    run.until_ready(first)
    before = run.tasks(first)
    _pile_up(run)
    second = run.start()
    run.until(lambda: second.url is not None, f"{second.name} is there")
    _still_behind(run)
    run.until_ready(second)
    gained = run.tasks(second)
    assert gained, f"{second.name} owns nothing"
    assert gained < before, f"{second.name} has {gained} of {before}"


def leaves_under_backlog(run: Run) -> None:
    """One of two workers is asked to end while there is much to do."""
    first, second, owned = _two_at_work(run)
    _still_behind(run)
    run.stop(first, *owned)
    run.until(lambda: owned <= run.tasks(second), f"{second.name} has what {first.name} had")


def joins_and_leaves_at_once_under_backlog(run: Run) -> None:
    """A worker joins in the moment in which one of two others is asked to end, while there is much to do."""
    first, second, owned = _two_at_work(run)
    third = run.start()
    run.until(lambda: third.url is not None, f"{third.name} is there")
    _still_behind(run)
    run.stop(first, *owned)
    run.until(lambda: owned <= run.tasks(second) | run.tasks(third), f"somebody has what {first.name} had")
    run.until(lambda: run.tasks(third), f"{third.name} has tasks")


def _two_at_work(run: Run) -> tuple[Process, Process, set[str]]:
    """Start two workers, give them much to do, and return them, and the names of the tasks of the first."""
    first, second = run.start(proxied=True), run.start(proxied=True)
    run.until_ready(first, second)
    owned = run.tasks(first)
    assert owned, f"{first.name} owns nothing"
    _pile_up(run)
    return first, second, owned


def _pile_up(run: Run) -> None:
    """Write more at once than workers on a slow link get through for a while."""
    run.proxy.delay = SLOW
    run.produce(BACKLOG)
    run.until_rows()


def _still_behind(run: Run) -> None:
    """Make sure that there is much to do just now."""
    while (left := run.unresolved()) < FEWEST:
        run.produce(BACKLOG)
    run.confirm(f"{left} predictions had no verdict")


def rolling_restart_of_three(run: Run) -> None:
    """Three workers are replaced, one by one."""
    workers = [run.start() for _ in range(3)]
    run.until_ready(*workers)
    run.produce(PAIRS, RATE / 2)
    for worker in workers:
        run.wait(0.0, 1.0)
        run.stop(worker)
        run.until_ready(run.start())


def sigterm_under_load(run: Run) -> None:
    """The only worker is asked to end in mid-work, and another goes on."""
    worker = run.start()
    run.until_ready(worker)
    run.produce(PAIRS, RATE)
    run.produce(ENDLESS, RATE / 5)
    for _ in range(2):
        run.until_rows()
        run.wait(0.0, 1.5)
        run.under_load()
        owned = run.tasks(worker)
        assert {"joiner-0", "monitor-0", "learner-0"} <= owned, f"{worker.name} has only {owned}"
        run.stop(worker, *owned)
        worker = run.start()
        run.until_ready(worker)
    run.cease()


def asleep_beyond_the_session(run: Run) -> None:
    """An owner is stopped for longer than its session, loses everything to another, and wakes."""
    stale = run.start(alone=True)
    run.until_ready(stale)
    run.produce(PAIRS, RATE / 3)
    run.until_rows()
    run.wait(0.0, 1.0)
    run.pause(stale)
    other = run.start()
    run.until_ready(other)
    run.wait(0.0, 1.0)
    run.resume(stale)
    run.until_ended(stale, 1, "ending (")
    run.confirm(f"the stale owner ended: {_refused(run, stale)}")
    run.undisturbed(other)
    again = run.start()
    run.until_ready(again, other)
    assert "joiner-" in again.get("/readyz")[1].decode(), "the stale owner came back and owns nothing"


def _refused(run: Run, worker: Process) -> list[str]:
    """Return for what reasons a worker ended: the broker must have refused what it wrote."""
    found = run.reasons(worker)
    assert found, f"{worker.name} did not end"
    assert set(found) <= {"fenced", "aborted"}, f"{worker.name} ended for {found}"
    return found


def cut_off_beyond_the_session(run: Run) -> None:
    """One of two workers cannot reach the broker for longer than its session; the other takes over."""
    near, far = run.start(), run.start(supervised=True, proxied=True)
    run.until_ready(near, far)
    run.produce(PAIRS, RATE / 3)
    run.until_rows()
    run.wait(0.0, 1.0)
    run.say("cut worker 1 off")
    run.proxy.cut()
    run.wait(SESSION + 1, SESSION + 4)
    run.until(lambda: b"joiner-3" in near.get("/readyz")[1], "the other has taken over")
    run.say("let it through again")
    run.proxy.heal()
    run.until_says(far, "ending (")
    run.until_says(far, "ready: ", times=2)
    run.until_ready(near, far)
    run.confirm(f"the one cut off ended, and came back as a new owner: {_refused(run, far)}")
    run.undisturbed(near)


LEARNED = ("joined", "expired", "censored", "signals", "retrain", "model updates")
KILLED = "`kill -9` at a random moment, also during restore and during a checkpoint"

SCENARIOS = (
    Scenario(kind=KILLED, play=kill_at_random_moments, times=20),
    Scenario(kind=KILLED, play=kill_during_restore, times=15),
    Scenario(kind=KILLED, play=kill_during_commit, times=15),
    Scenario(kind=KILLED, play=kill_while_a_model_is_learned, times=15, shows=LEARNED),
    *(
        Scenario(kind="worker joins, leaves, both at once, under backlog", play=play, times=20, shows=("joined",))
        for play in (joins_under_backlog, leaves_under_backlog, joins_and_leaves_at_once_under_backlog)
    ),
    Scenario(kind="rolling restart of three", play=rolling_restart_of_three, times=20),
    Scenario(kind="`SIGTERM` under load", play=sigterm_under_load, times=20),
    Scenario(
        kind="`SIGSTOP` for longer than the session timeout, then `SIGCONT`", play=asleep_beyond_the_session, times=10
    ),
    Scenario(kind="cut off from the broker for longer than the session", play=cut_off_beyond_the_session, times=10),
)
