"""A series as an SVG picture: lines over time, and thresholds across."""

from __future__ import annotations

from pathlib import Path
from typing import Final
from xml.sax.saxutils import escape

from scripted_core.errors import ConfigError

from scripted_kit_client.report import Series

_WIDTH: Final = 860
_HEIGHT: Final = 360
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 24, 44, 48
_COLOURS: Final = ("#2563eb", "#059669", "#d97706", "#7c3aed", "#0891b2", "#be185d")
_LINE_COLOUR: Final = "#dc2626"
_TICKS: Final = 5


def as_svg(series: Series) -> str:
    """The picture; a series without points is axes and a note."""
    times = [at for _, points in series.points for at, _ in points]
    values = [value for _, points in series.points for _, value in points]
    values += [value for _, value in series.lines]
    last_s = max(times, default=1.0) or 1.0
    low, high = _range(values)

    def x(at: float) -> float:
        return _LEFT + (_WIDTH - _LEFT - _RIGHT) * at / last_s

    def y(value: float) -> float:
        return _HEIGHT - _BOTTOM - (_HEIGHT - _TOP - _BOTTOM) * (value - low) / (high - low)

    parts = [_text(_LEFT, 24, f"{series.title} ({series.unit})", size=15)]
    for i in range(_TICKS + 1):
        value = low + (high - low) * i / _TICKS
        parts.append(_rule(_LEFT, y(value), _WIDTH - _RIGHT, y(value), "#e5e7eb"))
        parts.append(_text(_LEFT - 8, y(value) + 4, f"{value:g}", anchor="end"))
        at = last_s * i / _TICKS
        parts.append(_text(x(at), _HEIGHT - _BOTTOM + 18, f"{at:.1f}", anchor="middle"))
    parts.append(_text(_WIDTH - _RIGHT, _HEIGHT - 10, "seconds", anchor="end"))
    for name, value in series.lines:
        parts.append(_rule(_LEFT, y(value), _WIDTH - _RIGHT, y(value), _LINE_COLOUR, dashed=True))
        label = f"{name} {value:g}"
        parts.append(_text(_WIDTH - _RIGHT, y(value) - 5, label, anchor="end", fill=_LINE_COLOUR))
    for i, (label, points) in enumerate(series.points):
        colour = _COLOURS[i % len(_COLOURS)]
        path = " ".join(f"{x(at):.1f},{y(value):.1f}" for at, value in points)
        parts.append(
            f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.5"/>'
        )
        parts.append(_text(_LEFT + 8, _HEIGHT - _BOTTOM - 10 - 16 * i, label, fill=colour))
    if not times:
        parts.append(_text(_WIDTH / 2, _HEIGHT / 2, "no samples", anchor="middle", size=15))
    body = "\n".join(parts)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{_HEIGHT}" '
        f'viewBox="0 0 {_WIDTH} {_HEIGHT}" font-family="system-ui, sans-serif">\n'
        f'<rect width="100%" height="100%" fill="white"/>\n{body}\n</svg>\n'
    )


def write_svg(series: Series, file: Path) -> None:
    """Write the picture; `ConfigError` when the file cannot be written."""
    try:
        file.write_text(as_svg(series), encoding="utf-8")
    except OSError as error:
        raise ConfigError(
            f"the plot cannot be written to {file}: {error.strerror}",
            hint="name a file in a folder that is there",
        ) from error


def _range(values: list[float]) -> tuple[float, float]:
    low, high = min(values, default=0.0), max(values, default=1.0)
    room = max((high - low) * 0.1, 0.5)
    return low - room, high + room


def _rule(x1: float, y1: float, x2: float, y2: float, colour: str, *, dashed: bool = False) -> str:
    dash = ' stroke-dasharray="6 4"' if dashed else ""
    return (
        f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}"{dash}/>'
    )


def _text(
    x: float, y: float, text: str, *, anchor: str = "start", size: int = 12, fill: str = "#374151"
) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}" '
        f'fill="{fill}">{escape(text)}</text>'
    )
