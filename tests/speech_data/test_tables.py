"""LJSpeech, tables of one's own, and the packed folder they end in."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from domains.speech import audio
from domains.speech.data.ljspeech import LJSpeech
from domains.speech.data.prepared import Prepared
from domains.speech.data.table import Table
from domains.speech.features import MelConfig, MelSpectrogram
from domains.speech.phonemes import SymbolTable
from domains.speech.text import clean, split_of
from flowkit.errors import UserError

RATE = 16_000
MEL = MelConfig(sample_rate=RATE)
TEXTS = ["one short word", "two", "a third line, longer", "number four", "five!", "line six", "seven"]


def sound(i: int, rate: int = RATE) -> torch.Tensor:
    seconds = 0.6 + 0.1 * i
    return 0.3 * torch.sin(2 * torch.pi * (200 + 50 * i) * torch.arange(round(seconds * rate)) / rate)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Seven recordings and a table in four notations."""
    root = tmp_path / "set"
    (root / "clips").mkdir(parents=True)
    for i in range(len(TEXTS)):
        audio.write(root / "clips" / f"u{i}.wav", sound(i), RATE)
    rows = [
        {"file": f"clips/u{i}.wav", "text": text, "speaker": "ab"[i % 2], "language": "en"}
        for i, text in enumerate(TEXTS)
    ]
    (root / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n\n")
    for name, delimiter in (("metadata.csv", ","), ("metadata.tsv", "\t"), ("metadata.txt", "|")):
        quoted = [[f'"{v}"' if "," in v and delimiter == "," else v for v in row.values()] for row in rows]
        lines = [delimiter.join(rows[0]), *(delimiter.join(row) for row in quoted)]
        (root / name).write_text("\ufeff" + "\n".join(lines) + "\n", encoding="utf-8")
    return root


def table(root: Path, name: str = "metadata.csv", **arguments) -> Table:
    settings = {"mel": MEL, "phonemes": "characters", "trim": False, "cache": str(root.parent / "cache"), **arguments}
    return Table(str(root), name, **settings)


def every_row(data: Table | LJSpeech) -> dict[str, dict]:
    """Rows of all splits by key."""
    rows = {}
    for name in ("train", "validation", "test"):
        part = data.split(name)
        for i in range(len(part)):
            raw = part.batch([i])
            rows[raw["key"][0]] = {**{k: v[0] for k, v in raw.items()}, "split": name}
    return rows


@pytest.mark.parametrize("name", ["metadata.csv", "metadata.tsv", "metadata.txt", "metadata.jsonl"])
def test_every_notation_gives_the_same_rows(folder: Path, name: str) -> None:
    data = table(folder, name)
    rows = every_row(data)
    assert len(rows) == len(TEXTS)
    transform = MelSpectrogram(MEL)
    for i, text in enumerate(TEXTS):
        row = rows[f"clips/u{i}.wav"]
        assert row["text"] == text
        assert row["split"] == split_of(text)
        assert row["speaker"] == i % 2
        wanted = transform(audio.read(folder / f"clips/u{i}.wav")[0].unsqueeze(0))[0]
        assert (row["mel"] - wanted).abs().max() < 0.005  # float16
        assert SymbolTable().decode(row["tokens"].tolist()) == clean(text)
    statistics = data.statistics()
    assert statistics["speakers"] == ["a", "b"]
    assert statistics["languages"] == ["en"]


def test_statistics_are_those_of_the_train_split(folder: Path) -> None:
    data = table(folder)
    part, statistics = data.split("train"), data.statistics()
    values = torch.cat([part.batch([i])["mel"].flatten() for i in range(len(part))]).double()
    assert statistics["mel_mean"] == pytest.approx(float(values.mean()), abs=1e-4)
    assert statistics["mel_std"] == pytest.approx(float(values.std(correction=0)), abs=1e-4)
    assert statistics["utterances"]["train"] == len(part)
    assert statistics["seconds"]["train"] == pytest.approx(sum(part.column("seconds")), abs=0.1)
    assert statistics["mel"] == {**statistics["mel"], "sample_rate": RATE, "hop": 256}
    assert len(statistics["symbols"]) == 178
    json.dumps(statistics)


def test_batches_are_padded_to_multiples_and_do_not_depend_on_their_company(folder: Path) -> None:
    part = table(folder).split("train")
    part.pad_multiple = 16
    raw = part.batch(range(len(part)))
    b = len(part)
    assert raw["tokens"].dtype == torch.int64
    assert raw["mel"].dtype == torch.float32
    assert raw["tokens"].shape[1] % 16 == 0
    assert raw["mel"].shape[2] % 16 == 0
    assert raw["mel"].shape[:2] == (b, 80)
    assert raw["mel_lengths"].tolist() == part.lengths().tolist()
    assert raw["token_lengths"].tolist() == part.token_lengths().tolist()
    for i in range(b):
        alone, n, t = part.batch([i]), raw["token_lengths"][i], raw["mel_lengths"][i]
        assert torch.equal(raw["tokens"][i, :n], alone["tokens"][0, :n])
        assert torch.equal(raw["mel"][i, :, :t], alone["mel"][0, :, :t])
        assert raw["tokens"][i, n:].eq(0).all()
        assert raw["mel"][i, :, t:].eq(np.float32(np.log(1e-5))).all()


def test_blanks_are_a_choice_of_the_reader(folder: Path) -> None:
    with_blanks, without = table(folder), table(folder, blank=False)
    assert with_blanks.folder == without.folder
    a, b = with_blanks.split("train").batch([0]), without.split("train").batch([0])
    assert a["key"] == b["key"]
    assert a["token_lengths"] == 2 * b["token_lengths"] + 1
    assert torch.equal(a["tokens"][0, 1::2], b["tokens"][0])
    assert a["tokens"][0, ::2].eq(0).all()


def test_utterances_with_fewer_frames_than_tokens_are_left_out(folder: Path) -> None:
    rows = [{"file": "clips/u0.wav", "text": "many words in very little time"}, {"file": "clips/u6.wav", "text": "few"}]
    (folder / "fast.jsonl").write_text("\n".join(json.dumps({**row, "split": "train"}) for row in rows))
    data = table(folder, "fast.jsonl")
    assert data.split("train").column("key") == ["clips/u6.wav"]
    assert data.statistics()["too_short"] == 1
    assert len(table(folder, "fast.jsonl", blank=False).split("train")) == 2


def test_length_limits_drop_and_count(folder: Path) -> None:
    data = table(folder, minimum=0.75, maximum=1.05)
    assert data.statistics()["dropped"] == {"too short": 2, "too long": 2}
    with pytest.raises(UserError, match="no recording of Table is left: 7 found"):
        table(folder, minimum=20.0).prepare()


def test_a_cache_is_used_again_and_follows_the_table(folder: Path) -> None:
    data = table(folder)
    data.prepare()
    path, stamp = data.folder, (data.folder / "mel.npy").stat().st_mtime_ns
    for file in (folder / "clips").iterdir():
        file.unlink()
    again = table(folder)
    again.prepare()
    assert (again.folder / "mel.npy").stat().st_mtime_ns == stamp
    assert list(path.parent.iterdir()) == [path], "no temporary folder stays"
    with (folder / "metadata.csv").open("a") as file:
        file.write("clips/u9.wav,new,a,en\n")
    assert table(folder).folder != path
    assert table(folder, minimum=0.5).folder != table(folder).folder


def test_a_prepared_folder_is_read_on_its_own(folder: Path) -> None:
    data = table(folder)
    data.prepare()
    prepared = Prepared(str(data.folder))
    prepared.prepare()
    assert torch.equal(prepared.split("train").batch([1])["tokens"], data.split("train").batch([1])["tokens"])
    assert prepared.mel == MEL
    with pytest.raises(UserError, match="holds no manifest"):
        Prepared(str(folder)).prepare()
    (data.folder / "mel.npy").write_bytes((data.folder / "mel.npy").read_bytes()[:500])
    with pytest.raises(UserError, match="prepare it again"):
        Prepared(str(data.folder)).split("train")


def test_peak_and_resampling(folder: Path) -> None:
    audio.write(folder / "clips" / "u0.wav", sound(0, 22050), 22050)
    plain = table(folder)
    loud = table(folder, peak=0.9)
    assert plain.waveform("clips/u0.wav").numel() == sound(0).numel()
    assert loud.waveform("clips/u0.wav").abs().max() == pytest.approx(0.9)
    with pytest.raises(UserError, match=r"u0\.wav' has 22050 Hz"):
        table(folder, resampling=False).prepare()
    with pytest.raises(UserError, match="no recording 'nobody'"):
        plain.waveform("nobody")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("clips/none.wav,hello,a,en", r"line 9 names the file 'clips/none\.wav', which is not in"),
        ("clips/u1.wav,hello,a,en", r"line 9 names the file 'clips/u1\.wav' again; line 3"),
        ("clips/u1.wav,,a,en", "line 9 has nothing in the column 'text'"),
    ],
)
def test_bad_rows_are_named(folder: Path, line: str, message: str) -> None:
    with (folder / "metadata.csv").open("a") as file:
        file.write(line + "\n")
    with pytest.raises(UserError, match=message) as caught:
        table(folder).prepare()
    assert "\n" not in str(caught.value)
    assert not (folder.parent / "cache" / "speech").exists() or not list((folder.parent / "cache/speech").iterdir())


