"""A worker with a defect: ``python -m tests.integration.defective``, and with ``supervise`` whoever starts it again.

Its joiner cannot read a prediction whose id is ``bomb``. Nothing else is wrong with it.
"""

import os
import runpy
import sys
from collections.abc import Sequence
from typing import Any

from streamapp.config import ProcessConfig
from streamapp.stream import joining
from streamapp.stream.worker import main


def supervise() -> int:
    """Start such workers again and again, as ``streamapp worker`` does."""
    config = ProcessConfig.from_environ(os.environ)
    return main(config, os.environ, command=(sys.executable, "-m", "tests.integration.defective"))


def run() -> None:
    """Be such a worker."""
    decode = joining.decode_predictions

    def failing(values: Sequence[bytes | None]) -> Any:
        if any(b'"bomb"' in (value or b"") for value in values):
            raise RuntimeError("a bug in the decoder")
        return decode(values)

    joining.decode_predictions = failing
    sys.argv = sys.argv[:1]
    runpy.run_module("agents", run_name="__main__")


if __name__ == "__main__":
    if "supervise" in sys.argv:
        sys.exit(supervise())
    run()
