"""Attacked recordings to look at and to listen to: spectrograms, signal-to-noise ratios and WAV files."""

from __future__ import annotations

import io
import math
import re
import wave
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from robustbench_meta.report.sentences import ANSWERS
from robustbench_meta.report.units import decibels

SETS, QUERIES = 2, 3  # items that are written, and queries of each
WINDOW, HOP = 256, 64
DEEPEST = 70.0  # decibels below the loudest of the clean recordings, where a spectrogram is white


@dataclass(frozen=True)
class Sound:
    """Two WAV files of one query, and what the learner takes them for."""

    clean: Path
    adversarial: Path
    title: str
    ratio: float  # signal to noise, in decibels; infinite where nothing was moved
    label: str
    says: str
    says_attacked: str


def is_sound(item: dict[str, Any]) -> bool:
    return "rate" in item


def spectrograms(waves: np.ndarray, loudest: float | None = None) -> tuple[np.ndarray, float]:
    """Draw waves [n,1,samples] as pictures [n,H,W] in [0, 1], black where loud; return them and the loudest power."""
    cut = np.lib.stride_tricks.sliding_window_view(waves[:, 0], WINDOW, axis=-1)[:, ::HOP]
    power = np.abs(np.fft.rfft(cut * np.hanning(WINDOW))) ** 2
    loudest = float(power.max()) if loudest is None else loudest
    below = -10 * np.log10(np.maximum(power / max(loudest, 1e-20), 1e-20))
    return np.clip(below / DEEPEST, 0, 1).transpose(0, 2, 1)[:, ::-1], loudest


def ratio(clean: np.ndarray, adversarial: np.ndarray) -> float:
    """Return the ratio of the power of a wave to that of what was added to it, in decibels, where the wave sounds."""
    sounding = np.flatnonzero(clean)
    end = sounding[-1] + 1 if len(sounding) else clean.shape[-1]
    signal, noise = (float(np.sum(part[..., :end].astype(float) ** 2)) for part in (clean, adversarial - clean))
    return decibels(signal, noise)


def ratio_text(value: float) -> str:
    return "unchanged" if math.isinf(value) else f"{value:.1f} dB"


def wav(samples: np.ndarray, rate: int) -> bytes:
    """Write samples in [-1, 1] as a mono WAV file of 16 bits."""
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(np.clip(np.rint(samples.ravel() * 2**15), -(2**15), 2**15 - 1).astype("<i2").tobytes())
    return buffer.getvalue()


def write(items: Sequence[dict[str, Any]], folder: Path, corrupted: Sequence[dict[str, Any]] = ()) -> list[Sound]:
    """Write the first queries of the first items that hold sounds into `folder`, and of each corruption the first.

    The folder is made where there are any.
    """
    made: list[Sound] = []
    chosen = [(item, QUERIES, "adversarial") for item in items if is_sound(item)][:SETS]
    chosen += [(item, 1, "corrupted") for item in corrupted if is_sound(item)]
    for number, (item, queries, word) in enumerate(chosen):
        folder.mkdir(parents=True, exist_ok=True)
        plain = re.sub(r"[^a-z0-9]+", "-", str(item["title"]).lower()).strip("-")[:80]
        for query in range(min(queries, len(item["labels"]))):
            paths = [folder / f"{number + 1}-{plain}-{query + 1}-{kind}.wav" for kind in ("clean", word)]
            for path, kind in zip(paths, ("clean", "adversarial"), strict=True):
                path.write_bytes(wav(item[kind][query], int(item["rate"][query])))
            label, says, says_attacked = (str(item[name][query]) for name in ANSWERS)
            heard = ratio(item["clean"][query], item["adversarial"][query])
            made.append(Sound(paths[0], paths[1], str(item["title"]), heard, label, says, says_attacked))
    return made
