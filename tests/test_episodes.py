"""Episodes on a pool whose pixels say which image they are: image i of class c has the value 40·c + i."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor

from robustbench_meta.episodes import Pool, fingerprint, sample
from robustbench_meta.types import Box, Episodes, InputError, Spec, Split

CLASSES, EACH = 6, 40
POOL = Pool(
    images=torch.arange(CLASSES * EACH, dtype=torch.uint8).view(-1, 1, 1, 1),
    starts=tuple(range(0, CLASSES * EACH + 1, EACH)),
    names=tuple("abcdef"),
)
SPEC = Spec(ways=3, shots=2, queries=4, proxies=1)


@dataclass(frozen=True)
class Toy:
    """The least that is a task family."""

    pool: Pool = POOL
    space: ClassVar[Box] = Box((1, 1, 1))

    def sample(self, split: Split, spec: Spec, indices: Sequence[int], *, seed: int = 0) -> Episodes:
        return sample(self.pool, spec, indices, stream=f"toy/{split}/{seed}")

    def classes(self, split: Split) -> list[str]:
        return list(self.pool.names)


def drawn(spec: Spec = SPEC, indices: Sequence[int] = range(8), stream: str = "toy/test/0") -> Episodes:
    return sample(POOL, spec, indices, stream=stream)


def numbers(x: Tensor | None, ways: int) -> Tensor:
    """Which images [T,W,k] the items x [T,W·k,1,1,1] are."""
    assert x is not None
    return (x * 255).round().long().view(len(x), ways, -1)


def test_the_draw_of_a_stream_never_changes() -> None:
    pool = Pool(torch.arange(48, dtype=torch.uint8).view(-1, 1, 1, 1), tuple(range(0, 49, 8)), tuple("abcdef"))
    episodes = sample(pool, Spec(ways=3, shots=2, queries=3, proxies=1), [0], stream="toy/test/0")
    assert numbers(episodes.query_x, 3).tolist() == [[[21, 20, 23], [24, 27, 25], [32, 34, 35]]]
    assert numbers(episodes.support_x, 3).tolist() == [[[19, 17], [28, 29], [33, 36]]]
    assert numbers(episodes.proxy_x, 3).tolist() == [[[18], [26], [37]]]


def test_the_k_shot_support_is_the_first_k_of_a_larger_one() -> None:
    large = drawn(replace(SPEC, shots=9))
    for shots in (1, 2, 5):
        small = drawn(replace(SPEC, shots=shots))
        assert numbers(small.support_x, 3).equal(numbers(large.support_x, 3)[:, :, :shots])


def test_more_shots_or_proxies_move_no_query() -> None:
    for spec in (replace(SPEC, shots=9), replace(SPEC, proxies=9), replace(SPEC, proxies=0)):
        assert drawn(spec).query_x.equal(drawn().query_x)


def test_more_proxies_move_no_support_and_keep_the_first_proxies() -> None:
    few, many = drawn(), drawn(replace(SPEC, proxies=9))
    assert many.support_x.equal(few.support_x)
    assert numbers(many.proxy_x, 3)[:, :, :1].equal(numbers(few.proxy_x, 3))


def test_support_follows_the_queries_in_one_permutation() -> None:
    longer = numbers(drawn(replace(SPEC, queries=6)).query_x, 3)
    assert longer[:, :, :4].equal(numbers(drawn().query_x, 3))
    assert longer[:, :, 4:].equal(numbers(drawn().support_x, 3))


def test_an_episode_that_takes_all_images_takes_each_once() -> None:
    episodes = drawn(Spec(ways=3, shots=10, queries=25, proxies=5))
    parts = [numbers(x, 3) for x in (episodes.query_x, episodes.support_x, episodes.proxy_x)]
    taken = torch.cat(parts, dim=2).sort(dim=2).values
    assert taken.equal(taken[:, :, :1] + torch.arange(EACH))
    assert (taken[:, :, 0] % EACH == 0).all()


def test_a_task_does_not_depend_on_its_batch_mates() -> None:
    together = drawn(indices=[5, 2, 7])
    for place, index in enumerate([5, 2, 7]):
        assert drawn(indices=[index]).support_x.equal(together.support_x[place : place + 1])
        assert drawn(indices=range(index, index + 1)).query_x.equal(together.query_x[place : place + 1])


def test_stream_ways_and_number_each_change_the_task() -> None:
    base = drawn(indices=[0]).query_x
    assert not base.equal(drawn(indices=[1]).query_x)
    assert not base.equal(drawn(indices=[0], stream="toy/test/1").query_x)
    assert not base.equal(drawn(indices=[0], stream="toy/val/0").query_x)
    assert not base.equal(drawn(replace(SPEC, ways=4), indices=[0]).query_x[:, :12])


def test_the_classes_of_a_task_are_distinct_and_each_is_chosen_equally_often() -> None:
    episodes = drawn(Spec(ways=3, shots=1, queries=1), range(3000))
    chosen = (numbers(episodes.query_x, 3) // EACH)[:, :, 0]
    assert all(len(set(row)) == 3 for row in chosen.tolist())
    counts = chosen.flatten().bincount(minlength=CLASSES)
    # 3000 tasks take a class with probability 1/2 each: a standard deviation of 27.4.
    assert (counts - 1500).abs().max() < 5 * 27.4


def test_items_are_ordered_by_class_and_labelled_so() -> None:
    episodes = drawn()
    assert episodes.support_y[0].tolist() == [0, 0, 1, 1, 2, 2]
    assert episodes.query_y[7].tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert episodes.proxy_y is not None
    assert episodes.proxy_y[3].tolist() == [0, 1, 2]
    classes = [numbers(x, 3) // EACH for x in (episodes.support_x, episodes.query_x, episodes.proxy_x)]
    for part in classes:
        assert part.equal(classes[0][:, :, :1].expand_as(part))


def test_each_class_of_a_task_is_called_what_its_items_are() -> None:
    pool = Pool(torch.arange(48, dtype=torch.uint8).view(-1, 1, 1, 1), tuple(range(0, 49, 8)), tuple("abcdef"))
    made = sample(pool, Spec(4, 2, 3), range(5), stream="s")
    rows = (255 * made.query_x).round().long().flatten(1)  # an item's number says its class: 8 of each
    assert made.classes == tuple(tuple("abcdef"[row // 8] for row in task[::3].tolist()) for task in rows)
    assert made.to("cpu").classes == made.classes


def test_pixels_are_float32_of_255_equal_steps() -> None:
    episodes = drawn()
    assert episodes.query_x.dtype == torch.float32
    assert episodes.query_y.dtype == torch.int64
    value = numbers(episodes.query_x, 3).numpy().astype(np.float32) / np.float32(255)
    assert np.array_equal(episodes.query_x.numpy().reshape(value.shape), value)


def test_without_proxies_there_are_none() -> None:
    assert drawn(replace(SPEC, proxies=0)).proxy_x is None


def test_no_tasks_is_an_empty_batch() -> None:
    assert drawn(indices=[]).query_x.shape == (0, 12, 1, 1, 1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ways": 1}, "ways=1: must be from 2 to 6, the number of classes of this split"),
        ({"ways": 7}, "ways=7: must be from 2 to 6, the number of classes of this split"),
        ({"shots": 0}, "shots=0: must be at least 1"),
        ({"queries": 0}, "queries=0: must be at least 1"),
        ({"proxies": -1}, "proxies=-1: must be at least 0"),
        (
            {"shots": 26, "queries": 15, "proxies": 0},
            "shots=26 queries=15: together at most 40, the number of images of the smallest class",
        ),
        (
            {"shots": 5, "queries": 15, "proxies": 21},
            "shots=5 queries=15 proxies=21: together at most 40, the number of images of the smallest class",
        ),
    ],
)
def test_a_spec_that_the_pool_cannot_serve_is_refused_in_one_line(change: dict[str, int], message: str) -> None:
    with pytest.raises(InputError) as refusal:
        drawn(replace(SPEC, **change))
    assert str(refusal.value) == message


def test_the_smallest_class_decides_whichever_classes_are_drawn() -> None:
    uneven = Pool(POOL.images[:-38], (*POOL.starts[:-1], POOL.starts[-1] - 38), POOL.names)
    for index in range(20):
        with pytest.raises(InputError, match="at most 2"):
            sample(uneven, Spec(ways=2, shots=1, queries=2), [index], stream="toy/test/0")


def test_sampling_leaves_the_global_generators_alone() -> None:
    before, before_numpy = torch.get_rng_state(), np.random.get_state()[1].copy()  # type: ignore[index]
    drawn()
    assert torch.get_rng_state().equal(before)
    assert np.array_equal(np.random.get_state()[1], before_numpy)  # type: ignore[index]


def test_the_fingerprint_is_of_the_pixels() -> None:
    changed = POOL.images.clone()
    changed[7] = 255  # no other image has it
    first = fingerprint(Toy(), "test")
    assert first == fingerprint(Toy(), "test")
    assert first != fingerprint(Toy(replace(POOL, images=changed)), "test")
    assert first != fingerprint(Toy(), "val")


def test_the_fingerprint_of_small_classes_takes_fewer_queries() -> None:
    starts = tuple(range(0, 61, 10))
    small = Toy(Pool(POOL.images[:60], starts, POOL.names))
    assert len(fingerprint(small, "test")) == 64
    with pytest.raises(InputError, match="at most 1"):
        fingerprint(Toy(Pool(POOL.images[:6], tuple(range(7)), POOL.names)), "test")
