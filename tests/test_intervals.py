"""Intervals, tests and ranks against closed forms, other libraries and simulations whose truth is known."""

from __future__ import annotations

import itertools
import math
import time

import numpy as np
import pytest
from scipy import stats

from robustbench_meta import intervals
from robustbench_meta.intervals import bootstrap_interval, holm, interval, paired_p, rank_intervals


def accuracies(n: int, mean: float, concentration: float, seed: int) -> np.ndarray:
    """Draw per-task accuracies over 75 queries as few-shot learners have them: binomial, of a Beta share."""
    rng = np.random.default_rng(seed)
    return rng.binomial(75, rng.beta(mean * concentration, (1 - mean) * concentration, n)) / 75


def test_the_interval_is_students_t_over_tasks() -> None:
    # Mean 2, standard deviation 1, n = 3: t(2, 0.975) = 4.302653.
    assert interval([1.0, 2.0, 3.0]) == pytest.approx((2.0, 4.302653 / math.sqrt(3)), rel=1e-6)


def test_one_task_has_no_interval_and_none_has_no_mean() -> None:
    mean, half = interval([0.5])
    assert mean == 0.5
    assert math.isnan(half)
    assert all(math.isnan(value) for value in interval([]))


@pytest.mark.parametrize(("n", "mean"), [(20, 0.4), (20, 0.2), (50, 0.8), (150, 0.35), (600, 0.7)])
def test_bootstrap_and_t_intervals_agree_on_realistic_accuracies(n: int, mean: float) -> None:
    """Both ends within a tenth of the half-width, on the mean over ten draws; each draw within a third."""
    apart = []
    for seed in range(10):
        values = accuracies(n, mean, 25, seed)
        centre, half = interval(values)
        low, high = bootstrap_interval(values, seed=0)
        apart.append([(low - (centre - half)) / half, (high - (centre + half)) / half])
    assert np.abs(np.mean(apart, axis=0)).max() < 0.1
    assert np.abs(apart).max() < 1 / 3


def test_the_bootstrap_is_wider_and_not_symmetric_near_zero() -> None:
    values = accuracies(20, 0.02, 25, seed=1)
    mean, half = interval(values)
    low, high = bootstrap_interval(values, seed=0)
    assert high - mean > 1.3 * half
    assert high - mean > 1.2 * (mean - low)


def test_the_bootstrap_covers_as_often_as_it_says_where_a_percentile_one_does_not() -> None:
    rng = np.random.default_rng(5)
    truth, hits, percentile = 0.32, 0, 0
    draws = rng.binomial(75, rng.beta(8, 17, (600, 10))) / 75
    for values in draws:
        low, high = bootstrap_interval(values, seed=0)
        hits += low <= truth <= high
        means = values[rng.integers(0, 10, (500, 10))].mean(1)
        percentile += np.quantile(means, 0.025) <= truth <= np.quantile(means, 0.975)
    assert hits / 600 > 0.93  # 600 draws: a standard error of 0.9 points around 95 %
    assert percentile / 600 < 0.93


def test_the_bootstrap_agrees_with_scipys_on_many_tasks() -> None:
    values = accuracies(600, 0.35, 25, seed=3)
    found = stats.bootstrap((values,), np.mean, n_resamples=4000, method="BCa", rng=np.random.default_rng(1))
    low, high = found.confidence_interval
    assert bootstrap_interval(values, seed=0) == pytest.approx((low, high), abs=0.06 * (high - low))


def test_the_bootstrap_is_the_plain_loop_over_replicates() -> None:
    values = accuracies(12, 0.4, 25, seed=2)
    counts = np.random.default_rng(7).multinomial(12, np.full(12, 1 / 12), size=intervals.REPLICATES)
    ratios = []
    for row in counts:
        drawn = np.repeat(values, row)
        ratios.append((drawn.mean() - values.mean()) / (drawn.std(ddof=1) / math.sqrt(12)))
    low, high = np.quantile(ratios, [0.025, 0.975])
    error = values.std(ddof=1) / math.sqrt(12)
    expected = (values.mean() - high * error, values.mean() - low * error)
    assert bootstrap_interval(values, seed=7) == pytest.approx(expected, rel=1e-9)


def test_the_bootstrap_repeats_itself_and_follows_its_seed() -> None:
    values = accuracies(30, 0.4, 25, seed=0)
    assert bootstrap_interval(values, seed=1) == bootstrap_interval(values.tolist(), seed=1)
    assert bootstrap_interval(values, seed=1) != bootstrap_interval(values, seed=2)


