"""Reference: conditions as they were before DuckDB's expressions, parsed as Python and translated to Polars."""

import ast
from collections.abc import Callable
from typing import Any

import polars as pl

from pipeline.core.errors import SettingsError

ALLOWED = "`rating OP number` (OP is one of < <= > >= == !=), `rated`, `not …`, `and`, `or`, parentheses"
COMPARE: dict[type, Callable[[Any, Any], pl.Expr]] = {
    ast.Lt: lambda a, b: a < b,
    ast.LtE: lambda a, b: a <= b,
    ast.Gt: lambda a, b: a > b,
    ast.GtE: lambda a, b: a >= b,
    ast.Eq: lambda a, b: a == b,
    ast.NotEq: lambda a, b: a != b,
}


def condition(text: str, key: str) -> pl.Expr:
    """A boolean Polars expression, never null, on the column `rating`, from e.g. `rating >= 4 or not rated`.

    A comparison of a missing rating is neither true nor false; a row passes only if the whole condition is true.
    Raises SettingsError with `key`, the text that is wrong and what is allowed.
    """
    try:
        return _build(ast.parse(text.strip(), mode="eval").body).fill_null(False)
    except _NotAllowed as fault:
        raise _error(text, key, f"{ast.unparse(fault.node)!r} is not allowed") from None
    except SyntaxError as error:
        raise _error(text, key, f"can't be parsed ({error.msg})") from None
    except (ValueError, OverflowError, RecursionError, MemoryError) as error:
        raise _error(text, key, f"can't be parsed ({error or type(error).__name__})") from None


class _NotAllowed(Exception):
    """A node of a condition that the grammar does not allow."""

    def __init__(self, node: ast.AST):
        self.node = node


def _build(node: ast.AST) -> pl.Expr:
    match node:
        case ast.BoolOp(op=ast.And()):
            return pl.all_horizontal([_build(value) for value in node.values])
        case ast.BoolOp(op=ast.Or()):
            return pl.any_horizontal([_build(value) for value in node.values])
        case ast.UnaryOp(op=ast.Not()):
            return ~_build(node.operand)
        case ast.Name(id="rated"):
            return pl.col("rating").is_not_null()
        case ast.Compare(ops=[op], left=ast.Name(id="rating"), comparators=[right]) if type(op) in COMPARE:
            return COMPARE[type(op)](pl.col("rating"), _number(right))
        case _:
            raise _NotAllowed(node)


def _number(node: ast.AST) -> float:
    match node:
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -_number(operand)
        case ast.Constant(value=int() | float() as value) if not isinstance(value, bool):
            return float(value)
        case _:
            raise _NotAllowed(node)


def _error(text: str, key: str, problem: str) -> SettingsError:
    return SettingsError(f"{key} = {text!r}: {problem}; allowed is {ALLOWED}")
