"""Reading pickles of NumPy arrays from strangers: nothing but arrays is ever built."""

from __future__ import annotations

import pickle
from io import BufferedIOBase
from typing import Any

import numpy as np

from flowkit.errors import UserError

#: The only names that such a pickle may hold. Old and new NumPy keep ``_reconstruct`` at two places.
_ALLOWED = {
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    ("numpy.core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "_reconstruct"),
}


def _reconstruct(kind: type, shape: tuple[int, ...], code: Any) -> np.ndarray:
    """An empty array, as NumPy's own function makes; it is filled by the state that follows."""
    if kind is not np.ndarray:
        raise pickle.UnpicklingError(f"an array of class {kind!r}")
    return np.ndarray.__new__(np.ndarray, shape, code)


class _ArrayUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"it names {module}.{name}")
        return _reconstruct if name == "_reconstruct" else getattr(np, name)


def read_arrays(file: BufferedIOBase, name: str) -> Any:
    """The containers and NumPy arrays of a pickle.

    Args:
        file: opened for reading bytes.
        name: of the file, for messages.

    Raises:
        UserError: it is no pickle, it ends early, or it names anything but NumPy's array and dtype: such a file could
            run code, and is not read.
    """
    try:
        return _ArrayUnpickler(file).load()
    except Exception as error:  # a broken pickle raises nearly anything
        raise UserError(f"{name} is no pickle of NumPy arrays alone, so it is not read: {error}") from None
