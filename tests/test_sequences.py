"""Learners that write: sequences judged as wholes, languages made by code, users' own pairs, and all of it attacked."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from robustbench_meta import catalog, evaluate, grid, losses, report, store, threats
from robustbench_meta.attention import EncoderDecoder
from robustbench_meta.engine import Learner, craft, start_params
from robustbench_meta.episodes import fingerprint
from robustbench_meta.report import tables
from robustbench_meta.sequences import chrf, judged, text, token_accuracy
from robustbench_meta.tasks import parallel_text
from robustbench_meta.tasks.parallel_text import ParallelText
from robustbench_meta.tasks.transduction import ORDERS, PLACES, Transduction
from robustbench_meta.types import SPLITS, Cell, Episodes, InputError, Record, Spec, Streams, Threat

SPEC = Spec(ways=5, shots=3, queries=2, proxies=2)
FAMILIES: dict[str, Transduction] = {
    "transduction": Transduction(),
    "compression": Transduction("compression", orders=("as it is",), fillers=4),
}


@pytest.fixture(params=sorted(FAMILIES))
def family(request: pytest.FixtureRequest) -> Transduction:
    return FAMILIES[request.param]


class WordByWord:
    """Writes for every place the token that the nearest word of the support had in the same place."""

    def adapt(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        places = F.one_hot(torch.arange(PLACES), PLACES).to(x).expand(len(x), -1, -1)
        return torch.cat([x, 2 * places], dim=2).flatten(0, 1), F.one_hot(y, SPEC.ways).to(x)

    def predict(self, fitted: tuple[Tensor, Tensor], x: Tensor) -> Tensor:
        places = F.one_hot(torch.arange(PLACES), PLACES).to(x).expand(len(x), -1, -1)
        near = -8 * torch.cdist(torch.cat([x, 2 * places], dim=2).flatten(0, 1), fitted[0]).square()
        return near.softmax(dim=1) @ fitted[1]


def learner(algorithm: str = "r2d2", **fields: Any) -> Learner:
    made, network, space = catalog.algorithm(algorithm), EncoderDecoder(16, 2), FAMILIES["transduction"].space
    params = start_params(made, network, space, SPEC.ways, torch.Generator().manual_seed(0))
    return Learner(made, network, {name: value.double() for name, value in params.items()}, space, SPEC.ways, **fields)


def episodes(tasks: int = 2, spec: Spec = SPEC) -> Episodes:
    return FAMILIES["transduction"].sample("test", spec, range(tasks)).to("cpu", torch.float64)


def test_a_sequence_is_right_where_every_token_is_and_its_scores_say_by_how_much_each_is_wrong() -> None:
    scores = torch.tensor([[3.0, 1.0, 0.0], [0.0, 2.0, 0.5], [1.0, 0.0, 0.0], [0.0, 0.0, 4.0]])
    y = torch.tensor([0, 1, 0, 1])
    found, label = judged(scores, y, 2)
    assert found.tolist() == [[0.0, -2.0, -1.5], [0.0, -1.0, 4.0]]
    assert label.tolist() == [0, 0]
    assert losses.correct(found, label).tolist() == [True, False]
    assert judged(scores, y, 1)[0] is scores


def test_a_tied_token_makes_a_sequence_wrong() -> None:
    assert not losses.correct(*judged(torch.tensor([[1.0, 1.0], [0.0, 5.0]]), torch.tensor([0, 1]), 2)).any()


def test_token_accuracy_counts_the_targets_tokens_in_their_places() -> None:
    target = torch.tensor([[1, 2, 3, 0], [4, 0, 0, 0]])
    written = torch.tensor([[1, 3, 3, 1], [4, 4, 0, 0]])
    assert token_accuracy(written, target).tolist() == [2 / 3, 1.0]


def test_a_text_ends_with_its_end_and_chrf_is_sacrebleus() -> None:
    words = ("", "ba", "du", "ki")
    assert [text(row, words) for row in ([1, 2, 0, 3], [3, 3], [0, 1])] == ["ba du", "ki ki", ""]
    assert chrf("ba du", "ba du") == pytest.approx(1.0)
    assert chrf("", "ba du") == 0.0
    # Of character n-grams up to the 4 of "badu", by hand: 2 of 4, 1 of 3, 0 of 2 and 0 of 1; recall alike.
    assert chrf("ba ki", "ba du") == pytest.approx((2 / 4 + 1 / 3) / 4, abs=1e-9)


@pytest.mark.parametrize(
    ("order", "expected"),
    [
        ("as it is", [1, 2, 3, 4, 5]),
        ("reversed", [5, 4, 3, 2, 1]),
        ("first word last", [2, 3, 4, 5, 1]),
        ("last word first", [5, 1, 2, 3, 4]),
        ("neighbours swapped", [2, 1, 4, 3, 5]),
        ("odd places first", [1, 3, 5, 2, 4]),
    ],
)
def test_orders_of_words(order: str, expected: list[int]) -> None:
    assert ORDERS[order]([1, 2, 3, 4, 5]) == expected


def test_every_order_is_another_for_the_longest_and_the_shortest_sentence_but_where_three_words_have_too_few() -> None:
    assert len({tuple(order([1, 2, 3, 4, 5])) for order in ORDERS.values()}) == len(ORDERS)
    assert len({tuple(order([1, 2, 3])) for order in ORDERS.values()}) == len(ORDERS)


def test_a_target_is_a_lexicon_and_an_order_of_what_a_source_means(family: Transduction) -> None:
    spec, space = Spec(ways=9, shots=5, queries=15), family.space
    meaning = {word: row for row, word in enumerate(space.words)}
    of = lambda word: (meaning[word] - 1) // 3  # noqa: E731 - words of one meaning have neighbouring numbers
    made = family.sample("test", spec, range(6))
    for task in range(6):
        sources = [[of(word) for word in line.split(" ")] for line in space.text(made.query_x[task])]
        targets = [[t for t in row if t] for row in made.query_y[task].view(-1, PLACES).tolist()]
        pairs = list(zip(sources, targets, strict=True))
        # Which meanings have a token: those of sentences that are not shorter in the target, or all that occur.
        fitting = []
        for order in family.orders:
            lexicon: dict[int, set[int]] = {}
            dropped = {m for source, target in pairs for m in source if not family.fillers or m % 3 == drop_of(pairs)}
            dropped = dropped if family.fillers else set()
            for source, target in pairs:
                kept = ORDERS[order]([m for m in source if m not in dropped])
                if len(kept) == len(target):
                    for m, token in zip(kept, target, strict=True):
                        lexicon.setdefault(m, set()).add(token)
                else:
                    lexicon.setdefault(-1, set()).update((1, 2))
            fitting += [order] if all(len(tokens) == 1 for tokens in lexicon.values()) else []
        assert len(fitting) == 1


def drop_of(pairs: list[tuple[list[int], list[int]]]) -> int:
    """Find the class of meanings without which sources are as long as their targets."""
    fits = [
        drop
        for drop in range(3)
        if all(sum(meaning % 3 != drop for meaning in source) == len(target) for source, target in pairs)
    ]
    assert len(fits) == 1
    return fits[0]


def test_words_that_may_stand_for_one_another_are_near_and_mean_the_same(family: Transduction) -> None:
    space = family.space
    table, swaps = space.table, space.swaps
    near = (table[1:].unsqueeze(1) * table[swaps[1:]]).sum(dim=2)
    assert near.mean() > 0.7
    # What may stand for a word has the same words that may: a meaning is closed.
    for word in (1, 2, 50):
        assert all({word, *swaps[word].tolist()} == {other, *swaps[other].tolist()} for other in swaps[word].tolist())
    others = table[1:] @ table[1:].T
    for word, row in enumerate(swaps[1:].tolist()):
        others[word, [word, *(other - 1 for other in row)]] = 0
    assert others.flatten().sort().values[int(0.99 * others.numel())] < near.min()
    assert torch.allclose(table[1:].norm(dim=1), torch.ones(len(table) - 1), atol=1e-6)


def test_splits_share_no_source_word(family: Transduction) -> None:
    used = [set(" ".join(family.space.text(family.sample(split, SPEC, range(30)).query_x.flatten(0, 1))).split())
            for split in SPLITS]  # fmt: skip
    assert all(not one & other for one, other in itertools.combinations(used, 2))


def test_support_and_queries_share_no_sentence_even_by_what_it_means(family: Transduction) -> None:
    made = family.sample("test", SPEC, range(5))
    numbers = [(family.space.numbers(x) + 2).div(3, rounding_mode="floor") for x in (made.support_x, made.query_x)]
    for support, query in zip(*(part.tolist() for part in numbers), strict=True):
        assert not {tuple(row) for row in support} & {tuple(row) for row in query}


def test_words_of_targets_are_told_apart_and_the_end_is_none(family: Transduction) -> None:
    words = family.written("test", SPEC, 3)
    assert words == family.written("test", replace(SPEC, shots=1), 3) != family.written("test", SPEC, 4)
    assert words[0] == ""
    assert len(set(words)) == SPEC.ways


def test_languages_refuse_options_they_cannot_have() -> None:
    with pytest.raises(InputError, match=r"^orders: 'sorted' is unknown; legal: as it is, "):
        catalog.family("transduction", orders=["sorted"])
    with pytest.raises(InputError, match=r"^fillers: 9 is not between 0 and 8$"):
        Transduction(fillers=9)
    with pytest.raises(InputError, match=r"^ways=42: must be from 5 to 41, the tokens of a task$"):
        Transduction().sample("test", Spec(ways=42), [0])


def test_the_network_is_attention_as_torch_writes_it() -> None:
    network = EncoderDecoder(width=8, heads=2)
    weights = network.parameters((4, 3), torch.Generator().manual_seed(0))
    x = F.normalize(torch.randn(5, 4, 3, generator=torch.Generator().manual_seed(1)), dim=-1)
    x[1, 2:] = 0  # a sentence of two words
    word = x.norm(dim=-1) > 0
    behind = (word.sum(1, keepdim=True) - 1 - torch.arange(4)).clamp_min(0)

    def scaled(h: Tensor) -> Tensor:
        return F.rms_norm(h, (8,), eps=1e-6)

    def attention(q: Tensor, k: Tensor, v: Tensor, seen: Tensor) -> Tensor:
        q, k, v = (part.view(5, -1, 2, 4).transpose(1, 2) for part in (q, k, v))
        found = F.scaled_dot_product_attention(q, k, v, attn_mask=seen[:, None, None, :])
        return found.transpose(1, 2).reshape(5, -1, 8)

    h = x @ weights["embed"] + weights["from_start"] + weights["from_end"][behind]
    of = {name.removeprefix("layer0."): value for name, value in weights.items()}
    q, k, v = (scaled(h) @ of[name] for name in ("query", "key", "value"))
    h = h + attention(q, k, v, word) @ of["out"]
    h = scaled(h + (scaled(h) @ of["widen"]).relu() @ of["narrow"])
    keys, values = (
        torch.cat([h @ weights[f"decoder.{name}"], weights[f"nothing.{name}"].expand(5, 1, 8)], dim=1)
        for name in ("key", "value")
    )
    seen = torch.cat([word, torch.ones(5, 1, dtype=torch.bool)], dim=1)
    expected = attention(weights["tokens"][word.sum(1)], keys, values, seen).flatten(0, 1)
    assert torch.allclose(network(weights, x, {}), expected, atol=1e-5)
    assert torch.allclose(network.freeze(weights, {})(x), expected, atol=1e-5)
    assert (network.features((4, 3)), network.labels((4, 3))) == (8, 4)
    short = x.clone()
    short[1, 2:] = 0.28  # of length 0.485: no word
    assert network(weights, short, {}).equal(network(weights, x, {}))
    assert network(weights, torch.zeros(1, 4, 3), {}).isfinite().all()


def test_a_network_and_a_family_must_agree_on_the_labels_of_an_input() -> None:
    made, space = catalog.algorithm("protonet"), Transduction().space
    with pytest.raises(InputError, match=r"^network: gives 1 labels for an input, and these inputs have 6$"):
        start_params(made, catalog.network("words-conv"), space, 5, torch.Generator())
    plain = replace(space, labels=1)
    with pytest.raises(InputError, match=r"^network: gives 6 labels for an input, and these inputs have 1$"):
        start_params(made, catalog.network("encoder-decoder"), plain, 5, torch.Generator())
    for bad, said in (({"heads": 3}, "heads: 3 do not share a width of 64"), ({"depth": 0}, "depth: 0 is not between")):
        with pytest.raises(InputError, match=said):
            catalog.network("encoder-decoder", **bad)


@pytest.mark.parametrize("algorithm", ["maml", "anil", "meta-sgd", "protonet", "r2d2", "metaopt-ridge"])
def test_every_algorithm_writes_and_all_backends_are_equal(algorithm: str) -> None:
    made, threat = episodes(), Threat("linf", 0.02)
    found = {}
    for backend in ("loop", "vmap", "flat"):
        subject = learner(algorithm, backend=backend)
        fitted = subject.adapt(made.support_x, made.support_y, steps=None if subject.steps is None else 2)
        scores = subject.predict(fitted, made.query_x)
        assert scores.shape == (2, 10 * PLACES, 5)
        victim = subject.query_victim(fitted, made.query_x, made.query_y)
        some = torch.tensor([13, 2, 3])
        seen = victim.forward(victim.x[some], some)
        assert torch.allclose(seen.squeeze(1), judged(scores, made.query_y, PLACES)[0].flatten(0, 1)[some])
        found[backend] = (scores, seen)
        attack = catalog.attack("pgd-3-at")
        x_adv = craft(subject, fitted, made.query_x, made.query_y, attack=attack, threat=threat, rng=Streams([0, 1]))
        assert x_adv.shape == made.query_x.shape
    for backend in ("vmap", "flat"):
        assert all(torch.allclose(a, b, atol=1e-9) for a, b in zip(found["loop"], found[backend], strict=True))


@pytest.mark.parametrize("algorithm", ["anil", "r2d2"])
def test_the_gradient_from_a_sequence_to_the_support_equals_finite_differences(algorithm: str) -> None:
    subject, made = learner(algorithm), episodes(1, Spec(ways=5, shots=1, queries=1))

    def loss(support_x: Tensor) -> Tensor:
        fitted = subject.adapt(support_x, made.support_y, steps=None if subject.steps is None else 2)
        return losses.cross_entropy(*judged(subject.predict(fitted, made.query_x), made.query_y, PLACES)).sum()

    x = made.support_x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(loss(x), x)
    # Along a direction that leaves padding as it is, whose length decides what is a word.
    along = torch.randn(x.shape, dtype=x.dtype, generator=torch.Generator().manual_seed(0)) * (x != 0)
    step = 1e-6
    with torch.no_grad():
        slope = (loss(x + step * along) - loss(x - step * along)) / (2 * step)
    assert (gradient * along).sum().item() == pytest.approx(slope.item(), rel=1e-4)


def test_writing_is_attacked_by_whole_sequences_and_kept_with_its_likeness(tmp_path: Path) -> None:
    common: dict[str, Any] = {"learner": WordByWord(), "name": "words", "family": EASY, "ways": 5, "shots": 20}
    common |= {"queries": 2, "tasks": 3, "audit": False, "out": tmp_path}
    table = evaluate(**common, attacks=["noise-1", "pgd-10"], eps=[0.0, 0.2])
    assert set(table["surface"]) == {"sequence"}
    rows = {(row["attack"], row["eps"]): row for row in table.to_dict("records")}
    clean = rows["pgd-10", 0.0]["clean"]
    assert clean > 0.5
    assert rows["pgd-10", 0.0]["robust"] == clean
    assert rows["pgd-10", 0.2]["robust"] < rows["noise-1", 0.2]["robust"] - 0.2
    trained: dict[str, Any] = {"queries": 2, "tasks": 3, "out": tmp_path}
    names = ["words-greedy", "words-exhaustive"]
    words = evaluate("zoo:transduction-r2d2-standard", attacks=names, norm="words", eps=2, **trained)
    found = words.set_index("attack")["robust"]
    assert (found < words["clean"].iloc[0] - 0.1).all()
    assert found["words-exhaustive"] <= found["words-greedy"]
    kept = store.read(tmp_path)
    assert kept.audits.empty
    tasks = kept.tasks
    exact = tasks["clean"].map(lambda bits: bits.count("1") / len(bits))
    assert (tasks["clean_tokens"] >= exact).all()
    assert tasks["clean_chrf"].between(0, 1).all()
    attacked = tasks[tasks["attacked_tokens"] < tasks["clean_tokens"]]
    assert len(attacked)
    assert (attacked["attacked_chrf"] < attacked["clean_chrf"]).mean() > 0.9
    report.write(kept, store.read_gallery(tmp_path), tmp_path / "report")
    page = (tmp_path / "report" / "leaderboard.md").read_text(encoding="utf-8")
    assert "## Attacked sequences" in page
    assert "## Exact match, tokens and chrF" in page
    assert "| Target | Sentence | Read as | After the attack |" in page
    assert "Exact match, tokens and chrF" in (tmp_path / "report" / "leaderboard.html").read_text(encoding="utf-8")


EASY = Transduction(orders=("as it is",))


@pytest.mark.parametrize("attack", ["apgd-ce", "square", "autoattack"])
def test_attacks_of_single_points_serve_sequences(attack: str) -> None:
    common: dict[str, Any] = {"learner": WordByWord(), "family": EASY, "ways": 5, "shots": 20, "queries": 1, "tasks": 1}
    row = evaluate(**common, attacks=[attack], eps=[0.08], audit=False).iloc[0]
    assert row["status"] == "ok"
    assert row["robust"] <= row["clean"]


def test_the_support_of_sequences_is_poisoned_through_its_inputs_and_not_its_labels() -> None:
    common: dict[str, Any] = {"learner": WordByWord(), "family": EASY, "ways": 5, "shots": 10, "queries": 2, "tasks": 2}
    row = evaluate(**common, surface="support", attacks=["pgd-5"], eps=[0.08]).iloc[0]
    assert row["robust"] < row["clean"]
    with pytest.raises(InputError, match="norm: 'labels' flips one label an item; these have sequences"):
        evaluate(**common, surface="support", norm="labels", attacks=["flips-greedy"], eps=[1])


@pytest.mark.parametrize(
    ("name", "surface", "said"),
    [
        ("transduction", "query", "surface: 'query' does not fit: transduction answers by sequences; legal: sequence"),
        ("strokes", "sequence", "surface: 'sequence' does not fit: strokes writes none; legal: query, support"),
    ],
)
def test_surfaces_that_do_not_fit_are_refused_in_one_line(name: str, surface: str, said: str) -> None:
    with pytest.raises(InputError, match=said) as refusal:
        evaluate(learner=WordByWord(), family=name, ways=5, surface=surface, attacks=["pgd-5"], eps=[0.1], tasks=1)
    assert "\n" not in str(refusal.value)


def test_a_constant_predictor_writes_no_target_whatever_is_attacked(tmp_path: Path) -> None:
    common: dict[str, Any] = {"learner": WordByWord(), "name": "words", "family": EASY, "ways": 5, "shots": 10}
    common |= {"queries": 2, "tasks": 2, "audit": False, "out": tmp_path}
    for surface in ("sequence", "support"):
        evaluate(**common, surface=surface, attacks=["noise-1"], eps=[0.08])
    found = tables.tables(store.read(tmp_path)).tables
    assert {(one.section, one.constant) for one in found} == {("Attacked sequences", 0), ("Poisoned support", 0)}
    assert all("Exact match" in one.criterion for one in found)
    references = [row.algorithm for one in found for row in one.rows if row.kind == "reference"]
    assert references == ["always the same token"] * 2
    # The 0 is no baseline, and the pages say so where it stands and where it is explained.
    assert all("always writing the support's commonest target may have more" in one.criterion for one in found)
    assert "the commonest target of the support" in dict(tables.tables(store.read(tmp_path)).footnotes)["sequences"]


def test_a_cell_that_failed_stands_on_the_board_of_those_that_wrote(tmp_path: Path) -> None:
    common: dict[str, Any] = {"learner": WordByWord(), "name": "words", "family": EASY, "ways": 5, "shots": 10}
    evaluate(
        **common, queries=1, tasks=1, surface="support", attacks=["noise-1"], eps=[0.08], audit=False, out=tmp_path
    )
    (run,) = store.runs(tmp_path)
    failed = store.Run(replace(run.cell, attack="pgd-20", attack_fields="PGD()"), reason="out of memory")
    assert store.tables([run, failed], []).cells["whole"].tolist() == [True, True]


CELL = Cell(
    *("c", "0" * 64, "r2d2", "aq", "support", "transduction", "1" * 64, "test"),
    *(Spec(), None, "pgd-20", "PGD()", Threat("linf", 0.02, "sequence"), 0),
)


def test_a_record_keeps_its_likeness_and_one_without_is_written_as_it_always_was() -> None:
    plain = Record(0, (True, False), (True, False), 0.1, 3, 2)
    assert set(store._line(plain)) == {"task", "clean", "survived", "distance", "forwards", "backwards"}
    full = replace(plain, clean_tokens=0.5, attacked_tokens=0.25, clean_chrf=0.5, attacked_chrf=0.125)
    assert store._record(store._line(full)) == full
    with pytest.raises(ValueError, match="likeness or a return is not a number"):
        store._record({**store._line(full), "clean_chrf": "high"})


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    """A file a split: a language in which every sentence says what its target says, in reverse."""
    rng = np.random.default_rng(0)
    for split in SPLITS:
        (tmp_path / split).mkdir()
        lines = []
        for row in (rng.integers(0, 4, rng.integers(2, 6)) for _ in range(800)):
            lines.append(" ".join(f"{split}{n}" for n in row) + "\t" + " ".join(f"out{n}" for n in row[::-1]))
        (tmp_path / split / f"{split}-reversed.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return tmp_path


def test_parallel_files_of_a_users_own_are_tasks(pairs: Path) -> None:
    family: Any = catalog.family("parallel-text", root=pairs)
    made = family.sample("test", SPEC, [0, 1])
    words = family.written("test", SPEC, 0)
    assert words[0] == ""
    assert words[4] == "\u2026"
    assert len(known := set(words[1:4]) & {"out0", "out1", "out2", "out3"}) == 3
    sources = family.space.text(made.support_x[0])
    for source, row in zip(sources, made.support_y[0].view(-1, 6).tolist(), strict=True):
        said = [word.replace("test", "out") for word in reversed(source.split(" "))]
        assert text(row, words).split(" ") == [word if word in known else "\u2026" for word in said]
        assert known.intersection(said)


def test_tasks_of_a_file_draw_their_words(pairs: Path) -> None:
    family = ParallelText(root=pairs)
    assert len({frozenset(family.written("test", SPEC, task)) for task in range(20)}) == 4


def test_a_closed_language_leaves_out_pairs_with_other_words(pairs: Path) -> None:
    family = ParallelText(root=pairs, unknown="left-out")
    made = family.sample("test", replace(SPEC, ways=4), range(3))
    words = family.written("test", replace(SPEC, ways=4), 0)
    missing = ({f"out{n}" for n in range(4)} - set(words)).pop().replace("out", "test")
    sources = family.space.text(made.support_x[0])
    assert not any(missing in source for source in sources)
    for source, row in zip(sources, made.support_y[0].view(-1, 6).tolist(), strict=True):
        assert text(row, words).replace("out", "test").split(" ") == source.split(" ")[::-1]


def test_every_part_has_the_pairs_of_every_token_that_a_family_says_it_serves(pairs: Path) -> None:
    spec = Spec(5, 5, 5, 5)
    made = ParallelText(root=pairs).sample("test", spec, range(40))
    for y in (made.support_y, made.query_y, made.proxy_y):
        assert y is not None
        by_token = y.view(40, 5, 5, 6)
        assert (by_token == torch.arange(5).view(5, 1, 1)).any(dim=3).all()
    with pytest.raises(InputError, match=r"^queries=6: must be from 1 to 5, pairs for each token; more where"):
        ParallelText(root=pairs).sample("test", replace(spec, queries=6), [0])
    more = ParallelText(root=pairs, serves=6).sample("test", replace(spec, queries=6), [0])
    assert more.query_x.shape[1] == 30


def test_files_that_are_too_small_are_named_before_the_first_task(pairs: Path) -> None:
    for name in ("few", "fewer"):
        (pairs / "test" / f"{name}.tsv").write_text("test0 test1\tout0 out1\n" * 30, encoding="utf-8")
    (pairs / "test" / "some.tsv").write_text(
        "\n".join(f"a{n} b{n % 3}\tw{n % 3} v{n}" for n in range(60)), encoding="utf-8"
    )
    family = ParallelText(root=pairs)
    said = (
        r"^ways=5: test holds files of too few pairs for serves=5: few\.tsv \(2 words in targets that fit\),"
        r" fewer\.tsv \(2 words in targets that fit\), some\.tsv \(4 for each token and part\); take"
    )
    for task in range(8):
        with pytest.raises(InputError, match=said):
            family.sample("test", SPEC, [task])


def test_a_file_that_is_accepted_serves_every_task(pairs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parallel_text, "TRIES", 1)  # so that two of these twelve tasks have to fall back
    rows = np.random.default_rng(2).integers(0, 3, (3, 76, 2))[2]
    lines = [f"a{n}\tw{one} w{other} v{n}" for n, (one, other) in enumerate(rows)]
    (pairs / "test" / "test-reversed.tsv").write_text("\n".join(lines), encoding="utf-8")
    family = ParallelText(root=pairs)
    fixed = parallel_text._likeliest(family, pairs / "test" / "test-reversed.tsv", 5)
    assert [family._task("test", 5, task, 0) is fixed for task in range(12)].count(True) == 2
    assert family.sample("test", SPEC, range(12)).query_x.shape == (12, 10, 6, 32)


def test_every_pair_of_a_task_holds_a_word_of_it(pairs: Path) -> None:
    lines = [f"a{n}\t{f'w{n % 3} x' if n < 120 else 'x y'}" for n in range(1000)]
    (pairs / "test" / "test-reversed.tsv").write_text("\n".join(lines), encoding="utf-8")
    family = ParallelText(root=pairs)
    seen = set()
    for task in range(8):
        words = family.written("test", SPEC, task)
        tokens = family.sample("test", SPEC, [task]).support_y.view(-1, 6)
        assert ((tokens > 0) & (tokens < 4)).any(dim=1).all()
        seen.add("x" in words or "y" in words)
    assert seen == {False, True}


def test_data_check_says_what_every_file_serves(pairs: Path, rbm: Callable[..., tuple[int, str, str]]) -> None:
    (pairs / "val" / "small.tsv").write_text("a b\tc d\na b c d e f g\tc\n", encoding="utf-8")
    asked = ["data", "check", "parallel-text", "--data-root", str(pairs)]
    status, shown, _ = rbm(*asked)
    assert status == 1
    assert "val/small: 2 pairs, 1 of at most 6 words; too few for ways=5 serves=5, 2 words in targets that fit" in shown
    assert "not ready: ways=5: val holds files of too few pairs" in shown
    (pairs / "val" / "small.tsv").unlink()
    assert rbm(*asked)[0] == 0
    status, shown, _ = rbm(*asked, "--ways", "400")
    assert status == 1
    assert "not ready: ways=400: train holds files of too few pairs" in shown
    options = ["--ways", "4", "--family-option", "unknown=left-out", "--family-option", "serves=2"]
    status, shown, _ = rbm(*asked, *options)
    assert status == 0
    family = ParallelText(root=pairs, unknown="left-out", serves=2)
    lines = (pairs / "test" / "test-reversed.tsv").read_text(encoding="utf-8").splitlines()
    targets = {line.split("\t")[0]: line.split("\t")[1].split(" ") for line in lines}.values()
    words = family.written("test", replace(SPEC, ways=4), 0)
    usable = sum(set(target) <= set(words) for target in targets)
    assert (
        f"test/test-reversed: {len(targets)} pairs, {len(targets)} of at most 6 words; {usable} pairs a task" in shown
    )


@pytest.mark.parametrize(
    ("written", "words"),
    [
        (
            "\u0939\u093f\u0928\u094d\u0926\u0940 \u092e\u0947\u0902",
            ["\u0939\u093f\u0928\u094d\u0926\u0940", "\u092e\u0947\u0902"],
        ),
        ("\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645!", ["\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645"]),
        ("\u0130PTAL et", ["i\u0307ptal", "et"]),
        ("Cafe\u0301, l'eau \u2019tis", ["caf\u00e9", "l'eau", "tis"]),
    ],
)
def test_a_word_keeps_its_marks_and_joiners(written: str, words: list[str]) -> None:
    assert list(parallel_text.words_of(written)) == words


def test_other_targets_are_another_family_though_no_reference_task_meets_them(pairs: Path) -> None:
    for number in range(40):
        source = (pairs / "test" / "test-reversed.tsv").read_text(encoding="utf-8")
        (pairs / "test" / f"more{number}.tsv").write_text(source, encoding="utf-8")
    family = ParallelText(root=pairs)
    before, last = fingerprint(family, "test"), pairs / "test" / "more39.tsv"
    last.write_text(last.read_text(encoding="utf-8").replace("out0", "out9"), encoding="utf-8")
    parallel_text._pairs.cache_clear()
    assert fingerprint(family, "test") != before


def test_words_are_vectors_by_their_spelling_and_stand_for_one_another_where_a_file_says_so(pairs: Path) -> None:
    (pairs / "test" / "more.tsv").write_text("Die Häuser!\tthe houses\r\ndas Haus\tthe house\n", encoding="utf-8")
    with pytest.raises(InputError, match=r"^norm: 'words' replaces words, and the family names none"):
        threats.check(Threat("words", 1), ParallelText(root=pairs).space)
    (pairs / "synonyms.tsv").write_text("haus\tgebäude heim\n", encoding="utf-8")
    space = ParallelText(places=8, root=pairs).space
    assert space.shape == (8, 32)
    row = {word: space.table[at] for at, word in enumerate(space.words)}
    assert row["häuser"] @ row["haus"] > max(row["die"] @ row["haus"], row["test0"] @ row["haus"])
    at = space.words.index("haus")
    assert [space.words[other] for other in space.swaps[at].tolist()] == ["gebäude", "heim"]
    assert (space.swaps[space.words.index("die")] == -1).all()
    (pairs / "synonyms.tsv").write_text("haus\tgebäude heim\nnowhere\tgebäude\n", encoding="utf-8")
    parallel_text._lexicon.cache_clear()
    assert ParallelText(places=8, root=pairs).space.words == space.words


def test_a_languages_own_synonyms_are_those_of_its_own_sentences_alone(pairs: Path) -> None:
    content = (pairs / "test" / "test-reversed.tsv").read_text(encoding="utf-8")
    (pairs / "test" / "other.tsv").write_text(content, encoding="utf-8")
    (pairs / "synonyms.tsv").write_text("test0\tshared\ntest2\tshared\n", encoding="utf-8")
    (pairs / "synonyms").mkdir()
    (pairs / "synonyms" / "other.tsv").write_text("test0\ttest1 test3\ntest1\ttest0\n", encoding="utf-8")
    family = ParallelText(root=pairs)
    space, met = family.space, dict[str, dict[str, set[int]]]()
    for task in range(8):
        numbers = space.numbers(family.sample("test", SPEC, [task]).support_x).flatten().tolist()
        for number in numbers:
            words = met.setdefault(family._task("test", 5, task, 0).language, {})
            words.setdefault(space.words[number], set()).add(number)
    assert all(len(numbers) == 1 for words in met.values() for numbers in words.values())
    row = {language: {word: numbers.pop() for word, numbers in words.items()} for language, words in met.items()}
    swaps = {
        language: {word: [n for n in space.swaps[at].tolist() if n >= 0] for word, at in words.items() if word}
        for language, words in row.items()
    }
    shared = space.words.index("shared")
    assert swaps["test-reversed"] == {"test0": [shared], "test1": [], "test2": [shared], "test3": []}
    other = row["other"]
    assert swaps["other"] == {
        "test0": [other["test1"], other["test3"]],
        "test1": [other["test0"]],
        "test2": [shared],
        "test3": [],
    }
    assert {word for word in other if other[word] != row["test-reversed"][word]} == {"test0", "test1"}
    (pairs / "synonyms" / "nothing.tsv").write_text("a\tb\n", encoding="utf-8")
    parallel_text._lexicon.cache_clear()
    said = r"synonyms/nothing\.tsv is for no file of train, val or test; legal: a name of one of other\.tsv, test-rev"
    with pytest.raises(InputError, match=said):
        _ = family.space


@pytest.mark.parametrize("file", ["synonyms.tsv", "synonyms/test-reversed.tsv"])
def test_a_word_that_is_listed_again_must_have_the_same_synonyms(pairs: Path, file: str) -> None:
    (pairs / "synonyms").mkdir()
    (pairs / file).write_text("test0\tone two\n\nTest0\ttwo one\n", encoding="utf-8")
    assert "two" in ParallelText(root=pairs).space.words
    (pairs / file).write_text("test0\tone two\n\nTest0\tone three\n", encoding="utf-8")
    parallel_text._lexicon.cache_clear()
    said = rf"{file}, line 3: 'test0' has the words one three, on a line above one two; legal: one line for a word"
    with pytest.raises(InputError, match=said) as refusal:
        _ = ParallelText(root=pairs).space
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"a b\n", "line 1: 0 tabs, must be one: source<TAB>target"),
        (b"a\tb\n\nc\td\te\n", "line 3: 2 tabs, must be one: source<TAB>target"),
        (b"a\t...\n", "line 1: a target without a word"),
        (b"a\t\xff\n", "is not UTF-8: byte 2 does not fit"),
        (b"a\tb\n", r"ways=5: .* test-reversed\.tsv \(1 words in targets that fit\)"),
        (b"a b\tb c d e\n", r"ways=5: .* test-reversed\.tsv \(0 for each token and part\)"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused_in_one_line(pairs: Path, content: bytes, said: str) -> None:
    (pairs / "test" / "test-reversed.tsv").write_bytes(content)
    with pytest.raises(InputError, match=said) as refusal:
        ParallelText(root=pairs).sample("test", SPEC, [0])
    assert "\n" not in str(refusal.value)


def test_folders_that_lack_or_share_a_file_are_refused(pairs: Path) -> None:
    (pairs / "val" / "test-reversed.tsv").write_text("a\tb\n", encoding="utf-8")
    with pytest.raises(
        InputError, match=r"^parallel-text: test-reversed is in both test and val; give it to one, since"
    ):
        ParallelText(root=pairs).classes("test")
    for path in (pairs / "val").iterdir():
        path.unlink()
    with pytest.raises(InputError, match=r"val holds no \.tsv file of lines|val holds no \.tsv file"):
        ParallelText(root=pairs).classes("test")
    (pairs / "val").rmdir()
    with pytest.raises(InputError, match=r"val is not a folder; it must hold \.tsv files of source<TAB>target$"):
        ParallelText(root=pairs).classes("test")


def test_a_group_is_never_parted_and_data_check_shows_how_it_lies(
    pairs: Path, rbm: Callable[..., tuple[int, str, str]]
) -> None:
    asked = ["data", "check", "parallel-text", "--data-root", str(pairs)]
    for name in ("near", "alone"):
        content = (pairs / "test" / "test-reversed.tsv").read_text(encoding="utf-8")
        (pairs / "test" / f"{name}.tsv").write_text(content, encoding="utf-8")
    family = ParallelText(root=pairs)
    before = fingerprint(family, "test")
    assert "test: 3 files, each apart, without groups.tsv: alone, near, test-reversed\n" in rbm(*asked)[1]
    (pairs / "groups.tsv").write_text("near\tGermanic\n\ntest-reversed\tGermanic\r\n", encoding="utf-8")
    parallel_text._groups.cache_clear()
    assert "test: 3 files, in 2 groups: Germanic (near, test-reversed), alone\n" in rbm(*asked)[1]
    assert fingerprint(family, "test") == before
    (pairs / "test" / "near.tsv").rename(pairs / "train" / "near.tsv")
    said = r"^parallel-text: .*groups\.tsv: Germanic is in train \(near\) and test \(test-reversed\); legal: all of a"
    for split in SPLITS:
        with pytest.raises(InputError, match=said):
            family.sample(split, SPEC, [0])
    status, shown, _ = rbm(*asked)
    assert (status, shown.count("\n")) == (1, 1)
    assert "groups.tsv: Germanic is in train (near) and test (test-reversed)" in shown


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("train-reversed\n", r"line 1: must be NAME<TAB>group, of a file NAME\.tsv"),
        ("train-reversed\tone\tmore\n", r"line 1: must be NAME<TAB>group, of a file NAME\.tsv"),
        ("\ntrain-reverse\tone\n", r"line 2: no train-reverse\.tsv is in train, val or test"),
        (
            "train-reversed\tone\n" * 2 + "train-reversed\ttwo\n",
            "line 3: 'train-reversed' is of two, on a line above of one",
        ),
    ],
)
def test_a_line_of_groups_that_cannot_be_used_is_refused(pairs: Path, content: str, said: str) -> None:
    (pairs / "groups.tsv").write_text(content, encoding="utf-8")
    with pytest.raises(InputError, match=rf"^parallel-text: .*groups\.tsv, {said}") as refusal:
        ParallelText(root=pairs).sample("test", SPEC, [0])
    assert "\n" not in str(refusal.value)


def test_other_synonyms_are_another_family(pairs: Path) -> None:
    found = []
    for other in ("test1", "test2"):
        (pairs / "synonyms.tsv").write_text(f"test0\t{other}", encoding="utf-8")
        parallel_text._lexicon.cache_clear()
        found.append(fingerprint(ParallelText(root=pairs), "test"))
    (pairs / "synonyms").mkdir()
    for language in ("one", "two"):  # neither is met in a reference task
        (pairs / "train" / f"{language}.tsv").write_text("test0\tout\n", encoding="utf-8")
    for language in ("one", "two"):
        (pairs / "synonyms" / "one.tsv").unlink(missing_ok=True)
        (pairs / "synonyms" / f"{language}.tsv").write_text("test0\ttest2", encoding="utf-8")
        parallel_text._lexicon.cache_clear()
        found.append(fingerprint(ParallelText(root=pairs), "test"))
    assert len(set(found)) == 4


def test_a_learner_of_made_languages_reads_a_users_files_and_its_words_are_replaced(pairs: Path) -> None:
    (pairs / "synonyms.tsv").write_text("\n".join(f"test{n}\ttest{(n + 1) % 4}" for n in range(4)), encoding="utf-8")
    family = ParallelText(root=pairs)
    subject = grid.Subject("t", "0" * 64, "r2d2", "standard", learner(), family, "parallel-text", 3, None)
    assert grid.with_ways(subject, 5).space is family.space
    axes = grid.Grid(grid.named_attacks(["words-greedy"]), norms=("words",), eps=(2.0,), queries=1)
    plan = grid.make_plan(axes, [subject], pairs / "out")
    assert [job.cell.threat.surface for job in plan.jobs] == ["sequence"]
