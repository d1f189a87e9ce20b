"""What happens to disks: there is no room for what was learned."""

from tests.faults.run import Run
from tests.faults.scenarios.scenario import Scenario

PAIRS = 4000
RATE = 800


def no_room_for_artifacts(run: Run) -> None:
    """A learned model cannot be stored: that is tried again, while everything else goes on."""
    worker = run.start(file_limit=100)
    run.until_ready(worker)
    run.produce(PAIRS, RATE)
    run.until_says(worker, "cannot store ", "trying again")
    rows = run.rows_from_now()
    run.produce(PAIRS // 4)
    run.until_rows(since=rows)
    run.confirm("rows went on")
    run.end_load()
    assert not run.published("model-updates", status="accepted"), "an update without its artifact"
    run.until_says(worker, "cannot store ", "trying again", times=2)
    run.confirm("it was tried again")
    run.say("there is room again")
    worker.limit_files(-1)


SCENARIOS = (Scenario(kind="disk full for artifacts", play=no_room_for_artifacts, times=3, shows=("artifacts",)),)
