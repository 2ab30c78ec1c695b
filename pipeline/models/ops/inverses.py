"""Inverses of symmetric positive definite matrices, in little memory."""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

LARGE = 4096
"""Side from which scipy's LAPACK inverts on a CPU, if it is there: on processors that are not of Intel it takes a third
less time than torch's. Smaller inverses keep their bits."""
BLOCK = 1024
"""Side of the blocks in which a triangle is copied."""


def inverse(matrix: Tensor) -> Tensor:
    """The inverse of a symmetric positive definite (I, I), which is overwritten; LinAlgError if it is not definite."""
    return inverse_by_blocks(matrix) if matrix.device.type == "cuda" else inverse_in_place(matrix)


def inverse_in_place(matrix: Tensor) -> Tensor:
    """The inverse of a symmetric positive definite (I, I), which is overwritten, on a CPU.

    LAPACK works on matrices that are stored column by column. The transposed one is, so nothing is copied.
    """
    if len(matrix) >= LARGE and matrix.dtype == torch.float32 and _invert_by_scipy(matrix):
        return matrix
    by_column = matrix.T
    torch.linalg.cholesky_ex(by_column, check_errors=True, out=(by_column, torch.empty((), dtype=torch.int32)))
    torch.cholesky_inverse(by_column, out=by_column)
    return matrix


def _invert_by_scipy(matrix: Tensor) -> bool:
    """Overwrite a matrix (I, I) of float32 with its inverse; False: there is no scipy, or it would copy the matrix."""
    if not matrix.is_contiguous():
        return False
    try:
        from scipy.linalg import get_lapack_funcs
    except ImportError:
        return False
    by_column = matrix.numpy().T
    factorize, invert = get_lapack_funcs(("potrf", "potri"), (by_column,))
    with _blas_threads(torch.get_num_threads()):
        factor, failed = factorize(by_column, lower=1, clean=0, overwrite_a=1)
        if not failed:
            _, failed = invert(factor, lower=1, overwrite_c=1)
        if failed:
            raise torch.linalg.LinAlgError(  # pyright: ignore[reportPrivateImportUsage]
                f"the matrix is not positive definite: leading minor of order {failed}"
            )
    for top in range(0, len(matrix), BLOCK):  # the lower triangle by column is the upper one by row
        own = matrix[top : top + BLOCK, top : top + BLOCK]
        own.copy_(own.triu() + own.triu(1).T)
        for start in range(top + BLOCK, len(matrix), BLOCK):
            matrix[start : start + BLOCK, top : top + BLOCK] = matrix[top : top + BLOCK, start : start + BLOCK].T
    return True


def _blas_threads(n: int) -> AbstractContextManager[object]:
    """Limits the threads of scipy's BLAS, which does not know of torch's."""
    try:
        from threadpoolctl import threadpool_limits
    except ImportError:
        return nullcontext()
    return threadpool_limits(n, user_api="blas")


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
