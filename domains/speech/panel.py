"""The voice's part of ``flowkit app``: a sentence, its sound and its mel."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from domains.speech.pipeline import SENTENCES, TextToSpeech
from flowkit.app.controls import Choice, Control, Number, Slider, TextLine
from flowkit.app.panel import Made, Panel, Show
from flowkit.artifacts import Artifact
from flowkit.errors import UserError
from flowkit.solvers.sampler import Sampler

#: Characters of a text; longer ones are a task for ``flowkit speak --file``.
MOST = 2000


class SpeechPanel(Panel):
    """Says a sentence."""

    button = "Speak"
    shows = (
        Show("speech", "sound", "Speech"),
        Show("mel", "picture", "Mel spectrogram"),
        Show("alignment", "picture", "Which symbol is said when"),
    )

    def __init__(self, artifact: Artifact) -> None:
        super().__init__(artifact)
        self.pipeline: TextToSpeech = artifact.pipeline()

    def controls(self) -> Sequence[Control]:
        """Text, speed, seed; speaker and language where the voice has several."""
        voice = self.pipeline.voice
        several = [
            Choice(name=kind, label=kind.capitalize(), options=names, value=names[0])
            for kind, names in (("speaker", voice.speakers), ("language", voice.languages))
            if len(names) > 1
        ]
        return (
            TextLine(name="text", label="Text", value=SENTENCES[0], lines=3, examples=SENTENCES),
            *several,
            Slider(
                name="length_scale", label="Length scale", low=0.5, high=2.0, value=1.0, step=0.05,
                info="1.1 speaks ten percent slower",
            ),
            Number(name="seed", label="Seed", dice=True),
            Slider(
                name="pause", label="Pause between sentences, s", low=0.0, high=2.0, value=0.25, step=0.05, more=True
            ),
        )  # fmt: skip

    def run(self, asked: Mapping[str, Any], sampler: Sampler) -> Made:
        """Speak."""
        text = (asked["text"] or "").strip()
        if not text:
            raise UserError("the text is empty: nothing to say")
        if len(text) > MOST:
            raise UserError(f"the text has {len(text)} characters, {MOST} at most: flowkit speak --file says long ones")
        speaker = TextToSpeech(self.pipeline.task, sampler, vocoder=self.pipeline.vocoder)
        said = speaker.speak(
            text, length_scale=asked["length_scale"], seed=asked["seed"], pause=asked["pause"],
            speaker=asked.get("speaker"), language=asked.get("language"),
        )  # fmt: skip
        return Made(
            {"speech": said, "mel": said.mel_picture(), "alignment": said.alignment_picture()},
            said.evaluations, said.nfe, "sentence", sum(said.elapsed),
            {"speech": f"{said.seconds:.2f} s", "real-time factor": f"{said.rtf:.3f}"}, notes=said.notes,
        )  # fmt: skip
