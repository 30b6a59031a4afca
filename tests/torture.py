"""How much a test tries: `make test` little, `make test-all` the full matrices, `make torture` the long forms."""

import os
from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")
TORTURE = bool(os.environ.get("RSPRETRAIN_TORTURE"))
FULL = TORTURE or bool(os.environ.get("RSPRETRAIN_FULL"))


def times(usual: int, long: int) -> int:
    """The number of random cases: `usual`, or `long` in the long form."""
    return long if TORTURE else usual


def matrix(rows: Sequence[str], columns: Sequence[T], each: int = 2) -> list[tuple[str, T]]:
    """Which (row, column) to try: all of them in the full matrix, else `each` columns per row, dealt out in turn.

    With 10 objectives, 6 strategies and 2 per objective, every strategy is tried with 3 objectives or more.
    """
    if FULL:
        return [(row, column) for row in rows for column in columns]
    step = len(columns) // each
    return [
        (row, columns[(place + turn * step) % len(columns)]) for place, row in enumerate(rows) for turn in range(each)
    ]
