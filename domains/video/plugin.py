"""What video offers to FlowKit. Light: no torch here (the command line reads it for every help page)."""

from __future__ import annotations

from pathlib import Path

from flowkit.config.plugins import Plugin, Verb

plugin = Plugin(
    name="video",
    summary="video prediction: sparsely conditioned flow matching (RIVER), clips from files, frame-wise measures",
    modules=(
        "domains.video.data",
        "domains.video.models",
        "domains.video.codec",
        "domains.video.river",
        "domains.video.evaluation.attribute_task",
    ),
    verbs={
        "predict": Verb("domains.video.predict_verb", "go on with a video file: predicted frames into an mp4"),
        "evaluators": Verb(
            "domains.video.evaluators_verb",
            "the networks that judge video: which are here, and make files of their weights",
        ),
    },
    panels={"RiverTask": "domains.video.panel:VideoPanel"},
    pretrained=Path(__file__).parent / "pretrained",
    extra="flowkit-fm[video]",
)
