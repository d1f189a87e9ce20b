"""A real Apache Kafka for tests: one node on the JVM, in KRaft mode, from Maven's jars.

``python -m tests.kafka`` starts one in the foreground, prints its address and stops it at Ctrl-C.
"""

import contextlib
import fcntl
import hashlib
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from streamapp.address import answers, free_port
from streamapp.child import Child

HERE = Path(__file__).parent
POM = HERE / "pom.xml"

PROPERTIES = """\
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:{controller}
listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}
advertised.listeners=PLAINTEXT://127.0.0.1:{port}
controller.listener.names=CONTROLLER
inter.broker.listener.name=PLAINTEXT
log.dirs={folder}/logs
auto.create.topics.enable=false
default.replication.factor=1
min.insync.replicas=1
offsets.topic.replication.factor=1
offsets.topic.num.partitions=4
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=4
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
share.coordinator.state.topic.num.partitions=1
transaction.abort.timed.out.transaction.cleanup.interval.ms=1000
group.initial.rebalance.delay.ms=0
group.min.session.timeout.ms=1000
log.segment.delete.delay.ms=1000
log.retention.check.interval.ms=5000
log.cleaner.backoff.ms=1000
broker.session.timeout.ms=3000
broker.heartbeat.interval.ms=500
"""

LOGGING = """\
status=error
appender.out.type=Console
appender.out.name=out
appender.out.layout.type=PatternLayout
appender.out.layout.pattern=%d %p %m (%c)%n
rootLogger.level=WARN
rootLogger.appenderRef.out.ref=out
"""


class Unavailable(Exception):
    """This machine cannot start a Kafka; the message says what is missing."""


