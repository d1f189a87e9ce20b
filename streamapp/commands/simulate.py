"""``streamapp simulate``: producer services against a broker."""

import os
import time

import typer
from rich.console import Console

from streamapp.address import unreachable
from streamapp.config import ProcessConfig
from streamapp.errors import ConfigError
from streamapp.simulate import services
from streamapp.simulation.scenarios import Kind
from streamapp.tables import to_json

_LOOK = 1.0
"""Seconds between two words on progress."""


def run(dataset: str, scenario: Kind, rate: float, events: int | None, *, json: bool) -> None:
    """Publish until stopped, or until so many predictions were made and their outcomes have followed.

    Raises:
        ConfigError: the broker does not answer, or there is no such data set.
    """
    config = ProcessConfig.from_environ(os.environ)
    if (reason := unreachable(config.broker, 5.0)) is not None:
        raise ConfigError(f"no answer from {config.broker} ({reason})")
    running = services(
        config.broker,
        dataset,
        scenario,
        prefix=config.topic_prefix,
        artifacts=config.artifacts_url,
        security=config.security(),
        rate=rate,
    )
    console, began = Console(stderr=True), time.monotonic()
    try:
        with console.status("publishing…") as status:
            running.start(events)
            while not running.wait(_LOOK):
                publisher = running.publisher
                answering = ", ".join(f"{group} {version}" for group, version in running.versions.items())
                status.update(
                    f"{publisher.published:,} events published, {publisher.delivered:,} delivered; {answering}"
                )
    except KeyboardInterrupt:
        pass
    finally:
        running.stop()
    publisher = running.publisher
    report: dict[str, object] = {
        "seconds": round(time.monotonic() - began, 3),
        "published": publisher.published,
        "delivered": publisher.delivered,
        "failed": publisher.failed,
        "dropped": publisher.dropped,
        "rejected": publisher.rejected,
        "versions": running.versions,
    }
    typer.echo(to_json(report) if json else _words(report))


def _words(report: dict[str, object]) -> str:
    return "\n".join(f"{name}: {value}" for name, value in report.items())
