"""Reading rows of JSON with errors that say where: file, line or entry, field."""

import json
from collections.abc import Iterator
from pathlib import Path

from hybrid.tasks.task import read_lines, read_text


def json_lines(path: Path) -> Iterator[tuple[str, dict[str, object]]]:
    """(place, row) for each line of a JSON-lines file.

    Raises:
        ValueError: a line that is not a JSON object.
    """
    for place, line in read_lines(path):
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(f"{place}: not JSON ({error.msg} at character {error.pos})") from None
        except (ValueError, RecursionError) as error:  # numbers too long, brackets too deep
            raise ValueError(f"{place}: not readable as JSON ({error})") from None
        if "\\ud" in line.lower():
            _check_characters(row, place)
        yield place, _object(row, place)


def json_list(path: Path) -> Iterator[tuple[str, dict[str, object]]]:
    """(place, row) for each entry of a file that holds one JSON list; places count entries from 1.

    Raises:
        ValueError: not a JSON list of objects; a syntax error names its line.
    """
    try:
        rows = json.loads(read_text(path))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}, line {error.lineno}: not JSON ({error.msg})") from None
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: not readable as JSON ({error})") from None
    if not isinstance(rows, list):
        raise ValueError(f"{path}, line 1: must hold one JSON list, not {type(rows).__name__}")
    for number, row in enumerate(rows, 1):
        _check_characters(row, f"{path}, entry {number}")
        yield f"{path}, entry {number}", _object(row, f"{path}, entry {number}")


def text_of(row: dict[str, object], field: str, place: str) -> str:
    """A string field.

    Raises:
        ValueError: the field is missing or not a string.
    """
    if field not in row:
        raise ValueError(f"{place}: field {field!r} is missing; the row has {', '.join(sorted(row)) or 'none'}")
    value = row[field]
    if not isinstance(value, str):
        raise ValueError(f"{place}: field {field!r} must be a string, not {type(value).__name__}")
    return value


def texts_of(row: dict[str, object], field: str, place: str) -> list[str]:
    """A field that is a list of strings.

    Raises:
        ValueError: the field is missing or something else.
    """
    value = row.get(field)
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        found = "is missing" if field not in row else "must be a list of strings"
        raise ValueError(f"{place}: field {field!r} {found}")
    return value


def _check_characters(row: object, place: str) -> None:
    """Refuse half a character, as texts that were cut by UTF-16 units end in."""
    try:
        json.dumps(row, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"{place}: half of a surrogate pair ({error.object[error.start]!r}), no character") from None


def _object(row: object, place: str) -> dict[str, object]:
    if not isinstance(row, dict):
        raise ValueError(f"{place}: must be a JSON object with named fields, not {type(row).__name__}")
    return row
