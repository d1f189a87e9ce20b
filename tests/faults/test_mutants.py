"""The harness notices what it is there to notice."""

import pytest

from tests.faults.mutants import command
from tests.faults.run import WORKER, Broker, Run

pytestmark = [pytest.mark.integration, pytest.mark.faults, pytest.mark.timeout(300)]

SEED = 1


@pytest.mark.parametrize(
    ("mutant", "finding"),
    [
        ("skip-one-prediction", "no verdict|!="),
        ("score-twice", "a second verdict"),
        ("monitor-twice", "summary of monitor"),
        ("monitor-forgets", "summary of monitor"),
    ],
)
def test_a_defect_fails_the_checks(faulty: Broker, mutant: str, finding: str) -> None:
    with pytest.raises(AssertionError, match=finding):
        restarted_once(faulty, command(mutant))


def test_without_a_defect_the_same_run_passes(faulty: Broker) -> None:
    restarted_once(faulty, WORKER)


def restarted_once(broker: Broker, worker: tuple[str, ...]) -> None:
    """Run the shortest scenario in which all of these defects show: those that need a crash are for --mutant."""
    with Run(broker, SEED, command=worker, settled=25) as run:
        run.produce(3000)
        first = run.start()
        run.until_some()
        run.stop(first)
        run.start()
        run.check()
