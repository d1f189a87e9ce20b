"""``streamapp demo``: services whose model goes wrong, and everything that notices and mends it, within a minute."""

import os
import re
import signal
import sys
import tempfile
import time
import webbrowser
from collections.abc import Callable, Iterator, Mapping
from importlib import resources
from pathlib import Path
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.rule import Rule
from rich.text import Text

from streamapp.errors import StreamappError
from streamapp.losscurve import LossCurve
from streamapp.modelsfile import load_models
from streamapp.simulate import simulation
from streamapp.simulation.scenarios import SCENARIOS, Kind
from streamapp.stage import CoreStage, KafkaStage, Stage
from streamapp.tables import describe, summary_view, to_json

DATASET = "shuttle"
RATE = 500.0
"""Predictions a second."""
SHARES = {"champion": 0.5, "challenger": 0.5}
CHANGE_AT = 15.0
"""Seconds of stream after which the world changes: by then each group has erred often enough to know what is normal."""
LOOK = 0.5
"""Seconds between two looks at what is known."""
NEWS = ("signals", "retrain", "model_updates")


def run(*, seconds: float | None, json: bool, scenario: Kind, browser: bool) -> int:
    """Run the demo until its time is up or it is interrupted, and return the exit code."""
    out = Console(stderr=json)
    began = time.monotonic()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    models = resources.files("streamapp").joinpath("demo.toml")
    with resources.as_file(models) as file, tempfile.TemporaryDirectory(prefix="streamapp-demo-") as folder:
        stage: Stage | None = None
        summary: dict[str, Any] | None = None
        try:
            out.print("Training the models of the services on real data…", style="dim")
            stage = _stage(scenario, file, Path(folder))
            for note in stage.notes:
                out.print(note, style="yellow", markup=False, soft_wrap=True)
            stage.start()
            _introduce(out, stage, file, scenario)
            if browser and not json:
                _open(stage.url)
            for looked_at in _watch(stage, out, scenario, None if seconds is None else began + seconds):
                summary = looked_at
        except KeyboardInterrupt:
            out.print("stopping", style="dim")
        except StreamappError as error:
            sys.stderr.write(f"streamapp: {error}\n")
            return 1
        finally:
            if stage is not None:
                _undisturbed(stage.stop)
        if summary is not None:
            if json:
                sys.stdout.write(to_json(summary) + "\n")
            else:
                out.print(Rule())
                out.print(summary_view(summary, newest=30))
    return 0


def _stage(scenario: Kind, models: Path, folder: Path) -> Stage:
    from streamapp.embedded import unavailable

    simulated = simulation(
        DATASET,
        scenario,
        at=CHANGE_AT,
        rate=RATE,
        shares=SHARES,
        run=f"demo-{time.time_ns() // 1_000_000:x}",
        clock=time.perf_counter,
    )
    if (reason := unavailable()) is not None:
        return CoreStage(simulated, load_models(models), reason)
    return KafkaStage(simulated, models, folder)


def _introduce(out: Console, stage: Stage, models: Path, scenario: Kind) -> None:
    out.print(f"status page  {stage.url}", markup=False, highlight=False, soft_wrap=True)
    out.print(f"metrics      {stage.url}/metrics", markup=False, highlight=False, soft_wrap=True)
    out.print(f"settings     {models}", markup=False, highlight=False, soft_wrap=True)
    change = SCENARIOS[scenario] if scenario == "none" else f"after {CHANGE_AT:g} s {SCENARIOS[scenario]}"
    out.print(f"scenario     {scenario}: {change}", markup=False, highlight=False, soft_wrap=True)
    out.print(Text(models.read_text(encoding="utf-8").rstrip(), "dim"))
    out.print("Ctrl-C stops everything.", style="dim")


def _watch(stage: Stage, out: Console, scenario: Kind, end: float | None) -> Iterator[dict[str, Any]]:
    """Show what happens until the time is up; yield every summary looked at."""
    began, told, curve = time.monotonic(), Told(), LossCurve()
    with Live(console=out, auto_refresh=False, transient=True) as live:
        while True:
            summary = stage.summary()
            curve.look(summary)
            elapsed = time.monotonic() - began
            for news in told.news(summary):
                live.console.print(Text.assemble((f"{elapsed:5.1f} s  ", "dim"), news), soft_wrap=True)
            if out.is_terminal:
                live.update(_picture(summary, curve, elapsed, scenario), refresh=True)
            elif told.is_new(words := now(summary, elapsed, scenario)):
                out.print(Text.assemble((f"{elapsed:5.1f} s  ", "dim"), words), soft_wrap=True)
            yield summary
            if end is not None and time.monotonic() + LOOK > end:
                return
            time.sleep(LOOK)


class Told:
    """What has been told already."""

    def __init__(self) -> None:
        self._words = ""
        self._events: set[str] = set()

    def is_new(self, words: str) -> bool:
        """Tell whether words say something else than the last ones, other numbers aside."""
        before, self._words = self._words, re.sub(r"[0-9.]+", "", words)
        return self._words != before

    def news(self, summary: Mapping[str, Any]) -> Iterator[Text]:
        """Yield each signal, request and update that was not told before, in words, oldest first."""
        for model in summary["models"].values():
            for event in sorted((one for kind in NEWS for one in model[kind]), key=lambda one: one["at"]):
                if event["id"] not in self._events:
                    self._events.add(event["id"])
                    yield describe(event)


def _picture(summary: Mapping[str, Any], curve: LossCurve, elapsed: float, scenario: Kind) -> RenderableType:
    return Group(
        Rule(f"{elapsed:.0f} s"),
        summary_view(summary, newest=0),
        curve.picture(),
        Text(now(summary, elapsed, scenario), "bold"),
    )


def now(summary: Mapping[str, Any], elapsed: float, scenario: Kind) -> str:
    """Return what is going on, in words.

    Args:
        summary: What is known.
        elapsed: Seconds since the services began.
        scenario: What is to happen to the world.
    """
    models = list(summary["models"].values())
    if not models or not any(group["outcomes"] for group in models[0]["groups"].values()):
        return "Services answer; the first outcomes are on their way."
    model = models[0]
    accepted = [update for update in model["model_updates"] if update["status"] == "accepted"]
    if accepted:
        return " ".join(_mended(model, update) for update in accepted[-2:])
    if model["retrain"]:
        groups = " and ".join(dict.fromkeys(request["group"] for request in model["retrain"]))
        return (
            f"Training was requested: the learner takes in the rows since the change, for {groups}, and proves itself."
        )
    if any(signal["kind"] == "drift" for signal in model["signals"]):
        return "Drift was found; enough rows of the new world are being gathered to learn from."
    if scenario == "none" or elapsed < CHANGE_AT:
        return "All is well: what is normal is being measured."
    return "The world has changed. The models do not know it; their losses rise."


def _mended(model: Mapping[str, Any], update: Mapping[str, Any]) -> str:
    group, version = update["group"], update["version"]
    answered = model["groups"].get(group, {}).get("versions", {}).get(version)
    before = update["metrics"]["incumbent"]
    if not answered or not answered["rows"] or answered["loss"] is None or before is None:
        return f"{version} is accepted for {group}; its service is taking it."
    return f"{group} answers with {version}: loss {answered['loss']:.3f}, where the old one had {before:.3f}."


def _open(url: str) -> None:
    """Open the page where there is a desktop to show it."""
    desktop = sys.platform == "darwin" or os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    if sys.stdout.isatty() and desktop:
        webbrowser.open(url)


def _undisturbed(work: Callable[[], None]) -> None:
    """Do the work to its end, whatever is typed meanwhile."""
    before = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        work()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
