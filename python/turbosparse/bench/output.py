"""Rows as md, csv, json, jsonl or sql, as llama-bench prints them, to a stream or an atomic file."""

from __future__ import annotations

import csv
import io
import json
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TextIO

from ..errors import FileError
from .record import flat

Row = dict[str, Any]
FORMATS = ("md", "csv", "json", "jsonl", "sql")

MIB, GIB = 1 << 20, 1 << 30


def _scaled(value: float, big: float, unit: str, small: float, small_unit: str) -> str:
    return f"{value / big:.2f} {unit}" if value >= big else f"{value / small:.2f} {small_unit}"


def _percent(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.1f} %"


def _ratio(row: Row) -> str:
    if row["ratio"] is None:
        return ""
    low, high = row["ratio_ci95"]
    return f"{row['ratio']:.2f} [{low:.2f}, {high:.2f}]"


# title -> (cell of a row, aligned right); those before "threads" and "test" are llama-bench's
MD_COLUMNS: dict[str, Any] = {
    "model": (lambda r: r["model_type"], False),
    "size": (lambda r: _scaled(r["model_size"], GIB, "GiB", MIB, "MiB"), True),
    "params": (lambda r: _scaled(r["model_n_params"], 1e9, "B", 1e6, "M"), True),
    "backend": (lambda r: r["buffer_type"] or r["backends"], False),
    "threads": (lambda r: str(r["n_threads"]), True),
    "n_batch": (lambda r: str(r["n_batch"]), True),
    "n_ubatch": (lambda r: str(r["n_ubatch"]), True),
    "type_k": (lambda r: r["type_k"], True),
    "fa": (lambda r: str(r["flash_attn"]), True),
    "lm": (lambda r: r["load_mode"], False),
    "mode": (lambda r: r["mode"], False),
    "test": (lambda r: r["test"], True),
    "t/s": (lambda r: f"{r['avg_ts']:.2f} ± {r['stddev_ts']:.2f}", True),
    "active": (lambda r: _percent(r["active_frac"]), True),
    "selected": (lambda r: _percent(r["selected_frac"]), True),
    "recall": (lambda r: _percent(r["recall"]), True),
    "MB/token": (lambda r: "" if r["bytes_per_token"] is None else f"{r['bytes_per_token'] / 1e6:.0f}", True),
    "GB/s": (lambda r: "" if r["gbs"] is None else f"{r['gbs']:.1f}", True),
    "of bandwidth": (lambda r: _percent(r["bandwidth_frac"]), True),
    "predictor": (lambda r: _percent(r["predictor_frac"]), True),
    "x baseline": (_ratio, True),
    "baseline": (lambda r: r["baseline"] or "", False),
}
# shown only when they say something; `default` is what goes without saying
QUIET = {
    "n_batch": "2048",
    "n_ubatch": "512",
    "type_k": "f16",
    "fa": "-1",
    "recall": "",
    "x baseline": "",
    "baseline": "",
}


def markdown(rows: Sequence[Row]) -> str:
    """A table of llama-bench's columns and ours."""
    titles = [t for t in MD_COLUMNS if t not in QUIET or any(MD_COLUMNS[t][0](r) != QUIET[t] for r in rows)]
    cells = [[MD_COLUMNS[t][0](row) for t in titles] for row in rows]
    widths = [max(len(t), 4, *(len(line[i]) for line in cells)) for i, t in enumerate(titles)]
    right = [MD_COLUMNS[t][1] for t in titles]
    rule = [("-" * (w - 1) + ":") if r else "-" * w for w, r in zip(widths, right, strict=True)]

    def line(values: Sequence[str]) -> str:
        padded = [v.rjust(w) if r else v.ljust(w) for v, w, r in zip(values, widths, right, strict=True)]
        return f"| {' | '.join(padded)} |"

    return "\n".join([line(titles), line(rule), *map(line, cells)]) + "\n"


def _csv(rows: Sequence[Row]) -> str:
    out = io.StringIO()
    tables = [flat(row) for row in rows]
    writer = csv.DictWriter(out, fieldnames=list(tables[0]), quoting=csv.QUOTE_ALL, lineterminator="\n")
    writer.writeheader()
    writer.writerows(tables)
    return out.getvalue()


def _sql_type(value: Any) -> str:
    return {bool: "INTEGER", int: "INTEGER", float: "REAL"}.get(type(value), "TEXT")


def _sql_value(value: Any) -> str:
    if value is None:
        return "NULL"
    if isinstance(value, (bool, int, float)):
        return repr(int(value) if isinstance(value, bool) else value)
    return "'" + str(value).replace("'", "''") + "'"


def _sql(rows: Sequence[Row]) -> str:
    tables = [flat(row) for row in rows]
    kinds = {key: next((t[key] for t in tables if t[key] is not None), 0.0) for key in tables[0]}
    columns = ",\n".join(f"  {key} {_sql_type(value)}" for key, value in kinds.items())
    out = [f"CREATE TABLE IF NOT EXISTS llama_bench (\n{columns}\n);\n"]
    for table in tables:
        values = ", ".join(_sql_value(value) for value in table.values())
        out.append(f"INSERT INTO llama_bench ({', '.join(table)}) VALUES ({values});")
    return "\n".join(out) + "\n"


def render(rows: Sequence[Row], form: str) -> str:
    """`rows` in one of FORMATS; "" when there is none."""
    if not rows:
        return ""
    if form == "json":
        return json.dumps(list(rows), indent=2) + "\n"
    if form == "jsonl":
        return "".join(json.dumps(row) + "\n" for row in rows)
    return {"md": markdown, "csv": _csv, "sql": _sql}[form](rows)


def require_writable(path: Path) -> None:
    """Raise FileError now rather than after an hour of measuring."""
    try:
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise _unwritable(path, error) from error


def write_file(path: Path, text: str) -> None:
    """Write `text` so that `path` is either as it was or whole. Raises FileError."""
    try:
        fd, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
        try:
            with os.fdopen(fd, "w", encoding="utf-8") as part:
                part.write(text)
                part.flush()
                os.fsync(part.fileno())
            os.chmod(name, 0o644)
            os.replace(name, path)
        except BaseException:
            os.unlink(name)
            raise
    except OSError as error:
        raise _unwritable(path, error) from error


def _unwritable(path: Path, error: OSError) -> FileError:
    return FileError(
        f"{path} cannot be written: {error.strerror}. Choose another place for the results.",
        where=str(path),
        expected="a writable place",
        found=str(error.strerror),
    )


def emit(stream: TextIO, rows: Sequence[Row], form: str) -> None:
    """Print `rows` at once."""
    stream.write(render(rows, form))
    stream.flush()
