"""Every scenario, by name."""

from tests.faults.scenarios import brokers, checkpoints, commits, disks, logs, plain, times, workers
from tests.faults.scenarios.scenario import Scenario

MODULES = (plain, workers, commits, brokers, checkpoints, logs, times, disks)

SCENARIOS: dict[str, Scenario] = {each.name: each for module in MODULES for each in module.SCENARIOS}