def test_an_empty_cell_is_not_a_misspelt_column(folder: Path) -> None:
    with (folder / "metadata.csv").open("a", encoding="utf-8") as file:
        file.write("clips/u2.wav\n")
    with pytest.raises(UserError, match="nothing in the column 'text'"):
        table(folder).prepare()


def test_a_misspelt_column_gets_the_nearest_name(folder: Path) -> None:
    with pytest.raises(UserError, match="no 'texts': did you mean 'text'"):
        table(folder, text="texts").prepare()


@pytest.mark.parametrize("content", [b"", b"no sound", b"RIFF\x00\x01\x00\x00WAVE"])
def test_bad_audio_is_named_or_skipped(folder: Path, content: bytes) -> None:
    (folder / "clips" / "u2.wav").write_bytes(content)
    with pytest.raises(UserError, match=r"u2\.wav"):
        table(folder).prepare()
    data = table(folder, on_error="skip")
    assert data.statistics()["dropped"] == {"unreadable": 1}
    (folder / "clips" / "u3.wav").unlink()
    again = table(folder, on_error="skip", minimum=0.4)
    assert again.statistics()["dropped"] == {"unreadable": 2}


def test_unpronounceable_text_is_named_or_skipped(folder: Path) -> None:
    (folder / "dots.csv").write_text("file,text\nclips/u0.wav,...\nclips/u1.wav,word\n")
    with pytest.raises(UserError, match=r"'clips/u0\.wav': text '\.\.\.' holds nothing that can be pronounced"):
        table(folder, "dots.csv").prepare()
    assert table(folder, "dots.csv", on_error="skip").statistics()["dropped"] == {"no phonemes": 1}


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("gone.csv", None, "cannot read the table"),
        ("empty.csv", "", "has no rows"),
        ("broken.jsonl", "{", "line 1 is not JSON"),
        ("list.jsonl", "[1]", "is no JSON object"),
        ("table.xlsx", "x", "unknown kind"),
    ],
)
def test_bad_tables_are_named(folder: Path, name: str, content: str | None, message: str) -> None:
    if content is not None:
        (folder / name).write_text(content)
    with pytest.raises(UserError, match=message):
        table(folder, name).prepare()


