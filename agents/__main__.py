"""``python -m agents``: the worker that ``streamapp worker`` keeps alive."""

import faust

from agents.app import app
from streamapp.stream.logs import logging_config

if __name__ == "__main__":
    worker = faust.Worker(
        app,
        quiet=True,
        redirect_stdouts=False,
        loglevel=app.config.log_level,
        logging_config=logging_config(app.config.log_level, app.config.log_format),
    )
    worker.spinner = None
    worker.execute_from_commandline()
