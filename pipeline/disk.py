"""A full disk, in whatever way the libraries say it."""

import errno

ADVICE = (
    "No space is left to write to. Free some, then run again: finished stages are kept, and the published tables "
    "are whole."
)
_NUMBERS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_WORDS = ("no space left on device", "disk quota exceeded", "file too large", "database or disk is full")


def is_full(error: BaseException) -> bool:
    """Whether an error, or what it came from, is that there is no space left.

    DuckDB, Polars, Arrow and safetensors raise errors of their own, which only say it.
    """
    seen: BaseException | None = error
    while seen is not None:
        text = str(seen).lower()
        if getattr(seen, "errno", None) in _NUMBERS or any(words in text for words in _WORDS):
            return True
        seen = seen.__cause__ or seen.__context__
    return False
