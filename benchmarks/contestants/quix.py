"""The same job on Quix Streams as its documentation has it: two topics concatenated, state by key.

``python -m benchmarks.contestants.quix BROKER PREFIX PARTITIONS NAME FOLDER``. The key is the prediction_id, so the
state (RocksDB, with a changelog topic) of a key holds whichever of the two came first. The sums are kept in the
process: they are not durable, which is to Quix's advantage.
"""

import sys
from typing import Any

from quixstreams import Application

from benchmarks.contestants.sums import Scoreboard
from streamapp.stream.topics import Topics


def main() -> None:
    """Run the application."""
    broker, prefix, _, name, folder = sys.argv[1:]
    topics = Topics(prefix)
    board = Scoreboard()
    app = Application(
        broker_address=broker,
        consumer_group=name,
        auto_offset_reset="earliest",
        state_dir=folder,
        loglevel="WARNING",
    )
    predictions = app.dataframe(app.topic(topics.predictions, key_deserializer="bytes", value_deserializer="json"))
    outcomes = app.dataframe(app.topic(topics.outcomes, key_deserializer="bytes", value_deserializer="json"))

    def join(event: dict[str, Any], state: Any) -> None:
        other = state.get("waiting")
        if other is None:
            state.set("waiting", event)
            return
        state.delete("waiting")
        prediction, outcome = (event, other) if "model" in event else (other, event)
        board.add(
            prediction["model"],
            prediction["group"],
            prediction["scores"],
            prediction["prediction"],
            outcome["outcome"],
        )

    predictions.concat(outcomes).update(join, stateful=True)
    board.serve()
    app.run()


if __name__ == "__main__":
    main()
