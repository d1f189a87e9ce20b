"""What happens to brokers and to the way there: restarted, killed, gone for a while, slow."""

import time

from tests.faults.load import widened
from tests.faults.run import SESSION, SLOW, Run
from tests.faults.scenarios.scenario import Scenario

PAIRS = 3000
RATE = 300
GONE = 60.0
GONE_SHORT = SESSION + 3
BACKLOG, BACKLOG_SHORT = 60_000, 30_000
"""Predictions that are there at once."""
WIDE = 2000
"""Bytes of the features of each."""
MEMORY = 320 << 20
"""Bytes that a worker may take more than with nothing to do. All of the long form at once, as it comes in, decoded, and
as it goes out, would be more than 400 MiB; the faster the machine, the more waits for the next commit."""


def broker_restarted(run: Run) -> None:
    """The broker goes down in order and comes back, then it is killed; workers resume by themselves."""
    worker = run.start(supervised=True)
    run.until_ready(worker)
    run.produce(PAIRS, RATE)
    run.until_rows()
    run.wait(0.0, 1.0)
    run.say("restart the broker")
    run.broker.kafka.restart()
    run.until_rows()
    run.wait(0.0, 2.0)
    run.say("kill the broker")
    run.broker.kafka.kill()
    run.wait(0.5, 2.0)
    run.broker.kafka.start()
    run.say("the broker is back")


def broker_gone(run: Run) -> None:
    """The broker is gone for a minute; workers say what they wait for, and resume by themselves."""
    worker = run.start(supervised=True)
    run.until_ready(worker)
    run.produce(PAIRS, RATE)
    run.until_rows()
    run.wait(0.0, 1.0)
    run.say("kill the broker")
    run.broker.kafka.kill()
    time.sleep(GONE if run.long else GONE_SHORT)
    run.until_says(worker, "waiting: ", "no Kafka broker answers")
    status, page = worker.get("/readyz")
    assert status == 503, "ready without a broker"
    assert b"no Kafka broker answers" in page, f"/readyz does not say what it waits for: {page.decode()}"
    run.confirm("it said what it waited for")
    run.broker.kafka.start()
    run.say("the broker is back")
    run.until_says(worker, "ready: ", times=2)


def one_of_three_brokers_killed(run: Run) -> None:
    """One of three brokers is killed, and comes back; then another."""
    workers = [run.start(supervised=True) for _ in range(2)]
    run.until_ready(*workers)
    run.produce(12 * PAIRS, RATE)  # for as long as all of it may take: two elections, two returns
    run.until_rows()
    for node in run.draw.sample(run.cluster.nodes, 2):
        run.wait(0.0, 2.0)
        run.say(f"kill broker {node.number}")
        node.kill()
        run.until_rows()
        run.confirm("rows went on with two of three brokers")
        run.wait(2.0, 6.0)
        node.start()
        run.say(f"broker {node.number} is back")
        # Or the next kill leaves fewer than two copies of something.
        run.until(lambda: run.surgery.in_sync(len(run.cluster.nodes)), "copies are complete again", 120)


def slow_link(run: Run) -> None:
    """Each request of a connection takes 250 ms longer; a second worker joins meanwhile."""
    worker = run.start(supervised=True, proxied=True)
    run.until_ready(worker)
    before = worker.peak_memory
    run.proxy.delay = SLOW
    backlog = BACKLOG if run.long else BACKLOG_SHORT
    wide = [widened(item, WIDE) for item in run.events(backlog)]
    run.say(f"produce {backlog} pairs of {WIDE} bytes each at once")
    run.send(wide)
    run.produce(PAIRS, 2 * RATE)
    run.until_rows()
    run.until_sent(0.5)
    other = run.start(supervised=True, proxied=True)
    run.until_sent()
    run.until_ready(worker, other)
    for each in (worker, other):  # which is another process where a transaction ran out of time
        more = each.peak_memory - before
        run.confirm(f"{each.name} took {more >> 20} MiB more than one with nothing to do")
        assert more < MEMORY, f"{each.name} took {more >> 20} MiB more than one with nothing to do"


SCENARIOS = (
    Scenario(kind="broker restarted", play=broker_restarted, times=5),
    Scenario(kind="broker gone for a minute", play=broker_gone, times=5),
    Scenario(kind="three brokers, one killed", play=one_of_three_brokers_killed, times=5, cluster=True),
    Scenario(kind="broker slow (250 ms a request)", play=slow_link, times=5),
)
