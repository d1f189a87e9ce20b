"""``streamapp checkpoint inspect``: what tasks have stored, how large it is, and whether it can be read."""

import asyncio
import os
import re
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec
import typer

from streamapp.commands.broker import partitions, reading
from streamapp.config import ROLES, ProcessConfig
from streamapp.core.joining import joinstate
from streamapp.core.joining.joinstate import Meta, TopicMeta, Waiting
from streamapp.core.joining.pages import Pages
from streamapp.core.joining.roster import Limits, Roster
from streamapp.core.monitor import Monitor
from streamapp.core.pickling import MAGIC
from streamapp.core.settings import Settings
from streamapp.errors import CheckpointError, ConfigError
from streamapp.stream.checkpoint import INPUT, Checkpoint
from streamapp.stream.learning import KEPT_DONE, Key, Learned
from streamapp.stream.reader import Reader
from streamapp.stream.recent import Recent
from streamapp.stream.topics import Topics
from streamapp.tables import moment, to_json

_RIVER = re.compile(re.escape(MAGIC) + rb".{1,12}?(\d+\.\d+\.\d+)", re.DOTALL)
_UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, ValueError, LookupError)

Report = dict[str, Any]


def run(*, role: str | None, partition: int | None, json: bool) -> int:
    """Print what is stored, and return the exit code: 1 where something of it cannot be read.

    Raises:
        ConfigError: There is no such role, or the broker does not answer or has no such topic.
    """
    if role is not None and role not in ROLES:
        raise ConfigError(f"--role must be one of {', '.join(ROLES)}, got {role!r}")
    config = ProcessConfig.from_environ(os.environ)
    settings = config.settings()
    reports = asyncio.run(_inspect(config, settings, (role,) if role is not None else ROLES, partition))
    if json:
        typer.echo(to_json({"tasks": reports}))
    else:
        for report in reports:
            typer.echo("\n".join(_text(report)))
    return 1 if any(report["problem"] for report in reports) else 0


async def _inspect(
    config: ProcessConfig, settings: Settings, roles: tuple[str, ...], partition: int | None
) -> list[Report]:
    reports = []
    for role in roles:
        topic = Topics(config.topic_prefix).checkpoints(role)
        numbers = await asyncio.to_thread(partitions, config, topic)
        if partition is not None and partition not in numbers:
            raise ConfigError(f"{topic} has partitions {numbers[0]} to {numbers[-1]}, got --partition {partition}")
        for number in numbers if partition is None else [partition]:
            # A reader for each: its next read must not see what an earlier one had fetched.
            async with reading(config) as reader:
                reports.append(await _task(reader, role, topic, number, settings))
    return reports


async def _task(reader: Reader, role: str, topic: str, number: int, settings: Settings) -> Report:
    checkpoint = Checkpoint(topic, number)
    entries: dict[bytes, bytes] | None = None
    problem = None
    details: Report = {}
    try:
        entries = await checkpoint.load(reader)
        if entries:
            details = _DETAILS[role](number, entries, settings)
    except CheckpointError as error:
        problem = str(error)
    except _UNREADABLE as error:
        problem = f"{checkpoint}: it cannot be read ({error!r}): it is damaged"
    sizes = checkpoint.sizes
    kinds: dict[str, dict[str, int]] = {}
    for key, size in sizes.items():
        kind = kinds.setdefault(_kind(role, key), {"entries": 0, "bytes": 0})
        kind["entries"] += 1
        kind["bytes"] += size
    return {
        "role": role,
        "partition": number,
        "topic": topic,
        "problem": problem,
        "entries": len(sizes),
        "bytes": checkpoint.bytes,
        "largest": max(sizes.values(), default=0),
        "kinds": kinds,
        "format": checkpoint.format,
        "inputs": {name: {"position": mark.position, "last": mark.last} for name, mark in checkpoint.inputs.items()},
        "topic_ids": checkpoint.logs,
        "quarantined": {topic: sorted(offsets) for topic, offsets in checkpoint.quarantined.items()},
        "failures": checkpoint.failure.count if checkpoint.failure is not None else 0,
        "river": river_versions((entries or {}).values()),
        **details,
    }


def river_versions(values: Iterable[bytes]) -> list[str]:
    """Return the versions of River by which objects in these values were stored."""
    return sorted({found.decode() for value in values for found in _RIVER.findall(value)})


