"""How long a worker takes to restore what waits, what of memory that takes, and what a backlog takes.

One Apache Kafka, and one worker as it is shipped on a core of its own. It reads its input, commits, and ends as SIGTERM
asks it to; then it is started again, once for each round, and restores.

- *dense*: so many predictions, all of which wait. Beside it the same as the table of a Faust app (``--stores``), whose
  files are gone, as they are where a worker takes over from another; and, for a store on disk, with its files at hand.
- *sparse*: 1 % of so many predictions wait, the others had their outcomes. What waits long is copied into the
  checkpoint, so that little has to be read again.
- *backlog*: so many pairs, and a quarter of them, read from the start. Memory is bounded by what waits at a time (an
  outcome comes 10 000 predictions after its own), not by the backlog. ``outcome_window`` is a minute here and
  ``remember`` a second: the backlog is written within few minutes of log time, and what was resolved in the last
  ``remember`` of it stays, as does what baselines knew in the last window.

*seconds* are those from an assignment until all is back, by the clock of the worker; *CPU* is what the process had used
when it was ready, less what a worker uses that has nothing to restore. Inputs are made as they are written: beside the
broker's disk (400 bytes a pair, and as much again for what is scored) a size costs nothing but time.
"""

import json
import re
import statistics
import sys
import time
from argparse import RawDescriptionHelpFormatter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from rich.table import Table

from benchmarks.arena import Arena
from benchmarks.contestants import fausttable
from benchmarks.entry import Stage, streamapp
from benchmarks.process import Contestant, Process, cores
from benchmarks.recording import Recording, Shape
from benchmarks.report import cell, machine, print_wide
from benchmarks.waiting import Waiting, write

PARTS = ("dense", "sparse", "backlog")
SPARSE = 100
"""One in so many waits."""
MODELS = '[defaults]\noutcome_window = "7d"\n'
"""Nothing expires, however long it takes to write and to read."""
SHORT = '[defaults]\noutcome_window = "1m"\ngrace = "5s"\nremember = "1s"\n'
"""What a backlog of minutes is many times as long as."""
PATIENCE = 240.0
"""Seconds without progress after which a run has failed."""
LOOK = 0.02
_RESTORED = re.compile(r"joiner-\d+: restored in .*? from ([\d,]+) entries, ([\d,]+) bytes")


def add(commands: Any) -> None:
    """Add the sub-command."""
    parser = commands.add_parser(
        "restore",
        help="Restoring what waits, and the memory of it.",
        description=__doc__,
        formatter_class=RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=_run)
    parser.add_argument("--json", action="store_true", help="print one object instead of a table")
    parser.add_argument("--only", default=",".join(PARTS), help=f"some of {','.join(PARTS)} (default all)")
    for name, default, help in (
        ("pending", 1_000_000, "that wait, dense; try 10000000"),
        ("among", 1_000_000, "of which 1 %% wait, sparse; try 50000000 (40 GB of disk)"),
        ("backlog", 1_000_000, "pairs; try 10000000 (8 GB of disk)"),
        ("faust", 1_000_000, "that wait in the Faust table, 0: without"),
    ):
        parser.add_argument(f"--{name}", type=int, default=default, help=f"{help} (default {default:,})")
    parser.add_argument("--stores", default="memory,rocksdb", help="of the Faust table (default memory,rocksdb)")
    parser.add_argument("--rounds", type=int, default=3, help="restarts of each (default 3)")
    parser.add_argument("--quick", action="store_true", help="small and once: shows that it runs")
    parser.add_argument("--broker", help="host:port of a Kafka that runs; default: start one")


