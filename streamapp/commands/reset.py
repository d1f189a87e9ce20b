"""``streamapp checkpoint reset``: forgets one model on purpose."""

import asyncio
import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec
import typer
from faust.types import TP

from streamapp.commands.broker import partitions, reading
from streamapp.commands.takeover import TakenBack, configured, taken
from streamapp.config import ProcessConfig, Role
from streamapp.core.monitor import Monitor, keys_of, models_in
from streamapp.core.settings import Settings
from streamapp.errors import CheckpointError
from streamapp.stream.checkpoint import Checkpoint
from streamapp.stream.learning import KEPT_DONE, Key
from streamapp.stream.recent import Recent
from streamapp.stream.topics import Topics
from streamapp.tables import interactive, to_json

ROLES: tuple[Role, ...] = ("monitor", "learner")
"""Who keeps something of a model that may be forgotten; what the joiner keeps are predictions that wait."""
TRIES = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class _Stored:
    """What one task has stored of a model."""

    role: Role
    partition: int
    entries: int
    bytes: int

    def __str__(self) -> str:
        return f"{self.role}-{self.partition}: {self.entries} entries, {self.bytes:,} bytes"


def run(model: str, *, yes: bool, json: bool) -> int:
    """Forget a model, and return the exit code: 1 where there is none, or where nobody said yes.

    Args:
        model: Its name.
        yes: Do it without asking.
        json: Print an object rather than lines.

    Raises:
        ConfigError: The broker does not answer, or has no transactions or no such topics.
        CheckpointError: What a task has stored cannot be read.
    """
    config = configured()
    settings = config.settings()
    found, names = asyncio.run(_look(config, settings, model))
    if not found:
        near = difflib.get_close_matches(model, names, 1)
        typer.echo(
            f"nothing is stored of a model {model!r}" + (f": did you mean {near[0]!r}?" if near else ""), err=True
        )
        return 1
    if not yes:
        for line in (
            *map(str, found),
            f"All of it will be forgotten: what the model's scores, detectors, requests and learned models were. Its"
            f" next rows are its first. Predictions that wait for their outcome stay. The workers that have"
            f" {', '.join(f'{each.role}-{each.partition}' for each in found)} begin anew.",
        ):
            typer.echo(line, err=True)
        if json or not interactive():
            typer.echo("nothing was changed: say --yes to do it", err=True)
            return 1
        typer.confirm(f"Forget {model!r}?", abort=True, err=True)
    for each in found:
        _repeat(config, settings, each, model)
    if json:
        typer.echo(to_json({"model": model, "forgotten": found}))
    else:
        typer.echo(f"{model!r} is forgotten by {', '.join(f'{each.role}-{each.partition}' for each in found)}")
    return 0


def _repeat(config: ProcessConfig, settings: Settings, each: _Stored, model: str) -> None:
    for attempt in range(TRIES):
        try:
            return asyncio.run(_forget(config, settings, each.role, each.partition, model))
        except TakenBack:
            if attempt + 1 == TRIES:
                raise
    return None


async def _look(config: ProcessConfig, settings: Settings, model: str) -> tuple[list[_Stored], list[str]]:
    """Return what is stored of a model, and the names of all models of which something is."""
    found, names = [], dict[str, None]()
    for role in ROLES:
        topic = Topics(config.topic_prefix).checkpoints(role)
        for number in await asyncio.to_thread(partitions, config, topic):
            async with reading(config) as reader:
                entries = await Checkpoint(topic, number).load(reader) or {}
            names.update(dict.fromkeys(_models(role, entries)))
            changes = forgetting(role, number, settings, entries, model)
            sizes = [len(entries[key]) for key in changes if key in entries and key != b"meta"]
            if changes:
                found.append(_Stored(role=role, partition=number, entries=len(sizes), bytes=sum(sizes)))
    return found, list(names)


async def _forget(config: ProcessConfig, settings: Settings, role: Role, partition: int, model: str) -> None:
    async with taken(config, role, partition) as task:
        changes = forgetting(role, partition, settings, task.entries, model)
        if changes:
            marks = {TP(topic, partition): mark for topic, mark in task.checkpoint.inputs.items()}
            await task.commit(task.checkpoint.records(changes, marks))


def forgetting(
    role: Role, partition: int, settings: Settings, entries: Mapping[bytes, bytes], model: str
) -> dict[bytes, bytes | None]:
    """Return the checkpoint entries to write so that a task has forgotten a model; none if it knows nothing of it.

    Args:
        role: Of the task: monitor or learner.
        partition: Of the task.
        settings: Of the models.
        entries: Every entry of its checkpoint.
        model: The model's name.

    Raises:
        CheckpointError: an entry cannot be read.
    """
    changes: dict[bytes, bytes | None] = {}
    for kind in _RECENT[role]:
        recent = Recent(kind)
        entries = recent.restore(entries)
        recent.forget(model)
        changes |= recent.take()
    if role == "monitor":
        changes |= _monitor(partition, settings, entries, model)
    else:
        changes |= dict.fromkeys(key for key in entries if key != KEPT_DONE and _key(key)[0] == model)
    return changes


def _monitor(
    partition: int, settings: Settings, entries: Mapping[bytes, bytes], model: str
) -> dict[bytes, bytes | None]:
    try:
        monitor = Monitor.restore(partition, settings, entries)
    except CheckpointError:
        own = keys_of(model, entries)
        others = {key: value for key, value in entries.items() if key not in own}
        if not own:
            raise
        # What cannot be read may be just what is to be forgotten: then the others can.
        Monitor.restore(partition, settings, others)
        return dict.fromkeys(own)
    return monitor.take(0) if monitor.reset(model) else {}


_RECENT = {"monitor": ("signals", "retrain"), "learner": ("model-updates",)}


def _models(role: Role, entries: Mapping[bytes, bytes]) -> list[str]:
    for kind in _RECENT[role]:
        entries = Recent(kind).restore(entries)
    if role == "learner":
        return [_key(key)[0] for key in entries if key != KEPT_DONE]
    return models_in(entries)


def _key(key: bytes) -> Any:
    try:
        return msgspec.msgpack.decode(key, type=Key)
    except msgspec.DecodeError as error:
        raise CheckpointError(f"checkpoint entry {key!r} cannot be read: {error}") from error
