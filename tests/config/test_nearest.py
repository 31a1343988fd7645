"""The nearest known name."""

from __future__ import annotations

import pytest

from flowkit.errors import nearest

RECIPES = ["generic/mixture-flow-matching", "generic/mixture-ot", "speech/matcha-ljspeech", "speech/matcha-prompts"]
METRICS = ["eval/energy_distance", "eval/nfe", "eval/loss"]


@pytest.mark.parametrize(
    ("name", "known", "expected"),
    [
        ("generic/mixture-flow", RECIPES, "generic/mixture-flow-matching"),
        ("matcha-prompts", RECIPES, "speech/matcha-prompts"),
        ("eval/enrgy", METRICS, "eval/energy_distance"),
        ("euler", ["Euler", "Heun"], "Euler"),
        ("trainr", ["data", "task", "trainer"], "trainer"),
    ],
)
def test_a_slip_finds_what_was_meant(name: str, known: list[str], expected: str) -> None:
    assert nearest(name, known).startswith(f"did you mean {expected!r}?")


def test_what_is_like_nothing_gets_the_list() -> None:
    assert nearest("os.system", ["Euler", "Heun"]) == "known: Euler, Heun"
    assert nearest("x", []) == "none is known"