def _run(arguments: Any) -> tuple[Mapping[str, Any], Any]:
    size: dict[str, int] = {
        name: getattr(arguments, name) for name in ("pending", "among", "backlog", "faust", "rounds")
    }
    if arguments.quick:
        size = {"pending": 2000, "among": 4000, "backlog": 4000, "faust": 2000, "rounds": 1}
    only, stores = (tuple(filter(None, text.split(","))) for text in (arguments.only, arguments.stores))
    return run(only=only, stores=stores, broker=arguments.broker, say=_say, **size), show


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def run(
    *,
    pending: int,
    among: int,
    backlog: int,
    faust: int,
    rounds: int,
    only: Sequence[str] = PARTS,
    stores: Sequence[str] = ("memory",),
    broker: str | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Measure, and return what each part found; see :func:`add` for the arguments.

    Raises:
        RuntimeError: A contestant ended, stood still, or came back with anything else than what waited.
    """
    report: dict[str, Any] = {"rounds": rounds}
    with Arena(broker) as arena:
        report["machine"] = machine()
        report["empty"] = empty = _restored(arena, Waiting(predictions=1), 1)
        if "dense" in only:
            say(f"dense: {pending:,} that wait")
            report["dense"] = _beside(_restored(arena, Waiting(predictions=pending), rounds), empty)
            if faust:
                say(f"the table of a Faust app: {faust:,} in {', '.join(stores)}")
                what = Waiting(predictions=faust)
                report["faust"] = {
                    name: found for store in stores for name, found in _faust(arena, what, store, rounds).items()
                }
        if "sparse" in only:
            say(f"sparse: one in {SPARSE} of {among:,} waits")
            report["sparse"] = _beside(_restored(arena, Waiting(predictions=among, every=SPARSE), rounds), empty)
        if "backlog" in only:
            say(f"backlog: {backlog // 4:,} pairs, then {backlog:,}")
            report["backlog"] = [
                _read_through(arena, Waiting(predictions=pairs, every=0)) for pairs in (backlog // 4, backlog)
            ]
    return report


# streamapp


def _restored(arena: Arena, what: Waiting, rounds: int) -> dict[str, Any]:
    """Let a worker read the input, and start it again so many times."""
    recording, size = _written(arena, what)
    runs: list[dict[str, Any]] = []
    with arena.stage(recording) as stage:
        with _Worker(stage) as worker:
            worker.await_ready()
            worker.await_done(what)
            first = {"memory_bytes": worker.process.memory(), "peak_memory_bytes": worker.process.peak_memory()}
        for _ in range(rounds):
            with _Worker(stage) as worker:
                worker.await_ready()
                runs.append(worker.restored(what))
    arena.remove(recording.topics.prefix)
    return {
        "predictions": what.predictions,
        "pending": what.pending,
        "message_bytes": size / what.predictions,
        "first_read": first,
        **_medians(runs),
    }


def _read_through(arena: Arena, what: Waiting) -> dict[str, Any]:
    """Let a worker read a backlog of pairs from the start."""
    recording, size = _written(arena, what)
    with arena.stage(recording) as stage, _Worker(stage, SHORT) as worker:
        worker.await_ready()
        empty = worker.process.memory()
        began = time.monotonic()
        worker.await_done(what)
        found = {
            "pairs": what.pairs,
            "lag": what.lag,
            "seconds": time.monotonic() - began,
            "input_bytes": size,
            "empty_memory_bytes": empty,
            "peak_memory_bytes": worker.process.peak_memory(),
        }
    arena.remove(recording.topics.prefix)
    return found


def _written(arena: Arena, what: Waiting) -> tuple[Recording, int]:
    """Return fresh inputs, and the bytes of all predictions' messages."""
    topics = arena.inputs(what.partitions)
    size = write(arena.broker, topics, what)
    return Recording(topics, Shape(pairs=what.pairs, pending=what.pending, partitions=what.partitions), size, {}), size


class _Worker:
    """One worker as it is shipped."""

    def __init__(self, stage: Stage, models: str = MODELS) -> None:
        self._log = stage.folder / "streamapp-0.log"
        path = stage.folder / "models.toml"
        path.write_text(models)
        self._began = time.monotonic()
        self._contestant: Contestant = streamapp(stage, environ={"STREAMAPP_MODELS": str(path)})
        self.process: Process = self._contestant.processes[0]
        self._ready = self._cpu = 0.0

    def __enter__(self) -> "_Worker":
        """Lend it."""
        return self

    def __exit__(self, *_: object) -> None:
        """End it in order."""
        self._contestant.close()

    def await_ready(self) -> None:
        """Return when its log says that it is ready."""
        deadline = time.monotonic() + PATIENCE
        while " ready: " not in self._text():
            self.process.cpu()
            if time.monotonic() > deadline:
                raise RuntimeError(f"not ready after {PATIENCE:g} s: {self.process.tail()}")
            time.sleep(LOOK)
        self._ready, self._cpu = time.monotonic() - self._began, self.process.cpu()

    def await_done(self, what: Waiting) -> None:
        """Return when everything has been read, joined and committed."""
        wanted = float(what.pending), float(what.pairs)
        last, at = (-1.0, -1.0), time.monotonic()
        while last != wanted or self._sum("streamapp_consumer_lag_records") > 0:
            found = self._sum("streamapp_pending_predictions"), self._sum("streamapp_outcomes_total")
            if found != last:
                last, at = found, time.monotonic()
            if time.monotonic() - at > PATIENCE:
                raise RuntimeError(f"stands still at {last}, expected {wanted}: {self.process.tail()}")
            time.sleep(0.5)

    def restored(self, what: Waiting) -> dict[str, Any]:
        """Return what the restore took, having made sure that all is back."""
        memory, peak = self.process.memory(), self.process.peak_memory()
        took = self._values("streamapp_restore_seconds{", 'role="joiner"')
        pending = self._sum("streamapp_pending_predictions")
        if len(took) != what.partitions or pending != what.pending:
            raise RuntimeError(f"expected {what.pending} predictions that wait, got {pending}: {self.process.tail()}")
        stored = [tuple(int(number.replace(",", "")) for number in found) for found in _RESTORED.findall(self._text())]
        return {
            "ready_seconds": self._ready,
            "ready_cpu_seconds": self._cpu,
            "seconds": max(took),
            "reread": sum(self._values("streamapp_reread_records_total{", 'role="joiner"')),
            "entries": sum(entries for entries, _ in stored),
            "checkpoint_bytes": sum(size for _, size in stored),
            "memory_bytes": memory,
            "peak_memory_bytes": peak,
        }

    def _text(self) -> str:
        return self._log.read_text(errors="replace")

    def _values(self, series: str, label: str = "") -> list[float]:
        lines = (self.process.get("/metrics") or b"").decode().splitlines()
        return [float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(series) and label in line]

    def _sum(self, name: str) -> float:
        return sum(self._values(f"{name}{{"))


# Faust


def _faust(arena: Arena, what: Waiting, store: str, rounds: int) -> dict[str, Any]:
    """Return what a table of Faust took: by store, and on disk also where its files were still there."""
    prefix = arena.topics().prefix
    name = f"{prefix}faust"
    fausttable.fill(arena.broker, name, what)
    found: dict[str, list[dict[str, Any]]] = {}
    for _ in range(rounds):
        with TemporaryDirectory(prefix="streamapp-bench-") as folder:
            for kept in ("",) if store == "memory" else ("", ", files kept"):
                found.setdefault(store + kept, []).append(_faust_once(arena, what, name, store, Path(folder)))
    arena.remove(prefix)
    return {each: {"pending": what.pending, **_medians(runs)} for each, runs in found.items()}


def _faust_once(arena: Arena, what: Waiting, name: str, store: str, folder: Path) -> dict[str, Any]:
    log = folder / "fausttable.log"
    module = "benchmarks.contestants.fausttable"
    began = time.monotonic()
    process = Process(
        ["-m", module, arena.broker, str(what.partitions), name, str(folder), f"{store}://"],
        {},
        counter="",
        core=cores()[0],
        log=log,
    )
    try:
        size, at = 0, time.monotonic()
        while not (lines := [line for line in log.read_text(errors="replace").splitlines() if line.startswith("{")]):
            process.cpu()
            now = process.memory()
            if now != size:
                size, at = now, time.monotonic()
            if time.monotonic() - at > PATIENCE:
                raise RuntimeError(f"the table stands still: {process.tail()}")
            time.sleep(LOOK)
        told = json.loads(lines[0])
        if told["keys"] != what.pending:
            raise RuntimeError(f"expected {what.pending} keys in the table, got {told['keys']}")
        return {
            "ready_seconds": told["ready"] - began,
            "seconds": told["seconds"],
            "cpu_seconds": told["cpu_seconds"],
            "memory_bytes": process.memory(),
            "peak_memory_bytes": process.peak_memory(),
        }
    finally:
        process.close()


# What was found


def _medians(runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return medians, and under ``spread`` the smallest and the largest."""
    return {
        "rounds": len(runs),
        **{name: statistics.median(run[name] for run in runs) for name in runs[0]},
        "spread": {name: [min(run[name] for run in runs), max(run[name] for run in runs)] for name in runs[0]},
    }


def _beside(found: dict[str, Any], empty: Mapping[str, Any]) -> dict[str, Any]:
    """Add what is left when that of a worker is taken off which has nothing to restore."""
    pending = max(found["pending"], 1)
    idle = empty["ready_cpu_seconds"]
    found["cpu_seconds"] = found["ready_cpu_seconds"] - idle
    found["spread"]["cpu_seconds"] = [value - idle for value in found["spread"]["ready_cpu_seconds"]]
    found["memory_per_pending"] = (found["memory_bytes"] - empty["memory_bytes"]) / pending
    found["beyond_its_bytes"] = found["memory_per_pending"] - found["message_bytes"]
    found["peak_per_pending"] = (found["peak_memory_bytes"] - empty["memory_bytes"]) / pending
    return found


def show(report: Mapping[str, Any]) -> None:
    """Print tables."""
    table = Table(
        title=f"Restoring what waits, {report['rounds']} rounds: median (smallest to largest)",
        caption=f"Load average {report['machine']['load_average']:.1f}. Wanted: 1 000 000 in <= 5 s.",
    )
    for heading in ("", "wait", "seconds", "CPU seconds", "read again", "start to ready, s", "memory, MiB"):
        table.add_column(heading, justify="right" if heading else "left")
    rows = [(f"streamapp, {part}", report[part]) for part in ("dense", "sparse") if part in report]
    rows += [(f"Faust table, {store}", found) for store, found in report.get("faust", {}).items()]
    for name, found in rows:
        cells = [_cell(found, key) for key in ("seconds", "cpu_seconds", "ready_seconds")]
        again = f"{found['reread']:,.0f}" if "reread" in found else ""
        memory = f"{found['memory_bytes'] / 2**20:,.0f}"
        table.add_row(name, f"{found['pending']:,}", *cells[:2], again, cells[2], memory)
    if rows:
        print_wide(table)
    if dense := report.get("dense"):
        print(
            f"A prediction that waits: {dense['memory_per_pending']:.0f} B resident, of which its message has"
            f" {dense['message_bytes']:.0f}, so {dense['beyond_its_bytes']:.0f} B beyond (wanted: <= 200). Peak of the"
            f" restore: {dense['peak_per_pending']:.0f} B each."
        )
    if backlog := report.get("backlog"):
        _show_backlog(backlog)


def _cell(found: Mapping[str, Any], key: str) -> str:
    least, most = found["spread"][key]
    return cell(found[key], least, most, ".2f")


def _show_backlog(runs: Sequence[Mapping[str, Any]]) -> None:
    small, large = runs
    ratio = large["peak_memory_bytes"] / small["peak_memory_bytes"]
    table = Table(title=f"Read from the start; an outcome comes {large['lag']:,} predictions after its own")
    for heading in ("pairs", "peak memory, MiB", "of them before the first", "seconds"):
        table.add_column(heading, justify="right")
    for found in runs:
        memory = (f"{found[key] / 2**20:,.0f}" for key in ("peak_memory_bytes", "empty_memory_bytes"))
        table.add_row(f"{found['pairs']:,}", *memory, f"{found['seconds']:.1f}")
    print_wide(table)
    print(f"Peak with four times the backlog: {ratio:.2f} times.")
