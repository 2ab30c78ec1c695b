"""Inverses of symmetric positive definite matrices, in little memory."""

import torch
from torch import Tensor

LARGE = 4096
"""Side from which a CPU inverts by blocks; smaller inverses are LAPACK's, and keep their bits."""
BLOCK = 512
"""Side of the blocks on the diagonal that are factorised and inverted by LAPACK."""
WIDE = 512
"""Columns of a triangle that are multiplied at once."""


def inverse(matrix: Tensor) -> Tensor:
    """The inverse of a symmetric positive definite (I, I), which is overwritten; LinAlgError if it is not definite."""
    return inverse_by_blocks(matrix) if matrix.device.type == "cuda" else inverse_in_place(matrix)


def inverse_in_place(matrix: Tensor) -> Tensor:
    """The inverse of a symmetric positive definite (I, I), which is overwritten, on a CPU.

    LAPACK works on matrices that are stored column by column. The transposed one is, so nothing is copied. It is
    torch's: scipy's is a third faster on some processors, and ends the process at a side of 27,000 (SIGSEGV in potrf).
    Large matrices are inverted by products of large blocks, which take less time than LAPACK's routines.
    """
    if len(matrix) >= LARGE:
        return inverse_by_products(matrix, BLOCK, WIDE)
    by_column = matrix.T
    torch.linalg.cholesky_ex(by_column, check_errors=True, out=(by_column, torch.empty((), dtype=torch.int32)))
    torch.cholesky_inverse(by_column, out=by_column)
    return matrix


def inverse_by_products(matrix: Tensor, block: int, wide: int) -> Tensor:
    """`inverse_in_place` in three passes over the lower triangle, a row of blocks at a time: L, L⁻¹, L⁻ᵀL⁻¹.

    Each pass takes I³/3 multiplications and additions, nearly all in matrix products, whose second factor is read from
    the matrix itself. Beyond the matrix it holds rows of blocks, (block, I).
    """
    n = len(matrix)
    blocks = [slice(start, min(start + block, n)) for start in range(0, n, block)]
    _factorize(matrix, blocks)
    on_diagonal = _invert_triangle(matrix, blocks, wide)
    _square_triangle(matrix, blocks, on_diagonal)
    for at in blocks:
        matrix[: at.start, at] = matrix[at, : at.start].T
        lower = matrix[at, at].tril()  # (b, b); products of blocks are symmetric only within rounding
        matrix[at, at] = lower + lower.tril(-1).T
    return matrix


def _factorize(matrix: Tensor, blocks: list[slice]) -> None:
    """Overwrite the lower triangle of A (I, I) with L, A = LLᵀ, and the upper one with zeros."""
    for at in blocks:
        panel = matrix[at.start :, at]  # (I - start, b)
        panel.addmm_(matrix[at.start :, : at.start], matrix[at, : at.start].T, alpha=-1)
        own, below = panel[: at.stop - at.start], panel[at.stop - at.start :]  # (b, b), (I - stop, b)
        factor, failed = torch.linalg.cholesky_ex(own)  # (b, b)
        if failed:
            raise torch.linalg.LinAlgError(  # pyright: ignore[reportPrivateImportUsage]
                "linalg.cholesky_ex: The factorization could not be completed because the input is not "
                f"positive-definite (the leading minor of order {at.start + int(failed)} is not positive-definite)."
            )
        own.copy_(factor)
        if len(below):
            below.copy_(torch.linalg.solve_triangular(factor.T, below, upper=True, left=False))
        matrix[: at.start, at] = 0


def _invert_triangle(matrix: Tensor, blocks: list[slice], wide: int) -> list[Tensor]:
    """Overwrite L (I, I) with X = L⁻¹, and return (KKᵀ)⁻¹ of the blocks K on its diagonal, (b, b) each."""
    squares = []
    for at in blocks:
        factor = matrix[at, at]  # (b, b)
        squares.append(torch.cholesky_inverse(factor))
        own = torch.linalg.solve_triangular(factor, torch.eye(len(factor), dtype=matrix.dtype), upper=False)  # (b, b)
        before = matrix[at, : at.start]  # (b, start) of L
        for start in range(0, at.start, wide):  # X is 0 above its diagonal
            columns = slice(start, min(start + wide, at.start))
            product = before[:, start:] @ matrix[start : at.start, columns]  # (b, wide)
            torch.mm(own, product.neg_(), out=before[:, columns])
        factor.copy_(own)
    return squares


def _square_triangle(matrix: Tensor, blocks: list[slice], on_diagonal: list[Tensor]) -> None:
    """Overwrite the lower triangle of X (I, I) with that of XᵀX.

    The largest terms of a sum are those of the block's own rows. The others are summed up before they are added, which
    keeps their low bits; with one product over all rows errors are twice as large.
    """
    for at, square in zip(blocks, on_diagonal, strict=True):
        row = matrix[at, : at.stop]  # (b, stop)
        own, below = row[:, at.start :].clone(), matrix[at.stop :, : at.stop]  # (b, b), (I - stop, stop)
        row[:, : at.start] = own.T @ row[:, : at.start]
        row[:, at.start :] = square
        row += below[:, at.start :].T @ below


def inverse_by_blocks(matrix: Tensor, block: int = 4096) -> Tensor:
    """The inverse of a symmetric positive definite (I, I), which is overwritten: L⁻ᵀL⁻¹, skipping blocks of zeros.

    A third of the work of `cholesky_inverse` on CUDA, which solves for the whole unit matrix.
    """
    lower = torch.linalg.cholesky(matrix)  # (I, I) = L
    inverse, n = matrix.zero_(), len(matrix)  # becomes L⁻¹
    for start in range(0, n, block):
        unit = lower.new_zeros(n - start, min(block, n - start))
        unit.fill_diagonal_(1)
        columns = torch.linalg.solve_triangular(lower[start:, start:], unit, upper=False)  # (I - start, block)
        inverse[start:, start : start + block] = columns
    product = lower  # is no longer needed
    for start in range(0, n, block):
        end = min(start + block, n)
        torch.mm(inverse[start:, start:end].T, inverse[start:, :end], out=product[start:end, :end])
        product[:start, start:end] = product[start:end, :start].T
    return product.T if product.stride(0) == 1 else product  # symmetric, and LAPACK's are column by column
