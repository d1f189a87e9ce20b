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

NEEDED = ("model", "group", "scores", "prediction")
"""Of a prediction, in the order in which the sums take them."""


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
        # Only what is scored is kept: the state is written to a topic, too.
        needed = [event[name] for name in NEEDED] if "model" in event else event["outcome"]
        other = state.get("waiting")
        if other is None:
            state.set("waiting", needed)
            return
        state.delete("waiting")
        prediction, outcome = (needed, other) if "model" in event else (other, needed)
        board.add(*prediction, outcome)

    predictions.concat(outcomes).update(join, stateful=True)
    board.serve()
    app.run()


if __name__ == "__main__":
    main()