@pytest.mark.parametrize("values", [[], [0.5], [0.1, 0.4, 0.2], [0.0] * 9 + [0.04]])
def test_the_bootstrap_says_nothing_where_resampling_cannot(values: list[float]) -> None:
    assert all(math.isnan(end) for end in bootstrap_interval(values, seed=0))


def test_a_bootstrap_of_equal_values_is_their_value() -> None:
    assert bootstrap_interval([0.25] * 6, seed=0) == (0.25, 0.25)


def test_the_paired_p_is_students_where_nothing_limits_it() -> None:
    differences = accuracies(40, 0.4, 25, seed=0) - accuracies(40, 0.37, 25, seed=9)
    assert paired_p(differences) == pytest.approx(stats.ttest_1samp(differences, 0).pvalue, rel=1e-9)
    assert 1e-4 < paired_p(differences) < 1


@pytest.mark.parametrize(("n", "p"), [(1, 1.0), (2, 0.5), (3, 0.25), (6, 1 / 32), (10, 1 / 512)])
def test_equal_differences_are_as_sure_as_flipping_their_signs_allows(n: int, p: float) -> None:
    flips = [abs(sum(signs)) >= n for signs in itertools.product((-1, 1), repeat=n)]
    assert p == sum(flips) / len(flips)
    assert paired_p([0.5] * n) == p


def test_no_difference_and_too_few_are_no_evidence() -> None:
    assert paired_p([0.0] * 50) == paired_p([]) == paired_p([0.7]) == 1


def test_zeros_have_no_sign_to_flip() -> None:
    # Student's t alone would give 0.007 here; of three signs no test can be surer than 0.25.
    differences = [0.0] * 3 + [0.4, 0.4, 0.41]
    assert stats.ttest_1samp(differences * 3, 0).pvalue < 0.01
    assert paired_p(differences) == 0.25


