"""What scene flow offers to FlowKit. Light: no torch here (the command line reads it for every help page)."""

from __future__ import annotations

from flowkit.config.plugins import Plugin

plugin = Plugin(
    name="sceneflow",
    summary="velocities of every point of space, fitted to one sequence of point clouds (EulerFlow)",
    modules=("domains.sceneflow.turning", "domains.sceneflow.field", "domains.sceneflow.euler_flow"),
)
