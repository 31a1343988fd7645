"""What video offers to FlowKit. Light: no torch here (the command line reads it for every help page)."""

from __future__ import annotations

from flowkit.config.plugins import Plugin, Verb

plugin = Plugin(
    name="video",
    summary="video prediction: sparsely conditioned flow matching (RIVER), clips from files, frame-wise measures",
    modules=("domains.video.data", "domains.video.models", "domains.video.codec", "domains.video.river"),
    verbs={"predict": Verb("domains.video.predict_verb", "go on with a video file: predicted frames into an mp4")},
    extra="flowkit-fm[video]",
)
