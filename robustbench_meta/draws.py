"""Numbers that belong to a name, the same on every machine: numpy promises that the raw words of PCG64 never change."""

from __future__ import annotations

import hashlib

import numpy as np


def bits(name: str) -> np.random.PCG64:
    """Return the source of raw 64-bit words that belongs to a name."""
    return np.random.PCG64(int.from_bytes(hashlib.sha256(name.encode()).digest(), "big"))


def uniform(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Draw from [-1, 1): float64 of `shape`."""
    words: np.ndarray = bits(name).random_raw(int(np.prod(shape)))
    drawn: np.ndarray = ((words >> np.uint64(11)) * 2.0**-52 - 1).reshape(shape)
    return drawn
