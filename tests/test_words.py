"""Sentences as a threat: what words may stand for others, and greedy and exhaustive attacks against brute force."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from robustbench_meta import catalog, evaluate, store, threats
from robustbench_meta.attacks import words as room
from robustbench_meta.attacks.words import EveryWording, Words
from robustbench_meta.checkpoint import Recipe
from robustbench_meta.report import lines, sentences
from robustbench_meta.train import train
from robustbench_meta.types import Box, Cost, InputError, Sentences, Streams, Threat, Victim

WORDS = ("", "pay", "settle", "bill", "invoice", "check", "the", "my", "tab")
# One way alone (pay -> settle), and chains that are no replacement (pay -> settle -> check).
SWAPS = torch.tensor(
    [[-1] * 3, [2, -1, -1], [5, -1, -1], [4, 5, 8], [8, -1, -1], [3, -1, -1], [-1] * 3, [-1] * 3, [3, 4, -1]]
)
NAMES = ("noise-5", "words-exhaustive", "words-gradient", "words-greedy")


def space(length: int = 5, width: int = 6) -> Sentences:
    drawn = torch.randn(len(WORDS) - 1, width, generator=torch.Generator().manual_seed(3))
    drawn[2:4, 0] = 0  # as thousands of words of the real table have a zero somewhere
    table = torch.cat([torch.zeros(1, width), F.normalize(drawn, dim=1)])
    return Sentences((length, width), -1.0, 1.0, words=WORDS, table=table, swaps=SWAPS)


def spell(*texts: str, at: Sentences | None = None) -> Tensor:
    at = at or space()
    numbers = [[WORDS.index(word) for word in text.split()] for text in texts]
    return at.table[torch.tensor([row + [0] * (at.shape[0] - len(row)) for row in numbers])]


def victim(*texts: str, seed: int = 0, ways: int = 2, tasks: int = 1) -> Victim:
    """Score sentences linearly, labelled by what the scores say; tasks are copies with weights of their own."""
    held = space()
    x = spell(*texts).repeat(tasks, 1, 1).unsqueeze(1)
    each = [torch.randn(ways, *held.shape, generator=torch.Generator().manual_seed(seed + t)) for t in range(tasks)]
    weights = torch.stack(each)

    def forward(x: Tensor, points: Tensor) -> Tensor:
        return (x * 1.0).flatten(2) @ weights[points // len(texts)].flatten(2).transpose(1, 2)

    cost = Cost(torch.zeros(tasks, dtype=torch.int64), torch.zeros(tasks, dtype=torch.int64))
    y = forward(x, torch.arange(len(x))).argmax(-1)
    return Victim(forward, x, y, held, tasks, cost)


TEXTS = ("pay the bill", "settle my invoice", "check the check", "the my", "pay bill check bill tab")


def every_replacement(x: Tensor, words: int) -> Tensor:
    """All sentences that at most `words` legal replacements make of x [L,d]: [n,L,d]."""
    held = space()
    rows = [[number, *(s for s in SWAPS[number].tolist() if s > 0)] for number in held.numbers(x).tolist()]
    every = [choice for choice in product(*rows) if sum(a != b[0] for a, b in zip(choice, rows, strict=True)) <= words]
    return held.table[torch.tensor(every)]


def test_a_sentence_is_read_back_from_its_vectors() -> None:
    held, x = space(), spell(*TEXTS)
    assert held.text(x) == list(TEXTS)
    assert held.numbers(x)[3].tolist() == [6, 7, 0, 0, 0]
    assert held.numbers(0.999 * x)[0].tolist() == [-1, -1, -1, 0, 0]  # no word of the table, though nearest to one
    assert held.numbers(x.double()).equal(held.numbers(x))


@pytest.mark.parametrize(
    ("text", "after", "replaced"),
    [
        ("pay the bill", "pay the bill", 0),
        ("pay the bill", "settle the bill", 1),
        ("pay the bill", "settle the invoice", 2),
        ("settle the bill", "pay the bill", -1),  # legal the other way round alone
        ("pay the bill", "check the bill", -1),  # over settle, which is another word's swap
        ("pay the bill", "pay my bill", -1),  # a word without swaps
        ("pay the bill", "bill the bill", -1),  # no swap of this word
        ("pay the bill", "pay the", -1),  # a word taken out
        ("pay the", "pay the bill", -1),  # one put in
    ],
)
def test_only_what_the_table_allows_counts_as_a_replacement(text: str, after: str, replaced: int) -> None:
    held, x, x_adv = space(), spell(text), spell(after)
    assert held.replaced(x_adv, x).tolist() == [replaced]
    for eps in range(4):
        allowed = 0 <= replaced <= eps
        assert threats.within(x_adv.unsqueeze(1), x.unsqueeze(1), Threat("words", eps), held) is allowed


def test_vectors_off_the_table_are_no_replacement_however_close() -> None:
    held, x = space(), spell("pay the bill")
    for place, entry, shift in product(range(4), range(6), (1e-7, 0.5)):
        off = x.clone()
        off[0, place, entry] += shift
        assert held.replaced(off, x).tolist() == [-1], (place, entry, shift)
        assert not threats.within(off.unsqueeze(1), x.unsqueeze(1), Threat("words", 4), held)
    moved = torch.zeros_like(x)
    moved[0, 1, 2] = 1e-7
    assert threats.distance(moved, "words", 2).tolist() == [1]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("eps", [1, 2, 4])
def test_an_attack_replaces_legal_words_and_no_more_than_it_may(name: str, eps: int) -> None:
    held = victim(*TEXTS, tasks=2, ways=3)
    before = held.x.clone()
    x_adv = catalog.attack(name)(held, Threat("words", eps), Streams([1, 2]))
    assert threats.within(x_adv, held.x, Threat("words", eps), held.space)
    assert (x_adv.shape, x_adv.dtype, x_adv.requires_grad) == (held.x.shape, held.x.dtype, False)
    assert held.x.equal(before)
    assert x_adv.equal(catalog.attack(name)(held, Threat("words", eps), Streams([1, 2])))
    assert x_adv[3].equal(held.x[3])  # "the my" holds nothing that may be replaced


@pytest.mark.parametrize("eps", [1, 2, 4, 5])
def test_noise_replaces_as_many_words_as_it_may_each_by_any_of_its_swaps(eps: int) -> None:
    held = space()
    x = spell(*TEXTS).repeat(200, 1, 1).unsqueeze(1)
    x_adv = threats.random_start(x, Streams([1]), Threat("words", eps), held)
    able = torch.tensor([2, 2, 2, 0, 5]).repeat(200).clamp_max(eps).unsqueeze(1)
    assert held.replaced(x_adv, x).equal(able)
    before, after = held.numbers(x[4::5, 0]), held.numbers(x_adv[4::5, 0])
    for place in range(5):
        new = after[:, place][after[:, place] != before[:, place]]
        legal = [swap for swap in SWAPS[before[0, place]].tolist() if swap > 0]
        assert len(new) >= 20  # of 200: no place is left out
        for swap in legal:
            assert abs(float((new == swap).float().mean()) - 1 / len(legal)) < 0.25
    which = (after != before).float()
    if eps < 5:
        both = {tuple(row) for row in which.tolist()}
        assert len(both) >= 4  # different places in different sentences


def test_a_learner_that_scores_nothing_cannot_hide_what_fools_it() -> None:
    honest = victim(*TEXTS, seed=1)
    pay = honest.space.table[1]  # type: ignore[attr-defined]

    def forward(x: Tensor, points: Tensor) -> Tensor:
        changed = (x[:, :, 0] != pay).any(dim=-1, keepdim=True)
        return honest.forward(x, points).masked_fill(changed, torch.nan)

    held = Victim(forward, honest.x[[0, 4]], honest.y[[0, 4]], honest.space, 1, honest.cost)
    for name in ("words-exhaustive", "words-greedy", "words-gradient"):
        x_adv = catalog.attack(name)(held, Threat("words", 2), Streams([1]))
        assert not x_adv.equal(held.x)


@pytest.mark.parametrize("name", NAMES)
def test_no_word_is_replaced_at_eps_zero(name: str) -> None:
    held = victim(*TEXTS)
    x_adv = catalog.attack(name)(held, Threat("words", 0), Streams([1]))
    assert x_adv.equal(held.x)
    assert x_adv.data_ptr() != held.x.data_ptr()


@pytest.mark.parametrize("name", NAMES)
def test_what_a_task_meets_does_not_depend_on_the_tasks_beside_it(name: str) -> None:
    both, second = victim(*TEXTS, tasks=2), victim(*TEXTS, seed=1)
    together = catalog.attack(name)(both, Threat("words", 2), Streams([4, 5]))
    alone = catalog.attack(name)(second, Threat("words", 2), Streams([5]))
    assert alone.equal(together[len(TEXTS) :])


@pytest.mark.parametrize("name", ["words-greedy", "words-gradient"])  # the gradient of a linear score ranks exactly
@pytest.mark.parametrize("words", [1, 2, 3])
def test_of_two_classes_the_greedy_attack_finds_whatever_brute_force_finds(name: str, words: int) -> None:
    # Of a linear score the replacements add up, so the best ones one by one are the best together; and the gradient
    # says what each is worth.
    fooled = stood = 0
    for seed in range(12):
        held = victim(*TEXTS, seed=seed)
        x_adv = catalog.attack(name)(held, Threat("words", words), Streams([1]))
        verdicts = held.forward(x_adv, held.points).argmax(-1) == held.y
        for point in range(len(TEXTS)):
            every = every_replacement(held.x[point, 0], words).unsqueeze(1)
            survives = (held.forward(every, torch.full((len(every),), point)).argmax(-1) == held.y[point]).all()
            assert bool(verdicts[point]) is bool(survives), (seed, point)
            fooled, stood = fooled + (not survives), stood + bool(survives)
    assert fooled >= 5
    assert stood >= 5


def test_one_word_of_many_classes_is_searched_in_full() -> None:
    for seed in range(8):
        held = victim(*TEXTS, seed=seed, ways=5)
        x_adv = catalog.attack("words-greedy")(held, Threat("words", 1), Streams([1]))
        for point in range(len(TEXTS)):
            every = every_replacement(held.x[point, 0], 1).unsqueeze(1)
            survives = (held.forward(every, torch.full((len(every),), point)).argmax(-1) == held.y[point]).all()
            found = held.forward(x_adv[point : point + 1], torch.tensor([point])).argmax(-1) == held.y[point]
            assert bool(found) is bool(survives)


def asked_of(held: Victim) -> tuple[Victim, list[str]]:
    """Return the victim, and a list to which each of its calls adds the sentences that it scores."""
    asked: list[str] = []

    def forward(x: Tensor, points: Tensor) -> Tensor:
        asked.extend(space().text(x.detach().squeeze(1)))
        return held.forward(x, points)

    return replace(held, forward=forward), asked


def pairs(*texts: str, seed: int) -> Victim:
    """Score sentences by their pairs of words, of which nothing adds up: what is best one by one is not best together.

    The label is what the scores say.
    """
    held = space()
    drawn = torch.randint(-999, 1000, (3, len(WORDS), len(WORDS)), generator=torch.Generator().manual_seed(seed))
    weights = drawn.float()  # whole numbers, so that sums are exact

    def forward(x: Tensor, points: Tensor) -> Tensor:
        there = F.one_hot(held.numbers(x.squeeze(1)), len(WORDS)).sum(1).to(weights)
        return torch.einsum("pi,kij,pj->pk", there, weights, there).unsqueeze(1)

    x = spell(*texts).unsqueeze(1)
    y = forward(x, torch.arange(len(x))).argmax(-1)
    return Victim(forward, x, y, held, 1, Cost(torch.zeros(1, dtype=torch.int64), torch.zeros(1, dtype=torch.int64)))


@pytest.mark.parametrize("rows", [1, 3, 8192])
@pytest.mark.parametrize("words", [1, 2, 3, 9])
def test_what_the_exhaustive_attack_leaves_is_what_brute_force_leaves_and_no_more_than_greedy(
    words: int, rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room, "ROWS", rows)  # memory is bounded by parts, which must leave nothing out
    fooled = stood = beaten = 0
    for seed in range(12):
        held = pairs(*TEXTS, seed=seed)
        threat = Threat("words", words)
        x_adv = catalog.attack("words-exhaustive")(held, threat, Streams([1]))
        assert threats.within(x_adv, held.x, threat, held.space)
        survives = held.forward(x_adv, held.points).argmax(-1) == held.y
        greedy = held.forward(catalog.attack("words-greedy")(held, threat, Streams([1])), held.points).argmax(-1)
        for point in range(len(TEXTS)):
            every = every_replacement(held.x[point, 0], words).unsqueeze(1)
            scores = held.forward(every, torch.full((len(every),), point))[:, 0]
            label = int(held.y[point])
            true, others = scores[:, label], scores[:, [k for k in range(3) if k != label]].amax(dim=1)
            assert bool(survives[point]) is bool((true > others).all()), (seed, point)
            assert not (survives[point] and greedy[point] != held.y[point])
            if survives[point]:  # the best of all is what it gives back
                kept = held.forward(x_adv[point : point + 1], torch.tensor([point]))[0, 0]
                assert kept[label] - kept[[k for k in range(3) if k != label]].amax() == (true - others).amin()
            fooled, stood = fooled + (not survives[point]), stood + bool(survives[point])
            beaten += bool(not survives[point] and greedy[point] == held.y[point])
    assert fooled >= 5
    assert stood >= 5
    assert beaten >= (words > 2)


def test_two_words_that_fool_together_and_help_the_learner_apart_are_found_by_the_exhaustive_attack_alone() -> None:
    x = spell("pay the bill")

    def forward(x: Tensor, points: Tensor) -> Tensor:
        # Greedy gains by `tab` alone, after which the true class is safe; `settle` and `invoice` each lose alone.
        said = {"pay the bill": 1.0, "settle the bill": 2.0, "pay the invoice": 2.0, "pay the check": 2.0}
        said |= {"pay the tab": 0.5, "settle the tab": 3.0, "settle the invoice": -1.0, "settle the check": 3.0}
        return torch.tensor([[[said[text], 0.0]] for text in space().text(x.squeeze(1))])

    cost = Cost(torch.zeros(1, dtype=torch.int64), torch.zeros(1, dtype=torch.int64))
    held = Victim(forward, x.unsqueeze(1), torch.zeros(1, 1, dtype=torch.int64), space(), 1, cost)
    found = {
        name: space().text(catalog.attack(name)(held, Threat("words", 2), Streams([1])).squeeze(1))
        for name in ("words-greedy", "words-exhaustive")
    }
    assert found == {"words-greedy": ["pay the tab"], "words-exhaustive": ["settle the invoice"]}


def test_every_wording_is_scored_once_the_fewest_words_first_and_none_of_a_sentence_that_fooled() -> None:
    held, asked = asked_of(victim("pay bill check bill tab"))
    safe = replace(held, forward=lambda x, at: 0 * held.forward(x, at) + torch.tensor([1.0, 0.0]), y=0 * held.y)
    x_adv = catalog.attack("words-exhaustive")(safe, Threat("words", 3), Streams([1]))
    every = space().text(every_replacement(held.x[0, 0], 3))
    assert sorted(set(asked)) == sorted(every)
    assert len(asked) == len(every) + 3  # and of one, two and three words the best again, to be kept
    replaced = space().replaced(spell(*asked), held.x[0].expand(len(asked), -1, -1)).tolist()
    assert replaced == sorted(replaced)
    assert not threats.distance(x_adv - held.x, "words", 2).gt(3).any()
    asked.clear()
    lost = replace(held, forward=lambda x, at: 0 * held.forward(x, at))
    assert catalog.attack("words-exhaustive")(lost, Threat("words", 3), Streams([1])).equal(held.x)
    assert asked == ["pay bill check bill tab"]  # wrong as it is


def test_a_sentence_of_more_wordings_than_the_limit_is_refused_before_any_is_scored() -> None:
    held, asked = asked_of(victim("pay the bill", "pay bill check bill tab", seed=1))
    every = {words: len(every_replacement(held.x[1, 0], words)) - 1 for words in (1, 2, 5)}
    assert every == {1: 10, 2: 48, 5: 191}
    for words, wordings in every.items():
        threat = Threat("words", words)
        assert EveryWording(limit=wordings)(held, threat, Streams([1])).shape == held.x.shape
        asked.clear()
        told = (
            f"eps: {words} replaced words make {wordings} wordings of a sentence, of which {wordings - 1} at most are"
        )
        with pytest.raises(InputError, match=rf"^{told} scored; lower eps, take words-greedy, or an EveryWording of a"):
            EveryWording(limit=wordings - 1)(held, threat, Streams([1]))
        assert asked == ["pay the bill", "pay bill check bill tab"]
    with pytest.raises(InputError, match=r"^limit: 0 is not between 1 and 10000000$"):
        EveryWording(limit=0)


def test_a_gradient_saves_queries_and_one_that_tries_less_finds_no_more() -> None:
    (every, all_asked), (few, few_asked) = (asked_of(victim(*TEXTS, ways=4)) for _ in range(2))
    assert repr(catalog.attack("words-gradient")) == "Words(tried=2)"
    Words()(every, Threat("words", 3), Streams([1]))
    Words(tried=1)(few, Threat("words", 3), Streams([1]))
    assert len(few_asked) < len(all_asked)
    with pytest.raises(InputError, match=r"^tried: 0 is not between 1 and 10000$"):
        Words(tried=0)


def test_words_are_refused_where_there_are_none_and_in_parts() -> None:
    with pytest.raises(InputError, match=r"^norm: 'words' replaces words; these inputs are not sentences, legal: linf"):
        threats.check(Threat("words", 1), Box((3, 8, 8)))
    with pytest.raises(InputError, match=r"^eps: 1\.5 is not a whole number"):
        threats.check(Threat("words", 1.5), space())
    assert threats.check(Threat("words", 2), space()) == Threat("words", 2)


def gallery(**changed: np.ndarray) -> dict[str, Any]:
    ints = {name: np.array([0, 1]) for name in ("labels", "clean_predictions", "adversarial_predictions")}
    return (
        ints | {"clean": np.array(["pay the bill", "my"]), "adversarial": np.array(["settle the bill", "my"])} | changed
    )


def test_a_gallery_of_texts_is_kept_and_read(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    np.savez(path, **gallery())
    kept = store._pictures(path)
    assert kept["clean"].tolist() == ["pay the bill", "my"]
    sheet = sentences.sheets([{"title": "t", "attack": "words-greedy", "eps": 1.0, **kept}])[0]
    assert sheet.readings[0].words == (("pay", "settle"), ("the", "the"), ("bill", "bill"))
    assert not any(one.fooled for one in sheet.readings)


def test_sentences_that_fool_come_first_and_attacks_before_noise() -> None:
    fooling = gallery(adversarial_predictions=np.array([0, 0]))
    items = [
        {"title": "n", "attack": "noise", "eps": 1.0, **gallery()},
        {"title": "b", "attack": "words-greedy", "eps": 2.0, **gallery()},
        {"title": "a", "attack": "words-greedy", "eps": 1.0, **fooling},
        {"title": "image", "attack": "pgd-20", "eps": 0.1, **gallery(clean=np.zeros(2), adversarial=np.zeros(2))},
    ]
    sheets = sentences.sheets(items)
    assert [sheet.title for sheet in sheets] == ["a", "b", "n"]
    assert [one.label for one in sheets[0].readings] == ["1", "0"]
    assert [one.fooled for one in sheets[0].readings] == [True, False]


@pytest.mark.parametrize(
    "changed",
    [
        {"adversarial": np.array([[0.0, 1.0]] * 2)},
        {"adversarial": np.array(["settle the bill"])},
        {"clean": np.array([["a", "b"]] * 2), "adversarial": np.array([["a", "b"]] * 2)},
        {"labels": np.array(["a", "b"])},
    ],
)
def test_a_gallery_of_texts_that_does_not_fit_is_refused(tmp_path: Path, changed: dict[str, np.ndarray]) -> None:
    path = tmp_path / "a.npz"
    np.savez(path, **gallery(**changed))
    with pytest.raises(ValueError, match=r"shapes|is not what it must be"):
        store._pictures(path)


def test_replaced_words_are_ranked_without_an_audit_of_the_ball(
    tmp_path: Path, real_data: Callable[[str], Path]
) -> None:
    common: dict[str, Any] = {"data_root": real_data("clinc150"), "tasks": 2, "out": tmp_path}
    table = evaluate("checkpoints/clinc150-protonet-standard", attacks="words-greedy", norm="words", eps=1, **common)
    assert table["status"].tolist() == ["ok"]
    assert table["flags"].tolist() == ["not audited"]
    assert not list((tmp_path / "audits").glob("*"))


def test_pictures_are_augmented_and_sentences_are_not(real_data: Callable[[str], Path], tmp_path: Path) -> None:
    recipe = Recipe(family="clinc150", algorithm="protonet", network="words-conv", augment=("flip",), steps=1)
    with pytest.raises(InputError, match=r"^augment: 'flip' is of images; legal for clinc150: none$"):
        train(recipe, tmp_path / "out", root=real_data("clinc150"))


def test_a_count_of_words_is_written_as_one_in_the_command_that_runs_it_again() -> None:
    assert [lines._exact(eps) for eps in (1.0, 2.0, round(8 / 255, 9), 0.005)] == ["1", "2", "8/255", "0.005"]
