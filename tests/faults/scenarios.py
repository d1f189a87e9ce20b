"""Scenarios: small scripts of steps. What must hold afterwards is the same for all."""

from collections.abc import Callable

from tests.faults.run import Process, Run
from tests.integration.workers import SESSION_TIMEOUT

PAIRS = 9000
RATE = 900


def kill_at_random_moments(run: Run) -> None:
    """The only worker is killed again and again: in mid-work, soon after its start, during its restore."""
    worker = run.start()
    run.until_ready(worker)
    run.produce(PAIRS, RATE)
    run.until_some()
    for number in range(5):
        # Every second one is still starting, taking over or restoring.
        run.wait(*((0.5, 2.5) if number % 2 == 0 else (1.0, 4.0)))
        run.kill(worker)
        worker = run.start()
        if number % 2 == 1:
            run.until_ready(worker)


def join_and_leave_under_backlog(run: Run) -> None:
    """Workers come and go while there is much to do, also both at once."""
    run.produce(2 * PAIRS)
    first = run.start()
    run.until_some()
    second = run.start()
    run.wait(0.5, 4.0)
    third = run.start()
    run.stop(first)
    run.wait(0.5, 4.0)
    run.stop(third)
    run.until_ready(second)


def rolling_restart_of_three(run: Run) -> None:
    """Three workers are replaced, one by one."""
    workers = [run.start() for _ in range(3)]
    for worker in workers:
        run.until_ready(worker)
    run.produce(PAIRS, RATE / 2)
    for worker in workers:
        run.wait(0.2, 1.5)
        run.stop(worker)
        run.until_ready(run.start())


def sigterm_under_load(run: Run) -> None:
    """The only worker is asked to end in mid-work, and another goes on."""
    run.produce(PAIRS, RATE)
    worker = run.start()
    run.until_some()
    for _ in range(3):
        run.wait(0.2, 2.0)
        run.stop(worker)
        worker = run.start()
        run.until_ready(worker)


def asleep_beyond_the_session(run: Run) -> None:
    """An owner is stopped for longer than its session, loses everything to another, and wakes."""
    stale = run.start()
    run.until_ready(stale)
    run.produce(PAIRS, RATE / 2)
    run.until_some()
    run.wait(0.0, 1.0)
    stale.may_end = True
    run.pause(stale)
    other = run.start()
    run.until_ready(other)
    run.wait(0.0, 2.0)
    run.resume(stale)
    # It was fenced: if it has anything to commit it ends, and somebody would start it again.
    run.wait(SESSION_TIMEOUT, SESSION_TIMEOUT + 2)
    if stale.exit_code is not None:
        assert stale.exit_code == 1
        run.start()


def broker_restarted(run: Run) -> None:
    """The broker goes down in order, then is killed; supervised workers resume by themselves."""
    workers = [run.start(supervised=True) for _ in range(2)]
    for worker in workers:
        run.until_ready(worker)
    run.produce(PAIRS, RATE / 2)
    run.until_some()
    run.wait(0.0, 1.0)
    run.say("restart the broker")
    run.broker.kafka.restart()
    run.until_some()
    run.wait(1.0, 4.0)
    run.say("kill the broker")
    run.broker.kafka.kill()
    run.wait(0.5, 3.0)
    run.broker.kafka.start()
    run.say("the broker is back")


def cut_off_beyond_the_session(run: Run) -> None:
    """One of two workers cannot reach the broker for longer than its session; the other takes over."""
    near, far = run.start(supervised=True), run.start(supervised=True, proxied=True)
    run.until_ready(near)
    run.until_ready(far)
    run.produce(PAIRS, RATE / 2)
    run.until_some()
    run.wait(0.0, 1.0)
    run.say("cut worker 1 off")
    run.broker.proxy.cut()
    run.wait(SESSION_TIMEOUT + 3, SESSION_TIMEOUT + 8)
    run.say("let it through again")
    run.broker.proxy.heal()
    run.wait(1.0, 3.0)


def slow_link(run: Run) -> None:
    """Each request of a connection takes 250 ms longer; a second worker joins meanwhile."""
    worker: Process = run.start(supervised=True, proxied=True)
    run.until_ready(worker)
    run.broker.proxy.delay = 0.25
    run.produce(PAIRS // 2, RATE / 2)
    run.until_some()
    run.until_sent(0.5)
    run.start(supervised=True, proxied=True)
    run.wait(5.0, 10.0)


SCENARIOS: dict[str, Callable[[Run], None]] = {
    function.__name__.replace("_", "-"): function
    for function in (
        kill_at_random_moments,
        join_and_leave_under_backlog,
        rolling_restart_of_three,
        sigterm_under_load,
        asleep_beyond_the_session,
        broker_restarted,
        cut_off_beyond_the_session,
        slow_link,
    )
}
