"""Common corruptions of sounds at five severities: noise, rooms, narrow bands and overdriven microphones.

Signal-to-noise ratios are those of Aurora-2 (Hirsch and Pearce 2000, ISCA ASR2000), 20 to 0 dB. A room is Polack's
model, noise that decays by 60 dB in the time of reverberation (Jot, Cerveau and Warusfel 1997, AES 103). Bands halve
every two severities from that of a telephone down; limits and rooms are our choice, no published list. Powers are means
over a recording up to its last sample that is not zero, for what follows is padding.
Shapes: B recordings x [B,1,n].
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from robustbench_meta import threats
from robustbench_meta.types import Inputs, Norm, Streams, Surface, Threat, Victim

Way = Literal["white noise", "reverberation", "band limit", "clipping"]


@dataclass(frozen=True)
class SoundCorruption:
    """Corrupt every recording in one way, drawn once, by the constants that belong to the severity."""

    way: Way
    constants: tuple[tuple[float, ...], ...]  # of severities 1 to 5

    norms: ClassVar[tuple[Norm, ...]] = ("corruption",)
    surfaces: ClassVar[tuple[Surface, ...]] = ("query",)
    needs_gradient: ClassVar[bool] = False
    needs_single_points: ClassVar[bool] = False
    needs_inputs: ClassVar[Inputs] = "sounds"

    def __call__(self, victim: Victim, threat: Threat, rng: Streams) -> Tensor:
        if threat.eps == 0:
            return victim.x.clone()
        space = threats.sounds(victim.space)
        x = victim.x.flatten(0, 1)
        made = WAYS[self.way](x, rng, space.rate, *self.constants[int(threat.eps) - 1])
        return made.clamp(space.low, space.high).view(victim.x.shape)


def power(x: Tensor) -> Tensor:
    """Return the mean square of each recording x [B,1,n] up to its last sample that is not zero: [B,1,1]."""
    sounding = (x != 0).int().flip(-1).cummax(dim=-1).values.sum(dim=-1, keepdim=True)
    return (x**2).sum(dim=-1, keepdim=True) / sounding.clamp_min(1)


def _levelled(made: Tensor, x: Tensor) -> Tensor:
    """Give what was made of x the power of x, over the samples of x that sound."""
    span = (x != 0).int().flip(-1).cummax(dim=-1).values.flip(-1)
    return made * ((x**2).sum(-1, keepdim=True) / ((made * span) ** 2).sum(-1, keepdim=True).clamp_min(1e-12)).sqrt()


def _white_noise(x: Tensor, rng: Streams, rate: int, decibels: float) -> Tensor:
    """Add noise whose power lies `decibels` below that of the recording."""
    return x + (power(x) * 10 ** (-decibels / 10)).sqrt() * rng.normal(x)


def _reverberation(x: Tensor, rng: Streams, rate: int, seconds: float, decibels: float) -> Tensor:
    """Add what the walls of a room give back, another room for each recording.

    It decays by 60 dB in `seconds`; the direct sound has `decibels` more energy than all of it.
    """
    time = torch.arange(1, min(x.shape[-1], math.ceil(seconds * rate)) + 1, device=x.device, dtype=x.dtype) / rate
    tail = rng.normal(x[..., : len(time)]) * torch.exp(-math.log(1000) * time / seconds)
    tail = tail * (10 ** (-decibels / 10) / (tail**2).sum(dim=-1, keepdim=True)).sqrt()
    length = x.shape[-1] + len(time)
    echo = torch.fft.irfft(torch.fft.rfft(x, length) * torch.fft.rfft(tail, length), length)
    late = torch.cat([torch.zeros_like(x[..., :1]), echo[..., : x.shape[-1] - 1]], dim=-1)  # a sample at the least
    return _levelled(x + late, x)


def _band_limit(x: Tensor, rng: Streams, rate: int, highest: float) -> Tensor:
    """Take out every frequency above `highest`, in hertz."""
    length = 2 * x.shape[-1]  # so that the end does not sound at the beginning
    frequencies = torch.fft.rfftfreq(length, 1 / rate, device=x.device, dtype=x.dtype)
    spectrum = torch.fft.rfft(x, length).masked_fill(frequencies > highest, 0.0)
    return torch.fft.irfft(spectrum, length)[..., : x.shape[-1]]


def _clipping(x: Tensor, rng: Streams, rate: int, limit: float) -> Tensor:
    """Cut off whatever is louder than `limit` times the root mean square, and bring back the power."""
    most = limit * power(x).sqrt()
    return _levelled(torch.minimum(torch.maximum(x, -most), most), x)


# x [B,1,n], rng, rate and the constants of one severity -> [B,1,n]
WAYS: dict[Way, Callable[..., Tensor]] = {
    "white noise": _white_noise,
    "reverberation": _reverberation,
    "band limit": _band_limit,
    "clipping": _clipping,
}
PRESETS: dict[str, SoundCorruption] = {
    "white-noise": SoundCorruption("white noise", ((20.0,), (15.0,), (10.0,), (5.0,), (0.0,))),
    "reverberation": SoundCorruption("reverberation", ((0.2, 6.0), (0.3, 3.0), (0.5, 0.0), (0.8, -3.0), (1.2, -6.0))),
    "band-limit": SoundCorruption("band limit", ((3400.0,), (2400.0,), (1700.0,), (1200.0,), (850.0,))),
    "clipping": SoundCorruption("clipping", ((2.0,), (1.4,), (1.0,), (0.7,), (0.5,))),
}
