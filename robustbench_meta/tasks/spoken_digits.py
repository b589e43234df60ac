"""Spoken digits: ten digits by six speakers, 50 takes each, as 0.77 s of sound at 8 kHz.

Free Spoken Digit Dataset, Jackson et al., https://github.com/Jakobovski/free-spoken-digit-dataset, CC BY-SA 4.0.
Read from its folder of recordings, or from the zip that its publisher makes of it.
"""

from __future__ import annotations

import hashlib
import io
import re
import wave
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch

from robustbench_meta import episodes
from robustbench_meta.downloads import Source, data_root
from robustbench_meta.episodes import Pool
from robustbench_meta.types import Box, Episodes, InputError, Sounds, Spec, Split

COMMIT = "26eb9aaf76e81b692f806f9140c2d2777410d7a1"
RECORDINGS, ARCHIVE = "fsdd/recordings", "fsdd/free-spoken-digit-dataset.zip"
DIGITS, SPEAKERS = tuple("0123456789"), ("george", "jackson", "lucas", "nicolas", "theo", "yweweler")
NAME = re.compile(rf"([0-9])_({'|'.join(SPEAKERS)})_([0-9]{{1,3}})\.wav")
RATE, LENGTH = 8000, 6144  # samples a second, and of one input
FULL = 2**15  # what 1.0 is in a 16-bit file
LEVEL = 0.05  # root mean square of every recording; the loudest sample is then at most 0.8
LARGEST_FILE = 1 << 20  # bytes of one recording
MOST_FILES = 50_000  # in an archive

HeldOut = Literal["speakers", "digits"]
# Which classes (digit, speaker) belong to which split: whole speakers, or whole digits.
SPLITS: Mapping[HeldOut, Mapping[Split, tuple[str, ...]]] = {
    "speakers": {"train": ("george", "jackson", "lucas"), "val": ("yweweler",), "test": ("nicolas", "theo")},
    "digits": {"train": tuple("012345"), "val": tuple("67"), "test": tuple("89")},
}


@dataclass(frozen=True)
class SpokenDigits:
    """Classes named digit/speaker; `held_out` says whether a split's speakers or its digits are met in no other.

    A waveform [1, 6144] in [-1, 1]: the recording's first 0.77 s, scaled to a root mean square of 0.05 and followed by
    silence. The publisher's files differ tenfold in loudness from one speaker to the next, which alone would tell the
    speaker and would give each his own signal-to-noise ratio at one eps. As it is, `level` / eps in Linf bounds the
    ratio of all of them from below.
    """

    held_out: HeldOut = "speakers"
    root: Path | None = None

    space: ClassVar[Box] = Sounds((1, LENGTH), -1.0, 1.0, rate=RATE)
    rate: ClassVar[int] = RATE
    level: ClassVar[float] = LEVEL
    default_eps: ClassVar[tuple[float, ...]] = (0.001, 0.002, 0.005)
    default_network: ClassVar[str] = "logmel-conv4"
    default_network_options: ClassVar[Mapping[str, Any]] = {"width": 32}
    sources: ClassVar[tuple[Source, ...]] = (
        Source(
            url=f"https://github.com/Jakobovski/free-spoken-digit-dataset/archive/{COMMIT}.zip",
            path=ARCHIVE,
            checksum="sha256:801bcecb25fa3bfb54fb3c0b1d94732d8456ce5b0c1f036667852a341a3aacd4",
            content=lambda path: samples_checksum(path),
        ),
    )

    def __post_init__(self) -> None:
        if self.held_out not in SPLITS:
            raise InputError(f"held_out={self.held_out!r}: must be {' or '.join(SPLITS)}")

    @property
    def name(self) -> str:
        return "spoken-digits" if self.held_out == "speakers" else "spoken-new-digits"

    def sample(self, split: Split, spec: Spec, indices: Sequence[int], *, seed: int = 0) -> Episodes:
        """Return the tasks numbered `indices`, each fixed by (family, split, seed, ways, number) alone."""
        return episodes.sample(self.pool(split), spec, indices, stream=f"{self.name}/{split}/{seed}")

    def classes(self, split: Split) -> list[str]:
        """Return the names of the classes of `split`, such as 7/theo; needs no data."""
        of = SPLITS[self.held_out][split]
        digits, speakers = (of, SPEAKERS) if self.held_out == "digits" else (DIGITS, of)
        return [f"{digit}/{speaker}" for digit in digits for speaker in speakers]

    def pool(self, split: Split) -> Pool:
        """Return every recording of `split`, read once per process."""
        root = data_root(self.root, family=self.name)
        there = [path for path in (root / RECORDINGS, root / ARCHIVE) if path.exists()]
        if not there:
            raise InputError(
                f"{self.name}: {root / 'fsdd'} holds neither recordings/ nor {Path(ARCHIVE).name}; run: rbm data get"
                f" {self.name}"
            )
        return _pool(there[0], tuple(self.classes(split)))


