"""A file of JSON objects, one a line, that survives being killed in the middle of a line."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TextIO


def read_rows(file: str | Path) -> Iterator[dict[str, Any]]:
    """Yield the rows of a file; a last line cut off by a kill is left out.

    Raises:
        ValueError: if a line other than the last is no JSON object.
    """
    lines = Path(file).read_bytes().split(b'\n')
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError:
            row = None
        if isinstance(row, dict):
            yield row
        elif number < len(lines):  # the last piece has no newline after it: a half-written row
            text = line[:60].decode('utf-8', errors='replace')
            raise ValueError(f'{file}, line {number}: expected one JSON object, found {text!r}')


def keep_rows(file: str | Path, keep: Callable[[dict[str, Any]], bool]) -> int:
    """Rewrite a file with those rows that ``keep`` wants, in one rename; return how many went.

    A half-written last line goes too, so that the next row starts on a line of its own.
    """
    file = Path(file)
    rows = list(read_rows(file))
    kept = [row for row in rows if keep(row)]
    text = ''.join(encode_row(row) for row in kept)
    if text.encode() != file.read_bytes():
        partial = file.with_name(file.name + '.partial')
        partial.write_text(text, encoding='utf-8')
        partial.replace(file)
    return len(rows) - len(kept)


def append_row(stream: TextIO, row: dict[str, Any]) -> None:
    """Write one row and hand it to the operating system, which keeps it if the process dies."""
    stream.write(encode_row(row))
    stream.flush()


def encode_row(row: dict[str, Any]) -> str:
    """One line of JSON with floats at full precision; NaN and infinities as JavaScript's words."""
    return json.dumps(row, ensure_ascii=False) + '\n'


def is_number(value: Any) -> bool:
    """Whether a value of a row can be drawn: a finite number, no flag."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
