"""Producer services on real data, with a change injected: for the demo, for tests and for trying things.

This is the pure part, which needs no broker; :mod:`streamapp.simulate` runs it.
"""

from streamapp.simulation.datasets import DATASETS, Dataset, load
from streamapp.simulation.models import Answer, Answerer, Answering, pretrain
from streamapp.simulation.scenarios import SCENARIOS, Scenario
from streamapp.simulation.stream import Event, Simulation

__all__ = [
    "DATASETS",
    "SCENARIOS",
    "Answer",
    "Answerer",
    "Answering",
    "Dataset",
    "Event",
    "Scenario",
    "Simulation",
    "load",
    "pretrain",
]
