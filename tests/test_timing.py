"""Workloads by name: the same from the same seeds, counted by hand, and honest about what is not there."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from robustbench_meta import catalog, timing
from robustbench_meta.attacks.noise import Noise
from robustbench_meta.attacks.pgd import PGD
from robustbench_meta.timing import CASES, SIZES, Case, Meter, NotThereError
from robustbench_meta.types import InputError

ROOT = Path(__file__).resolve().parents[1]
TINY = SIZES["tiny"]


def test_every_case_is_found_by_its_own_name_and_by_patterns() -> None:
    assert all(timing.choose_cases(name, ()) == [case] for name, case in CASES.items())
    found = {case.name for case in timing.choose_cases("meta-step/*+aq, attack/fgsm", ())}
    assert found == {"attack/fgsm", *(f"meta-step/{name}+aq" for name in timing.ALGORITHMS)}
    assert [case.name for case in timing.choose_cases(None, ("grid",))] == ["grid"]
    assert set(timing.GATE_CASES) <= set(CASES)


@pytest.mark.parametrize(("text", "message"), [("meta-step/reptile", "'meta-step/reptile' is unknown"), (",", "','")])
def test_cases_that_fit_nothing_are_refused(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        timing.choose_cases(text, ())


def test_a_case_starts_from_the_same_weights_and_tasks_every_time() -> None:
    for name in ("meta-step/maml", "attack/pgd-20"):
        first, second = (timing.set_up(CASES[name], TINY) for _ in range(2))
        assert torch.equal(first.episodes.query_x, second.episodes.query_x)
        assert all(torch.equal(value, second.learner.params[key]) for key, value in first.learner.params.items())
        once, again = timing.ours(first)(None), timing.ours(second)(None)
        assert all(torch.equal(value, again[key]) for key, value in once.items())


def test_rows_are_counted_once_forward_and_once_for_every_gradient_that_comes_back() -> None:
    tasks, support, queries = 2, 6, 6
    meter = Meter()
    timing.ours(timing.set_up(CASES["meta-step/protonet"], TINY))(meter)
    assert (meter.forwards, meter.backwards) == (tasks * (support + queries),) * 2
    second_order, first_order = Meter(), Meter()
    timing.ours(timing.set_up(CASES["meta-step/maml"], TINY))(second_order)
    timing.ours(timing.set_up(CASES["meta-step/fomaml"], TINY))(first_order)
    steps = 5
    assert first_order.backwards == tasks * (steps * support + queries)
    # The outer gradient passes through every inner step once more.
    assert second_order.backwards == tasks * (2 * steps * support + queries)


def test_what_a_revision_or_its_data_lacks_is_not_there_rather_than_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RBM_DATA", raising=False)
    absent = Case("attack", "no-such-attack")
    for case in (absent, CASES["attack/fgsm@cifar-fs-protonet-aq"], Case("attack", "fgsm", checkpoint="no-such")):
        found = timing.compare(case, TINY, samples=1)
        assert (found.ours, found.peer, found.ratio) == (None, None, None)
        assert found.note.startswith("not there: ")
    with pytest.raises(NotThereError, match=r"'no-such-attack' is unknown$"):
        timing.set_up(absent, TINY)


def test_attacks_are_cut_to_the_longest_run_of_a_size_and_their_steps_grow_to_match() -> None:
    assert timing.shortened(catalog.attack("pgd-20"), 4) == PGD(4, step=2.5 / 4)
    assert timing.shortened(catalog.attack("pgd-20"), 100) == catalog.attack("pgd-20")
    assert timing.shortened(catalog.attack("pgd-20"), None) is catalog.attack("pgd-20")

    @dataclass(frozen=True)
    class Ensemble:
        first: PGD
        others: tuple[PGD, ...]

    several: Any = Ensemble(PGD(50, 0.05), (PGD(20, 0.125), PGD(2, 0.5)))
    shortened: Any = timing.shortened(several, 5)
    assert shortened == Ensemble(PGD(5, 0.5), (PGD(5, 0.5), PGD(2, 0.5)))
    with pytest.raises(NotThereError, match="cannot be cut to 3"):
        timing.shortened(Noise(), 3)


def test_survival_is_the_share_of_clean_correct_points_that_withstand() -> None:
    setup = timing.set_up(CASES["attack/pgd-20"], TINY)
    queries, labels = setup.episodes.query_x, setup.episodes.query_y
    assert timing.survival(setup, {"x_adv": queries}) == 1.0
    assert timing.survival(setup, {"x_adv": queries.flip(1)}) == 0.0  # classes lie in order, five of them
    clean = torch.tensor([True, True, True, False])
    assert timing.survival(setup, {"clean": clean, "survived": clean & (torch.arange(4) > 0)}) == pytest.approx(2 / 3)
    assert timing.survival(setup, {"gradient": labels}) is None


def test_a_case_and_its_peer_are_timed_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    module = timing.peers()
    assert module is not None
    ours, peer = timing.ours, module.peer

    def noted(who: str, make: Any) -> Any:
        def made(setup: timing.Setup) -> timing.Side:
            side = make(setup)

            def call(meter: Meter | None) -> timing.Values:
                order.append(who)
                found: timing.Values = side(meter)
                return found

            return call

        return made

    monkeypatch.setattr(timing, "ours", noted("ours", ours))
    monkeypatch.setattr(module, "peer", noted("peer", peer))
    monkeypatch.setattr(timing, "SAMPLE_SECONDS", 0.0)
    found = timing.compare(CASES["adapt/protonet"], TINY, samples=3)
    assert order[4:] == ["ours", "peer", "peer", "ours", "ours", "peer"]
    assert found.ours is not None
    assert found.peer is not None
    assert (len(found.ours.seconds), len(found.peer.seconds)) == (3, 3)
    assert found.ours.forwards == found.peer.forwards == 12
    assert found.ratio == found.peer.median / found.ours.median


def test_without_the_benchmarks_folder_a_run_says_that_there_are_no_peers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "peers", lambda: None)
    found = timing.compare(CASES["adapt/protonet"], TINY, samples=1)
    assert found.ours is not None
    assert found.peer is None
    assert found.note.startswith("no peers")


def test_the_clock_is_the_time_of_the_processor_not_of_the_wall() -> None:
    def call(meter: Meter | None) -> timing.Values:
        time.sleep(0.05)
        until = time.process_time() + 0.02
        while time.process_time() < until:
            pass
        return {}

    found = timing.timed(call, "cpu", number=2)
    assert 0.02 <= found.seconds < 0.05
    assert found.wall >= 0.065


def test_peak_memory_is_what_a_call_held_at_most() -> None:
    def call() -> None:
        torch.ones(64 * 2**18)  # 64 MiB of float32

    found = timing.peak_mib(call, "cpu")
    if found is None:
        pytest.skip("this system does not tell")
    assert 60 < found < 80


def test_the_script_measures_the_package_that_the_path_picks_and_prints_one_line_of_json() -> None:
    command = [sys.executable, "-P", str(ROOT / "robustbench_meta" / "timing.py"), "--size", "tiny", "--case"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([*command, "adapt/protonet"], capture_output=True, text=True, env=environment, check=True)
    row = json.loads(done.stdout)
    assert row["package"] == str(ROOT / "robustbench_meta")
    assert len(row["seconds"]) >= timing.CALLS
    assert sum(row["wall"]) >= timing.CALL_SECONDS
    assert sorted(row["seconds"])[0] <= row["median"] <= sorted(row["seconds"])[-1]
