"""The log of a run as one SVG picture: losses above, zero rates per layer below, over tokens."""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from pathlib import Path

WIDTH, HEIGHT, MARGIN = 760, 240, 48
Series = tuple[str, str, list[float]]  # label, colour, values


def draw_curves(log: Path, out: Path) -> None:
    """Reads a log.csv of `train.drelu` and writes `out`; a log without rows gives an empty picture."""
    with log.open(newline="") as file:
        rows = list(csv.DictReader(file))
    x = [float(row["tokens"]) for row in rows]
    layers = [name for name in (rows[0] if rows else {}) if name.startswith("zero_") and name[5:].isdigit()]

    def column(name: str) -> list[float]:
        return [float(row[name] or 0.0) for row in rows]

    losses = [("loss", "#b03a2e", _logs(column("loss"))), ("hidden error", "#1f618d", _logs(column("hidden")))]
    zeros: list[Series] = [("", _shade(i, len(layers)), column(name)) for i, name in enumerate(layers)]
    zeros += [("mean zero rate", "#000000", column("zero_rate")), ("target", "#b03a2e", column("zero_target"))]
    stages = [(x[i], rows[i]["stage"]) for i in range(len(rows)) if i == 0 or rows[i]["stage"] != rows[i - 1]["stage"]]
    parts = [*_panel("loss (log10)", x, losses, stages, 0), *_panel("zero rate", x, zeros, stages, HEIGHT)]
    size = f'width="{WIDTH}" height="{2 * HEIGHT}" viewBox="0 0 {WIDTH} {2 * HEIGHT}"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif" font-size="11">'
    back = '<rect width="100%" height="100%" fill="#ffffff"/>'
    out.write_text("\n".join([head, back, *parts, "</svg>"]) + "\n", encoding="utf-8")


def _panel(
    title: str, x: Sequence[float], series: Sequence[Series], stages: Sequence[tuple[float, str]], top: int
) -> list[str]:
    """One diagram; a dashed line and a name where a stage begins."""
    values = [v for _, _, vs in series for v in vs]
    if not values:
        return []
    low, high = min(values), max(values)
    span = (high - low) or 1.0
    x_span = (max(x) - min(x)) or 1.0

    def px(value: float) -> float:
        return MARGIN + (value - min(x)) / x_span * (WIDTH - 2 * MARGIN)

    def py(value: float) -> float:
        return top + HEIGHT - MARGIN / 2 - (value - low) / span * (HEIGHT - MARGIN)

    out = [f'<text x="4" y="{top + 14}">{title}</text>']
    out += [f'<text x="4" y="{py(v):.1f}">{v:.3g}</text>' for v in (low, high)]
    out.append(f'<text x="{WIDTH - MARGIN}" y="{top + HEIGHT - 6}" text-anchor="end">{max(x):.3g} tokens</text>')
    for at, name in stages:
        line = f'x1="{px(at):.1f}" x2="{px(at):.1f}" y1="{top + 20}" y2="{top + HEIGHT - MARGIN / 2}"'
        out.append(f'<line {line} stroke="#999999" stroke-dasharray="3 3"/>')
        out.append(f'<text x="{px(at) + 3:.1f}" y="{top + 30}" fill="#666666">{name}</text>')
    named = [s for s in series if s[0]]
    for i, (label, colour, _) in enumerate(named):
        out.append(f'<text x="{220 + 120 * i}" y="{top + 14}" fill="{colour}">{label}</text>')
    for _, colour, vs in series:
        points = " ".join(f"{px(a):.1f},{py(b):.1f}" for a, b in zip(x, vs, strict=True))
        out.append(f'<polyline points="{points}" fill="none" stroke="{colour}"/>')
    return out


def _logs(values: Sequence[float]) -> list[float]:
    return [math.log10(max(v, 1e-6)) for v in values]


def _shade(i: int, n: int) -> str:
    """Light for the first layer, dark for the last."""
    level = 215 - 120 * i // max(n - 1, 1)
    return f"#{level:02x}{level:02x}e6"