class Kafka:
    """A single-node Kafka on free ports of 127.0.0.1.

    Args:
        folder: Where its data lives; None: a temporary folder, removed by :meth:`stop`.
        memory: Heap of the JVM, as ``-Xmx`` takes it.
        fast_start: Compile little (good for tests); False compiles for throughput (good for benchmarks).
        proxied: Listen also on the first of these ports, and tell clients that come there to use the second: a proxy's.
    """

    def __init__(
        self,
        folder: Path | None = None,
        *,
        memory: str = "512m",
        fast_start: bool = True,
        proxied: tuple[int, int] | None = None,
    ) -> None:
        self._own_folder = folder is None
        self.folder = Path(tempfile.mkdtemp(prefix="streamapp-kafka-")) if folder is None else folder
        self.log = self.folder / "kafka.log"
        self._memory = memory
        self._fast_start = fast_start
        self._proxied = proxied
        self._port, self._controller = free_port(), free_port()
        self._child: Child | None = None

    @property
    def bootstrap(self) -> str:
        """``host:port``, the same across restarts."""
        return f"127.0.0.1:{self._port}"

    @property
    def pid(self) -> int:
        """Process id of the JVM."""
        assert self._child is not None
        return self._child.pid

    def properties(self) -> str:
        """Return what ``server.properties`` says."""
        text = PROPERTIES.format(port=self._port, controller=self._controller, folder=self.folder)
        return text if self._proxied is None else _with_listener(text, *self._proxied)

    def prepare(self, logs: Path) -> None:
        """Change a fresh data folder before its first start."""

    @property
    def running(self) -> bool:
        """Whether it was started, and has not ended since."""
        return self._child is not None and self._child.poll() is None

    def start(self, timeout: float = 60.0) -> None:
        """Start, and return when it answers. Data of an earlier start is kept.

        Raises:
            Unavailable: No JVM, or no jars and no Maven to fetch them.
            RuntimeError: It ended or did not answer in time; the message ends with its log.
        """
        self.launch()
        self.await_answer(timeout)

    def launch(self) -> None:
        """Start without waiting for it. Data of an earlier start is kept.

        Raises:
            Unavailable: See :meth:`start`.
        """
        libraries = jars()
        properties = self.folder / "server.properties"
        properties.write_text(self.properties())
        logging = self.folder / "log4j2.properties"
        logging.write_text(LOGGING)
        if not (self.folder / "logs").exists():
            shutil.copytree(_formatted(libraries), self.folder / "logs")
            self.prepare(self.folder / "logs")
        self._child = Child(
            [
                *_java(libraries, self._memory, self._fast_start),
                f"-Dlog4j2.configurationFile={logging}",
                "kafka.Kafka",
                str(properties),
            ],
            log=self.log,
            grace=15.0,
        )

    def await_answer(self, timeout: float = 60.0) -> None:
        """Return when it answers.

        Raises:
            RuntimeError: See :meth:`start`.
        """
        assert self._child is not None
        end = time.monotonic() + timeout
        while not answers("127.0.0.1", self._port):
            if self._child.poll() is not None or time.monotonic() > end:
                self.kill()
                raise RuntimeError(f"Kafka did not start:\n{self._child.tail(30)}")
            time.sleep(0.05)

    def stop(self) -> None:
        """Shut down in order, and remove the data if the folder is its own."""
        if self._child is not None:
            self._child.stop()
            self._child = None
        if self._own_folder:
            shutil.rmtree(self.folder, ignore_errors=True)

    def kill(self) -> None:
        """Kill it at once (SIGKILL); :meth:`start` brings it back with its data."""
        if self._child is not None:
            self._child.kill()

    def pause(self) -> None:
        """Stop it in its tracks (SIGSTOP): connections stay open, nothing is answered."""
        assert self._child is not None
        self._child.send(signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on after :meth:`pause`."""
        assert self._child is not None
        self._child.send(signal.SIGCONT)

    def restart(self) -> None:
        """Shut down in order and start again, with the same data and address."""
        if self._child is not None:
            self._child.stop()
        self.start()


class Given:
    """The Kafka that somebody else runs, at the address in ``STREAMAPP_TEST_BROKER``."""

    def __init__(self, bootstrap: str) -> None:
        self.bootstrap = bootstrap

    def stop(self) -> None:
        """Leave it as it is."""


def cache() -> Path:
    """Return the folder that jars are kept in between runs."""
    given = os.environ.get("STREAMAPP_TEST_CACHE")
    return (Path(given) if given else HERE.parent / ".cache") / "kafka"


def jars() -> Path:
    """Return the folder of Kafka's jars, fetched once for each version of the pom.

    Raises:
        Unavailable: No JVM, no Maven, or Maven failed.
    """
    if shutil.which("java") is None:
        raise Unavailable("no JVM (java) on the path")
    folder = cache() / hashlib.sha256(POM.read_bytes()).hexdigest()[:12]
    with _locked(folder):
        libraries = folder / "libs"
        if libraries.exists():
            return libraries
        if shutil.which("mvn") is None:
            raise Unavailable("no Maven (mvn) on the path to fetch Kafka's jars with")
        part = folder / "libs.part"
        shutil.rmtree(part, ignore_errors=True)
        command = ["mvn", "-B", "-q", "-f", str(POM), "dependency:copy-dependencies"]
        done = subprocess.run(
            [*command, "-DincludeScope=runtime", f"-DoutputDirectory={part.absolute()}"],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            raise Unavailable(f"Maven could not fetch Kafka's jars: {(done.stdout + done.stderr)[-500:]}")
        part.rename(libraries)
        return libraries


def _formatted(libraries: Path) -> Path:
    """Return an empty, formatted log folder to copy: formatting takes a JVM of its own, so it is done once."""
    folder = libraries.parent
    with _locked(folder):
        formatted = folder / "formatted"
        if not formatted.exists():
            part = folder / "formatted.part"
            shutil.rmtree(part, ignore_errors=True)
            part.mkdir()
            properties = part / "server.properties"
            properties.write_text(PROPERTIES.format(port=9092, controller=9093, folder=part))
            tool = [*_java(libraries, "256m", True), "kafka.tools.StorageTool"]
            subprocess.run(
                [*tool, "format", "-t", "c3RyZWFtYXBwLXRlc3RzIQ", "-c", str(properties)],
                check=True,
                capture_output=True,
            )
            (part / "logs").rename(formatted)
            shutil.rmtree(part)
    return formatted


def _with_listener(properties: str, port: int, advertised: int) -> str:
    """Return properties with one more listener, which is advertised at another port."""
    lines = []
    for line in properties.splitlines():
        if line.startswith("listeners="):
            line += f",PROXIED://127.0.0.1:{port}"
        elif line.startswith("advertised.listeners="):
            line += f",PROXIED://127.0.0.1:{advertised}"
        lines.append(line)
    lines.append("listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,PROXIED:PLAINTEXT")
    return "\n".join(lines) + "\n"


def _java(libraries: Path, memory: str, fast_start: bool) -> list[str]:
    start = ["-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-Xshare:auto"] if fast_start else ["-XX:+UseG1GC"]
    return ["java", f"-Xmx{memory}", *start, "-cp", f"{libraries}/*"]


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def main() -> None:
    """Run a broker in the foreground until Ctrl-C."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    kafka = Kafka(memory="1g", fast_start=False)
    try:
        kafka.start()
        print(kafka.bootstrap, flush=True)  # noqa: T201
        while kafka._child is not None and kafka._child.poll() is None:
            time.sleep(0.5)
    except KeyboardInterrupt:
        pass
    finally:
        kafka.stop()


if __name__ == "__main__":
    main()
