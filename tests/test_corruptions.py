"""Corruptions without an adversary: each against what its definition says, and how their accuracy is counted."""

from __future__ import annotations

import io
import math
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from scripts import load
from torch import Tensor

from robustbench_meta import (
    catalog,
    evaluate,
    external,
    filters,
    grid,
    report,
    spelling,
    statistics,
    store,
    submissions,
    threats,
    tracks,
)
from robustbench_meta.attacks.image_corruptions import ImageCorruption
from robustbench_meta.attacks.sound_corruptions import SoundCorruption, power
from robustbench_meta.attacks.typos import ROWS, Typos, Way, beside, misspelt
from robustbench_meta.engine import ObjectLearner
from robustbench_meta.evaluate import run
from robustbench_meta.outcomes import bits_by_key
from robustbench_meta.ranking import standings
from robustbench_meta.tasks import clinc150
from robustbench_meta.types import (
    SEVERITIES,
    THREATS,
    Attack,
    Box,
    Cell,
    Cost,
    InputError,
    Norm,
    Record,
    Sentences,
    Sounds,
    Spec,
    Streams,
    Threat,
    Victim,
)

IMAGES = sorted(name for name, made in catalog.shelf("attacks").presets.items() if isinstance(made, ImageCorruption))
SOUNDS = sorted(name for name, made in catalog.shelf("attacks").presets.items() if isinstance(made, SoundCorruption))
TYPOS = sorted(name for name, made in catalog.shelf("attacks").presets.items() if isinstance(made, Typos))
WAYS: tuple[Way, ...] = ("swap", "drop", "insert", "replace")
COLOUR, RATE, SAMPLES = Box((3, 32, 32)), 8000, 4096
SPEECH = Sounds((1, SAMPLES), -1.0, 1.0, rate=RATE)
DRAWN = ("gaussian-noise", "shot-noise", "impulse-noise", "glass-blur", "motion-blur", "snow", "fog", "elastic")


def victim(x: Tensor, space: Box, tasks: int = 1) -> Victim:
    """Hold inputs x [P,*X] of so many tasks that no corruption needs to score."""

    def forward(x: Tensor, points: Tensor) -> Tensor:
        raise AssertionError("a corruption asks the learner nothing")

    cost = Cost(torch.zeros(tasks, dtype=torch.int64), torch.zeros(tasks, dtype=torch.int64))
    return Victim(forward, x.unsqueeze(1), torch.zeros(len(x), 1, dtype=torch.int64), space, tasks, cost)


def images(count: int = 12, space: Box = COLOUR, seed: int = 0) -> Tensor:
    """Draw images that are smooth, as photographs are, with entries all over the box."""
    rng = torch.Generator().manual_seed(seed)
    coarse = torch.rand(count, space.shape[0], 6, 6, generator=rng)
    return torch.nn.functional.interpolate(coarse, size=space.shape[1:], mode="bicubic").clamp(0, 1)


