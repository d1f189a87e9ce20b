"""Pictures of figures, as SVG: lines for curves, a stacked bar for stages."""

import statistics
from collections.abc import Mapping, Sequence
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
