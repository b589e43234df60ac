"""Every flag on a planted case, from literal bits, and not on the honest case beside it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest

from robustbench_meta import flags
from robustbench_meta.flags import Measures

RIGHT, WRONG = "1" * 10, "0" * 10


@dataclass(frozen=True)
class Run:
    tasks: np.ndarray
    clean: np.ndarray
    survived: np.ndarray


def run(survived: list[str], clean: list[str] | None = None, first: int = 0) -> Run:
    """Verdicts of tasks `first`, `first` + 1, ... written as bits, one string a task."""
    clean = [RIGHT] * len(survived) if clean is None else clean
    bits = [np.array([[bit == "1" for bit in text] for text in texts]) for texts in (clean, survived)]
    return Run(np.arange(first, first + len(survived)), *bits)


def codes(runs: dict[tuple[str, float], Run]) -> str:
    return flags.codes(flags.of_cells(runs))


def bits(text: str) -> tuple[bool, ...]:
    return tuple(bit == "1" for bit in text)


HONEST = Measures(
    task=0,
    clean=bits("1111111110"),
    predictions=(0, 0, 1, 1, 2, 2, 3, 3, 4, 0),
    survived={
        name: bits(text)
        for name, text in {
            "fgsm": "1111110000",
            "pgd-half": "1111100000",
            "pgd": "1110000000",
            "pgd-twice": "1110000000",
            "box": "1000000000",
            "noise": "1111111110",
            "square": "1111111110",
        }.items()
    },
    flat={"margin": bits(WRONG), "cross entropy": bits(WRONG)},
    repeat=0.0,
    alone=1e-6,
    probabilities=False,
    autograd=False,
)


def audit(**changes: Any) -> tuple[flags.Flag, ...]:
    """Flags of one task that is honest but for `changes`; of `survived` and `flat`, only the runs named."""
    for name in ("survived", "flat"):
        if name in changes:
            changes[name] = {**getattr(HONEST, name), **{run: bits(text) for run, text in changes[name].items()}}
    return flags.of_audit([replace(HONEST, **changes)], ways=5)


def test_an_honest_audit_raises_nothing_and_an_empty_one_neither() -> None:
    assert audit() == ()
    assert flags.of_audit([], ways=5) == ()


@pytest.mark.parametrize(
    ("changes", "code", "colour", "value"),
    [
        ({"survived": {"fgsm": "0001111110"}}, "F1", "red", 0.3),
        ({"survived": {"pgd-half": WRONG}}, "F2", "red", 0.3),
        ({"survived": {"square": "0001111110"}}, "F3", "red", 0.3),
        ({"survived": {"noise": "0001111110"}}, "F4", "red", 0.3),
        ({"survived": {"box": "1110000000"}}, "F5", "red", 0.3),
        ({"flat": {"margin": "1110000000"}}, "F6", "red", 0.3),
        ({"flat": {"cross entropy": "1110000000"}}, "F6", "red", 0.3),
        ({"probabilities": True}, "F6", "red", 1.0),
        ({"survived": {"pgd-twice": WRONG}}, "F7", "amber", 0.3),
        ({"repeat": 1e-6}, "F8", "red", 1e-6),
        ({"alone": 2e-4}, "F10", "red", 2e-4),
        ({"autograd": True}, "F11", "red", 1.0),
        ({"predictions": (0, 0, 0, 0, 0, 0, 0, 1, 2, 3)}, "F13", "red", 0.7),
    ],
)
def test_an_audit_raises_each_flag_alone(changes: dict[str, Any], code: str, colour: str, value: float) -> None:
    (flag,) = audit(**changes)
    assert (flag.code, flag.colour, flag.n) == (code, colour, 10)
    assert flag.value == pytest.approx(value)
    assert flag.value > flag.limit


@pytest.mark.parametrize("blind", ["square", flags.STRETCHES, "noise"])
def test_blind_search_beats_gradients_where_no_attack_by_gradients_that_was_run_found_as_much(blind: str) -> None:
    task = replace(HONEST, survived={**HONEST.survived, blind: bits("0001111110")}, task=3)
    found, missed = run(["0001111110"], first=3), run(["1110000000"], first=3)

    def raised(runs: dict[str, Run], **changes: Any) -> str:
        return flags.codes(flags.of_audit([replace(task, **changes)], ways=5, runs=runs))

    code = "F4" if blind == "noise" else "F3"
    assert raised({"pgd-mt-50": found, "fgsm": missed}) == ""
    assert raised({"pgd-mt-50": missed}) == code
    assert raised({"pgd-20": run([RIGHT], first=3), "apgd-ce": found}) == ""
    assert raised({"pgd-mt-50": run(["0001111110"], first=4)}) == code  # it met another task
    assert raised(dict.fromkeys(("autoattack", "square", "noise-1000", "fgsm", "stretches-99"), found)) == code


def test_one_step_that_beats_many_is_told_whatever_else_was_run() -> None:
    task = replace(HONEST, survived={**HONEST.survived, "fgsm": bits("0001110000")})
    assert flags.codes(flags.of_audit([task], ways=5, runs={"pgd-mt-50": run(["0001110000"])})) == "F1"


def test_a_learner_of_two_classes_that_prefers_one_but_has_learned_something_is_shown_and_ranked() -> None:
    predicted, constant = (0, 0, 0, 0, 0, 0, 0, 0, 1, 1), (0,) * 10
    tasks = [replace(HONEST, task=task, predictions=predicted, clean=bits("1111100011")) for task in range(3)]
    (flag,) = flags.of_audit(tasks, ways=2)
    assert (flag.code, flag.colour) == ("F13", "amber")
    collapsed = [replace(one, predictions=constant, clean=bits("1111100000")) for one in tasks]
    assert [(one.code, one.colour) for one in flags.of_audit(collapsed, ways=2) if one.code == "F13"] == [
        ("F13", "red")
    ]


@pytest.mark.parametrize("name", ["fgsm", "noise", "square"])
def test_two_queries_raise_nothing_whatever_their_share(name: str) -> None:
    assert audit(survived={name: "0011111110"}) == ()


def test_what_gradients_found_with_twice_the_iterations_is_no_news() -> None:
    raised = audit(survived={"pgd-twice": WRONG, "square": "0001111110"})
    assert flags.codes(raised) == "F7"


def test_a_query_that_was_wrong_when_clean_counts_for_no_attack() -> None:
    assert audit(clean=bits("0000111110"), survived={"fgsm": "0000110000"}) == ()


WHOLE = replace(HONEST, predictions=(), survived={**HONEST.survived, "box": bits(WRONG)})
STEPS = replace(HONEST, clean=bits(RIGHT), steps=(0,) * 10)


@pytest.mark.parametrize("surface", ["rollout", "sequence"])
def test_what_is_right_as_a_whole_has_no_class_and_a_constant_predictor_has_none_of_it(surface: str) -> None:
    assert flags.of_audit([WHOLE], ways=5, surface=surface) == ()
    left = replace(WHOLE, survived={**WHOLE.survived, "box": bits("1000000000")})
    (flag,) = flags.of_audit([left], ways=5, surface=surface)
    assert (flag.code, flag.value, flag.limit) == ("F5", 0.1, flags.ABOVE_CHANCE)


def test_single_steps_may_keep_the_action_that_is_done_most_and_only_that() -> None:
    done = (0, 0, 0, 0, 0, 0, 0, 1, 2, 3)
    mostly = replace(STEPS, predictions=done, survived={**STEPS.survived, "box": bits("1111111000")})
    assert flags.of_audit([mostly], ways=5, surface="rollout") == ()
    more = replace(mostly, survived={**mostly.survived, "box": bits("1111111100")})
    assert flags.codes(flags.of_audit([more], ways=5, surface="rollout")) == "F5"


def test_blind_search_by_stretches_stands_in_the_place_of_square() -> None:
    runs = {name: row for name, row in WHOLE.survived.items() if name != "square"}
    found = replace(WHOLE, survived={**runs, "stretches": bits("0001111110")})
    (flag,) = flags.of_audit([found], ways=5, surface="rollout")
    assert (flag.code, flag.value) == ("F3", 0.3)
    assert flags.left_out([found], surface="rollout")[0].startswith("Square (F3): stretches of steps")


@pytest.mark.parametrize("code", ["F1", "F2", "F3", "F9"])
def test_rollouts_conclude_nothing_of_attacks_against_one_another_unless_gradients_pass_their_world(code: str) -> None:
    found = [flags.Flag(code, "red", 1.0, 0.0, 10, ""), flags.Flag("F12", "red", 1.0, 0.0, 10, "")]
    seen = [([], "query"), ([], "sequence"), ([WHOLE], "rollout"), ([STEPS], "rollout"), ([], "rollout")]
    kept = [flags.codes(flags.concluded(found, tasks, surface=surface)) for tasks, surface in seen]
    assert kept == [f"{code} F12"] * 3 + ["F12"] * 2


def test_flags_that_nothing_could_have_raised_are_named_with_an_audit_and_without_one() -> None:
    def unasked(tasks: Sequence[flags.Measures], surface: str) -> str:
        return " ".join(flags.unasked(tasks, surface=surface))

    assert unasked([HONEST], "query") == ""
    runs = {name: row for name, row in HONEST.survived.items() if name != "square"}
    assert unasked([replace(HONEST, survived=runs)], "query") == "F3"
    stretched = {**runs, "stretches": bits(RIGHT)}
    assert unasked([replace(WHOLE, survived=stretched)], "rollout") == "F13"
    assert unasked([replace(STEPS, survived=stretched)], "rollout") == "F9 F13"
    assert unasked([WHOLE], "sequence") == "F13"
    assert unasked([replace(HONEST, survived={})], "query") == "F1 F2 F3 F4 F5 F7 F9"
    assert unasked([], "query") == unasked([], "support") == "F4 F5 F6 F7 F8 F10 F11"
    assert unasked([], "sequence") == "F4 F5 F6 F7 F8 F10 F11 F13"
    assert unasked([], "rollout") == "F1 F2 F3 F4 F5 F6 F7 F8 F9 F10 F11 F13"
    (line,) = flags.left_out([], surface="rollout")
    assert line.startswith("F1, F2, F3, F9 of verdicts")


@pytest.mark.parametrize("surface", ["query", "rollout", "sequence"])
def test_no_flag_that_was_raised_is_said_not_to_be_asked(surface: str) -> None:
    """Hold each way to raise a flag against what is said to be out of reach there."""
    bad = {"fgsm": "0001111110", "square": "0000111111", "noise": "0001111110", "pgd-twice": WRONG, "box": RIGHT}
    changed = {name: bits(row) for name, row in bad.items()}
    for task in (WHOLE, STEPS) if surface == "rollout" else (HONEST if surface == "query" else WHOLE,):
        one = replace(task, survived={**task.survived, **changed}, repeat=1.0, alone=1.0, autograd=True)
        raised = {flag.code for flag in flags.of_audit([one], ways=5, surface=surface)}
        assert raised
        # F12 is raised by stored runs, whatever an audit saw.
        assert not (raised | {"F12"}) & set(flags.unasked([one], surface=surface))


def test_what_an_audit_left_out_is_named() -> None:
    assert flags.left_out([], surface="query") == flags.left_out([HONEST], surface="query") == ()
    runs = {name: row for name, row in HONEST.survived.items() if name != "square"}
    named = {
        "query": [replace(HONEST, survived=runs)],
        "sequence": [WHOLE],
        "rollout": [replace(STEPS, survived={**runs, "stretches": bits(RIGHT)})],
    }
    starts = {
        "query": ["Square (F3)"],
        "sequence": ["one class (F13)"],
        "rollout": [
            "Square (F3)",
            "whole rollouts (F1, F2, F3, F9)",
            "its clean verdicts against those of runs (F12, of runs alone)",
            "one class (F13)",
        ],
    }
    for surface, tasks in named.items():
        assert [line.split(":")[0] for line in flags.left_out(tasks, surface=surface)] == starts[surface]
    (line,) = flags.left_out([replace(HONEST, survived={}, flat={})], surface="query")
    assert line.startswith("F1 to F5, F7 and gradients (F6): none reaches the inputs")


def test_a_learner_without_gradients_is_judged_by_the_rest() -> None:
    black = replace(HONEST, survived={}, flat={})
    assert flags.of_audit([black], ways=5) == ()
    assert flags.codes(flags.of_audit([replace(black, repeat=0.1)], ways=5)) == "F8"


def test_the_transductive_track_declares_what_is_red_elsewhere() -> None:
    (flag,) = flags.of_audit([replace(HONEST, alone=0.5)], ways=5, transductive=True)
    assert (flag.code, flag.colour) == ("F10", "amber")


def test_fgsm_beating_every_pgd_is_found_in_cells_and_not_where_one_pgd_keeps_up() -> None:
    fgsm, stuck = run(["0001111111"]), run([RIGHT])
    assert codes({("fgsm", 0.1): fgsm, ("pgd-20", 0.1): stuck}) == "F1"
    assert codes({("fgsm", 0.1): fgsm, ("pgd-20", 0.1): stuck, ("pgd-mt-50", 0.1): fgsm}) == ""
    assert codes({("fgsm", 0.1): fgsm, ("pgd-20", 0.2): stuck}) == ""
    assert codes({("fgsm-rs", 0.1): fgsm, ("pgd-20", 0.1): stuck}) == ""


def test_less_success_with_more_budget_is_found_for_attacks_of_many_steps_only() -> None:
    small, large = run(["0001111111"]), run([RIGHT])
    assert codes({("pgd-20", 0.05): small, ("pgd-20", 0.1): large}) == "F2"
    assert codes({("pgd-20", 0.05): large, ("pgd-20", 0.1): small}) == ""
    assert codes({("fgsm", 0.05): small, ("fgsm", 0.1): large}) == ""


def test_square_beating_all_gradients_is_found_on_the_tasks_that_both_met() -> None:
    square = run([RIGHT, "0001111111"])
    assert codes({("square", 0.1): square, ("pgd-20", 0.1): run([RIGHT, RIGHT])}) == "F3"
    assert codes({("square", 0.1): square, ("pgd-20", 0.1): run([RIGHT])}) == ""
    assert codes({("square-500", 0.1): square, ("noise", 0.1): run([RIGHT, RIGHT])}) == ""


def test_a_gap_between_our_attack_and_autoattack_is_amber() -> None:
    own, reference = run([RIGHT] * 2), run(["0111111111", RIGHT])
    assert codes({("pgd-mt-50", 0.1): own, ("autoattack", 0.1): reference}) == ""  # exactly 5 points
    reference = run(["0111111111", "0111111111"])
    (flag,) = flags.of_cells({("pgd-mt-50", 0.1): own, ("autoattack-reference", 0.1): reference})
    assert (flag.code, flag.colour, flag.value, flag.n) == ("F9", "amber", 0.1, 20)


def test_clean_verdicts_that_change_between_runs_are_found() -> None:
    first, same = run([WRONG], ["1111100000"]), run([WRONG], ["1111100000"])
    assert codes({("pgd-20", 0.1): first, ("fgsm", 0.1): same}) == ""
    moved = run([WRONG], ["1100000000"])
    assert codes({("pgd-20", 0.1): first, ("fgsm", 0.1): moved}) == "F12"
    swapped = run([WRONG], ["0011111000"])  # the accuracy alone would not show it
    assert codes({("pgd-20", 0.1): first, ("fgsm", 0.1): swapped}) == "F12"
    assert codes({("pgd-20", 0.1): first, ("fgsm", 0.1): run([WRONG], ["0000011111"], first=1)}) == ""


@pytest.mark.parametrize(
    ("mean", "half", "raised"),
    [(0.25, 0.06, True), (0.15, 0.06, True), (0.0, 0.0, False), (0.1, 0.05, False), (0.4, 0.1, False)],
)
def test_only_an_interval_that_contains_chance_is_flagged(mean: float, half: float, raised: bool) -> None:
    found = flags.at_chance(mean, half, 0.2, 50)
    assert [(flag.code, flag.colour) for flag in found] == [("F13", "amber")] * raised


def test_an_interval_that_says_nothing_is_not_flagged() -> None:
    assert flags.at_chance(0.0, 0.0, 0.0, 50) == flags.at_chance(0.01, 0.02, 0.0, 50) == []
    assert flags.at_chance(0.2, float("nan"), 0.2, 1) == []
    assert flags.at_chance(0.2, 3.0, 0.2, 2) == []


def test_one_flag_of_each_code_and_colour_is_kept_the_worst() -> None:
    mild, bad = (flags.Flag("F10", "red", value, 0.1, 5, "") for value in (0.2, 0.5))
    amber, first = flags.Flag("F10", "amber", 0.9, 0.1, 5, ""), flags.Flag("F2", "red", 1.0, 0.0, 5, "")
    assert flags.merge([mild, amber, bad, first]) == (first, bad, amber)


def test_every_code_is_explained_once() -> None:
    assert [about.code for about in flags.ABOUT] == [f"F{number}" for number in range(1, 14)]
    assert all(about.sentence.endswith(".") and about.limit for about in flags.ABOUT)
