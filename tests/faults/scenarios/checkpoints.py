"""What happens to checkpoints: damaged, incomplete, gone, or from another version."""

from collections.abc import Callable
from typing import Any

import msgspec
from river.__version__ import __version__ as RIVER

from streamapp.core.pickling import MAGIC
from tests.faults.process import Process
from tests.faults.run import Run
from tests.faults.scenarios.scenario import Scenario

PAIRS = 2000
RATE = 800
GARBAGE = b"\xc1garbage"
"""No msgpack begins so."""

KEY_NAMED = ("the key",)
"""The reason must contain the key whose value was altered."""
OLDER = "0.1." + "9" * (len(RIVER) - 4)

Entries = dict[bytes, bytes]
Change = dict[bytes, bytes | None]


def checkpoint_damaged(run: Run) -> None:
    """Values of some tasks are damaged, missing, or of a version that nobody knows; the other tasks go on."""
    _altered(
        run,
        {
            "joiner-0": (_one(run, GARBAGE), KEY_NAMED),
            "joiner-1": (lambda _: {b"input": None}, KEY_NAMED),
            "joiner-2": (lambda found: {b"meta": _of_format(found[b"meta"], 99)}, ("99",)),
            "monitor-0": (lambda found: {b"input": _of_format(found[b"input"], 99)}, ("99",)),
            "learner-1": (lambda _: {b"done": GARBAGE}, KEY_NAMED),
        },
    )


def checkpoint_incomplete(run: Run) -> None:
    """A value is not there any more, or is from another time than the others; the other tasks go on."""
    _altered(
        run,
        {
            "joiner-0": (_one(run, None), ()),
            "joiner-3": (_one(run, None), ()),
            "monitor-1": (_one(run, None), ()),
        },
    )


def checkpoint_of_another_version(run: Run) -> None:
    """Checkpoints of an older format and of an older River are refused, with both versions named."""
    _altered(
        run,
        {
            "joiner-0": (lambda found: {b"input": _of_format(found[b"input"], 0)}, ("format 0", "1")),
            "joiner-2": (lambda found: {b"meta": _of_format(found[b"meta"], 0)}, ("format 0", "1")),
            "monitor-0": (_older_river, (f"River {OLDER}", f"River {RIVER}")),
        },
    )


def checkpoint_topic_gone(run: Run) -> None:
    """A checkpoint topic is emptied, another deleted and made anew, though their tasks have worked."""
    names = ("joiner-0", "monitor-0", "monitor-1")
    kept = _kept(run, names)
    run.surgery.store("joiner", 0, dict.fromkeys(kept["joiner-0"]))
    run.surgery.delete(["checkpoints-monitor"])
    waiting = run.start()
    run.until_says(waiting, "waiting: missing topics", "checkpoints-monitor", "streamapp topics --create")
    run.surgery.make()
    run.produce(PAIRS, RATE)
    for name in names:
        role = name.split("-")[0]
        run.until_parked(waiting, name, f"checkpoints-{role}", "emptied or deleted")
    _others_go_on(run)
    _restored(run, kept)


def _altered(run: Run, changes: dict[str, tuple[Callable[[Entries], Change], tuple[str, ...]]]) -> None:
    """Change what tasks have stored, see them parked and the others go on; mend it, and see all go on."""
    kept = _kept(run, changes)
    named: dict[str, list[str]] = {}
    for name, (change, words) in changes.items():
        role, number = name.split("-")
        changed = change(kept[name])
        keys = [key.decode() for key in changed]
        run.say(f"{name}: " + ", ".join(f"{k!r} {'removed' if v is None else 'altered'}" for k, v in changed.items()))
        run.surgery.store(role, int(number), changed)
        named[name] = [f"checkpoints-{role}[{number}]", *(keys if words is KEY_NAMED else words)]
    run.produce(PAIRS, RATE)
    worker = run.start()
    for name, found in named.items():
        run.until_parked(worker, name, *found)
    _others_go_on(run)
    _restored(run, kept)


def _kept(run: Run, names: Any) -> dict[str, Entries]:
    """Let a worker work and stop, and return what it has stored of some tasks."""
    worker = run.start()
    run.produce(PAIRS, RATE)
    run.until_settled(PAIRS // 2)
    run.stop(worker)
    return {name: run.surgery.entries(name.split("-")[0], int(name.split("-")[1])) for name in names}


def _others_go_on(run: Run) -> None:
    """Everything that is not parked must come to its end, exactly, and the rest stay as it was."""
    run.check()
    run.confirm("the other tasks went on")


def _restored(run: Run, kept: dict[str, Entries]) -> None:
    """Follow the way out: put back what was there. Nothing is lost then, nor doubled."""
    for name, entries in kept.items():
        role, number = name.split("-")
        strange = run.surgery.entries(role, int(number)).keys() - entries.keys()
        run.surgery.store(role, int(number), {**dict.fromkeys(strange), **entries})
    run.mended()
    worker: Process = run.start()
    run.until_ready(worker)
    run.confirm("what was stored was put back, and all went on")


def _one(run: Run, value: bytes | None) -> Callable[[Entries], Change]:
    return lambda found: {run.draw.choice(sorted(found)): value}


def _of_format(value: bytes, number: int) -> bytes:
    """Return a value that says of itself to be of another format: that is its first field, by name or by place."""
    fields = msgspec.msgpack.decode(value)
    place = 0 if isinstance(fields, list) else next(iter(fields))
    assert isinstance(fields[place], int), f"no format in {fields}"
    fields[place] = number
    return msgspec.msgpack.encode(fields)


def _older_river(found: Entries) -> Change:
    """Give every stored object another version of River, of the same length."""
    changed = {key: value.replace(RIVER.encode(), OLDER.encode()) for key, value in found.items() if MAGIC in value}
    assert changed, f"nothing of River's among {sorted(found)}"
    return dict(changed)


DAMAGED = "a checkpoint value corrupted, missing, of unknown version; checkpoint topic empty or deleted"

SHOWS = ("joined", "expired", "censored")

SCENARIOS = (
    Scenario(kind=DAMAGED, play=checkpoint_damaged, times=5, shows=SHOWS),
    Scenario(kind=DAMAGED, play=checkpoint_incomplete, times=5, shows=SHOWS),
    Scenario(kind=DAMAGED, play=checkpoint_topic_gone, times=5, shows=SHOWS),
    Scenario(
        kind="checkpoint of an older format or an older River",
        play=checkpoint_of_another_version,
        times=2,
        shows=SHOWS,
    ),
)