def _kind(role: str, key: bytes) -> str:
    """Return what a key begins with; a learner's are by model and group, and packed."""
    if role == "learner" and key not in (INPUT, KEPT_DONE) and not key.startswith(b"recent/"):
        return "learned"
    return key.partition(b"/")[0].decode(errors="replace")


def _joiner(partition: int, entries: Mapping[bytes, bytes], settings: Settings) -> Report:
    if joinstate.META not in entries:
        raise CheckpointError(f"checkpoint of joiner {partition} has {len(entries)} entries, but no 'meta'")
    meta = msgspec.msgpack.decode(entries[joinstate.META], type=Meta)
    pending: dict[str, dict[str, int]] = {}
    for key, value in entries.items():
        if key.startswith(joinstate.WAITING):
            for model, group, count in msgspec.msgpack.decode(value, type=Waiting).counts:
                pending.setdefault(model, {})[group] = count
    roster = Roster(settings, Limits())
    roster.restore(entries, 0.0)
    models = {
        model: {"groups": len(groups), "pending": pending.get(model, {})}
        for model, groups in {**dict.fromkeys(pending, ()), **roster.taken}.items()
    }
    return {
        "core_format": meta.format,
        "predictions": _topic(meta.predictions),
        "outcomes": _topic(meta.outcomes),
        "pending": len(Pages.restore("pending", entries)),
        "waiting": len(Pages.restore("waiting", entries)),
        "models": models,
    }


def _topic(meta: TopicMeta) -> Report:
    return {
        "applied": meta.applied,
        "settled": meta.done,
        "read_again_from": meta.base,
        "log_time": max(meta.log_time, meta.proven) or None,
        "counts": {status: count for status, count in meta.counts.items() if count},
    }


def _monitor(partition: int, entries: Mapping[bytes, bytes], settings: Settings) -> Report:
    own = Recent("retrain").restore(Recent("signals").restore(entries))
    monitor = Monitor.restore(partition, settings, own)
    models = {
        report.model: {
            "task": report.task,
            "control": report.control,
            "groups": {group.group: {"outcomes": group.outcomes, "pending": group.pending} for group in report.groups},
        }
        for report in monitor.report()
    }
    return {"core_format": monitor.format, "read_again_from": monitor.applied, "models": models}


def _learner(_partition: int, entries: Mapping[bytes, bytes], _settings: Settings) -> Report:
    models: dict[str, Report] = {}
    done: list[int] = []
    for key, value in Recent("model-updates").restore(entries).items():
        if key == KEPT_DONE:
            done = msgspec.msgpack.decode(value, type=list[int])
            continue
        model, group = msgspec.msgpack.decode(key, type=Key)
        learned = msgspec.msgpack.decode(value, type=Learned)
        models.setdefault(model, {"groups": {}})["groups"][group] = {
            "version": learned.version,
            "count": learned.count,
            "artifact": learned.artifact.uri,
        }
    return {"done": done, "models": models}


_DETAILS = {"joiner": _joiner, "monitor": _monitor, "learner": _learner}


def _text(report: Report) -> list[str]:
    name = f"{report['role']}-{report['partition']}"
    if not report["entries"]:
        return [f"{name}: nothing stored"]
    lines = [f"{name}: {report['entries']} entries, {report['bytes']:,} bytes, largest {report['largest']:,}"]
    if report["problem"]:
        lines.append(f"  problem: {report['problem']}")
    versions = [f"format {report['format']}"]
    if "core_format" in report:
        versions.append(f"state {report['core_format']}")
    versions += [f"River {version}" for version in report["river"]]
    lines.append(f"  {', '.join(versions)}")
    lines += [f"  {topic}: position {mark['position']}" for topic, mark in report["inputs"].items()]
    for topic, offsets in report["quarantined"].items():
        lines.append(f"  {topic}: leaves out {', '.join(map(str, offsets))}")
    if report["failures"]:
        lines.append(f"  failed {report['failures']} times in a row where it stands")
    for topic in ("predictions", "outcomes"):
        if found := report.get(topic):
            at = moment(found["log_time"]) if found["log_time"] else "no time"
            lines.append(f"  {topic}: settled to {found['settled']}, read again from {found['read_again_from']}, {at}")
    if "pending" in report:
        lines.append(f"  {report['pending']} predictions pending, {report['waiting']} outcomes waiting")
    for model, found in report.get("models", {}).items():
        groups = found["groups"] if isinstance(found["groups"], int) else len(found["groups"])
        lines.append(f"  {model}: {groups} group{'s' * (groups != 1)}")
    return lines
