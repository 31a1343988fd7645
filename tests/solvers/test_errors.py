"""A user's mistakes: one line that names the value and the way out."""

from __future__ import annotations

import re

import pytest
import torch
from jaxtyping import TypeCheckError

from flowkit.errors import UserError
from flowkit.solvers.controllers import FixedSteps, Tolerance
from flowkit.solvers.dormand_prince import DormandPrince
from flowkit.solvers.euler import Euler
from flowkit.solvers.save import STEPS
from flowkit.solvers.solve import solve

X = torch.ones(2, 3)


def v(x, t):
    return -x


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"solver": Euler()}, r"Euler does not estimate its error: say controller=FixedSteps"),
        (
            {"solver": Euler(), "controller": Tolerance()},
            r"Euler does not estimate its error, so Tolerance cannot steer it",
        ),
        ({"solver": DormandPrince(), "save": STEPS}, r"save=STEPS needs FixedSteps"),
        ({"solver": DormandPrince(), "save": [0.5, 1.5]}, r"t = 1.5, outside of the span from 0 to 1"),
        ({"solver": DormandPrince(), "save": "everything"}, r"'everything'"),
        ({"solver": DormandPrince(), "span": (0.0, float("inf"))}, r"two finite times"),
        ({"solver": DormandPrince(), "x": torch.ones(2, 3, dtype=torch.int64)}, r"torch.int64 of shape \(2, 3\)"),
        ({"solver": DormandPrince(), "x": torch.tensor(1.0)}, r"batch first"),
        (
            {"solver": DormandPrince(), "field": lambda x, t: x[:, :1]},
            r"returned shape \(2, 1\) for a state of shape \(2, 3\)",
        ),
        ({"solver": Euler(), "controller": FixedSteps(2), "field": lambda x, t: x.sum()}, r"returned shape \(\)"),
        ({"solver": DormandPrince(), "field": lambda x: x}, r"\(x, t\) or \(x, t, cond\), not \(x\)"),
        ({"solver": DormandPrince(), "field": lambda x, t, c, d: x}, r"\(x, t\) or \(x, t, cond\)"),
    ],
)
def test_solve_says_what_is_wrong(arguments: dict, words: str) -> None:
    arguments = {"field": v, "x": X, **arguments}
    with pytest.raises((UserError, TypeCheckError)) as caught:
        solve(arguments.pop("field"), arguments.pop("x"), **arguments)
    if caught.type is TypeCheckError:
        pytest.skip("the type checker of the test run was there first")
    assert re.search(words, str(caught.value))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: FixedSteps(0), "at least 1, not 0"),
        (lambda: FixedSteps(2.5), "not 2.5"),  # pyright: ignore[reportArgumentType]
        (lambda: Tolerance(-1e-3), "rtol = -0.001"),
        (lambda: Tolerance(0.0, 0.0), "one of them must be positive"),
        (lambda: Tolerance(grow=0.5), "grow = 0.5"),
        (lambda: Tolerance(first_size=0.0), "first_size"),
    ],
)
def test_controllers_say_what_is_wrong(make, words: str) -> None:
    with pytest.raises((UserError, TypeCheckError)) as caught:
        make()
    if caught.type is TypeCheckError:
        pytest.skip("the type checker of the test run was there first")
    assert re.search(words, str(caught.value))
