"""Filter expressions over the index: `country == 'Finland' and season == 'summer'`.

A fixed subset of Python's syntax, evaluated by Arrow on whole columns; nothing is executed. Names are columns.

    ==  !=  <  <=  >  >=       a column and a value, chains too: 55 < lat < 60
    in, not in                 a column and a list: country in ['Finland', 'Austria']; a value and a column of labels:
                               'Pastures' in labels_19; a piece of text and a column: 'T33' in s2_name
    is None, is not None       whether the sample has no value, or has one
    and, or, not, ( )

If a sample has no value in a column, a comparison with that column is false, and so is its `not`.
"""

import ast
from collections.abc import Callable
from typing import Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

_COMPARE: dict[type[ast.cmpop], Callable[..., pa.Array]] = {
    ast.Eq: pc.equal, ast.NotEq: pc.not_equal, ast.Lt: pc.less, ast.LtE: pc.less_equal, ast.Gt: pc.greater,
    ast.GtE: pc.greater_equal,
}  # fmt: skip
_MIRRORED = {ast.Lt: ast.Gt, ast.LtE: ast.GtE, ast.Gt: ast.Lt, ast.GtE: ast.LtE}
type_of_value = str | int | float | bool | None


class Columns(Protocol):
    """A table: columns of equal length, by name."""

    def column(self, name: str) -> pa.ChunkedArray:
        """One column. ValueError if it is unknown."""

    def __len__(self) -> int: ...


def matching_rows(table: Columns, expression: str) -> NDArray[np.bool_]:
    """[N] bool: the rows for which `expression` is true. ValueError if it is not a valid filter."""
    try:
        tree = ast.parse(expression.strip(), mode="eval").body
    except SyntaxError as error:
        raise _invalid(expression, f"{error.msg} at column {error.offset}") from None
    try:
        mask = _Evaluation(table, expression).evaluate(tree)
    except pa.ArrowException as error:
        raise _invalid(expression, str(error).splitlines()[0]) from None
    kept: NDArray[np.bool_] = mask.fill_null(False).to_numpy(zero_copy_only=False)
    return kept


class _Evaluation:
    """One expression over one table."""

    def __init__(self, table: Columns, expression: str) -> None:
        self._table, self._expression = table, expression

    def evaluate(self, node: ast.expr) -> pa.Array:
        """[N] true, false or null (if the sample has no value)."""
        if isinstance(node, ast.BoolOp):
            parts = [self.evaluate(value) for value in node.values]
            combine = pc.and_kleene if isinstance(node.op, ast.And) else pc.or_kleene
            result = parts[0]
            for part in parts[1:]:
                result = combine(result, part)
            return result
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
            return pc.invert(self.evaluate(node.operand))
        if isinstance(node, ast.Compare):
            sides = [node.left, *node.comparators]
            links = [self._comparison(*each) for each in zip(sides, node.ops, sides[1:], strict=False)]
            result = links[0]
            for link in links[1:]:
                result = pc.and_kleene(result, link)
            return result
        raise self._unsupported(node)

    def _comparison(self, left: ast.expr, operator: ast.cmpop, right: ast.expr) -> pa.Array:
        if isinstance(operator, (ast.In, ast.NotIn)):
            result = self._membership(left, right)
            return pc.invert(result) if isinstance(operator, ast.NotIn) else result
        if isinstance(left, ast.Name):
            column, value = self._column(left), self._value(right)
        elif isinstance(right, ast.Name):
            column, value = self._column(right), self._value(left)
            operator = _MIRRORED.get(type(operator), type(operator))()
        else:
            raise self._unsupported(left)
        if isinstance(operator, (ast.Is, ast.IsNot)) and value is None:
            return pc.is_null(column) if isinstance(operator, ast.Is) else pc.is_valid(column)
        if type(operator) not in _COMPARE or value is None:
            raise self._unsupported(right)
        return _COMPARE[type(operator)](column, pa.scalar(value))

    def _membership(self, left: ast.expr, right: ast.expr) -> pa.Array:
        if isinstance(left, ast.Name) and isinstance(right, (ast.List, ast.Tuple)):
            column = self._column(left)
            found = pc.is_in(column, pa.array([self._value(item) for item in right.elts]).cast(column.type))
            return pc.if_else(pc.is_valid(column), found, None)
        if not isinstance(right, ast.Name):
            raise self._unsupported(right)
        column, value = self._column(right), self._value(left)
        if not pa.types.is_list(column.type):
            return pc.match_substring(column, str(value))
        hits = pc.list_parent_indices(column).to_numpy()[pc.equal(pc.list_flatten(column), value).to_numpy(False)]
        mask = np.zeros(len(column), dtype=np.bool_)
        mask[hits] = True
        return pa.array(mask)

    def _column(self, node: ast.Name) -> pa.Array:
        return self._table.column(node.id).combine_chunks()

    def _value(self, node: ast.expr) -> type_of_value:
        try:
            value = ast.literal_eval(node)
        except ValueError:
            raise self._unsupported(node) from None
        if not isinstance(value, (str, int, float, type(None))):
            raise self._unsupported(node)
        return value

    def _unsupported(self, node: ast.expr) -> ValueError:
        return _invalid(self._expression, f"{ast.unparse(node)!r} is not supported there")


def _invalid(expression: str, reason: str) -> ValueError:
    return ValueError(
        f"The filter {expression!r} cannot be used: {reason}. Expected comparisons of columns with values, joined by "
        "and, or, not: country == 'Finland' and 'Pastures' in labels_19."
    )
