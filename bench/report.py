"""Tables for people; widths follow the contents."""

from collections.abc import Sequence

from bench.figures import Spread


def show(value: Spread | None, digits: int) -> str:
    """``148,210 (146,100-150,002)``; only the median if it never varied."""
    if value is None:
        return "-"
    median = f"{value.median:,.{digits}f}"
    low, high = f"{value.low:,.{digits}f}", f"{value.high:,.{digits}f}"
    return median if low == high == median else f"{median} ({low}-{high})"


def show_ratio(value: Spread | None) -> str:
    return "" if value is None else "x " + show(value, 2)


def table(rows: Sequence[Sequence[str]]) -> str:
    """Columns side by side, the first row being their titles.

    The first column is text and flush left; figures are flush right.
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(
            cell.rjust(width) if i else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
    lines.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join(lines)
