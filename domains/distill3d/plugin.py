"""What distillation into shapes offers to FlowKit. Light: no torch here (the command line reads it for help pages)."""

from __future__ import annotations

from flowkit.config.plugins import Plugin

plugin = Plugin(
    name="distill3d",
    summary="score distillation into parameters: consistent flow distillation and its rivals, on points of the plane",
    modules=("domains.distill3d.instances", "domains.distill3d.teachers", "domains.distill3d.task"),
)
