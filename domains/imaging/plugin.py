"""What imaging offers to FlowKit. Light: no torch here (the command line reads it for every help page)."""

from __future__ import annotations

from flowkit.config.plugins import Plugin

plugin = Plugin(
    name="imaging",
    summary="small pictures, with or without classes: IDX files, drawn glyphs, a compact U-Net, Frechet distances",
    modules=("domains.imaging.data", "domains.imaging.models", "domains.imaging.task"),
    panels={"ImageTask": "domains.imaging.panel:ImagingPanel"},
)
