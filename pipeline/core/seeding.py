"""Named random streams: the same names and seed always give the same stream, in every process."""

import hashlib

import numpy as np


def seed_of(seed: int, *names: object) -> int:
    """Derive a 63-bit seed from `seed` and `names` by BLAKE2 (stable across processes and versions)."""
    text = "\x1f".join([str(seed), *map(str, names)])
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") >> 1


def generator(seed: int, *names: object) -> np.random.Generator:
    """A numpy generator for one purpose, e.g. `generator(42, "negatives", "valid")`."""
    return np.random.Generator(np.random.PCG64(seed_of(seed, *names)))


def stable_hash(text: str) -> int:
    """64-bit BLAKE2 hash of a source id; the same on every machine and in every run."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


def mix(*parts: np.ndarray) -> np.ndarray:
    """Combine uint64 arrays of equal length into one well-spread uint64 array.

    Finaliser of splitmix64 (Steele, Lea, Flood 2014, fig. 15), chained over the parts.
    """
    out = np.zeros(len(parts[-1]), dtype=np.uint64)
    with np.errstate(over="ignore"):
        for part in parts:
            out = (out ^ part.astype(np.uint64)) + np.uint64(0x9E3779B97F4A7C15)
            out = (out ^ (out >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
            out = (out ^ (out >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
            out ^= out >> np.uint64(31)
    return out
