"""The core alone, fed from memory: decode, join and score, with no broker, no checkpoint and nothing written.

``python -m benchmarks.core '{"pairs": 100000, ...}'`` prints one object. A process of its own, so that its memory and
its caches are its own.
"""

import gc
import json
import os
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import msgspec
import numpy as np

from benchmarks.process import cores
from benchmarks.recording import Shape, events, model_name
from streamapp.core.join import InputBatch
from streamapp.core.settings import ModelSettings, Seconds, Settings
from streamapp.pipeline import Pipeline
from streamapp.stream.codec import decode_outcomes, decode_predictions

WARM_UP = 0.1
PIECES = 16
"""Pieces of a thousand events that are joined before what followed is scored, at most: what comes in a commit."""
GC_THRESHOLDS = (50_000, 20, 100)
"""As the worker has them."""


@dataclass(frozen=True)
class CoreRun:
    """What the core did after its warm-up."""

    pairs: int
    cpu_seconds: float
    memory: int
    """Bytes of resident memory that came with the input, all of it."""

    @property
    def per_cpu_second(self) -> float:
        """Pairs per second of CPU time."""
        return self.pairs / self.cpu_seconds


def run(shape: Shape) -> CoreRun:
    """Run the core in a process of its own, on the contestants' core."""
    command = ["taskset", "-c", str(cores()[0]), sys.executable, "-m", "benchmarks.core", json.dumps(asdict(shape))]
    return CoreRun(**json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout))


def feed(shape: Shape) -> CoreRun:
    """Feed a shape to a core in this process; making it is not counted."""
    week = ModelSettings(outcome_window=Seconds(7 * 86_400))
    named = {model_name(number): week for number in range(shape.models)}
    pipeline = Pipeline(Settings(models=named, defaults=week))
    gc.collect()
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLDS)
    before = _resident()
    now = time.time()
    done = {"predictions": 0, "outcomes": 0}
    pieces = min(PIECES, max(1, shape.pairs // 10_000))
    cpu, warm_cpu, warm_pairs, joined = 0.0, 0.0, -1, 0
    for number, (topic, rows) in enumerate(events(shape, now)):
        log_time = now + number / 1000
        keys, values = [key for key, _ in rows], [value for _, value in rows]
        offsets = np.arange(done[topic], done[topic] + len(rows))
        done[topic] += len(rows)
        timestamps = np.full(len(rows), log_time)
        began = time.process_time()
        if topic == "predictions":
            pipeline.predictions(InputBatch(offsets, timestamps, keys, values, decode_predictions(values)))
        else:
            pipeline.outcomes(InputBatch(offsets, timestamps, keys, values, decode_outcomes(values)))
            joined += len(rows)
        if number % pieces == pieces - 1 or joined == shape.pairs:
            pipeline.advance(log_time)
            if warm_pairs < 0 and joined >= WARM_UP * shape.pairs:
                warm_pairs, warm_cpu = joined, cpu + time.process_time() - began
        cpu += time.process_time() - began
    scored = sum(group.outcomes for model in pipeline.monitor.report() for group in model.groups)
    if scored != shape.pairs:
        raise RuntimeError(f"the core scored {scored} pairs, expected {shape.pairs}")
    return CoreRun(joined - warm_pairs, cpu - warm_cpu, _resident() - before)


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


if __name__ == "__main__":
    print(json.dumps(asdict(feed(msgspec.convert(json.loads(sys.argv[1]), Shape)))))
