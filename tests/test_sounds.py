"""Sounds in a results folder, in a report and on its page."""

from __future__ import annotations

import io
import math
import wave
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_report import Page, gallery, results

from robustbench_meta import catalog, report, store
from robustbench_meta.outcomes import Board
from robustbench_meta.report import album, sounds, units
from robustbench_meta.types import Cell, InputError, Spec, Threat

RATE, SAMPLES = 8000, 2000


def sound(title: str = "p-aq, pgd-20") -> dict[str, Any]:
    """Four tones of a quarter second, each at another height, of which the first stays as it is."""
    times = np.arange(SAMPLES) / RATE
    clean = np.stack([0.1 * np.sin(2 * np.pi * 400 * (i + 1) * times) for i in range(4)])[:, None]
    clean[:, :, 1500:] = 0
    moved = clean + 0.01 * np.where(np.arange(SAMPLES) % 2, 1, -1)
    moved[0] = clean[0]
    return gallery(title)[0] | {"clean": clean, "adversarial": moved, "rate": np.full(4, RATE)}


def test_the_ratio_is_that_of_powers_where_the_recording_sounds() -> None:
    item = sound()
    power = 0.1**2 / 2
    assert sounds.ratio(item["clean"][1], item["adversarial"][1]) == pytest.approx(
        10 * math.log10(power / 1e-4), abs=0.02
    )
    assert sounds.ratio_text(sounds.ratio(item["clean"][0], item["adversarial"][0])) == "unchanged"


def test_a_wav_file_gives_back_the_samples() -> None:
    samples = np.array([[0.0, 0.5, -0.5, 1.0, -1.0]])
    with wave.open(io.BytesIO(sounds.wav(samples, RATE))) as file:
        assert (file.getframerate(), file.getnchannels(), file.getsampwidth()) == (RATE, 1, 2)
        read = np.frombuffer(file.readframes(5), "<i2")
    assert read.tolist() == [0, 2**14, -(2**14), 2**15 - 1, -(2**15)]


def test_a_tone_is_black_at_its_height_and_silence_is_white() -> None:
    pictures, _ = sounds.spectrograms(sound()["clean"])
    height, width = pictures.shape[1:]
    for i, picture in enumerate(pictures):
        assert int(picture[:, 0].argmin()) == pytest.approx(
            height - 1 - 400 * (i + 1) / (RATE / 2) * (height - 1), abs=1
        )
        assert (picture[:, -1] == 1).all()
    assert width == (SAMPLES - sounds.WINDOW) // sounds.HOP + 1


def test_a_budget_in_decibels_is_the_least_that_any_recording_is_left() -> None:
    for name in units.LEVELS:
        family: Any = catalog.family(name)
        assert family.level == units.LEVELS[name]
    board = Board("query", "inductive", "spoken-digits", "e", "test", 5, 5, 15, "linf", 0)
    said = units.budgets(board, [0.005, 0.001, 0.0])
    assert said.endswith("so ε = 0.005 leaves 20.0 dB, 0.001 leaves 34.0 dB at the least.")
    assert units.budgets(Board(*("query", "inductive", "cifar-fs", "e", "test"), 5, 5, 15, "linf", 0), [0.1]) == ""


def test_a_report_draws_sounds_writes_them_and_lets_them_be_heard(tmp_path: Path) -> None:
    item = sound()
    made = report.write(results(), [item], tmp_path)
    assert sorted(made) == sorted(path for path in tmp_path.rglob("*") if path.is_file())
    written = sorted((tmp_path / "sounds").iterdir())
    assert len(written) == 2 * sounds.QUERIES
    clean = next(path for path in written if path.name.endswith("-2-clean.wav"))
    assert clean.read_bytes() == sounds.wav(item["clean"][1], RATE)
    text = (tmp_path / "leaderboard.md").read_text()
    assert "| p-aq, pgd-20 | 1 | 17.0 dB | [WAV](sounds/" in text
    page = Page((tmp_path / "leaderboard.html").read_text())
    assert page.tags.count("audio") == 8
    assert all(
        value.startswith("data:audio/wav;base64,UklGR")
        for name, value in page.attributes
        if name == "src" and "audio" in value
    )


def test_the_page_holds_no_more_sound_than_it_can_bear() -> None:
    long = sound() | {"clean": np.zeros((4, 1, 40_000)) + 0.1, "adversarial": np.zeros((4, 1, 40_000)) + 0.2}
    long["rate"] = np.full(4, RATE)
    shots = [shot for block in album.album([long]).blocks for shot in block.shots]
    assert len(shots) == 1
    assert sum(map(album._size, shots)) <= album.LARGEST


def cell() -> Cell:
    about = ("c", "0" * 64, "protonet", "aq", "support", "spoken-digits", "1" * 64)
    return Cell(*about, "test", Spec(), None, "pgd-20", "PGD()", Threat("linf", 0.005), 0)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"rate": np.zeros(4, int)}, "rate is not between 1 and"),
        ({"rate": np.full(3, RATE)}, "rate is not what it must be"),
        ({"clean": np.zeros((4, 2, SAMPLES))}, "its inputs have shapes"),
        ({"clean": np.zeros((4, 1, 8, 8)), "adversarial": np.zeros((4, 1, 8, 8))}, "its inputs have shapes"),
    ],
)
def test_a_gallery_file_of_sounds_is_what_it_must_be(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    names = (*store.PICTURES, store.RATE)
    arrays = {name: value for name, value in sound().items() if name in names}
    store.append(tmp_path, cell(), [])
    store.save_gallery(tmp_path, cell(), arrays)
    (found,) = store.read_gallery(tmp_path)
    assert all(np.array_equal(found[name], arrays[name]) for name in names)
    store.save_gallery(tmp_path, cell(), arrays | change)
    with pytest.raises(InputError, match=said):
        store.read_gallery(tmp_path)
