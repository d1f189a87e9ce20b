"""The core fed from memory: what ``replay`` does to events that are decoded already. Run by the replay benchmark.

``python -m benchmarks.core_in_memory PREDICTIONS OUTCOMES`` prints CPU seconds and the summary as JSON.
"""

import gc
import sys
import time
from io import BytesIO
from pathlib import Path

import msgspec

from streamapp.core.join import InputBatch
from streamapp.core.settings import Settings
from streamapp.pipeline import Pipeline
from streamapp.recording import Kind, Reading, Recording, pieces
from streamapp.replay import steps

Steps = list[tuple[InputBatch | None, InputBatch | None, float]]


def main(predictions: str, outcomes: str) -> None:
    """Measure decoding from memory, then the core on what was decoded."""
    gc.set_threshold(50_000, 20, 100)
    bodies = [Path(predictions).read_bytes(), Path(outcomes).read_bytes()]
    began = time.process_time()
    first, second = _decode("predictions", bodies[0]), _decode("outcomes", bodies[1])
    decoded = time.process_time() - began
    del bodies
    fed = list(steps(first, second))
    gc.collect()
    gc.freeze()
    began = time.process_time()
    summary = feed(fed)
    core = time.process_time() - began
    print(msgspec.json.encode({"core": core, "decode": decoded, "summary": summary}).decode())


def _decode(kind: Kind, body: bytes) -> Recording:
    reading = Reading(kind)
    for piece in pieces(BytesIO(body)):
        reading.add(piece)
    return reading.done()


def feed(fed: Steps) -> object:
    """Give the core what it is to read, and return its summary."""
    pipeline = Pipeline(Settings())
    for predictions, outcomes, reached in fed:
        if predictions is not None:
            pipeline.predictions(predictions)
        if outcomes is not None:
            pipeline.outcomes(outcomes)
        pipeline.advance(reached)
    return pipeline.summary()


if __name__ == "__main__":
    main(*sys.argv[1:])
