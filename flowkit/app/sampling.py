"""The sampler's part of a panel: controls that fit a model, and the sampler that a person's choices make of its own."""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from flowkit.app.controls import Choice, Control, Slider
from flowkit.config import plugins
from flowkit.config.classes import known
from flowkit.errors import UserError
from flowkit.fields.guidance import ClassifierFree
from flowkit.objectives.objective import Objective
from flowkit.solvers.controllers import Tolerance
from flowkit.solvers.sampler import Sampler
from flowkit.solvers.solver import Controller, Solver
from flowkit.solvers.variance_adaptive import VarianceAdaptive

#: Who chooses the steps.
FIXED, TOLERANCE, SPREAD, OWN = "a fixed number", "a tolerance", "the learnt spread", "the model's own controller"
_MOST_STEPS, _TOLERANCES = 50, ("1e-1", "1e-2", "1e-3", "1e-4", "1e-5")
#: Prefix of the names of these controls.
PREFIX = "sampler."


def solvers() -> dict[str, type[Solver]]:
    """Solvers that need no arguments, by name."""
    plugins.import_classes()
    found = known(Solver)
    return {name: cls for name, cls in sorted(found.items()) if _bare(cls)}


def _bare(cls: type) -> bool:
    empty = inspect.Parameter.empty
    bound = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return all(p.default is not empty or p.kind in bound for p in inspect.signature(cls).parameters.values())


def sampler_controls(sampler: Sampler, objective: Objective, *, spread: bool = False) -> list[Control]:
    """Controls for what differs from the model's own ``sampler``.

    Args:
        sampler: as the model was saved.
        objective: decides whether there is guidance to choose.
        spread: the model predicts how spread its targets are: the steps can follow that.
    """
    controller, own = sampler.controller, type(sampler.solver).__name__
    ways = [FIXED, TOLERANCE, *([SPREAD] if spread or isinstance(controller, VarianceAdaptive) else ())]
    way = _way(controller)
    ways += [way] if way not in ways else []
    steps = getattr(controller, "max_steps", sampler.steps)
    names = [own, *(name for name in solvers() if name != own)]
    tolerance = f"{controller.rtol:.0e}".replace("e-0", "e-") if isinstance(controller, Tolerance) else "1e-3"
    eta = controller.eta if isinstance(controller, VarianceAdaptive) and math.isfinite(controller.eta) else 0.125
    most = max(_MOST_STEPS, steps)
    controls: list[Control] = [
        Choice(
            name=f"{PREFIX}steps_by", label="Steps are chosen by", options=ways, value=way,
            info="fixed: the same cost for all" + ("; spread: few where the answer is clear" if SPREAD in ways else ""),
        ),
        Slider(name=f"{PREFIX}steps", label="Steps", low=1, high=most, value=steps, when=(f"{PREFIX}steps_by", FIXED)),
        Choice(
            name=f"{PREFIX}tolerance", label="Tolerance", options=sorted({*_TOLERANCES, tolerance}, key=float)[::-1],
            value=tolerance, when=(f"{PREFIX}steps_by", TOLERANCE), info="needs a solver with an error estimate",
        ),
    ]  # fmt: skip
    if SPREAD in ways:
        when = (f"{PREFIX}steps_by", SPREAD)
        controls += [
            Slider(name=f"{PREFIX}most", label="Most steps", low=1, high=most, value=steps, when=when),
            Slider(
                name=f"{PREFIX}eta", label="Error of a step (eta)", low=0.0, high=max(1.0, eta), value=eta, step=0.005,
                when=when, info="smaller: more steps",
            ),
        ]  # fmt: skip
    controls.append(Choice(name=f"{PREFIX}solver", label="Solver", options=names, value=own))
    if getattr(objective, "drop_condition", 0.0) or isinstance(sampler.guidance, ClassifierFree):
        scale = float(getattr(sampler.guidance, "scale", 1.0))
        controls.append(
            Slider(
                name=f"{PREFIX}guidance", label="Guidance", low=0.0, high=max(8.0, scale), value=scale, step=0.1,
                info="1 is none; others cost two network calls",
            )
        )  # fmt: skip
    temperature = float(sampler.temperature)
    controls.append(
        Slider(
            name=f"{PREFIX}temperature", label="Temperature", low=0.0, high=max(1.5, temperature), value=temperature,
            step=0.05, info="scale of the noise that sampling starts from", more=True,
        )
    )  # fmt: skip
    return controls


def _way(controller: Controller | None) -> str:
    if controller is None:
        return FIXED
    ways = {Tolerance: TOLERANCE, VarianceAdaptive: SPREAD}
    return next((way for cls, way in ways.items() if isinstance(controller, cls)), OWN)


def chosen_sampler(sampler: Sampler, asked: Mapping[str, Any]) -> Sampler:
    """``sampler`` with the values of its controls; what has none stays as it was.

    Raises:
        UserError: a value that cannot be.
    """
    given = {name.removeprefix(PREFIX): value for name, value in asked.items() if name.startswith(PREFIX)}
    changes: dict[str, Any] = {}
    way = given.get("steps_by", OWN)
    if way == FIXED:
        changes |= {"steps": _whole(given["steps"], "steps"), "controller": None}
    elif way == TOLERANCE:
        tolerance = float(given["tolerance"])
        changes["controller"] = Tolerance(rtol=tolerance, atol=tolerance)
    elif way == SPREAD:
        head = {} if not isinstance(sampler.controller, VarianceAdaptive) else {"head": sampler.controller.head}
        changes["controller"] = VarianceAdaptive(
            eta=float(given["eta"]), max_steps=_whole(given["most"], "most steps"), **head
        )
    name = given.get("solver", type(sampler.solver).__name__)
    if name != type(sampler.solver).__name__:
        changes["solver"] = solvers()[name]()
    if "guidance" in given:
        changes["guidance"] = _guidance(sampler, float(given["guidance"]))
    if "temperature" in given:
        changes["temperature"] = float(given["temperature"])
    return replace(sampler, **changes)


def _guidance(sampler: Sampler, scale: float) -> Any:
    if float(getattr(sampler.guidance, "scale", 1.0)) == scale:
        return sampler.guidance
    return None if scale == 1.0 else ClassifierFree(scale)


def _whole(value: Any, name: str) -> int:
    if value is None or int(value) < 1:
        raise UserError(f"{name}: at least 1")
    return int(value)