def test_a_column_may_fix_the_split(folder: Path) -> None:
    lines = ["file,text,split", *(f"clips/u{i}.wav,{t.replace(',', '')},test" for i, t in enumerate(TEXTS))]
    (folder / "fixed.csv").write_text("\n".join(lines))
    data = table(folder, "fixed.csv")
    assert len(data.split("test")) == len(TEXTS)
    (folder / "fixed.csv").write_text("\n".join(lines).replace(",test", ",tset"))
    with pytest.raises(UserError, match="did you mean 'test'"):
        table(folder, "fixed.csv").prepare()
    with pytest.raises(UserError, match="did you mean 'validation'"):
        data.split("validate")


def test_ljspeech_layout(tmp_path: Path) -> None:
    (tmp_path / "wavs").mkdir()
    for i in range(3):
        audio.write(tmp_path / "wavs" / f"LJ00{i}.wav", sound(i, 22050), 22050)
    lines = ["LJ000|Dr. A, 3 ways|Doctor A, three ways", 'LJ001|"Quoted" text|"Quoted" text', "LJ002|only one text"]
    (tmp_path / "metadata.csv").write_text("\n".join(lines), encoding="utf-8")
    data = LJSpeech(str(tmp_path), phonemes="characters", blank=False, cache=str(tmp_path / "cache"))
    rows = every_row(data)
    assert {key: row["text"] for key, row in rows.items()} == {
        "LJ000": "Doctor A, three ways",
        "LJ001": '"Quoted" text',
        "LJ002": "only one text",
    }
    assert rows["LJ001"]["mel"].shape[1] == sound(1, 22050).numel() // 256
    with (tmp_path / "metadata.csv").open("a") as file:
        file.write("\nLJ009|x|x")
    with pytest.raises(UserError, match=r"line 4 names 'LJ009'.*LJ009'\.wav is not there"):
        LJSpeech(str(tmp_path), cache=str(tmp_path / "cache")).prepare()
    (tmp_path / "metadata.csv").write_text("LJ000;no bars")
    with pytest.raises(UserError, match=r"line 1 is not of the form"):
        LJSpeech(str(tmp_path), cache=str(tmp_path / "cache")).prepare()
    with pytest.raises(UserError, match="cannot read the table"):
        LJSpeech(str(tmp_path / "nowhere"), cache=str(tmp_path / "cache")).prepare()


def test_a_cache_folder_that_cannot_be_written_is_named(folder: Path) -> None:
    (folder / "file").touch()
    with pytest.raises(UserError, match="cannot write prepared data"):
        table(folder, cache=str(folder / "file")).prepare()
