"""Extent of the tests: small in `make test`, full matrices in `make test-all`, long forms in `make torture`."""

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
    """The (row, column) cases to run: all in the full matrix, else `each` columns per row in turn.

    With 10 objectives, 6 strategies and 2 per objective, every strategy is tried with 3 objectives or more.
    """
    if FULL:
        return [(row, column) for row in rows for column in columns]
    step = len(columns) // each
    return [
        (row, columns[(index + turn * step) % len(columns)]) for index, row in enumerate(rows) for turn in range(each)
    ]