@lru_cache(maxsize=6)
def _pool(path: Path, names: tuple[str, ...]) -> Pool:
    takes: dict[str, list[tuple[int, np.ndarray]]] = {name: [] for name in names}
    for file, (digit, speaker, take), sound in _recordings(path):
        if f"{digit}/{speaker}" in takes:
            takes[f"{digit}/{speaker}"].append((int(take), _levelled(sound, f"{path}: {file}")))
    if empty := [name for name in names if not takes[name]]:
        raise InputError(f"{path}: no recording of {', '.join(empty[:3])}")
    ordered = [[sound for _, sound in sorted(takes[name], key=lambda one: one[0])] for name in names]
    starts = np.cumsum([0, *map(len, ordered)])
    items = torch.from_numpy(np.concatenate(ordered)).unsqueeze(1)
    return Pool(items, tuple(starts.tolist()), names, full=FULL)


def samples_checksum(path: Path) -> str:
    """Return the SHA-256 of the samples of all recordings, ordered by digit, speaker and take, as "sha256:...".

    A zip that GitHub makes of a commit may differ in its bytes from one day to the next; its samples may not.
    """
    digest = hashlib.sha256()
    try:
        for _, sound in sorted((key, sound) for _, key, sound in _recordings(path)):
            digest.update(sound)
    except InputError:
        return "sha256:unreadable"
    return f"sha256:{digest.hexdigest()}"


def _recordings(path: Path) -> Iterator[tuple[str, tuple[str, str, str], bytes]]:
    """Yield the name, (digit, speaker, take) and 16-bit samples of every recording of a folder or a zip."""
    try:
        if path.is_dir():
            for file in sorted(path.iterdir()):
                if match := NAME.fullmatch(file.name):
                    with file.open("rb") as stream:
                        yield file.name, _key(match), _samples(stream.read(LARGEST_FILE + 1), file.name)
            return
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            if len(entries) > MOST_FILES:
                raise ValueError(f"{len(entries)} files, more than {MOST_FILES}")
            for entry in entries:
                folder, _, name = entry.filename.rpartition("/")
                if folder.endswith("recordings") and (match := NAME.fullmatch(name)):
                    with archive.open(entry) as stream:
                        yield name, _key(match), _samples(stream.read(LARGEST_FILE + 1), name)
    except Exception as error:  # zipfile, zlib and wave raise what they like on a broken file
        raise InputError(f"{path}: cannot be read: {' '.join(str(error).split())}") from error


def _key(match: re.Match[str]) -> tuple[str, str, str]:
    """Return digit, speaker and take, of which the take is padded so that text order is number order."""
    digit, speaker, take = match.groups()
    return digit, speaker, take.zfill(3)


def _samples(content: bytes, name: str) -> bytes:
    if len(content) > LARGEST_FILE:
        raise ValueError(f"{name} has more than {LARGEST_FILE} bytes")
    with wave.open(io.BytesIO(content)) as sound:
        found = (sound.getframerate(), sound.getnchannels(), sound.getsampwidth())
        if found != (RATE, 1, 2):
            raise ValueError(f"{name} has (rate, channels, bytes) {found}, must have {(RATE, 1, 2)}")
        return sound.readframes(sound.getnframes())


def _levelled(samples: bytes, name: str) -> np.ndarray:
    """Scale the first LENGTH samples to LEVEL and append silence: int16 [LENGTH]."""
    sound = np.frombuffer(samples, dtype="<i2")[:LENGTH].astype(np.float64)
    loudness = np.sqrt(np.mean(sound**2)) if len(sound) else 0.0
    if not loudness:
        raise InputError(f"{name}: holds no sound")
    levelled = np.zeros(LENGTH, dtype=np.int16)
    levelled[: len(sound)] = np.clip(np.rint(sound * (LEVEL * FULL / loudness)), 1 - FULL, FULL - 1)
    return levelled


PRESETS = {"spoken-digits": SpokenDigits(), "spoken-new-digits": SpokenDigits("digits")}
