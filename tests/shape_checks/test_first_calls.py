"""Shapes are checked while tests run: of each function in each test anew, and not for ever."""

from __future__ import annotations

import sys

import jaxtyping
import pytest
import torch

from flowkit.paths.linear import LinearPath

if "first_calls" not in sys.modules:
    pytest.skip("pytest runs without the type checker", allow_module_level=True)
from first_calls import ENOUGH

X0, X1, T = torch.zeros(3, 2), torch.ones(3, 2), torch.full((3,), 0.5)


@pytest.mark.parametrize("_round", [1, 2])
def test_wrong_shapes_are_refused_in_every_test_until_a_function_was_called_often(_round):
    path = LinearPath()
    with pytest.raises(jaxtyping.TypeCheckError, match="coefficients"):
        path.coefficients(0.5)  # pyright: ignore[reportArgumentType]
    for _ in range(ENOUGH):
        path.coefficients(T)
    assert path.coefficients(X0)[0].shape == X0.shape  # not checked any more
    with pytest.raises(jaxtyping.TypeCheckError):
        path.at(X0, X1, torch.zeros(2))  # other functions are