def test_holm_steps_down_and_never_falls() -> None:
    # By hand: sorted 0.01, 0.02, 0.03, 0.04 times 4, 3, 2, 1 give 0.04, 0.06, 0.06, 0.04; the last may not fall.
    assert holm([0.03, 0.01, 0.04, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert holm([0.6, 0.7]).tolist() == [1.0, 1.0]
    assert len(holm([])) == 0


def test_holm_lies_between_no_correction_and_bonferroni() -> None:
    p = np.random.default_rng(0).random(50) ** 4
    adjusted = holm(p)
    assert (p <= adjusted).all()
    assert (adjusted <= np.minimum(1, 50 * p) + 1e-15).all()
    assert adjusted.min() == pytest.approx(50 * p.min())
    assert (np.diff(adjusted[np.argsort(p)]) >= 0).all()


def test_pairs_are_compared_on_the_columns_that_both_have() -> None:
    values = np.array([[0.5, 0.6, 0.9, np.nan], [0.4, 0.6, np.nan, 0.1]])
    found = intervals.pairs(values)
    assert (found.n[0, 1], found.n[0, 0], found.n[1, 1]) == (2, 3, 3)
    assert found.mean[0, 1] == pytest.approx(0.05)
    assert found.mean[1, 0] == -found.mean[0, 1]
    assert found.p[0, 1] == found.p[1, 0] == paired_p([0.5 - 0.4, 0.0])
    assert found.p[0, 0] == 1


def test_equal_rows_differ_by_exactly_nothing() -> None:
    row = accuracies(150, 0.33, 25, seed=0)
    found = intervals.pairs(np.stack([row, row]))
    assert (found.mean[0, 1], found.spread[0, 1], found.p[0, 1]) == (0, 0, 1)


def test_rank_intervals_count_who_is_better_and_who_is_worse() -> None:
    # The first beats both others; nothing tells those two apart.
    wins = np.array([[False, True, True], [False, False, False], [False, False, False]])
    low, high = rank_intervals(wins)
    assert (low.tolist(), high.tolist()) == ([1, 2, 2], [1, 3, 3])


def test_the_better_is_the_one_with_the_higher_mean() -> None:
    base = accuracies(60, 0.4, 25, seed=0)
    noise = np.random.default_rng(0).normal(0, 0.02, (3, 60))
    wins = intervals.better(intervals.pairs(np.stack([base, base + 0.1, base + 0.1]) + noise))
    assert wins.tolist() == [[False, False, False], [True, False, False], [True, False, False]]


def test_all_rank_intervals_hold_at_once_at_least_19_times_of_20() -> None:
    """Seven entries, two of them truly equal, on 20 shared tasks whose difficulty is shared, 400 times over."""
    rng = np.random.default_rng(1)
    levels = np.array([0.50, 0.47, 0.47, 0.44, 0.43, 0.40, 0.30])
    least = np.array([1 + (levels > level).sum() for level in levels])
    most = np.array([(levels >= level).sum() for level in levels])
    held = narrow = 0
    for _ in range(400):
        hardness = rng.normal(0, 0.08, 20)
        values = rng.binomial(75, np.clip(levels[:, None] + hardness + rng.normal(0, 0.04, (7, 20)), 0, 1)) / 75
        low, high = rank_intervals(intervals.better(intervals.pairs(values)))
        held += int(((low <= least) & (most <= high)).all())
        narrow += int((high - low).mean() < 5)
    assert held / 400 >= 0.95 - 2 * math.sqrt(0.05 * 0.95 / 400)
    assert narrow > 300  # and they do say something


def test_equal_entries_are_told_apart_at_most_once_in_twenty() -> None:
    rng = np.random.default_rng(2)
    wrong = sum(
        intervals.better(intervals.pairs(rng.binomial(75, 0.4 + rng.normal(0, 0.08, (1, 15)), (6, 15)) / 75)).any()
        for _ in range(400)
    )
    assert wrong / 400 <= 0.05 + 2 * math.sqrt(0.05 * 0.95 / 400)
    uncorrected = sum(
        (intervals.pairs(rng.binomial(75, 0.4 + rng.normal(0, 0.08, (1, 15)), (6, 15)) / 75).p < 0.05).any()
        for _ in range(400)
    )
    assert uncorrected / 400 > 0.2  # what a correction is for


def test_the_smallest_separable_difference_is_where_the_corrected_test_turns() -> None:
    rng = np.random.default_rng(0)
    noise = rng.normal(0, 0.1, 25)
    noise = (noise - noise.mean()) / noise.std(ddof=1) * 0.1
    limit = intervals.smallest_separable(0.1, 25, 21)
    assert paired_p(noise + 1.001 * limit) * 21 < 0.05 < paired_p(noise + 0.999 * limit) * 21


def test_few_tasks_separate_nothing() -> None:
    # Of 5 pairs no test is surer than 1/16; of 6 one is sure of one comparison, but not of 21.
    assert math.isnan(intervals.smallest_separable(0.1, 5, 1))
    assert intervals.smallest_separable(0.1, 6, 1) == pytest.approx(2.570582 * 0.1 / math.sqrt(6), rel=1e-6)
    assert math.isnan(intervals.smallest_separable(0.1, 6, 21))


def test_the_tasks_needed_are_the_fewest_that_separate() -> None:
    needed = intervals.tasks_needed(0.005, 0.1, 21)
    assert needed is not None
    assert intervals.smallest_separable(0.1, needed, 21) <= 0.005
    assert intervals.smallest_separable(0.1, needed - 1, 21) > 0.005
    assert needed == pytest.approx((stats.norm.isf(0.025 / 21) * 0.1 / 0.005) ** 2, rel=0.01)
    assert intervals.tasks_needed(-0.005, 0.1, 21) == needed
    assert intervals.tasks_needed(0.0, 0.1, 21) is None


def test_the_area_of_a_curve_is_its_mean_height() -> None:
    x, level = [0.0, 1.0, 4.0], np.array([0.5, 0.25])
    assert intervals.trapezoids(x, [level, level, level]) == pytest.approx(level)
    # 1 to 0 over the first quarter, then 0: an eighth.
    assert intervals.trapezoids(x, [np.ones(1), np.zeros(1), np.zeros(1)]) == pytest.approx([0.125])


def test_a_board_of_500_entries_is_ranked_in_seconds() -> None:
    values = np.random.default_rng(0).binomial(75, 0.4, (500, 150)) / 75
    started = time.perf_counter()
    low, high = rank_intervals(intervals.better(intervals.pairs(values)))
    assert time.perf_counter() - started < 10
    assert len(low) == len(high) == 500


def arms(
    rng: np.random.Generator, seeds: tuple[int, int], n: int, spreads: tuple[float, float]
) -> tuple[np.ndarray, np.ndarray]:
    """Draw two arms [R, n] without a difference: tasks of sd 8 points that both share for the most, seeds of `spreads`.

    Seed and task together add 3 points of their own.
    """
    shared = rng.normal(0, 8 * math.sqrt(0.7), n)
    a, b = (
        shared + rng.normal(0, 8 * math.sqrt(0.3), n) + rng.normal(0, spread, (count, 1)) + rng.normal(0, 3, (count, n))
        for count, spread in zip(seeds, spreads, strict=True)
    )
    return a / 100, b / 100


def test_one_arm_of_two_seeds_is_worked_out_by_hand() -> None:
    found = intervals.crossed(np.array([[0.2, 0.4, 0.6], [0.4, 0.6, 0.8]]))
    # Seeds 0.4 and 0.6: variance 0.02, over 2. Tasks 0.3, 0.5 and 0.7: variance 0.04, over 3. t(1) and t(2).
    assert (found.mean, found.seeds, found.tasks) == pytest.approx((0.5, 0.01, 0.04 / 3))
    assert found.half() == pytest.approx(math.sqrt(12.706205**2 * 0.01 + 4.302653**2 * 0.04 / 3), rel=1e-6)


def test_the_seeds_of_two_arms_are_one_part_by_welchs_degrees() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(0, 1, (3, 1)) + np.zeros((3, 5)), rng.normal(0, 2, (4, 1)) + np.zeros((4, 5))
    found = intervals.crossed(a, b)
    welch = stats.ttest_ind(a[:, 0], b[:, 0], equal_var=False)
    low, high = welch.confidence_interval()
    # Tasks that never differ leave Welch's test alone.
    assert (found.mean - found.half(), found.mean + found.half()) == pytest.approx((low, high))
    assert found.p == pytest.approx(max(welch.pvalue, intervals.surest(5)))


def test_arms_of_one_seed_each_are_the_paired_t_test() -> None:
    rng = np.random.default_rng(3)
    a, b = rng.random((1, 20)), rng.random((1, 20)) + 0.2
    found, (mean, half) = intervals.crossed(a, b), interval((a - b)[0])
    assert (found.mean, found.half()) == pytest.approx((mean, half))
    assert found.p == pytest.approx(paired_p((a - b)[0]))


def test_a_p_value_is_the_level_whose_interval_ends_at_zero() -> None:
    a, b = arms(np.random.default_rng(1), (3, 3), 40, (1, 1))
    found = intervals.crossed(a + 0.04, b)
    assert 0.0001 < found.p < 0.05
    assert found.half(found.p) == pytest.approx(abs(found.mean))
    assert intervals.crossed(a, a).p == 1.0
    assert intervals.crossed(a + 1.0, a).p == pytest.approx(intervals.surest(40), abs=1e-3)


def test_tasks_that_agree_give_no_p_below_what_their_signs_allow() -> None:
    found = intervals.crossed(np.full((3, 4), 0.5), np.full((3, 4), 0.25))
    assert found.half() == 0
    assert found.p == 2.0**-3


@pytest.mark.parametrize("n", [40, 150])
@pytest.mark.parametrize("spreads", [(0.5, 0.5), (1, 1), (2, 2), (0.5, 2)])
def test_the_interval_over_three_seeds_holds_where_a_percentile_bootstrap_does_not(
    n: int, spreads: tuple[float, float]
) -> None:
    rng = np.random.default_rng(11)
    draws = [arms(rng, (3, 3), n, spreads) for _ in range(1500)]
    found = [intervals.crossed(a, b) for a, b in draws]
    held = np.mean([abs(one.mean) <= one.half() for one in found])
    assert 0.945 <= held <= 0.992  # 1500 draws: a standard error of 0.6 points around 95 %
    if max(spreads) > 1:
        ends = [intervals.crossed_bootstrap(a, b, seed=0) for a, b in draws[:200]]
        assert np.mean([low <= 0 <= high for low, high in ends]) < 0.93


def test_an_interval_that_forgets_the_seeds_holds_far_less_often() -> None:
    rng = np.random.default_rng(12)
    draws = [arms(rng, (3, 3), 150, (2, 2)) for _ in range(500)]
    forgetful = [interval(a.mean(0) - b.mean(0)) for a, b in draws]
    assert np.mean([abs(mean) <= half for mean, half in forgetful]) < 0.7


def test_the_bootstrap_draws_seeds_within_arms_and_tasks_once_for_all() -> None:
    a, b = np.zeros((3, 12)), np.linspace(0.1, 0.5, 12)[None].repeat(3, 0)
    low, high = intervals.crossed_bootstrap(a, b, seed=4)
    # Seeds that agree leave tasks alone: the percentile bootstrap of one row, by the same shares.
    means = np.einsum("bn,n->b", intervals._shares(12, 4), -b[0])
    assert (low, high) == pytest.approx(tuple(np.quantile(means, [0.025, 0.975])))
    seeds = np.array([[0.1], [0.2], [0.6]]) + np.zeros((3, 4))
    low, high = intervals.crossed_bootstrap(seeds, seed=4)
    # The mean is 0.1 only where the first seed is drawn three times, once in 27.
    assert (low, high) == pytest.approx((0.1, 0.6))


def test_one_task_has_no_interval_over_seeds() -> None:
    found = intervals.crossed(np.ones((3, 1)), np.zeros((3, 1)))
    assert found.mean == 1
    assert math.isnan(found.half())
    assert found.p == 1
    assert all(map(math.isnan, intervals.crossed_bootstrap(np.ones((3, 1)), seed=0)))
