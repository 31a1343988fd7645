"""The key ``teacher`` of a recipe: a trained run that the objective learns from, and that the student begins as."""

from __future__ import annotations

from flowkit import adapters
from flowkit.artifacts import from_pretrained
from flowkit.config.recipe import Recipe
from flowkit.errors import UserError
from flowkit.objectives.teacher import Teacher
from flowkit.procedures.pair_store import weights_digest
from flowkit.tasks import Task

__all__ = ["begin_as", "teach"]


def teach(recipe: Recipe, student: Task) -> Teacher | None:
    """Load the teacher that ``recipe`` names, on the CPU, and let ``student`` begin as it; None where there is none.

    Raises:
        UserError: the objective needs a teacher and the recipe names none, or the other way round, or the teacher has
            other networks than its student.
    """
    name, kind = recipe.resolved.get("teacher"), type(student.objective).__name__
    if not student.objective.needs_teacher:
        if name:
            raise UserError(f"{recipe.name}: {kind} learns from data alone: take the key teacher out")
        return None
    if not name:
        raise UserError(f"{recipe.name}: {kind} learns from a trained flow: name it by the key teacher (--teacher)")
    artifact = from_pretrained(str(name))
    adapters.merge(artifact.task)  # the student is a plain model
    begin_as(student, artifact.task, str(name))
    return Teacher(
        artifact.task.objective,
        artifact.task.networks,
        artifact.sampler,
        name=str(name),
        digest=weights_digest(artifact.task.state_dict()),
    )


def begin_as(student: Task, teacher: Task, name: str) -> None:
    """Copy the teacher's state: all of it outside of objective and networks, of networks what fits.

    A network that the student's objective ordered otherwise, with another time, takes over what it can
    (:meth:`flowkit.nn.network.Network.begin_as`); one that the teacher lacks begins like the one that the objective
    names for it, or afresh.

    Raises:
        UserError: encoders or scales differ, or the networks have nothing in common.
    """
    given, wanted = teacher.state_dict(), student.state_dict()
    outside = ("objective.", "networks.")
    strange = [
        key
        for key in sorted({*given, *wanted})
        if not key.startswith(outside)
        and (key not in given or key not in wanted or given[key].shape != wanted[key].shape)
    ]
    if strange:
        raise UserError(f"the student differs from its teacher {name} ({strange[0]}): they share all but networks")
    student.load_state_dict({k: v for k, v in given.items() if not k.startswith(outside)}, strict=False)
    for one in student.networks:
        if one in student.networks.leaders:
            continue
        if one in {*teacher.networks}:
            student.networks[one].begin_as(teacher.networks[one])
    student.networks.begin_like(teacher.networks)
    for one in student.networks.leaders:
        student.networks.follow(one)
