"""What every family of the tasks folder promises; a file added there is tested here as it is."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from real import FOLDERS
from torch import Tensor

from robustbench_meta import tasks
from robustbench_meta.episodes import fingerprint
from robustbench_meta.types import SPLITS, Box, Episodes, InputError, Spec, TaskFamily

SPEC = Spec(ways=5, shots=2, queries=3, proxies=2)
FAMILIES: dict[str, Any] = {
    name: family
    for module in pkgutil.iter_modules(tasks.__path__)
    for name, family in importlib.import_module(f"{tasks.__name__}.{module.name}").PRESETS.items()
}


@pytest.fixture(scope="session")
def image_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60 classes of 8 small images of noise."""
    root, rng = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    for label in range(60):
        (root / f"class{label:02d}").mkdir()
        for number in range(8):
            pixels = rng.integers(0, 256, (12, 12, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / f"class{label:02d}" / f"{number}.png")
    return root


@pytest.fixture(scope="session")
def parallel_text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two files a split, each of 1500 pairs over 6 words, targets in the order of the source."""
    root, rng = tmp_path_factory.mktemp("pairs"), np.random.default_rng(0)
    for split in SPLITS:
        (root / split).mkdir()
        for file in ("one", "two"):
            rows = [rng.integers(0, 6, rng.integers(2, 6)) for _ in range(1500)]
            lines = [" ".join(f"{split}{n}" for n in row) + "\t" + " ".join(f"t{n}" for n in row) for row in rows]
            (root / split / f"{split}-{file}.tsv").write_text("\n".join(lines), encoding="utf-8")
    return root


@pytest.fixture(params=sorted(FAMILIES))
def family(
    request: pytest.FixtureRequest, image_folder: Path, parallel_text: Path, real_data: Callable[[str], Path]
) -> Any:
    name = request.param
    if name == "parallel-text":
        return replace(FAMILIES[name], root=parallel_text)
    if name == "image-folder":
        return replace(FAMILIES[name], root=image_folder, size=12)
    return replace(FAMILIES[name], root=real_data(FOLDERS[name])) if name in FOLDERS else FAMILIES[name]


def parts(episodes: Episodes) -> dict[str, tuple[Tensor, Tensor, int]]:
    assert episodes.proxy_x is not None
    assert episodes.proxy_y is not None
    return {
        "support": (episodes.support_x, episodes.support_y, SPEC.shots),
        "query": (episodes.query_x, episodes.query_y, SPEC.queries),
        "proxy": (episodes.proxy_x, episodes.proxy_y, SPEC.proxies),
    }


def same(a: Episodes, b: Episodes) -> bool:
    return all(x.equal(parts(b)[name][0]) and y.equal(parts(b)[name][1]) for name, (x, y, _) in parts(a).items())


@pytest.mark.parametrize("name", sorted(FAMILIES))
def test_a_family_is_a_task_family_under_the_name_of_its_preset(name: str) -> None:
    preset = FAMILIES[name]
    assert preset.name == name
    assert getattr(preset, "root", None) is None
    assert isinstance(preset.default_network, str)
    assert isinstance(preset.default_network_options, dict)
    assert hash(preset) == hash(replace(preset))
    assert isinstance(preset, TaskFamily)


@pytest.mark.parametrize("split", SPLITS)
def test_episodes_have_the_shape_the_box_and_balanced_ordered_labels(family: Any, split: Any) -> None:
    space: Box = family.space
    for x, y, each in parts(family.sample(split, SPEC, range(4))).values():
        assert x.shape == (4, 5 * each, *space.shape)
        assert x.dtype == torch.float32
        assert space.low <= float(x.min()) < float(x.max()) <= space.high
        assert y.dtype == torch.int64
        by_class = y.view(4, 5, each, space.labels)
        if space.labels == 1:
            assert (by_class == torch.arange(5).view(5, 1, 1)).all()
        # An item that stands for a token of sequences holds it, and its target has an end.
        assert (by_class == torch.arange(5).view(5, 1, 1)).any(dim=3).all()
        assert space.labels == 1 or (by_class[..., -1] == 0).all()


def test_splits_share_no_class(family: Any) -> None:
    names = [name for split in SPLITS for name in family.classes(split)]
    assert len(names) == len(set(names))
    assert all(len(family.classes(split)) >= 5 for split in SPLITS)


def test_splits_share_no_drawn_image(family: Any) -> None:
    held = [
        {item.numpy().tobytes() for item in family.sample(split, SPEC, range(4)).query_x.flatten(0, 1)}
        for split in SPLITS
    ]
    assert not held[0] & held[1]
    assert not held[0] & held[2]
    assert not held[1] & held[2]


def test_support_queries_and_proxies_share_no_image(family: Any) -> None:
    episodes = family.sample("test", SPEC, range(8))
    for task in range(8):
        items = [item.numpy().tobytes() for x, _, _ in parts(episodes).values() for item in x[task]]
        assert len(items) == len(set(items)) == 35


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(family: Any) -> None:
    episodes = family.sample("test", SPEC, range(3), seed=4)
    assert same(episodes, family.sample("test", SPEC, range(3), seed=4))
    assert not same(episodes, family.sample("test", SPEC, range(3), seed=5))


def test_a_task_is_fixed_by_its_number_whatever_the_chunk(family: Any) -> None:
    chunk = family.sample("test", SPEC, [6, 1])
    for place, index in enumerate([6, 1]):
        alone = family.sample("test", SPEC, [index])
        for name, (x, _, _) in parts(alone).items():
            assert x[0].equal(parts(chunk)[name][0][place])


def test_a_larger_support_begins_with_the_smaller_one(family: Any) -> None:
    small, large = (family.sample("val", replace(SPEC, shots=shots), range(2)) for shots in (1, 3))
    of_class = large.support_x.view(2, 5, 3, *family.space.shape)
    assert small.support_x.equal(of_class[:, :, 0])
    assert small.query_x.equal(large.query_x)


def test_the_fingerprint_is_stable_and_tells_splits_apart(family: Any) -> None:
    hashes = [fingerprint(family, split) for split in SPLITS]
    assert hashes == [fingerprint(family, split) for split in SPLITS]
    assert len(set(hashes)) == 3


def test_sampling_leaves_the_global_generator_alone(family: Any) -> None:
    before = torch.get_rng_state()
    family.sample("test", SPEC, range(2))
    assert torch.get_rng_state().equal(before)


def test_more_than_there_is_gets_refused_in_one_line(family: Any) -> None:
    for change, named in (
        ({"ways": 1}, "ways=1"),
        ({"ways": 10_000}, "ways=10000"),
        ({"shots": 10_000}, "shots=10000"),
    ):
        with pytest.raises(InputError, match=named) as refusal:
            family.sample("test", replace(SPEC, **change), [0])
        assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("name", sorted(FOLDERS))
def test_a_missing_data_root_names_the_command_that_fills_it(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RBM_DATA", raising=False)
    for family in (FAMILIES[name], replace(FAMILIES[name], root=tmp_path)):
        with pytest.raises(InputError, match=f"rbm data get {name}") as refusal:
            family.sample("test", SPEC, [0])
        assert "\n" not in str(refusal.value)


def test_the_variable_is_read_where_no_root_is_given(image_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RBM_DATA", str(image_folder))
    given = replace(FAMILIES["image-folder"], size=12)
    assert same(given.sample("test", SPEC, [0]), replace(given, root=image_folder).sample("test", SPEC, [0]))
