"""The brokers of runs: one with a second way to it, or three that hold copies for one another."""

import uuid
from base64 import urlsafe_b64encode
from pathlib import Path
from typing import Self

from streamapp.address import free_port
from tests.faults.proxy import Proxy
from tests.kafka import Kafka


class Broker:
    """A Kafka with a second way to it, through a proxy."""

    replication = 1

    def __init__(self) -> None:
        behind, front = free_port(), free_port()
        self.kafka = Kafka(proxied=(behind, front))
        self.proxy = Proxy(front, behind)

    @property
    def bootstrap(self) -> str:
        """Where clients begin."""
        return self.kafka.bootstrap

    def __enter__(self) -> Self:
        try:
            self.kafka.start()
            self.proxy.start()
        except BaseException:
            self.kafka.stop()
            raise
        return self

    def lose_end(self, topic: str, partition: int) -> None:
        """Kill the broker, cut the newer half off a partition's file, and start the broker again."""
        self.kafka.kill()
        folder = self.kafka.folder / "logs" / f"{topic}-{partition}"
        (log,) = folder.glob("*.log")
        with log.open("r+b") as file:
            file.truncate(log.stat().st_size // 2)
        for other in folder.iterdir():
            if other.suffix in (".index", ".timeindex", ".snapshot", ".txnindex"):
                other.unlink()
        self.kafka.start()

    def reset(self) -> None:
        """Be as in the beginning, whatever a run has done."""
        self.proxy.reset()
        if not self.kafka.running:
            self.kafka.start()

    def __exit__(self, *exc: object) -> None:
        self.proxy.stop()
        self.kafka.stop()


class Node(Kafka):
    """One of several Kafkas that make a cluster.

    Args:
        number: Its id, from 1.
        ports: Of the controllers of all of them, by id.
    """

    def __init__(self, number: int, ports: dict[int, int]) -> None:
        super().__init__()
        self.number = number
        self._ports = ports
        self._controller = ports[number]

    def properties(self) -> str:
        """Return the settings of a node that needs the others."""
        text = super().properties()
        for name, value in {
            "node.id": str(self.number),
            "controller.quorum.voters": ",".join(f"{n}@127.0.0.1:{port}" for n, port in self._ports.items()),
            "default.replication.factor": "3",
            "min.insync.replicas": "2",
            "offsets.topic.replication.factor": "3",
            "transaction.state.log.replication.factor": "3",
            "transaction.state.log.min.isr": "2",
        }.items():
            lines = text.splitlines()
            place = next(i for i, line in enumerate(lines) if line.startswith(f"{name}="))
            text = "\n".join([*lines[:place], f"{name}={value}", *lines[place + 1 :]]) + "\n"
        return text

    def prepare(self, logs: Path) -> None:
        """Give the data folder the node's own ids."""
        meta = logs / "meta.properties"
        lines = [line for line in meta.read_text().splitlines() if not line.startswith(("node.id=", "directory.id="))]
        directory = urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
        meta.write_text("\n".join([*lines, f"node.id={self.number}", f"directory.id={directory}"]) + "\n")


class Cluster:
    """Three Kafkas with three copies of everything."""

    replication = 3

    def __init__(self) -> None:
        ports = {number: free_port() for number in (1, 2, 3)}
        self.nodes = [Node(number, ports) for number in ports]

    @property
    def bootstrap(self) -> str:
        """Where clients begin."""
        return ",".join(node.bootstrap for node in self.nodes)

    def __enter__(self) -> Self:
        try:
            for node in self.nodes:
                node.launch()
            for node in self.nodes:
                node.await_answer()
        except BaseException:
            self.__exit__()
            raise
        return self

    def reset(self) -> None:
        """Be as in the beginning, whatever a run has done."""
        for node in self.nodes:
            if not node.running:
                node.start()

    def __exit__(self, *exc: object) -> None:
        for node in self.nodes:
            node.kill()  # in order, the last ones would wait for the others
            node.stop()
