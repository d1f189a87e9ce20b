"""The worker: ``faust -A agents.app worker``.

``STREAMAPP_ONLY`` names the roles of this process; without it, it has them all.
"""

import os
import sys

from agents import joiner, learner, monitor
from streamapp.config import ROLES, ProcessConfig, roles
from streamapp.errors import StreamappError
from streamapp.stream.app import App
from streamapp.stream.worker import USER_FAULT

AGENTS = {"joiner": joiner, "monitor": monitor, "learner": learner}


def create_app(environ: dict[str, str]) -> App:
    """Return the app that the environment describes, with the agents of its roles.

    Raises:
        ConfigError: something in the environment or the models file is wrong.
    """
    config = ProcessConfig.from_environ(environ)
    wanted = roles(environ["STREAMAPP_ONLY"]) if environ.get("STREAMAPP_ONLY") else ROLES
    app = App(config, config.settings(), wanted)
    for role in wanted:
        AGENTS[role].register(app)
    return app


try:
    app = create_app(dict(os.environ))
except StreamappError as error:
    print(f"streamapp: {error}", file=sys.stderr)  # noqa: T201 - logging is not set up yet
    sys.exit(USER_FAULT)