def sounds(count: int = 6) -> Tensor:
    """Draw recordings of three tones each at a root mean square of 0.05, followed by silence."""
    rng = torch.Generator().manual_seed(0)
    time = torch.arange(3 * SAMPLES // 4) / RATE
    hertz = 150 + 3000 * torch.rand(count, 3, 1, generator=rng)
    wave = torch.sin(2 * math.pi * hertz * time).sum(dim=1, keepdim=True)
    wave = 0.05 * wave / (wave**2).mean(dim=-1, keepdim=True).sqrt()
    return torch.cat([wave, torch.zeros(count, 1, SAMPLES - wave.shape[-1])], dim=-1)


def corrupted(name: str, x: Tensor, severity: float, *, space: Box = COLOUR, seeds: tuple[int, ...] = (1,)) -> Tensor:
    attack, held = catalog.attack(name), victim(x, space, len(seeds))
    return attack(held, Threat("corruption", severity), Streams(seeds)).squeeze(1)


def sentences(count: int = 12) -> Tensor:
    """Draw sentences of ten words of the real table, with padding behind them: [count,20,64]."""
    space, rng = clinc150.Clinc150().space, torch.Generator().manual_seed(0)
    numbers = torch.randint(1, len(space.words), (count, 10), generator=rng)
    return space.table[torch.cat([numbers, torch.zeros(count, 10, dtype=torch.int64)], dim=1)]


def served(name: str) -> tuple[Tensor, Box]:
    if name in TYPOS:
        return sentences(), clinc150.Clinc150().space
    return (images(), COLOUR) if name in IMAGES else (sounds(), SPEECH)


@pytest.mark.parametrize("severity", SEVERITIES)
@pytest.mark.parametrize("name", [*IMAGES, *SOUNDS, *TYPOS])
def test_a_corruption_keeps_box_shape_and_dtype_and_leaves_its_inputs_alone(name: str, severity: int) -> None:
    (x, space), threat = served(name), Threat("corruption", severity)
    before = x.clone()
    made = corrupted(name, x, severity, space=space)
    assert (made.shape, made.dtype, made.requires_grad) == (x.shape, x.dtype, False)
    assert threats.within(made, x, threat, space)
    assert x.equal(before)
    assert not made.equal(x)
    assert made.equal(corrupted(name, x, severity, space=space))
    moved = threats.distance(made - x, "corruption", len(space.shape))
    assert bool((moved >= 0).all())
    assert float(moved.max()) <= 1


@pytest.mark.parametrize("name", [*IMAGES, *SOUNDS, *TYPOS])
def test_severity_zero_gives_a_copy_of_the_inputs(name: str) -> None:
    x, space = served(name)
    held = victim(x, space)
    made = catalog.attack(name)(held, Threat("corruption", 0), Streams([1]))
    assert made.equal(held.x)
    assert made.data_ptr() != held.x.data_ptr()


@pytest.mark.parametrize("name", [*IMAGES, *SOUNDS, *TYPOS])
def test_what_a_task_meets_does_not_depend_on_the_tasks_beside_it(name: str) -> None:
    x, space = served(name)
    together = corrupted(name, x, 3, space=space, seeds=(4, 5))
    alone = corrupted(name, x[len(x) // 2 :], 3, space=space, seeds=(5,))
    torch.testing.assert_close(together[len(x) // 2 :], alone, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", DRAWN)
def test_another_seed_draws_another_corruption_and_no_two_images_share_one(name: str) -> None:
    x = images(1).expand(4, -1, -1, -1)
    made = corrupted(name, x, 5)
    assert not made.equal(corrupted(name, x, 5, seeds=(2,)))
    assert not made[0].equal(made[1])


@pytest.mark.parametrize("space", [Box((1, 28, 28)), Box((3, 84, 84)), Box((3, 20, 36)), Box((1, 32, 32), -1.0, 1.0)])
@pytest.mark.parametrize("name", IMAGES)
def test_images_grey_and_coloured_of_any_size_and_box_are_served(name: str, space: Box) -> None:
    x = images(2, space) * space.width + space.low
    made = corrupted(name, x, 2, space=space)
    assert made.shape == x.shape
    assert threats.within(made, x, Threat("corruption", 2), space)


def test_every_item_of_a_point_is_corrupted_as_if_it_were_a_point_of_its_own() -> None:
    x = images(8)
    each = victim(x, COLOUR, 2)
    joint = replace(each, x=x.view(2, 4, *COLOUR.shape))
    threat = Threat("corruption", 4)
    for name in IMAGES:
        apart = catalog.attack(name)(each, threat, Streams([1, 2]))
        assert catalog.attack(name)(joint, threat, Streams([1, 2])).flatten(0, 1).equal(apart.squeeze(1)), name


def damage(name: str) -> list[float]:
    x, space = (images(40), COLOUR) if name in IMAGES else (sounds(20), SPEECH)
    if name in TYPOS:
        x, space = sentences(100), clinc150.Clinc150().space
    return [float((corrupted(name, x, s, space=space) - x).square().mean().sqrt()) for s in SEVERITIES]


@pytest.mark.parametrize(
    "name", [*(name for name in IMAGES if name not in ("elastic", "glass-blur", "pixelate")), *SOUNDS, *TYPOS]
)
def test_a_higher_severity_moves_the_inputs_further(name: str) -> None:
    found = damage(name)
    assert all(more > less * 0.999 for less, more in pairwise(found)), found
    assert found[4] > 1.3 * found[0]


def test_over_all_corruptions_the_damage_rises_with_every_severity() -> None:
    mean = np.mean([damage(name) for name in IMAGES], axis=0)
    assert (np.diff(mean) > 0).all()


@pytest.mark.parametrize("severity", SEVERITIES)
def test_gaussian_noise_has_the_published_deviation(severity: int) -> None:
    x = torch.full((40, 3, 32, 32), 0.5)
    moved = corrupted("gaussian-noise", x, severity) - x
    assert float(moved.mean()) == pytest.approx(0, abs=1e-3)
    assert float(moved.std()) == pytest.approx((0.04, 0.06, 0.08, 0.09, 0.10)[severity - 1], rel=0.01)


@pytest.mark.parametrize("severity", SEVERITIES)
def test_shot_noise_has_a_photons_variance_and_none_in_the_dark(severity: int) -> None:
    photons = (500, 250, 100, 75, 50)[severity - 1]
    x = torch.tensor([0.0, 0.2, 0.5]).view(3, 1, 1, 1).expand(-1, 3, 64, 64)
    made = corrupted("shot-noise", x, severity, space=Box((3, 64, 64)))
    assert not made[0].any()
    for level in (1, 2):
        mean = float(x[level, 0, 0, 0])
        assert float(made[level].mean()) == pytest.approx(mean, rel=0.02)
        assert float(made[level].var()) == pytest.approx(mean / photons, rel=0.06)
        counts = made[level] * photons
        assert torch.allclose(counts, counts.round(), atol=1e-3)


@pytest.mark.parametrize("severity", SEVERITIES)
def test_impulse_noise_sets_the_published_share_to_black_and_white_by_halves(severity: int) -> None:
    x = torch.full((60, 3, 32, 32), 0.5)
    made = corrupted("impulse-noise", x, severity)
    hit = made != x
    assert float(hit.float().mean()) == pytest.approx((0.01, 0.02, 0.03, 0.05, 0.07)[severity - 1], rel=0.06)
    assert set(made[hit].tolist()) == {0.0, 1.0}
    assert float(made[hit].mean()) == pytest.approx(0.5, abs=0.03)


@pytest.mark.parametrize("severity", SEVERITIES)
@pytest.mark.parametrize(
    "name", ["defocus-blur", "glass-blur", "motion-blur", "zoom-blur", "elastic", "contrast", "pixelate"]
)
def test_a_plain_image_stays_as_it_is_under_blurs_and_shifts(name: str, severity: int) -> None:
    x = torch.tensor([0.2, 0.5, 0.9]).view(1, 3, 1, 1).expand(2, -1, 32, 32)
    torch.testing.assert_close(corrupted(name, x, severity), x, rtol=0, atol=2e-6)


def test_a_disc_sums_to_one_is_symmetric_and_grows() -> None:
    spreads = []
    published: Any = catalog.attack("defocus-blur")
    for radius, softness in published.constants:
        kernel = filters.disc(radius, softness)
        assert float(kernel.sum()) == pytest.approx(1)
        assert kernel.equal(kernel.T)
        assert torch.allclose(kernel, kernel.flip(0))
        steps = torch.arange(len(kernel)) - len(kernel) // 2
        spreads.append(float((kernel.sum(dim=0) * steps**2).sum()))
    assert spreads == sorted(spreads)
    cross = torch.tensor([[0, 0.2, 0], [0.2, 0.2, 0.2], [0, 0.2, 0]], dtype=torch.float64)
    torch.testing.assert_close(filters.disc(1.0, 0.0)[1:4, 1:4], cross)


def test_a_gaussian_sums_to_one_has_its_deviation_and_is_a_point_at_zero() -> None:
    for sigma in (0.7, 1.5, 3.0):
        weights = filters.gaussian(sigma, 20)
        steps = torch.arange(-20, 21)
        assert float(weights.sum()) == pytest.approx(1)
        assert float((weights * steps**2).sum()) == pytest.approx(sigma**2, rel=0.01)
    assert filters.gaussian(0.0, 1).tolist() == [0, 1, 0]


def test_motion_blur_draws_a_point_into_a_line_on_one_side_at_its_angle() -> None:
    x = torch.zeros(1, 1, 41, 41)
    x[0, 0, 20, 20] = 1
    trail = filters.trailed(x, torch.tensor([math.pi / 4]), 6, 2.0)[0, 0]
    assert float(trail.sum()) == pytest.approx(1, abs=1e-5)
    rows, columns = torch.meshgrid(torch.arange(41) - 20, torch.arange(41) - 20, indexing="ij")
    across, along = (columns - rows) / math.sqrt(2), (columns + rows) / math.sqrt(2)
    weights = torch.exp(-(torch.arange(13.0) ** 2) / 8)
    assert float((trail * along).sum()) == pytest.approx(
        float((weights * torch.arange(13)).sum() / weights.sum()), abs=1e-4
    )
    assert float((trail * across.abs()).sum()) < 0.5
    still = filters.trailed(x, torch.tensor([0.3]), 0, 2.0)
    torch.testing.assert_close(still, x)


def test_a_zoom_enlarges_about_the_centre() -> None:
    ramp = torch.linspace(-1, 1, 33).expand(1, 1, 33, 33)
    torch.testing.assert_close(filters.zoomed(ramp, 1.25), ramp / 1.25)
    torch.testing.assert_close(filters.zoomed(ramp, 1.0), ramp)


def test_zoom_blur_is_the_mean_of_the_image_and_of_all_its_zooms() -> None:
    x = (torch.linspace(-1, 1, 32).expand(1, 3, 32, 32) + 1) / 2
    factors = [1.0, *(1 + step / 100 for step in range(11))]
    expected = 0.5 + (x - 0.5) * sum(1 / factor for factor in factors) / len(factors)
    torch.testing.assert_close(corrupted("zoom-blur", x, 2), expected)


def test_glass_blur_exchanges_pixels_and_loses_none() -> None:
    x = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(2))
    shuffle = ImageCorruption("glass blur", ((0.0, 1.0, 1.0),) * 5)
    made = shuffle(victim(x, COLOUR), Threat("corruption", 1), Streams([1])).squeeze(1)
    assert made.flatten(2).sort().values.equal(x.flatten(2).sort().values)
    assert 0.4 < float((made != x).float().mean()) < 1


def test_clouds_fill_zero_to_one_and_are_smoother_the_faster_they_decay() -> None:
    draws = 2 * torch.rand(8, 32, 32, generator=torch.Generator().manual_seed(0)) - 1
    roughness = []
    for decay in (1.75, 2.0, 2.5, 3.0):
        made = filters.clouds(draws, decay)
        assert made.amin(dim=(1, 2)).tolist() == [0.0] * 8
        assert made.amax(dim=(1, 2)).tolist() == [1.0] * 8
        roughness.append(float((made - made.roll(1, 2)).abs().mean()))
    assert roughness == sorted(roughness, reverse=True)


def test_clouds_of_two_by_two_are_those_computed_by_hand() -> None:
    draws = torch.tensor([[[0.9, 0.2], [-0.4, 0.8]]])  # the corner is 0 whatever was drawn
    # The centre is the mean of four corners (0) and its draw; the edges lie between two corners and two centres.
    height = torch.tensor([[[0.0, 0.4 + 0.2], [0.4 - 0.4, 0.8]]])
    torch.testing.assert_close(filters.clouds(draws, 3.0), height / 0.8)


def test_fog_adds_clouds_and_keeps_the_brightest_entry_in_the_box() -> None:
    x = torch.full((6, 3, 32, 32), 0.5)
    made = corrupted("fog", x, 4)
    # x + 1.0 * haze, haze in [0, 1], times 0.5 / (0.5 + 1.0).
    assert float(made.min()) == pytest.approx(0.5 * 0.5 / 1.5, rel=1e-5)
    assert float(made.max()) == pytest.approx(0.5, rel=1e-5)


def test_snow_brightens_everywhere_and_its_flakes_stand_twice() -> None:
    x = torch.full((4, 3, 32, 32), 0.1)
    made = corrupted("snow", x, 2)
    pale = 0.9 * 0.1 + 0.1 * (1.5 * 0.1 + 0.5)
    flakes = made - pale
    assert float(flakes.min()) > -1e-6
    assert float(flakes.max()) > 0.05
    torch.testing.assert_close(flakes, flakes.flip(-1, -2), rtol=0, atol=1e-5)


def test_brightness_raises_the_largest_channel_and_keeps_hue_and_saturation() -> None:
    x = torch.tensor([0.2, 0.4, 0.5]).view(1, 3, 1, 1).expand(-1, -1, 32, 32)
    made = corrupted("brightness", x, 4)
    torch.testing.assert_close(made, x * (0.7 / 0.5))
    assert corrupted("brightness", torch.zeros(1, 3, 32, 32), 5).unique().tolist() == pytest.approx([0.3])
    grey = torch.full((1, 1, 28, 28), 0.9)
    assert corrupted("brightness", grey, 3, space=Box((1, 28, 28))).unique().tolist() == [1.0]


def test_contrast_leaves_the_published_share_of_the_deviation_and_the_mean() -> None:
    x = 0.3 + 0.4 * images()
    for severity, share in zip(SEVERITIES, (0.75, 0.5, 0.4, 0.3, 0.15), strict=True):
        made = corrupted("contrast", x, severity)
        torch.testing.assert_close(made.mean(dim=(2, 3)), x.mean(dim=(2, 3)))
        torch.testing.assert_close(made.std(dim=(2, 3)), share * x.std(dim=(2, 3)))


def test_an_elastic_map_moves_the_corners_of_its_square_by_no_more_than_it_says() -> None:
    # Without a field the map is affine: a ramp stays a ramp, shifted and tilted, wherever no edge is reflected.
    ramp = torch.linspace(0.25, 0.75, 32).expand(20, 1, 32, 32).contiguous()
    made = corrupted("elastic", ramp, 1, space=Box((1, 32, 32)))[:, 0, 12:20, 12:20]
    second = made.diff(n=2, dim=2).abs().max(), made.diff(n=2, dim=1).abs().max()
    assert float(max(second)) < 1e-5
    assert float((made - ramp[:, 0, 12:20, 12:20]).abs().max()) * 31 / 0.5 < 3 * 0.08 * 32
    assert float((made - ramp[:, 0, 12:20, 12:20]).abs().max()) > 0


@pytest.mark.parametrize(("share", "small"), [(0.95, 30), (0.9, 28), (0.85, 27), (0.75, 24), (0.65, 20)])
def test_pixelate_is_what_pillow_makes_of_boxes(share: float, small: int) -> None:
    x = images(1)[:, :1]
    severity = (0.95, 0.9, 0.85, 0.75, 0.65).index(share) + 1
    image = Image.fromarray(x[0, 0].numpy(), mode="F")
    expected = image.resize((small, small), Image.Resampling.BOX).resize((32, 32), Image.Resampling.BOX)
    made = corrupted("pixelate", x, severity, space=Box((1, 32, 32)))
    np.testing.assert_allclose(made[0, 0].numpy(), np.asarray(expected), atol=1e-5)


@pytest.mark.parametrize(("severity", "quality"), list(zip(SEVERITIES, (80, 65, 58, 50, 40), strict=True)))
def test_jpeg_is_a_file_of_the_published_quality_and_hardly_changes_a_plain_image(severity: int, quality: int) -> None:
    x = (255 * images(1)).round() / 255
    file = io.BytesIO()
    levels = (255 * x[0]).round().byte().permute(1, 2, 0).numpy()
    Image.fromarray(levels).save(file, "JPEG", quality=quality)
    expected = torch.from_numpy(np.array(Image.open(file))).permute(2, 0, 1) / 255
    torch.testing.assert_close(corrupted("jpeg", x, severity)[0], expected)
    plain = torch.full((1, 3, 32, 32), 100 / 255)
    assert float((corrupted("jpeg", plain, severity) - plain).abs().max()) <= 2 / 255 + 1e-6


def test_larger_images_are_blurred_over_as_large_a_part_of_them() -> None:
    spreads = {}
    for side in (28, 32, 64, 96):
        x = torch.zeros(1, 1, side, side)
        x[0, 0, side // 2, side // 2] = 1
        made = corrupted("defocus-blur", x, 5, space=Box((1, side, side)))[0, 0]
        steps = torch.arange(side) - side // 2
        spreads[side] = float((made.sum(dim=0) * steps**2).sum().sqrt())
    assert spreads[28] == pytest.approx(spreads[32], rel=1e-4)
    assert spreads[64] / spreads[32] == pytest.approx(2, rel=0.25)
    assert spreads[96] / spreads[32] == pytest.approx(3, rel=0.25)


@pytest.mark.parametrize(("severity", "decibels"), list(zip(SEVERITIES, (20, 15, 10, 5, 0), strict=True)))
def test_white_noise_has_the_ratio_that_it_says_to_what_sounds(severity: int, decibels: int) -> None:
    x = sounds(20)
    noise = corrupted("white-noise", x, severity, space=SPEECH) - x
    ratio = 10 * torch.log10(power(x).squeeze() / (noise**2).mean(dim=-1).squeeze())
    assert float((ratio - decibels).abs().max()) < 0.5
    assert float((ratio - decibels).mean()) == pytest.approx(0, abs=0.1)


def test_the_power_of_a_recording_leaves_out_the_silence_after_it_and_not_that_inside() -> None:
    x = torch.zeros(2, 1, 12)
    x[0, 0, :6] = torch.tensor([2.0, 0.0, 0.0, -2.0, 0.0, 2.0])
    assert power(x).flatten().tolist() == [2.0, 0.0]


@pytest.mark.parametrize(
    ("severity", "highest"), list(zip(SEVERITIES, (3400.0, 2400.0, 1700.0, 1200.0, 850.0), strict=True))
)
def test_a_band_limit_takes_a_tone_above_it_and_leaves_one_below(severity: int, highest: float) -> None:
    time = torch.arange(SAMPLES) / RATE
    window = torch.hann_window(SAMPLES)
    below, above = (0.1 * window * torch.sin(2 * math.pi * hertz * time) for hertz in (0.9 * highest, 1.1 * highest))
    x = torch.stack([below, above]).unsqueeze(1)
    made = corrupted("band-limit", x, severity, space=SPEECH)
    assert float((made[0] - x[0]).abs().max()) < 1e-3
    assert float(made[1].abs().max()) < 1e-3


@pytest.mark.parametrize(("severity", "limit"), list(zip(SEVERITIES, (2.0, 1.4, 1.0, 0.7, 0.5), strict=True)))
def test_clipping_flattens_what_is_louder_and_keeps_the_power(severity: int, limit: float) -> None:
    time = torch.arange(SAMPLES) / RATE
    x = (0.1 * torch.sin(2 * math.pi * 9 * RATE / SAMPLES * time)).view(1, 1, -1)
    made = corrupted("clipping", x, severity, space=SPEECH)
    torch.testing.assert_close(power(made), power(x))
    peak = float(made.abs().max())
    flat = float((made.abs() > 0.999 * peak).float().mean())
    if limit >= math.sqrt(2):  # the peak of a sine over its root mean square
        torch.testing.assert_close(made, x)
    else:
        assert flat == pytest.approx(1 - 2 / math.pi * math.asin(limit / math.sqrt(2)), abs=0.03)


def test_a_room_repeats_a_click_with_noise_that_falls_by_60_decibels_in_its_time() -> None:
    x = torch.zeros(200, 1, SAMPLES)
    x[..., 0] = 0.5
    x[..., -1] = 1e-9  # sounds to its end
    made = corrupted("reverberation", x, 2, space=SPEECH)  # 0.3 s, 3 dB
    tail = made[..., 1:-1].square().mean(dim=(0, 1))
    early, late = tail[:400].mean(), tail[800:1200].mean()  # 0.1 s apart
    assert 10 * math.log10(float(early / late)) == pytest.approx(60 * 0.1 / 0.3, abs=0.8)
    direct = made[..., 0].square()
    assert float(10 * torch.log10(direct / made[..., 1:].square().sum(dim=-1)).mean()) == pytest.approx(3, abs=0.05)
    torch.testing.assert_close(made.square().sum(dim=-1), x.square().sum(dim=-1))


@pytest.mark.parametrize(
    ("way", "place", "letter", "made"),
    [
        ("swap", 0.0, 0.0, "rseerve"),
        ("swap", 0.99, 0.0, "resevre"),
        ("drop", 0.0, 0.0, "rserve"),
        ("drop", 0.99, 0.0, "resere"),
        ("insert", 0.0, 0.0, "raeserve"),
        ("insert", 0.99, 0.99, "reserzve"),
        ("replace", 0.0, 0.0, "rwserve"),
        ("replace", 0.99, 0.0, "reserce"),
    ],
)
def test_one_error_is_made_inside_the_word_where_the_draw_says(
    way: Way, place: float, letter: float, made: str
) -> None:
    assert misspelt("reserve", way, place, letter) == made


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("word", ["pay", "i", "7pm", "2019", "won't", "c3po"])
def test_short_words_numbers_and_words_with_marks_get_no_error(way: Way, word: str) -> None:
    assert misspelt(word, way, 0.5, 0.5) == word


@pytest.mark.parametrize("way", WAYS)
def test_an_error_keeps_the_first_and_the_last_letter_and_is_one_edit(way: Way) -> None:
    for step in range(100):
        made = misspelt("booking", way, step / 100, (37 * step % 100) / 100)
        assert (made[0], made[-1]) == ("b", "g")
        assert len(made) == len("booking") + {"drop": -1, "insert": 1}.get(way, 0)
        if way == "swap":
            assert sorted(made) == sorted("booking")
            assert made != "booking"
    assert misspelt("aooa", "swap", 0.5, 0.5) == "aooa"  # two letters of one kind are swapped unseen


def test_keys_touch_those_beside_them_and_each_other() -> None:
    assert (set(beside("g")), set(beside("q")), set(beside("m"))) == ({*"fhtyvb"}, {*"wa"}, {*"njk"})
    letters = "".join(ROWS)
    assert sorted(letters) == [chr(code) for code in range(ord("a"), ord("z") + 1)]
    for letter in letters:
        assert all(letter in beside(other) for other in beside(letter))


@pytest.mark.parametrize(("severity", "share"), list(zip(SEVERITIES, (0.1, 0.2, 0.3, 0.4, 0.5), strict=True)))
@pytest.mark.parametrize("name", TYPOS)
def test_a_severity_is_the_share_of_long_words_that_are_misspelt(name: str, severity: int, share: float) -> None:
    space, x = clinc150.Clinc150().space, sentences(150)
    made = corrupted(name, x, severity, space=space)
    able = [
        [misspelt(space.words[n], "drop", 0, 0) != space.words[n] for n in row] for row in space.numbers(x).tolist()
    ]
    changed = (made != x).any(dim=-1)
    assert not changed[~torch.tensor(able)].any()
    assert float(changed[torch.tensor(able)].float().mean()) == pytest.approx(share, abs=0.05)


def test_a_misspelt_word_has_the_vector_that_the_table_gives_to_words_never_seen_in_use() -> None:
    space, held = clinc150.Clinc150().space, clinc150.table()
    rare = sorted({*range(1, len(held.words))} - {*held.known})
    assert len(rare) > 4000
    # The table was made of known vectors before they were rounded, so the same rule gives nearly the same direction.
    for number in rare[::40]:
        assert float(spelling.spelled(space, held.words[number]) @ held.vectors[number]) > 0.999


def test_an_error_that_makes_another_word_has_that_words_vector() -> None:
    space = clinc150.Clinc150().space
    x = torch.zeros(1, 20, 64)
    x[0, 0] = space.table[space.words.index("from")]
    always = Typos("swap", (1.0,) * 5)
    made = always(victim(x, space), Threat("corruption", 1), Streams([1])).squeeze(1)
    assert "form" in space.words
    assert space.numbers(made)[0, 0] == space.words.index("form")


def test_a_new_word_lies_nearest_to_the_word_that_it_was_meant_to_be() -> None:
    space = clinc150.Clinc150().space
    known = space.table[list(space.known)].numpy()
    names = [space.words[number] for number in space.known]
    found = 0
    for word in ("reservation", "transfer", "balance", "restaurant", "insurance", "directions"):
        for way in WAYS:
            wrong = misspelt(word, way, 0.5, 0.5)
            assert wrong not in space.words
            found += names[int((known @ spelling.spelled(space, wrong)).argmax())] == word
    assert found >= 18  # of 24; an error hits up to three of a word's trigrams


def test_by_hand_a_new_word_is_the_mean_of_those_that_share_its_trigrams() -> None:
    rule = spelling.Speller(("card", "cart", "zoo"), np.eye(3))
    # <ca car are re> shares 2 of 6 trigrams with <ca car ard rd> and with <ca car art rt>, none with zoo.
    drawn = np.random.default_rng(list(b"care")).normal(size=3)
    expected = np.array([1, 1, 0]) / math.sqrt(2) + 0.3 * drawn / np.linalg.norm(drawn)
    np.testing.assert_allclose(rule.vector("care"), expected)


def test_the_known_words_are_those_that_training_sentences_hold_three_times(real_data: Callable[[str], Path]) -> None:
    texts = clinc150.sentences(real_data("clinc150") / clinc150.FILE)
    base = [text for name in clinc150.Clinc150().classes("train") for text in texts[name.split("/")[1]]]
    seen = Counter(word for text in base for word in clinc150.words_of(text))
    held = clinc150.table()
    assert [held.words[number] for number in held.known] == sorted(word for word in seen if seen[word] >= 3)


def test_a_corruption_refuses_inputs_of_another_sort() -> None:
    x = images(1)
    with pytest.raises(InputError, match=r"^attack: corrupts sounds; these inputs are images$"):
        corrupted("white-noise", x, 1)
    with pytest.raises(InputError, match=r"^attack: corrupts images; these inputs are sounds$"):
        corrupted("fog", sounds(1), 1, space=SPEECH)
    with pytest.raises(InputError, match=r"^attack: corrupts sentences; these inputs are images$"):
        corrupted("typo-drop", x, 1)


@pytest.mark.parametrize(
    ("space", "inputs"),
    [
        (Box((3, 32, 32)), "images"),
        (Box((1, 28, 28)), "images"),
        (Box((2, 6, 6)), "other"),
        (Box((20, 64)), "other"),
        (SPEECH, "sounds"),
        (Sentences((20, 64)), "sentences"),
    ],
)
def test_a_space_says_what_its_inputs_are(space: Box, inputs: str) -> None:
    assert space.inputs == inputs


@pytest.mark.parametrize("eps", [0.5, 6, 1.0001, 100])
def test_a_severity_that_there_is_not_is_refused_in_one_line(eps: float) -> None:
    with pytest.raises(
        InputError, match=rf"^eps: {eps:g} is not the severity of a corruption; legal: 0, 1, 2, 3, 4, 5$"
    ):
        threats.check(Threat("corruption", eps), COLOUR)


@pytest.mark.parametrize("eps", [0, *SEVERITIES])
def test_every_severity_is_legal(eps: int) -> None:
    assert threats.check(Threat("corruption", eps), COLOUR) == Threat("corruption", eps)


def test_of_a_corruption_nothing_but_the_box_and_finite_entries_is_asked() -> None:
    x, threat = torch.full((2, 1, 3, 4, 4), 0.5), Threat("corruption", 1)
    box = Box((3, 4, 4))
    assert threats.within(1 - x, x, threat, box)
    for wrong in (1.001, -0.001, math.nan, math.inf):
        bad = x.clone()
        bad[1, 0, 2, 1, 3] = wrong
        assert not threats.within(bad, x, threat, box)
    moved = torch.zeros(2, 1, 3, 4, 4)
    moved[1, 0, :, 0, 0] = 0.1
    assert threats.distance(moved, "corruption", 3).tolist() == [[0.0], [pytest.approx(3 / 48)]]


def test_corruption_is_a_threat_and_no_norm_of_a_ball() -> None:
    norms: tuple[Norm, ...] = ("corruption",)
    assert "corruption" in THREATS
    for name in [*IMAGES, *SOUNDS, *TYPOS]:
        made: Any = catalog.attack(name)
        assert (made.norms, made.surfaces, made.needs_gradient) == (norms, ("query",), False)
        assert len(made.shares if name in TYPOS else made.constants) == len(SEVERITIES)


class Dark:
    """Calls an image class 0 if it is dark and class 1 if it is bright, whatever it was taught."""

    def adapt(self, x: Tensor, y: Tensor) -> int:
        return len(y)

    def predict(self, fitted: int, x: Tensor) -> Tensor:
        bright = x.flatten(1).mean(dim=1)
        return torch.stack([0.35 - bright, bright - 0.35], dim=-1)


def cell(attack: str, severity: float, **changed: Any) -> Cell:
    given: dict[str, Any] = {
        "checkpoint": "dark",
        "weights": "w",
        "algorithm": "custom",
        "defense": "custom",
        "norm_mode": "own",
        "family": "strokes",
        "episodes": "e",
        "split": "test",
        "spec": Spec(2, 1, 5),
        "steps": None,
        "attack": attack,
        "attack_fields": repr(catalog.attack(attack)),
        "threat": Threat("corruption", severity),
        "seed": 0,
    }
    return Cell(**given | changed)


def test_accuracy_counts_a_query_that_only_its_corruption_made_right() -> None:
    family = catalog.family("strokes")
    learner = ObjectLearner(Dark(), family.space, 2)
    block = run(cell("contrast", 5), learner, family, catalog.attack("contrast"), range(6))
    lucky = sum(
        after and not before for one in block.records for before, after in zip(one.clean, one.survived, strict=True)
    )
    x = family.sample("test", Spec(2, 1, 5), range(6))
    assert lucky == 0  # contrast keeps the mean, so no verdict changes
    bright = run(cell("brightness", 5), learner, family, catalog.attack("brightness"), range(6)).records
    expected = [
        [(float((q + 0.3).clamp(max=1).mean()) > 0.35) == bool(y) for q, y in zip(qs, ys, strict=True)]
        for qs, ys in zip(x.query_x, x.query_y, strict=True)
    ]
    assert [list(one.survived) for one in bright] == expected
    assert any(after and not before for one in bright for before, after in zip(one.clean, one.survived, strict=True))


def test_all_learners_meet_the_same_corrupted_queries() -> None:
    family = catalog.family("strokes")
    learner = ObjectLearner(Dark(), family.space, 2)
    attack = catalog.attack("gaussian-noise")
    asked = [
        cell("gaussian-noise", 3),
        cell("gaussian-noise", 3, weights="other", algorithm="protonet", steps=4),
        cell("gaussian-noise", 4),
        cell("gaussian-noise", 3, seed=1),
    ]
    one, same, stronger, elsewhere = (
        run(each, learner, family, attack, [0, 1], examples=True).examples[1].x_adv for each in asked
    )
    assert np.array_equal(one, same)
    assert not np.array_equal(one, stronger)
    assert not np.array_equal(one, elsewhere)


def results(*rows: tuple[str, str, float, list[tuple[str, str]]]) -> store.Results:
    """Hold cells (checkpoint, corruption, severity) with bits (clean, after) by task."""
    runs = []
    for name, attack, severity, tasks in rows:
        about = cell(attack, severity, checkpoint=name, weights=f"w-{name}", algorithm="protonet")
        about = replace(about, defense=name, norm_mode="support")
        bits = [tuple(tuple(bit == "1" for bit in text) for text in pair) for pair in tasks]
        records = tuple(Record(i, clean, after, 0.5, 10, 0) for i, (clean, after) in enumerate(bits))
        runs.append(store.Run(about, records))
    return store.tables(runs, [])


TWO = results(
    ("standard", "fog", 1, [("1100", "1010"), ("1110", "0111")]),
    ("standard", "fog", 2, [("1100", "0010"), ("1110", "1100")]),
    ("standard", "snow", 1, [("1100", "1111"), ("1110", "1111")]),
    ("standard", "snow", 2, [("1100", "1100"), ("1110", "0000")]),
    ("aq", "fog", 1, [("1000", "1000"), ("1000", "1000")]),
    ("aq", "fog", 2, [("1000", "1000"), ("1000", "1000")]),
    ("aq", "snow", 1, [("1000", "1000"), ("1000", "1000")]),
    ("aq", "snow", 2, [("1000", "1000"), ("1000", "0000")]),
)


def part(table: pd.DataFrame, name: str, part: str, severity: int | None = None) -> pd.Series:
    mine = table[(table["checkpoint"] == name) & (table["part"] == part)]
    mine = mine[mine["severity"].isna()] if severity is None else mine[mine["severity"] == severity]
    assert len(mine) == 1
    return mine.iloc[0]


def test_means_are_over_all_corruptions_and_severities_task_by_task() -> None:
    table = statistics.corruptions(TWO)
    # Task 0: 2/4, 1/4, 4/4, 2/4; task 1: 3/4, 2/4, 4/4, 0/4.
    first, second = 9 / 16, 9 / 16
    mean = part(table, "standard", "mean")
    assert (mean["accuracy"], mean["tasks"], mean["missing"]) == (pytest.approx((first + second) / 2), 2, 0)
    assert part(table, "standard", "mean", 1)["accuracy"] == pytest.approx((6 / 8 + 7 / 8) / 2)
    assert part(table, "standard", "mean", 2)["accuracy"] == pytest.approx((3 / 8 + 2 / 8) / 2)
    assert part(table, "standard", "fog")["accuracy"] == pytest.approx((3 / 8 + 5 / 8) / 2)
    assert part(table, "standard", "snow", 2)["accuracy"] == pytest.approx((2 / 4 + 0) / 2)
    assert part(table, "standard", "clean")["accuracy"] == pytest.approx(5 / 8)
    assert mean["drop"] == pytest.approx(5 / 8 - 9 / 16)


def test_the_interval_of_a_mean_is_over_tasks_and_not_over_its_cells() -> None:
    table = statistics.corruptions(TWO)
    fog = part(table, "standard", "fog")
    assert fog["ci95"] == pytest.approx(12.7062 * np.std([3 / 8, 5 / 8], ddof=1) / math.sqrt(2), rel=1e-4)
    drops = [2 / 4 - 3 / 8, 3 / 4 - 5 / 8]
    assert fog["drop"] == pytest.approx(np.mean(drops))
    assert fog["drop_ci95"] == pytest.approx(0, abs=1e-12)


def test_the_worst_case_asks_to_be_right_when_clean_and_everywhere() -> None:
    table = statistics.corruptions(TWO)
    # Severity 1: task 0 keeps query 0; task 1 keeps 1 and 2. Severity 2: task 0 none; task 1 none.
    assert part(table, "standard", "worst case", 1)["accuracy"] == pytest.approx((1 / 4 + 2 / 4) / 2)
    assert part(table, "standard", "worst case", 2)["accuracy"] == 0
    frame = statistics.worst_case(TWO)
    standard = frame[frame["checkpoint"] == "standard"]
    assert standard["robust"].tolist() == pytest.approx([3 / 8, 0])


def test_an_attack_alone_is_accuracy_and_no_query_of_a_ball_gains_by_that() -> None:
    fog = statistics.by_attack(TWO)
    row = fog[(fog["checkpoint"] == "standard") & (fog["attack"] == "fog") & (fog["eps"] == 1)].iloc[0]
    assert (row["clean"], row["robust"]) == (pytest.approx(5 / 8), pytest.approx(5 / 8))
    ball = replace(TWO, cells=TWO.cells.assign(norm="linf", eps=0.1 * TWO.cells["eps"]))
    key = TWO.cells[(TWO.cells["checkpoint"] == "standard") & (TWO.cells["eps"] == 1) & (TWO.cells["attack"] == "fog")]
    assert bits_by_key(TWO)[key["key"].item()].survived.sum() == 5
    assert bits_by_key(ball)[key["key"].item()].survived.sum() == 3


def test_an_entry_that_lacks_a_corruption_has_no_mean_and_the_others_keep_theirs() -> None:
    lacking = TWO.cells[(TWO.cells["checkpoint"] == "aq") & (TWO.cells["attack"] == "snow") & (TWO.cells["eps"] == 2)]
    key = lacking["key"].item()
    table = statistics.corruptions(
        replace(TWO, cells=TWO.cells[TWO.cells["key"] != key], tasks=TWO.tasks[TWO.tasks["key"] != key])
    )
    mine = table[table["checkpoint"] == "aq"]
    assert not (mine["part"] == "mean").any()
    assert set(mine["missing"]) == {1}
    assert part(table, "standard", "mean")["missing"] == 0


def test_two_entries_are_compared_by_their_means_task_by_task() -> None:
    (board,) = standings(TWO)
    aq = next(one for one in board if one.entry.checkpoint == "aq")
    reference, (difference, half, n) = statistics.mean_difference(aq, board)
    assert reference is not None
    assert reference.checkpoint == "standard"
    by_task = [4 / 16 - 9 / 16, 3 / 16 - 9 / 16]
    assert n == 2
    assert difference == pytest.approx(float(np.mean(by_task)))
    assert half == pytest.approx(12.7062 * np.std(by_task, ddof=1) / math.sqrt(2), rel=1e-4)


def test_entries_that_share_no_task_are_not_compared_and_results_without_corruptions_have_no_means() -> None:
    shifted = TWO.tasks.assign(task=TWO.tasks["task"] + 5 * TWO.tasks["key"].isin(keys_of("aq")))
    (board,) = standings(replace(TWO, tasks=shifted))
    for one in board:
        reference, (difference, _, n) = statistics.mean_difference(one, board)
        assert (reference, math.isnan(difference), n) == (None, True, 0)
    assert statistics.corruptions(replace(TWO, cells=TWO.cells.assign(norm="linf"))).empty


def keys_of(name: str) -> list[str]:
    return list(TWO.cells[TWO.cells["checkpoint"] == name]["key"])


def test_a_report_names_severities_and_corruptions_and_no_budget(tmp_path: Path) -> None:
    report.write(TWO, [], tmp_path)
    for name in ("leaderboard.md", "leaderboard.html"):
        text = (tmp_path / name).read_text(encoding="utf-8")
        assert "strokes (test), 2-way 1-shot, common corruptions" in text
        assert "Worst case, severity 2" in text
        assert "Mean corruption accuracy" in text
        assert "Corrupted queries" in text
        assert "/255" not in text
        assert "ε = 2" not in text
    text = (tmp_path / "leaderboard.md").read_text(encoding="utf-8")
    assert "| standard | 62.5 ± 158.8" not in text  # two tasks are too few for a number
    assert "under every corruption run at this severity (fog, snow)" in text


def test_a_cell_of_a_corruption_is_kept_and_read_back(tmp_path: Path) -> None:
    store.prepare(tmp_path)
    record = Record(0, (True, False), (False, True), 0.25, 2, 0)
    store.append(tmp_path, cell("fog", 3), [record], store.Timing((0,), 1.0, "cpu", 1))
    assert store.stored(tmp_path, cell("fog", 3)) == [record]


def subject(name: str = "strokes", inner: Any = None) -> grid.Subject:
    family = catalog.family(name)
    return grid.object_subject(inner or Dark(), name, family, device="cpu", ways=2)


def test_an_evaluation_that_names_no_attack_runs_every_corruption_that_serves_the_family(tmp_path: Path) -> None:
    found = grid.usual_attacks(("corruption",), [subject()])
    assert sorted(found) == IMAGES
    axes = grid.Grid(attacks=found, norms=("corruption",), ways=2, shots=(1,), queries=2)
    plan = grid.make_plan(axes, [subject()], tmp_path)
    assert len(plan.jobs) == len(IMAGES) * len(SEVERITIES)
    assert not plan.refused
    assert set(grid.usual_attacks(("linf",), [subject()])) == {*grid.ATTACKS}


@pytest.mark.parametrize(
    ("name", "surface", "said"),
    [
        ("white-noise", "query", "white-noise on strokes: corrupts sounds; strokes has images"),
        ("fog", "support", "fog on strokes: attacks the query, not the support"),
        ("fgsm", "query", "fgsm on strokes: works in linf, l2, l1, not in corruption"),
    ],
)
def test_what_cannot_serve_is_refused_at_planning_in_one_line(
    name: str, surface: Any, said: str, tmp_path: Path
) -> None:
    attacks: dict[str, Attack] = {name: catalog.attack(name)}
    axes = grid.Grid(attacks=attacks, norms=("corruption",), surfaces=(surface,), ways=2, shots=(1,), queries=2)
    with pytest.raises(grid.NothingLeft, match=rf"^attacks: nothing is left to run: {said}$"):
        grid.make_plan(axes, [subject()], tmp_path)


@pytest.mark.parametrize("family", ["transduction", "parallel-text", "navigation"])
def test_a_family_without_corruptions_is_told_with_those_that_have_some(family: str, tmp_path: Path) -> None:
    given = replace(subject(), family=catalog.family(family), family_name=family)
    having = "cifar-fs, clinc150, fc100, image-folder, omniglot, spoken-digits, spoken-new-digits, strokes"
    said = f"no corruption serves {family}; families that have some: {having}$"
    with pytest.raises(InputError, match=rf"^norm: {said}"):
        grid.usual_attacks(("corruption",), [given])
    assert sorted(grid.usual_attacks(("corruption",), [given, subject()])) == IMAGES


def test_typing_errors_are_refused_at_planning_where_no_word_is_known_by_its_use(tmp_path: Path) -> None:
    learner = grid.load_subject(Path("checkpoints/transduction-r2d2-standard"), device="cpu")
    axes = grid.Grid(grid.named_attacks(["typo-swap"]), norms=("corruption",), ways=9, shots=(1,), queries=2)
    said = "misspells words that are known by their use; transduction has none; no corruption serves transduction; fam"
    with pytest.raises(grid.NothingLeft, match=said):
        grid.make_plan(axes, [learner], tmp_path)
    clinc150 = catalog.family("clinc150").space
    assert not grid._lacking(catalog.attack("typo-swap"), clinc150, "clinc150")


def test_a_corruption_alone_asks_no_learner_and_joins_no_ensemble() -> None:
    with pytest.raises(InputError, match=r"^attack: fog cannot go on from what others found"):
        catalog.attack("fog+snow")


def test_a_learner_is_evaluated_from_end_to_end(tmp_path: Path) -> None:
    common: dict[str, Any] = {"norm": "corruption", "eps": [1, 5], "tasks": 2, "out": tmp_path, "queries": 3}
    table = evaluate("checkpoints/strokes-protonet-standard", attacks=["contrast", "pixelate"], **common)
    assert table["status"].tolist() == ["ok"] * 4
    assert set(table["eps"]) == {1.0, 5.0}
    assert not list((tmp_path / "audits").glob("*"))
    means = statistics.corruptions(store.read(tmp_path))
    assert part(means, "strokes-protonet-standard", "mean")["accuracy"] == pytest.approx(table["robust"].mean())


def test_an_entry_of_a_board_may_be_right_where_it_was_wrong_and_must_be_able_to_meet_its_corruption(
    tmp_path: Path,
) -> None:
    axes = grid.Grid(grid.named_attacks(["brightness"]), norms=("corruption",), eps=(5.0,), ways=2, shots=(1,))
    plan = grid.make_plan(axes, [subject()], tmp_path)
    assert not grid.execute(plan, tmp_path, tasks=3)
    (entry,) = submissions.entries_of(tmp_path, {}, submissions.About(authors=("A",)), "1.2.3")
    bits = [[int(text, 16) for text in row[1:3]] for row in entry.cells[0].tasks]
    assert any(after & ~before for before, after in bits)
    assert [problem.text for problem in tracks.of_entry("e.json", entry)] == []
    (one,) = entry.cells
    noise = {"attack": "white-noise", "attack_fields": repr(catalog.attack("white-noise"))}
    other = one.model_copy(update={"cell": one.cell.model_copy(update=noise)})
    (problem,) = tracks.of_entry("e.json", entry.model_copy(update={"cells": (other,)}))
    assert problem.text == "e.json: cells.0.attack: 'white-noise'; it corrupts sounds, which strokes has none of"


def test_nobody_can_claim_to_be_a_worse_corruption(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"^norm: 'corruption' has no adversary who could be claimed; legal: linf, l2"):
        external.write_external(
            tmp_path,
            "checkpoints/strokes-protonet-standard",
            {0: np.zeros((75, 1, 28, 28))},
            attack="mine",
            authors="A",
            robust=0.1,
            eps=5,
            norm="corruption",
        )


def test_recorded_speech_is_corrupted_at_its_own_rate(real_data: Callable[[str], Path], tmp_path: Path) -> None:
    family = catalog.family("spoken-digits", root=real_data("fsdd"))
    assert isinstance(family.space, Sounds)
    assert family.space.rate == 8000
    x = family.sample("test", Spec(2, 1, 2), [0]).query_x[0]
    made = corrupted("band-limit", x, 5, space=family.space)
    loud = torch.fft.rfft(made, 2 * x.shape[-1]).abs()
    above = torch.fft.rfftfreq(2 * x.shape[-1], 1 / 8000) > 900
    assert float(loud[..., above].max()) < 0.2 * float(loud.max())


def test_the_page_of_the_benchmark_pairs_learners_and_says_what_is_shown(tmp_path: Path) -> None:
    benchmark = load("corruptions")
    folder = tmp_path / "strokes"
    store.prepare(folder)
    for name, level in (("standard", 6), ("aq", 8)):
        for attack, severity in ((attack, severity) for attack in ("fog", "snow") for severity in SEVERITIES):
            about = replace(cell(attack, severity, checkpoint=name, weights=name, algorithm="protonet"), defense=name)
            right = level - severity // 2
            records = [
                Record(task, (True,) * 9 + (False,), tuple(at < right + task % 2 for at in range(10)), 0.5, 10, 0)
                for task in range(6)
            ]
            store.append(folder, about, records, store.Timing(tuple(range(6)), 1.0, "cpu", 1))
    text = benchmark.page(tmp_path)
    # Severities 1 to 5 leave level - 0, 1, 1, 2 and 2 of ten, and one more in every second task.
    assert "| `standard` | 2 | 90.0 ± 0.0 | **53.0 ± 5.7** | 37.0 ± 5.7 | 45.0 ± 5.7 | 6 |" in text
    report.write(store.read(folder), [], tmp_path)
    headline = "Highest mean corruption accuracy: aq, 73.0 ± 5.7 %, n = 6; highest worst case at severity 5: aq, 65.0"
    assert headline in (tmp_path / "leaderboard.md").read_text(encoding="utf-8")
    assert "| `strokes` | +0.0 ± 0.0 | **+20.0 ± 0.0** | +20.0 ± 0.0 | higher | 6 |" in text
    assert "| fog | 53.0 ± 5.7 | 73.0 ± 5.7 | +20.0 ± 0.0 |" in text
