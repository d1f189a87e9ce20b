"""Pictures of figures, as SVG: lines for curves, a stacked bar for stages, panels for series."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

COLOURS = ("#1f6f8b", "#d1495b", "#66a182", "#edae49", "#6a4c93")
SHADES = (
    "#1f6f8b",
    "#3a9188",
    "#66a182",
    "#a3b86c",
    "#edae49",
    "#e8853c",
    "#d1495b",
    "#a83f6f",
    "#6a4c93",
    "#4a5a8c",
    "#b8b8b8",
)
SIZE = (7.2, 4.0)


def lines(
    path: Path,
    series: Mapping[str, Mapping[float, Sequence[float]]],
    *,
    title: str,
    across: str,
    up: str,
    logarithmic: bool = True,
) -> None:
    """Draw medians as lines, with a bar from the smallest to the largest.

    Args:
        path: Where to.
        series: By name: values by place.
        title: Above it.
        across: What the places are.
        up: What the values are.
        logarithmic: Whether the places are.
    """
    pyplot, ticker = _pyplot()
    figure, axes = pyplot.subplots(figsize=SIZE, layout="constrained")
    places: set[float] = set()
    for colour, (name, points) in zip(COLOURS, series.items(), strict=False):
        x = sorted(points)
        places |= points.keys()
        middle = [statistics.median(points[place]) for place in x]
        below = [m - min(points[place]) for m, place in zip(middle, x, strict=True)]
        above = [max(points[place]) - m for m, place in zip(middle, x, strict=True)]
        axes.errorbar(x, middle, (below, above), color=colour, marker="o", markersize=4, capsize=3, label=name)
    if logarithmic:
        axes.set_xscale("log")
    axes.set_xticks(sorted(places), [f"{place:,.0f}" for place in sorted(places)])
    axes.xaxis.set_minor_locator(ticker.NullLocator())
    axes.yaxis.set_major_formatter(ticker.FuncFormatter(lambda value, _: f"{value:,.6g}"))
    axes.set_ylim(bottom=0)
    axes.set_title(title, fontsize=11, loc="left")
    axes.set_xlabel(across)
    axes.set_ylabel(up)
    axes.grid(axis="y", color="#dddddd")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    _save(figure, path)


def stack(path: Path, parts: Mapping[str, float], *, title: str) -> None:
    """Draw one bar of parts, in microseconds, with a legend that tells each."""
    pyplot, _ = _pyplot()
    figure, axes = pyplot.subplots(figsize=(9.0, 2.6), layout="constrained")
    start, total = 0.0, sum(parts.values())
    for colour, (name, value) in zip(SHADES, parts.items(), strict=False):
        axes.barh(0, value, left=start, color=colour, edgecolor="white", label=f"{name} {value:.2f}")
        if value > 0.06 * total:
            axes.text(
                start + value / 2, 0, name.replace(" ", "\n"), ha="center", va="center", color="white", fontsize=8
            )
        start += value
    axes.set_yticks([])
    axes.set_xlim(0, start)
    axes.set_xlabel(f"CPU microseconds a pair, {total:.2f} in all")
    axes.set_title(title, fontsize=11, loc="left")
    axes.spines[["top", "right", "left"]].set_visible(False)
    figure.legend(loc="outside lower center", ncols=6, frameon=False, fontsize=8)
    _save(figure, path)


@dataclass(frozen=True)
class Panel:
    """Series that share a scale."""

    up: str
    """What the values are."""
    series: Mapping[str, tuple[Sequence[float], Sequence[float]]]
    """By name: places and values; a line is broken at NaN, and one without a name is not named."""


def panels(
    path: Path,
    rows: Sequence[Panel],
    *,
    title: str,
    across: str,
    marks: Mapping[str, Sequence[float]],
    grey: float = 0.0,
) -> None:
    """Draw series above each other over the same places, each from 0.

    Args:
        path: Where to.
        rows: From top to bottom.
        title: Above them.
        across: What the places are.
        marks: By name: places at which something happened.
        grey: Place up to which the background is grey.
    """
    pyplot, ticker = _pyplot()
    figure, all_axes = pyplot.subplots(
        len(rows), 1, figsize=(9.0, 1.35 * len(rows) + 1), sharex=True, layout="constrained"
    )
    for axes, row in zip(all_axes, rows, strict=True):
        axes.axvspan(0, grey, color="#f0f0f0", linewidth=0)
        for style, (name, places) in zip(("--", ":"), marks.items(), strict=False):
            for number, place in enumerate(places):
                axes.axvline(place, color="#999999", linewidth=0.8, linestyle=style, label=None if number else name)
        for colour, (name, (x, y)) in zip(COLOURS, row.series.items(), strict=False):
            axes.plot(x, y, color=colour, linewidth=1.0, label=name or None)
        axes.set_ylim(bottom=0)
        axes.set_ylabel(row.up, rotation=0, ha="right", va="center")
        axes.yaxis.set_major_formatter(ticker.FuncFormatter(lambda value, _: f"{value:,.6g}"))
        axes.margins(x=0)
        axes.grid(axis="y", color="#dddddd")
        axes.spines[["top", "right"]].set_visible(False)
        if row.series.keys() != {""} or axes is all_axes[0]:
            axes.legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    all_axes[0].set_title(title, fontsize=11, loc="left")
    all_axes[-1].set_xlabel(across)
    _save(figure, path)


def _pyplot() -> tuple[Any, Any]:
    # Here, since it takes a while and only pictures need it.
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "streamapp", "font.size": 9})
    from matplotlib import pyplot, ticker

    return pyplot, ticker


def _save(figure: Any, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Date": None}, facecolor="white")
