"""Small line charts, written as SVG: what a table of figures looks like.

matplotlib draws them. It is imported when there is something to draw, so that a
benchmark without a plot runs where it is not installed.
"""

import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.errors import BenchError

# Text and lines that can be read on white and on black: the background is the page's.
INK = "#808080"
COLOURS = ("#d55e00", "#1e88c8", "#109070", "#c060a0", "#8a7fd8", "#a07818")
MARKERS = ("o", "s", "^", "D", "v", "P")

# In inches, of which matplotlib makes 72 points each.
PANEL_WIDTH, PANEL_HEIGHT = 2.8, 2.3
TITLE_HEIGHT = 0.3
LEGEND_ROW, LEGEND_MARGIN = 0.18, 0.2
LETTER_WIDTH, LINE_WIDTH = 0.075, 0.6

# Text stays text, which is smaller than its outlines and can be searched. The names of
# clip paths come from a random number unless there is a salt: the same figures are to
# give the same file.
STYLE = {
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlecolor": INK,
    "axes.titlesize": 9,
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],  # every text names all of the list
    "font.size": 8,
    "grid.alpha": 0.35,
    "grid.color": INK,
    "grid.linewidth": 0.5,
    "legend.labelcolor": INK,
    "lines.linewidth": 1.4,
    "lines.markersize": 3.5,
    "svg.fonttype": "none",
    "svg.hashsalt": "fastbatch",
    "text.color": INK,
    "xtick.color": INK,
    "xtick.labelsize": 7,
    "xtick.minor.size": 0,
    "ytick.color": INK,
    "ytick.labelsize": 7,
    "ytick.minor.size": 0,
}


@dataclass(frozen=True, slots=True)
class Axis:
    """What one direction of a panel means."""

    label: str
    """With the unit: "latency p99, ms"."""
    is_log: bool = False
    ticks: Sequence[float] = ()
    """The values that are marked; empty leaves it to matplotlib."""


@dataclass(frozen=True, slots=True)
class Series:
    """A line. Those of one name have one colour in all panels of a plot."""

    name: str
    points: Sequence[tuple[float, float]]
    """In the order in which they are joined."""
    is_reference: bool = False
    """Dashed and without marks: what the others are compared with."""


@dataclass(frozen=True, slots=True)
class Panel:
    """One chart. A linear y axis starts at 0."""

    title: str
    x: Axis
    y: Axis
    series: Sequence[Series]


def require_matplotlib() -> None:
    """Be sure of it before measuring for minutes.

    Raises:
        BenchError: it is not installed; with how to get it.
    """
    import_matplotlib("matplotlib")


def write_plot(
    path: Path,
    panels: Sequence[Panel],
    title: str = "",
    columns: int = 0,
    share_y: bool = False,
) -> None:
    """Draw ``panels`` side by side, in rows of ``columns``: 0 is all in one row.

    One legend below them says which line is which. With ``share_y`` those of a row have
    one range of y, of which the first has the marks.

    Raises:
        BenchError: matplotlib is not installed, ``path`` is no .svg, or it cannot be
            written.
    """
    require_svg(path)
    matplotlib = import_matplotlib("matplotlib")
    figures = import_matplotlib("matplotlib.figure")
    columns = columns or len(panels)
    rows = -(-len(panels) // columns)
    width = PANEL_WIDTH * columns
    names = list(dict.fromkeys(s.name for panel in panels for s in panel.series))
    per_row = legend_columns(names, width)
    below = LEGEND_ROW * -(-len(names) // per_row) + LEGEND_MARGIN
    height = PANEL_HEIGHT * rows + below + (TITLE_HEIGHT if title else 0)
    with matplotlib.rc_context(STYLE):
        figure = figures.Figure(figsize=(width, height))
        sharing = "row" if share_y else "none"
        grid = figure.subplots(rows, columns, squeeze=False, sharey=sharing).flatten()
        lines: dict[str, Any] = {}
        for axes, panel in zip(grid, panels, strict=False):
            draw_panel(axes, panel, names, lines)
        # Not before: it ends the search for a range that all lines fit into.
        for axes, panel in zip(grid, panels, strict=False):
            if not panel.y.is_log:
                axes.set_ylim(bottom=0)
        for axes in grid[len(panels) :]:
            axes.remove()
        if title:
            figure.suptitle(title, fontsize=10)
        handles = [lines[name] for name in names]
        figure.legend(handles, names, loc="lower center", ncols=per_row, frameon=False)
        figure.tight_layout(rect=(0, below / height, 1, 1), w_pad=1.5)
        save(figure, path)


def legend_columns(names: Sequence[str], width: float) -> int:
    """How many names fit beside each other into so many inches; at least one."""
    widest = LETTER_WIDTH * max(map(len, names)) + LINE_WIDTH
    return min(max(int(width / widest), 1), len(names))


def require_svg(path: Path) -> None:
    """Raise a BenchError if ``path`` is the name of another kind of picture."""
    if path.suffix != ".svg":
        raise BenchError(f"{path} is no .svg, the one kind of plot that is made")


def draw_panel(
    axes: Any, panel: Panel, names: Sequence[str], lines: dict[str, Any]
) -> None:
    """Into ``axes``; ``lines`` is given the first line of each name."""
    axes.patch.set_visible(False)
    axes.set_title(panel.title)
    for series in panel.series:
        number = names.index(series.name)
        [line] = axes.plot(
            [x for x, _ in series.points],
            [y for _, y in series.points],
            color=COLOURS[number % len(COLOURS)],
            linestyle="--" if series.is_reference else "-",
            marker="" if series.is_reference else MARKERS[number % len(MARKERS)],
        )
        lines.setdefault(series.name, line)
    set_axis(axes, axes.xaxis, panel.x)
    set_axis(axes, axes.yaxis, panel.y)
    axes.grid()


def set_axis(axes: Any, which: Any, axis: Axis) -> None:
    ticker = import_matplotlib("matplotlib.ticker")
    which.set_label_text(axis.label)
    if axis.is_log:
        axes.set(**{f"{which.axis_name}scale": "log"})
        which.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
    if axis.ticks:
        which.set_major_locator(ticker.FixedLocator(axis.ticks))
    which.set_major_formatter(lambda value, _: f"{value:,.6g}")
    which.set_minor_formatter(ticker.NullFormatter())


def save(figure: Any, path: Path) -> None:
    try:
        figure.savefig(path, format="svg", transparent=True, metadata={"Date": None})
    except OSError as error:
        raise BenchError(f"{path} cannot be written: {error.strerror}") from None


def import_matplotlib(name: str) -> Any:
    """By its name: what checks types need not have it."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise BenchError(
            f"a plot takes matplotlib ({error}): "
            "python -m pip install --group bench (pip 25.1 or newer)"
        ) from None
