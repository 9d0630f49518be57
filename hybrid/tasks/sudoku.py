"""Sudoku, 4x4 and 9x9, scored by its rules."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from math import isqrt
from pathlib import Path
from typing import ClassVar

from hybrid.kinds import register
from hybrid.records import Example, Score
from hybrid.tasks.json_rows import json_lines, text_of
from hybrid.tasks.procedural import Drawn, Draws, Procedural
from hybrid.tasks.task import NOTHING, Task, example, read_lines, read_text


@register(Task, "sudoku")
@dataclass(frozen=True)
class Sudoku(Procedural):
    """Prompt `1000\\n0002\\n4003\\n0000`, rows of digits with 0 for empty; sketch and answer are the full
    grid.

    A grid is right when every row, column and box holds every digit once and it keeps the givens; a puzzle
    with nothing to fill in is refused. Files hold `{"input": puzzle, "output": grid}` a line, or one puzzle
    a line without solution (81 characters, 0 or . for empty), which is solved while reading: milliseconds
    each, more for hard ones.

    Made puzzles are 4x4 and have one solution. There are only 288 full 4x4 grids, so what is new in a
    held-out puzzle is its givens, never its solution.

    size: side of the grid, 4 or 9; 9x9 puzzles are read, not made.
    fewest, most: made puzzles aim at a number of givens uniform between these, and have more where one
        solution needs.
    """

    answer_is: ClassVar[str] = "the sketch"
    source: ClassVar[str] = (
        "4x4 files: github.com/DreamLM/Dream, eval/data/sudoku_4x4_*.jsonl; 9x9: any list of 81-character puzzles."
    )

    size: int = 4
    fewest: int = 4
    most: int = 12

    def __post_init__(self) -> None:
        if self.size not in (4, 9):
            raise ValueError(f"size = {self.size}: must be 4 or 9")
        if not 0 <= self.fewest <= self.most <= 15:
            raise ValueError(f"fewest = {self.fewest}, most = {self.most}: must be 0 <= fewest <= most <= 15")

    @property
    def prompt_form(self) -> tuple[str, str]:
        row = f"[0-{self.size}]{{{self.size}}}"
        return rf"{row}(\n{row}){{{self.size - 1}}}", f"{self.size} lines of {self.size} digits, 0 for empty"

    def generate(self, split: str, seed: int, exclude: frozenset[int] = NOTHING) -> Drawn:
        if self.size != 4:
            Task.generate(self, split, seed, exclude)
        return super().generate(split, seed, exclude)

    def draw(self, draws: Draws) -> tuple[str, str, str]:
        grids, with_digit = _small_grids()
        grid = grids[draws.below(len(grids))]
        wanted = draws.between(self.fewest, self.most)
        puzzle, agreeing = ["0"] * 16, (1 << len(grids)) - 1
        for given, cell in enumerate(draws.order(16)):
            if given >= wanted and agreeing.bit_count() == 1:
                break
            puzzle[cell] = grid[cell]
            agreeing &= with_digit[cell][int(grid[cell])]
        solved = _rows(grid, 4)
        return _rows("".join(puzzle), 4), solved, solved

    def read(self, path: Path) -> list[Example]:
        as_json = read_text(path).lstrip().startswith("{")
        return list(self._read_solved(path) if as_json else self._read_puzzles(path))

    def _read_solved(self, path: Path) -> Iterator[Example]:
        for place, row in json_lines(path):
            puzzle, grid = (text_of(row, field, place) for field in ("input", "output"))
            self._check(puzzle, f"{place}: field 'input'")
            if not is_solution(puzzle, grid, self.size):
                raise ValueError(f"{place}: field 'output' does not solve the puzzle: {grid!r}")
            yield example(puzzle, grid, grid)

    def _read_puzzles(self, path: Path) -> Iterator[Example]:
        for place, line in read_lines(path):
            puzzle = _rows(line.strip().replace(".", "0"), self.size)
            self._check(puzzle, place)
            grid = solve(puzzle.replace("\n", ""))
            if grid is None:
                raise ValueError(f"{place}: the puzzle has no solution")
            yield example(puzzle, _rows(grid, self.size), _rows(grid, self.size))

    def _check(self, puzzle: str, place: str) -> None:
        digits = set("0123456789"[: self.size + 1])
        if [len(row) for row in puzzle.split("\n")] != [self.size] * self.size or set(puzzle) - digits - {"\n"}:
            raise ValueError(f"{place}: not {self.size} rows of {self.size} digits, 0 for empty: {puzzle!r}")
        if "0" not in puzzle:
            raise ValueError(f"{place}: the puzzle has nothing to fill in")

    def score(self, example: Example, sketch: str, answer: str) -> Score:
        drafted = is_solution(example.prompt, sketch.strip(), self.size)
        return Score(
            answer_correct=is_solution(example.prompt, answer.strip(), self.size),
            sketch_exact=sketch.strip() == example.sketch,
            sketch_valid=drafted,
            draft_correct=drafted,
        )


def is_solution(puzzle: str, grid: str, size: int) -> bool:
    """Whether `grid` obeys the rules and the givens, and something was left to fill in."""
    if len(grid) != len(puzzle) or "0" not in puzzle:
        return False
    if any(given not in ("0", digit) for given, digit in zip(puzzle, grid, strict=True)):
        return False
    cells = grid.replace("\n", "")
    digits = set("123456789"[:size])
    return len(cells) == size**2 and all({cells[c] for c in unit} == digits for unit in _units(size))


def solve(puzzle: str) -> str | None:
    """The first solution of a puzzle of size**2 digits, by depth-first search on the emptiest choice; None
    if none."""
    size = isqrt(len(puzzle))
    full = (1 << size) - 1
    open_digits = [full if c == "0" else 1 << int(c) - 1 for c in puzzle]
    found = _search([full] * size**2, [(c, bits) for c, bits in enumerate(open_digits) if bits != full], size)
    return None if found is None else "".join(str(bits.bit_length()) for bits in found)


def _search(cells: list[int], fixes: list[tuple[int, int]], size: int) -> list[int] | None:
    """Depth first; `cells` holds the digits still possible as bits and is altered."""
    peers, units = _peers(size), _units(size)
    while fixes:
        cell, bit = fixes.pop()
        if cells[cell] & bit == 0 or bit & (bit - 1):  # the digit is gone, or two digits need this cell
            return None
        cells[cell] = bit
        for peer in peers[cell]:
            if cells[peer] & bit:
                left = cells[peer] = cells[peer] & ~bit
                if left == 0:
                    return None
                if left & (left - 1) == 0:
                    fixes.append((peer, left))
        if not fixes:
            for unit in units:  # a digit with one place left in a unit
                once = twice = 0
                for c in unit:
                    twice |= once & cells[c]
                    once |= cells[c]
                if once != (1 << size) - 1:
                    return None
                once &= ~twice
                fixes += [(c, cells[c] & once) for c in unit if cells[c] & once and cells[c] & (cells[c] - 1)]
    choices = [(bits.bit_count(), c) for c, bits in enumerate(cells) if bits & (bits - 1)]
    if not choices:
        return cells
    cell = min(choices)[1]
    for digit in range(size):
        if cells[cell] >> digit & 1:
            found = _search(list(cells), [(cell, 1 << digit)], size)
            if found is not None:
                return found
    return None


@lru_cache
def _units(size: int) -> tuple[tuple[int, ...], ...]:
    """Cells of each row, column and box."""
    box, side = isqrt(size), range(size)
    rows = [tuple(r * size + c for c in side) for r in side]
    columns = [tuple(r * size + c for r in side) for c in side]
    boxes = [tuple((i // box * box + j // box) * size + i % box * box + j % box for j in side) for i in side]
    return (*rows, *columns, *boxes)


@lru_cache
def _peers(size: int) -> tuple[tuple[int, ...], ...]:
    """For each cell, the others of its row, column and box."""
    return tuple(tuple(sorted({p for unit in _units(size) if c in unit for p in unit} - {c})) for c in range(size**2))


@lru_cache
def _small_grids() -> tuple[list[str], list[list[int]]]:
    """The 288 full 4x4 grids, and for each cell and digit the grids that have it there, as bits."""
    grids, open_grids = [], [""]
    for cell in range(16):
        peers = [p for p in _peers(4)[cell] if p < cell]
        open_grids = [g + d for g in open_grids for d in "1234" if all(g[p] != d for p in peers)]
    grids = sorted(open_grids)
    return grids, [[sum(1 << i for i, g in enumerate(grids) if g[c] == str(d)) for d in range(5)] for c in range(16)]


def _rows(cells: str, size: int) -> str:
    return "\n".join(cells[i : i + size] for i in range(0, len(cells), size))
