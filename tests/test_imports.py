"""Imported weights are the same function as the network they come from, and what cannot be is refused."""

from __future__ import annotations

import io
import json
import os
import pickle
import py_compile
import signal
import sys
import textwrap
import zipfile
from collections.abc import Callable
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import foreign
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from robustbench_meta import catalog, checkpoint, imports, statedicts
from robustbench_meta.checkpoint import Recipe
from robustbench_meta.imports import Wanted
from robustbench_meta.types import InputError, Params

X = torch.rand(6, 3, 32, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def wanted(source: Path, layout: str | None = "learn2learn", **changes: Any) -> Wanted:
    return replace(Wanted(source, algorithm="protonet", family="cifar-fs", layout=layout), **changes)


def brought(asked: Wanted, trust: tuple[str, ...] = ()) -> Any:
    """Import, and load the checkpoint as an evaluation does."""
    imports.write(imports.prepare(asked), asked.source.parent / "out")
    return catalog.learner(checkpoint.load(asked.source.parent / "out"), trust=trust)


def embedded(learner: Any, x: Tensor) -> Tensor:
    """Embed by running statistics, both ways that the engine goes."""
    params, running = learner.params, learner.running
    found = learner.network(params, x, running)
    torch.testing.assert_close(learner.network.freeze(params, running)(x), found, rtol=1e-9, atol=1e-9)
    return found


def written(net: nn.Module | dict[str, Any], path: Path) -> Path:
    state = net.state_dict() if isinstance(net, nn.Module) else net
    if path.suffix == ".safetensors":
        save_file(dict(state), path)
    else:
        torch.save(state, path)
    return path


def l2l_wrapped() -> tuple[nn.Module, nn.Module]:
    net = foreign.CNN4(3, 4, 16, 5)
    return foreign.Wrapper(net), net


def l2l_three_layers() -> tuple[nn.Module, nn.Module]:
    net = foreign.CNN4(3, 4, 64, 5, layers=3)
    return net, net


def sequences_in_easyfsl() -> tuple[nn.Module, nn.Module]:
    net = foreign.Sequences(3, 4)
    return foreign.FewShotClassifier(net), net


def sequences_without_bias() -> tuple[nn.Module, nn.Module]:
    net = foreign.Sequences(3, 4, bias=False)
    return net, net


def resnet_in_easyfsl() -> tuple[nn.Module, nn.Module]:
    net = foreign.ResNet12()
    return foreign.FewShotClassifier(net), net


STYLES: dict[str, tuple[Callable[[], tuple[nn.Module, Any]], str, tuple[str, ...]]] = {
    "learn2learn's MAML": (l2l_wrapped, "learn2learn", ("classifier",)),
    "learn2learn's CNN4 of 3 blocks": (l2l_three_layers, "learn2learn", ("classifier",)),
    "a ProtoNet in easyfsl": (sequences_in_easyfsl, "protonet", ()),
    "a ProtoNet without biases": (sequences_without_bias, "protonet", ()),
    "easyfsl's resnet12": (resnet_in_easyfsl, "easyfsl", ()),
}


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
@pytest.mark.parametrize("style", STYLES)
def test_an_imported_network_embeds_as_the_one_it_comes_from(style: str, suffix: str, tmp_path: Path) -> None:
    make, layout, drops = STYLES[style]
    whole, net = make()
    foreign.filled(whole)
    asked = wanted(written(whole, tmp_path / f"net{suffix}"), layout, drops=drops, norm_mode="running")
    learner = brought(asked)
    torch.testing.assert_close(embedded(learner, X), net.embed(X), rtol=0, atol=1e-6)
    # By the batch's own statistics too, as torch has it in training.
    fitted = replace(learner, norm_mode="batch", running={})
    whole.train()
    prototypes = fitted.adapt(X[None], torch.tensor([[0, 0, 1, 2, 3, 4]])).extra["prototypes"][0]
    features = net.embed(X)
    torch.testing.assert_close(prototypes[1:], features[2:], rtol=0, atol=1e-6)


@pytest.mark.parametrize("padding", [0, 1])
@pytest.mark.parametrize("last", [1, 2])
@pytest.mark.parametrize(
    "order", [("relu", "bn", "max_pool2d"), ("bn", "relu", "max_pool2d"), ("bn", "max_pool2d", "relu")]
)
@pytest.mark.parametrize("prefix", ["", "net."])
def test_flat_lists_embed_as_the_learner_that_saved_them(
    order: tuple[str, ...], last: int, padding: int, prefix: str, tmp_path: Path
) -> None:
    size = 48
    sides = {(0, 1): 1, (0, 2): 1, (1, 1): 5, (1, 2): 3}[padding, last]
    config = foreign.blocks(order, width=4, padding=padding, last=last, head=(5, 4 * sides**2))
    (tmp_path / "config.json").write_text(json.dumps(config))
    net = foreign.filled(foreign.Learner(config))
    state = {prefix + name: value for name, value in net.state_dict().items()}
    asked = wanted(
        written(state, tmp_path / "maml.pkl"),
        "maml-pytorch",
        algorithm="maml",
        family="image-folder",
        family_options={"size": size},
        config=tmp_path / "config.json",
        norm_mode="running",
    )
    x = torch.rand(6, 3, size, size, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    learner = brought(asked)
    assert isinstance(net, foreign.Learner)
    torch.testing.assert_close(embedded(learner, x), net.embed(x, training=False), rtol=0, atol=1e-6)
    fitted = replace(learner, norm_mode="batch", running={}).finish(learner.start(1), x[None], torch.zeros(1, 6).long())
    scores = replace(learner, norm_mode="batch", running={}).predict(fitted, x[None])[0]
    expected = nn.functional.linear(net.embed(x, training=True), net.vars[-2], net.vars[-1])
    torch.testing.assert_close(scores, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("algorithm", ["maml", "anil"])
def test_an_imported_maml_adapts_as_learn2learn_adapts_it(algorithm: str, tmp_path: Path) -> None:
    net = foreign.filled(foreign.CNN4(3, 4, 16, 5))
    asked = wanted(
        written(foreign.Wrapper(net), tmp_path / "maml.pt"),
        algorithm=algorithm,
        algorithm_options={"step_size": 0.3, "steps": 3, "test_steps": 3},
    )
    learner = brought(asked)
    assert learner.norm_mode == "batch"  # as learn2learn evaluates
    y = torch.tensor([0, 1, 2, 3, 4, 0])
    scores = learner.predict(learner.adapt(X[None], y[None]), X[None].flip(1))[0]
    net.train()
    for name, value in net.named_parameters():
        value.requires_grad_(algorithm == "maml" or name.startswith("classifier"))
    moving: Params = {name: value for name, value in net.named_parameters() if value.requires_grad}
    for _ in range(3):
        found = torch.func.functional_call(net, moving, (X,))
        grads = torch.autograd.grad(nn.functional.cross_entropy(found, y), list(moving.values()))
        moving = {name: value - 0.3 * grad for (name, value), grad in zip(moving.items(), grads, strict=True)}
    torch.testing.assert_close(scores, torch.func.functional_call(net, moving, (X.flip(0),)), rtol=0, atol=1e-6)


def test_features_and_head_kept_apart_as_in_anil_come_together(tmp_path: Path) -> None:
    net = foreign.filled(foreign.CNN4(3, 4, 16, 5))
    assert isinstance(net, foreign.CNN4)
    features, head = nn.Sequential(net.features, nn.Flatten()), foreign.Wrapper(net.classifier)
    nested = {"features": features.state_dict(), "head": head.state_dict(), "epoch": 7}
    asked = wanted(written(nested, tmp_path / "anil.pt"), algorithm="anil", drops=("^epoch$",), norm_mode="running")
    made = imports.prepare(asked)
    assert made.card.imported is not None
    assert made.card.imported.names["conv2.gamma"] == "features.0.2.normalize.weight"
    assert made.card.imported.names["head.bias"] == "head.module.bias"
    assert "epoch" in made.dropped
    torch.testing.assert_close(embedded(brought(asked), X), net.embed(X), rtol=0, atol=1e-6)


# Networks of one's own.

TRUST = ("foreign:mine",)


def own(tmp_path: Path, **changes: Any) -> tuple[Wanted, nn.Module]:
    net = foreign.filled(foreign.mine(hidden=6))
    given: dict[str, Any] = {"family": "strokes", "network": "foreign:mine", "network_options": {"hidden": 6}}
    return wanted(written(net, tmp_path / "own.pt"), None, **{**given, **changes}), net


GREY = torch.rand(6, 1, 28, 28, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def test_a_network_of_ones_own_embeds_as_the_module_itself(tmp_path: Path) -> None:
    asked, net = own(tmp_path)
    learner = brought(asked, TRUST)
    assert learner.norm_mode == "running"  # for its statistics are there
    assert {*learner.running} == {f"net.base.{i}.normalize.{part}" for i in range(3) for part in ("mean", "var")}
    torch.testing.assert_close(embedded(learner, GREY), net(GREY), rtol=0, atol=1e-6)
    batch = replace(learner, norm_mode="batch", running={})
    y = torch.tensor([[0, 0, 1, 2, 3, 4]])
    next(net.children()).train()  # the blocks, not the dropout
    for backend in ("loop", "vmap", "flat"):
        prototypes = replace(batch, backend=backend).adapt(GREY[None], y).extra["prototypes"][0]
        torch.testing.assert_close(prototypes[1:], net(GREY)[2:], rtol=0, atol=1e-6)


def test_a_network_of_ones_own_is_adapted_and_attacked_like_one_of_ours(tmp_path: Path) -> None:
    asked, net = own(tmp_path, algorithm="maml", norm_mode="support", maps=("^head$=",))
    state = {**net.state_dict(), "linear.weight": torch.randn(5, 12).double(), "linear.bias": torch.zeros(5).double()}
    learner = brought(replace(asked, source=written(state, asked.source), maps=("^linear=head",)), TRUST)
    y = torch.arange(5).repeat(2)[None]
    x = torch.rand(1, 10, 1, 28, 28, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    results = []
    for backend in ("loop", "vmap"):
        made = replace(learner, backend=backend)
        victim = made.query_victim(made.adapt(x, y), x, y)
        inputs = victim.x.clone().requires_grad_()
        scores = victim.forward(inputs, victim.points)
        (grad,) = torch.autograd.grad(scores.sum(), inputs)
        results.append((scores.detach(), grad))
    for loop, mapped in zip(*results, strict=True):
        torch.testing.assert_close(loop, mapped, rtol=1e-6, atol=1e-8)
    assert results[0][1].abs().max() > 0


def test_nothing_of_a_checkpoints_code_runs_without_being_trusted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "loud.py").write_text(
        "from pathlib import Path\nfrom foreign import mine as build\nPath('ran').touch()\n"
    )
    asked, _ = own(tmp_path, network="loud:build")
    imports.write(imports.prepare(asked), tmp_path / "out")
    (tmp_path / "ran").unlink()  # the import was asked for by name
    sys.modules.pop("loud")
    loaded = checkpoint.load(tmp_path / "out")
    for trust in ((), ("loud:other",), ("foreign:mine",)):
        with pytest.raises(InputError, match=r"nothing of it was run; .* --trust loud:build"):
            catalog.learner(loaded, trust=trust)
    assert "loud" not in sys.modules
    (tmp_path / "loud.py").write_text((tmp_path / "loud.py").read_text() + "# changed\n")
    with pytest.raises(InputError, match=r"the source of loud:build has SHA-256 .* as when the weights were imported"):
        catalog.learner(loaded, trust=("loud:build",))
    assert not (tmp_path / "ran").exists()


def test_what_runs_is_the_source_and_neither_bytecode_nor_an_older_import(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    source = tmp_path / "shifty.py"
    source.write_text("raise RuntimeError('stale')\n")
    py_compile.compile(str(source), invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH)
    source.write_text("from foreign import mine as build\n")
    imports.prepare(own(tmp_path, network="shifty:build")[0])
    assert "shifty" in sys.modules
    source.write_text("def build(**options):\n    raise RuntimeError('edited')\n")
    with pytest.raises(InputError, match="failed with RuntimeError: edited"):
        imports.prepare(own(tmp_path, network="shifty:build")[0])
    sys.modules.pop("shifty")


def test_a_card_that_names_code_without_an_import_is_refused_even_where_trusted(tmp_path: Path) -> None:
    asked, _ = own(tmp_path)
    made = imports.prepare(asked)
    assert made.card.imported is not None
    unpinned = made.card.model_copy(update={"imported": made.card.imported.model_copy(update={"code_sha256": None})})
    checkpoint.save(tmp_path / "out", unpinned, made.weights)
    with pytest.raises(InputError, match="does not pin the source"):
        catalog.learner(checkpoint.load(tmp_path / "out"), trust=TRUST)


def test_the_source_of_a_network_is_part_of_who_the_learner_is(tmp_path: Path) -> None:
    card = imports.prepare(own(tmp_path)[0]).card
    assert card.imported is not None
    other = card.model_copy(update={"imported": card.imported.model_copy(update={"code_sha256": "0" * 64})})
    assert card.learner != other.learner


MODULES: dict[str, tuple[str, str]] = {
    "no form": ("mine of foreign:", "is not of the form module:function"),
    "not found": ("no_such_module:build", "no file of a module 'no_such_module'"),
    "no function": ("made:nothing", "failed with AttributeError"),
    "raises": ("made:raises", "failed with ZeroDivisionError: division by zero"),
    "no module": ("made:no_module", "returned int, not a torch.nn.Module"),
    "eps": ("made:eps", r"1 of made:eps has eps=0.001; legal: 1e-05"),
    "no affine": ("made:plain", "has affine=False"),
    "more than a norm": ("made:more", "is a More with a forward of its own; legal: BatchNorm2d's"),
    "one-dimensional norm": ("made:flat_norm", "is a BatchNorm1d; legal: BatchNorm2d"),
    "frozen": ("made:frozen", "requires no gradient"),
    "a buffer": ("made:buffered", "offset of made:buffered is a buffer"),
    "a map, not a vector": ("made:unflattened", r"as shape \(2, 2, 26, 26\); legal: \(2, width\)"),
    "mixes a batch": ("made:mixing", "embeds an input otherwise beside another, or at random"),
    "random": ("made:random", "embeds an input otherwise beside another, or at random"),
    "cuts the gradient": ("made:cut", "cuts the gradient"),
    "one norm twice": ("made:twice", "1 of made:twice normalises twice"),
    "fails on this shape": ("made:colour", r"fails on inputs of shape \(2, 1, 28, 28\): RuntimeError"),
}
MADE = """
    import torch
    from torch import nn
    import torch.nn.functional as F

    def net(norm, *more, channels=1): return nn.Sequential(nn.Conv2d(channels, 2, 3), norm, *more, nn.Flatten())
    def raises(): return 1 / 0
    def no_module(): return 3
    def eps(): return net(nn.BatchNorm2d(2, eps=1e-3))
    def plain(): return net(nn.BatchNorm2d(2, affine=False))
    def flat_norm(): return nn.Sequential(nn.Flatten(), nn.BatchNorm1d(784))
    def frozen(): return net(nn.BatchNorm2d(2)).requires_grad_(False)
    def unflattened(): return nn.Conv2d(1, 2, 3)
    def colour(): return net(nn.BatchNorm2d(2), channels=3)
    def buffered():
        made = net(nn.BatchNorm2d(2))
        made.register_buffer("offset", torch.ones(1))
        return made

    class Act(nn.Module):
        def __init__(self, act):
            super().__init__()
            self.act = act
        def forward(self, x): return self.act(x)

    def mixing(): return net(Act(lambda h: h - h.mean(0)))
    def random(): return net(Act(lambda h: F.dropout(h, 0.5)))
    def cut(): return net(Act(lambda h: h.detach()))
    class More(nn.BatchNorm2d):
        def forward(self, x): return super().forward(x).relu()
    def more(): return net(More(2))
    def twice():
        norm = nn.BatchNorm2d(2)
        return net(norm, norm)
"""


@pytest.mark.parametrize("case", MODULES)
def test_a_module_that_the_engine_could_not_normalise_is_refused(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "made", raising=False)
    (tmp_path / "made.py").write_text(textwrap.dedent(MADE))
    network, said = MODULES[case]
    source = written({"0.weight": torch.ones(2, 1, 3, 3)}, tmp_path / "net.pt")
    with pytest.raises(InputError, match=said) as raised:
        imports.prepare(wanted(source, None, network=network, family="strokes"))
    assert "\n" not in str(raised.value)


# What the card says.


def test_the_card_says_where_the_weights_come_from_and_claims_nothing_of_training(tmp_path: Path) -> None:
    net = foreign.filled(foreign.CNN4(3, 4, 16, 5))
    source = written(net, tmp_path / "net.pt")
    imports.write(imports.prepare(wanted(source, drops=("^classifier",))), tmp_path / "out")
    card = json.loads((tmp_path / "out" / "card.json").read_text())
    assert card["imported"]["sha256"] == statedicts.read(source).sha256
    assert card["imported"]["drops"] == ["^classifier"]
    assert card["imported"]["names"]["conv0.gamma"] == "features.0.normalize.weight"
    empty = (
        "chunk",
        "criterion",
        "device",
        "history",
        "selected_step",
        "stopped",
        "threads",
        "train_seconds",
        "versions",
    )
    assert not any(card[name] for name in empty)
    assert set(card["recipe"]) == checkpoint.KNOWN_OF_IMPORTED
    assert card["recipe"]["defense"] == "unknown"
    assert checkpoint.load(tmp_path / "out").card.recipe.origin == "imported"


def test_a_recipe_of_an_import_may_not_claim_how_it_was_trained() -> None:
    with pytest.raises(ValueError, match="says nothing of its training, and this one has learning_rate"):
        Recipe(origin="imported", learning_rate=0.1)


def test_a_card_must_not_claim_an_import_halfway(tmp_path: Path) -> None:
    imports.write(imports.prepare(own(tmp_path)[0]), tmp_path / "out")
    text = json.loads((tmp_path / "out" / "card.json").read_text())
    with pytest.raises(ValueError, match="must both be there, or neither"):
        checkpoint.parse_card(json.dumps({**text, "imported": None}).encode())


def test_recipes_and_cards_from_before_imports_keep_their_names() -> None:
    for folder in checkpoint.shipped():
        assert checkpoint.read_card(folder / "card.json").imported is None
    assert "origin" not in Recipe().model_dump(mode="json")


def test_the_same_file_gives_the_same_bytes(tmp_path: Path) -> None:
    source = written(foreign.filled(foreign.CNN4(3, 4, 16, 5)), tmp_path / "net.safetensors")
    for name in ("a", "b"):
        imports.write(imports.prepare(wanted(source, drops=("classifier",))), tmp_path / name)
    for file in ("card.json", "weights.safetensors"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


# Refusals.


class Payload:
    """A pickle of it makes a file where it is loaded."""

    def __reduce__(self) -> tuple[Callable[..., object], tuple[str, str]]:
        return open, ("exploded", "w")


def state(**changes: Any) -> dict[str, Any]:
    net = foreign.filled(foreign.Sequences(3, 4)).float()
    return {**net.state_dict(), **changes}


def saved(value: Any, **options: Any) -> bytes:
    file = io.BytesIO()
    torch.save(value, file, **options)
    return file.getvalue()


def scripted() -> bytes:
    file = io.BytesIO()
    torch.jit.save(torch.jit.script(nn.Linear(2, 2)), file)
    return file.getvalue()


def rezipped(compression: int, **more: bytes) -> bytes:
    """Write an archive of torch.save again."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(saved(state()))) as old, zipfile.ZipFile(out, "w", compression) as new:
        for name in old.namelist():
            new.writestr(name, more.get(name.rpartition("/")[2], old.read(name)))
    return out.getvalue()


def laughs() -> dict[str, Any]:
    """Nest dicts that share their content: 2**40 names in a few bytes."""
    at: dict[str, Any] = {"x": torch.ones(1)}
    for _ in range(40):
        at = {"a": at, "b": at}
    return at


def circle() -> dict[str, Any]:
    at: dict[str, Any] = {}
    at["again"] = at
    return at


FIRST = "encoder.0.0.weight"
KERNEL = torch.ones(4, 3, 3, 3)
BAD_FILES: dict[str, tuple[Callable[[], bytes], str]] = {
    "a pickle with code": (lambda: pickle.dumps(Payload()), "holds objects, of which nothing was run"),
    "a pickle with code, old protocol": (lambda: pickle.dumps(Payload(), 2), "holds .*open, .*nothing of it was run"),
    "a pickle with code, protocol 0": (lambda: pickle.dumps(Payload(), 0), "neither safetensors nor what torch.save"),
    "code in a zip": (lambda: saved({FIRST: Payload()}), "holds io.open, which is no tensor; nothing of it was run"),
    "code, legacy": (lambda: saved(Payload(), _use_new_zipfile_serialization=False), "nothing of it was run"),
    "a whole module": (lambda: saved(nn.Linear(2, 2)), "holds torch.nn.modules.linear.Linear, which is no tensor"),
    "an object in a dict": (lambda: saved({"net": nn.Linear(2, 2)}), "which is no tensor; nothing of it was run"),
    "truncated zip": (lambda: saved(state())[:-100], "is a broken or truncated zip"),
    "cut to its head": (lambda: saved(state())[:10], "is a broken or truncated zip"),
    "truncated, legacy": (lambda: saved(state(), _use_new_zipfile_serialization=False)[:-9], "is broken or truncated"),
    "record cut": (lambda: rezipped(zipfile.ZIP_STORED, **{"0": b"1234"}), "is broken or truncated .*record size"),
    "pickle cut": (lambda: rezipped(zipfile.ZIP_STORED, **{"data.pkl": b"\x80\x02}"}), "is broken or truncated"),
    "compressed": (lambda: rezipped(zipfile.ZIP_DEFLATED), "is compressed"),
    "another zip": (lambda: zipped("readme.txt"), "is a zip archive, but not one of torch.save"),
    "empty": (lambda: b"", "is empty"),
    "a web page": (lambda: b"<!DOCTYPE html>", "neither safetensors .*a web page"),
    "a pointer": (lambda: b"version https://git-lfs.github.com/spec/v1\n", "a pointer of Git LFS"),
    "noise": (lambda: bytes(range(200, 256)) * 9, "neither safetensors nor what torch.save writes"),
    "TorchScript": (scripted, "is a TorchScript archive, which holds code"),
    "a list": (lambda: saved([KERNEL]), "holds a list, not a dict of tensors"),
    "a tensor": (lambda: saved(KERNEL), "holds a Tensor, not a dict of tensors"),
    "a number": (lambda: saved(3), "holds a int, not a dict of tensors"),
    "nothing inside": (lambda: saved({}), "holds no tensor"),
    "float16": (lambda: saved(state(**{FIRST: KERNEL.half()})), f"{FIRST} of .* is float16; legal: float32 or float64"),
    "bfloat16": (lambda: saved(state(**{FIRST: KERNEL.bfloat16()})), f"{FIRST} of .* is bfloat16; legal"),
    "int": (lambda: saved(state(**{FIRST: KERNEL.int()})), f"{FIRST} of .* is int32; legal"),
    "complex": (lambda: saved(state(**{FIRST: KERNEL.to(torch.complex64)})), f"{FIRST} of .* is complex64; legal"),
    "mixed precision": (lambda: saved(state(**{FIRST: KERNEL.double()})), "legal: all alike"),
    "NaN": (lambda: saved(state(**{FIRST: KERNEL * torch.nan})), f"{FIRST} of .* holds NaN or Inf"),
    "Inf": (lambda: saved(state(**{FIRST: KERNEL / 0})), f"{FIRST} of .* holds NaN or Inf"),
    "a variance below zero": (
        lambda: saved(state(**{"encoder.0.1.running_var": -torch.ones(4)})),
        "scores random inputs as NaN or Inf",
    ),
    "sparse": (
        lambda: saved(state(**{FIRST: KERNEL.to_sparse()})),
        f"{FIRST} of .* is sparse_coo on cpu; legal: dense",
    ),
    "on no device": (lambda: saved(state(**{FIRST: KERNEL.to("meta")})), f"{FIRST} of .* is strided on meta; legal"),
    "a view of one number": (lambda: saved(state(**{FIRST: torch.ones(1).expand(2**40)})), "take more than 1073741824"),
    "a number among tensors": (lambda: saved(state(epoch=3)), "epoch of .* is a int, not a tensor; legal: --drop"),
    "a list among tensors": (lambda: saved(state(losses=[1.0])), "losses of .* is a list, not a tensor"),
    "keys that are numbers": (lambda: saved({0: KERNEL}), r"has the key '0' \(int\); legal: texts"),
    "an empty key": (lambda: saved(state(**{"": KERNEL})), r"has the key '' \(str\)"),
    "a long key": (lambda: saved(state(**{"x" * 500: KERNEL})), "has the key 'xxx"),
    "shared dicts": (lambda: saved(laughs()), "or dicts 16 deep"),
    "a dict in itself": (lambda: saved(circle()), "or dicts 16 deep"),
    "another architecture": (lambda: saved(foreign.ResNet12().state_dict()), r"no place in protonet on conv4"),
    "a block too few": (
        lambda: saved({k: v for k, v in state().items() if "encoder.1" not in k}),
        r"lacks 6 of 24: conv1.weight \(4, 4, 3, 3\), conv1.gamma \(4,\)",
    ),
    "a shape": (
        lambda: saved(state(**{"encoder.2.1.weight": torch.ones(5)})),
        r"conv2.gamma \(encoder.2.1.weight of .*\) has shape \(5,\); legal: \(4,\)",
    ),
    "a kernel of another size": (
        lambda: saved(state(**{FIRST: torch.ones(4, 3, 5, 5)})),
        r"has shape \(4, 3, 5, 5\); legal: \(4, 3, 3, 3\)",
    ),
    "a scalar": (lambda: saved(state(**{"encoder.2.1.weight": torch.ones(())})), r"has shape \(\); legal: \(4,\)"),
    "batch norm after ReLU": (
        lambda: saved({k.replace(".1.", ".2.") if k.startswith("encoder.0") else k: v for k, v in state().items()}),
        "batch norm follows ReLU",
    ),
    "duplicates": (
        lambda: saved(state(**{"backbone.encoder.0.0.weight": KERNEL})),
        f"'backbone.{FIRST}' and '{FIRST}' both go to 'conv0.weight'; --drop",
    ),
    "hostile names": (lambda: saved(state(**{"\x1b[2J\n<b>": KERNEL})), r"\\x1b\[2J\\n<b> \(4, 3, 3, 3\)"),
}


def zipped(name: str) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr(name, "x")
    return out.getvalue()


@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")
@pytest.mark.parametrize("bad", BAD_FILES)
def test_a_bad_file_is_refused_in_one_line_and_nothing_of_it_runs(
    bad: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    content, said = BAD_FILES[bad]
    (tmp_path / "bad.pt").write_bytes(content())
    with pytest.raises(InputError, match=said) as raised:
        imports.prepare(wanted(tmp_path / "bad.pt", "protonet"))
    assert len(str(raised.value).splitlines()) == 1
    assert len(str(raised.value)) < 900
    assert [path.name for path in tmp_path.iterdir()] == ["bad.pt"]


def test_the_file_that_the_bad_ones_are_made_of_is_good(tmp_path: Path) -> None:
    (tmp_path / "good.pt").write_bytes(saved(state()))
    assert imports.prepare(wanted(tmp_path / "good.pt", "protonet")).card.recipe.norm_mode == "running"
    (tmp_path / "again.pt").write_bytes(rezipped(zipfile.ZIP_STORED))
    assert len(imports.prepare(wanted(tmp_path / "again.pt", "protonet")).placed) == 24


def test_a_huge_file_a_folder_and_a_missing_file_are_refused_unread(tmp_path: Path) -> None:
    (tmp_path / "huge.pt").touch()
    os.truncate(tmp_path / "huge.pt", 3 * 2**30)
    os.mkfifo(tmp_path / "pipe.pt")
    for name, said in (
        ("huge.pt", "has 3221225472 bytes, more than 1073741824"),
        ("pipe.pt", "is not a file"),
        (".", "is a folder; legal: a file of tensors"),
        ("no.pt", "is missing"),
    ):
        with pytest.raises(InputError, match=said):
            imports.prepare(wanted(tmp_path / name))


BAD_OPTIONS: dict[str, tuple[dict[str, Any], str]] = {
    "entry": ({"entry": "model.head"}, r"entry: 'model.head' of .*: there is no 'head' in model; legal: encoder"),
    "entry through a tensor": (
        {"entry": f"model.encoder.{FIRST}"},
        "there is no 'encoder' in model.encoder; legal: encoder.0.0.bias, ",
    ),
    "no entry": (
        {},
        r"optimizer.lr of .* is a float, not a tensor; legal: --entry, one of model, optimizer, or --drop",
    ),
    "map without =": ({"maps": ("encoder",)}, "map: 'encoder' is not of the form regex=replacement"),
    "map that is no regex": ({"maps": ("(=x",)}, r"map: '\(' is not a regular expression"),
    "map with an unknown group": ({"maps": (r"a=\2",)}, r"map: '\\\\2' of .* is no replacement"),
    "drop that is no regex": ({"drops": ("[",)}, r"drop: '\[' is not a regular expression"),
    "layout": ({"layout": "keras"}, "layout: 'keras' is unknown; legal: learn2learn, protonet, easyfsl, maml-pytorch"),
    "no network": ({"layout": None}, "network: none given, and no layout that implies one; legal: conv4"),
    "another network": ({"network": "resnet12"}, "network: 'resnet12' is not what layout protonet holds; legal: conv4"),
    "unknown network": ({"layout": None, "network": "vgg"}, "network: 'vgg' is unknown"),
    "option of the layout": (
        {"network_options": {"order": "relu-bn"}},
        "order = 'relu-bn'; legal: 'bn-relu', as layout",
    ),
    "option of the network": ({"network_options": {"widht": 3}}, "network_options: 'widht' is unknown"),
    "option against the shapes": (
        {"network_options": {"width": 8}},
        r"has shape \(4, 3, 3, 3\); legal: \(8, 3, 3, 3\)",
    ),
    "algorithm": ({"algorithm": "mmal"}, "algorithm: 'mmal' is unknown"),
    "algorithm that needs a head": ({"algorithm": "maml"}, r"lacks 2 of 26: head.weight \(5, 16\), head.bias \(5,\)"),
    "family": ({"family": "cifar"}, "family: 'cifar' is unknown"),
    "family of another shape": ({"family": "strokes"}, r"has shape \(4, 3, 3, 3\); legal: \(4, 1, 3, 3\)"),
    "defense": ({"defense": "magic"}, "defense: 'magic' is not one of unknown, "),
    "ways": ({"ways": 1}, "ways: '1': input should be greater than or equal to 2"),
    "layout for own code": ({"network": "foreign:mine"}, "layout: 'protonet' has no meaning for a module's own names"),
    "config without its layout": ({"config": Path("c.json")}, "config: c.json; legal with layout maml-pytorch"),
    "layout without its config": ({"layout": "maml-pytorch"}, "config: None; legal with layout maml-pytorch"),
}


@pytest.mark.parametrize("bad", BAD_OPTIONS)
def test_options_that_do_not_fit_are_refused_in_one_line(bad: str, tmp_path: Path) -> None:
    changes, said = BAD_OPTIONS[bad]
    nested = {"model": {"encoder": state()}, "optimizer": {"lr": 0.1}}
    source = written(nested, tmp_path / "net.pt")
    entry = None if bad == "no entry" else "model.encoder"
    with pytest.raises(InputError, match=said) as raised:
        imports.prepare(replace(wanted(source, "protonet", entry=entry), **changes))
    assert "\n" not in str(raised.value)


def test_maps_come_before_the_layout_one_after_another(tmp_path: Path) -> None:
    renamed = {f"nets/{name.replace('encoder.', 'layer_')}": value for name, value in state().items()}
    maps = (r"^nets/=", r"^layer_(\d)=encoder.\1")
    made = imports.prepare(wanted(written(renamed, tmp_path / "net.pt"), "protonet", maps=maps))
    assert made.card.imported is not None
    assert made.card.imported.maps == maps
    assert made.card.imported.names["conv3.bias"] == "nets/layer_3.0.bias"


def test_every_tensor_of_a_file_is_accounted_for(tmp_path: Path) -> None:
    extra = state(**{"fc.weight": KERNEL})
    source = written(extra, tmp_path / "net.pt")
    with pytest.raises(InputError, match=r"has 1 tensors with no place in protonet on conv4: fc.weight \(4, 3, 3, 3\)"):
        imports.prepare(wanted(source, "protonet"))
    made = imports.prepare(wanted(source, "protonet", drops=("^fc",), norm_mode="support"))
    counters = {f"encoder.{i}.1.num_batches_tracked" for i in range(4)}
    assert set(made.dropped) == {"fc.weight"} | counters
    assert set(made.unused) == {f"encoder.{i}.1.running_{part}" for i in range(4) for part in ("mean", "var")}
    assert {one.theirs for one in made.placed} | {*made.dropped} | {*made.unused} == set(extra)


FOREIGN_STYLES: dict[str, tuple[Callable[[], nn.Module], str, str]] = {
    "strided": (lambda: foreign.OmniglotCNN(4, 5), "learn2learn", "is OmniglotCNN, which strides instead of pooling"),
    "wide pooling": (
        lambda: foreign.CNN4(3, 4, 16, 5, layers=2),
        "learn2learn",
        "holds 2 blocks; legal with layout learn2learn: at least 3",
    ),
    "resnet": (foreign.ResNet12, "learn2learn", "ResNet12: --layout easyfsl"),
}


@pytest.mark.parametrize("style", FOREIGN_STYLES)
def test_what_our_networks_cannot_stand_for_is_refused_with_the_reason(style: str, tmp_path: Path) -> None:
    make, layout, said = FOREIGN_STYLES[style]
    source = written(foreign.filled(make()), tmp_path / "net.pt")
    with pytest.raises(InputError, match=said):
        imports.prepare(wanted(source, layout, drops=("classifier",)))


GOOD = foreign.blocks(("relu", "bn", "max_pool2d"), width=4, padding=1, last=2, head=(5, 16))


def changed(at: int, step: tuple[str, list[Any]]) -> str:
    return json.dumps([*GOOD[:at], step, *GOOD[at + 1 :]])


BAD_CONFIGS: dict[str, tuple[str, str]] = {
    "no JSON": ("[", "config: .*c.json"),
    "no list": ("3", "is not a list of"),
    "empty": ("[]", "is not a list of"),
    "no pairs": ('[["conv2d"]]', "is not a list of"),
    "strides": (
        changed(4, ("conv2d", [4, 4, 3, 3, 2, 1])),
        r"block 1 has conv2d \[4, 4, 3, 3, 2, 1\]; legal for conv4",
    ),
    "a kernel of 2": (changed(12, ("conv2d", [4, 4, 2, 2, 1, 1])), "block 3 has conv2d"),
    "paddings differ": (changed(8, ("conv2d", [4, 4, 3, 3, 1, 0])), "block 2 has conv2d"),
    "padding of 2": (json.dumps(GOOD).replace("3, 3, 1, 1", "3, 3, 1, 2"), "padding: 2 is not 0 or 1"),
    "padding as text": (json.dumps(GOOD).replace("3, 3, 1, 1", '3, 3, 1, "x"'), "padding = 'x' is not of type int"),
    "widths differ": (changed(4, ("conv2d", [8, 4, 3, 3, 1, 1])), "block 1 has conv2d"),
    "pooling of 3": (changed(7, ("max_pool2d", [3, 2, 0])), r"block 1 has max_pool2d \[3, 2, 0\]"),
    "a stride in the middle": (changed(3, ("max_pool2d", [2, 1, 0])), r"block 0 has max_pool2d \[2, 1, 0\]"),
    "orders differ": (json.dumps([*GOOD[:5], GOOD[6], GOOD[5], *GOOD[7:]]), "block 1 is bn, relu, max_pool2d; legal"),
    "another step": (changed(1, ("leakyrelu", [0.1, True])), "block 0 is leakyrelu"),
    "no flatten": (json.dumps(GOOD[:16]), "has 'its end' at step 16"),
    "two heads": (json.dumps([*GOOD, GOOD[-1]]), "flatten and at most one linear"),
}


@pytest.mark.parametrize("bad", BAD_CONFIGS)
def test_a_list_of_steps_that_conv4_cannot_stand_for_is_refused_by_its_step(bad: str, tmp_path: Path) -> None:
    text, said = BAD_CONFIGS[bad]
    (tmp_path / "c.json").write_text(text)
    source = written(foreign.filled(foreign.Learner(GOOD)), tmp_path / "net.pt")
    with pytest.raises(InputError, match=said) as raised:
        imports.prepare(wanted(source, "maml-pytorch", algorithm="maml", config=tmp_path / "c.json"))
    assert "\n" not in str(raised.value)


# Writing.


def test_what_is_there_is_never_overwritten(tmp_path: Path) -> None:
    made = imports.prepare(wanted(written(state(), tmp_path / "net.pt"), "protonet"))
    (tmp_path / "file").write_text("mine")
    (tmp_path / "folder").mkdir()
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    for name in ("file", "folder", "dangling"):
        with pytest.raises(InputError, match="is there already, and nothing is overwritten"):
            imports.write(made, tmp_path / name)
    assert (tmp_path / "file").read_text() == "mine"
    assert not list((tmp_path / "folder").iterdir())
    assert not (tmp_path / "nowhere").exists()


def _write_and_die(source: Path, out: Path, calls: int) -> None:
    """Import in a process that is killed at its `calls`-th call of a function of the operating system that writes."""
    left = calls
    made = imports.prepare(wanted(source, "protonet"))

    def dying(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*given: Any, **named: Any) -> Any:
            nonlocal left
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*given, **named)

        return call

    for name in ("fsync", "rename", "replace", "mkdir"):
        setattr(os, name, dying(getattr(os, name)))
    imports.write(made, out)
    os._exit(0)


def test_a_kill_at_any_moment_leaves_a_whole_checkpoint_or_none(tmp_path: Path) -> None:
    source = written(state(), tmp_path / "net.pt")
    whole = []
    for calls in range(1, 12):
        out = tmp_path / f"out{calls}"
        process = get_context("fork").Process(target=_write_and_die, args=(source, out, calls))
        process.start()
        process.join()
        whole.append(process.exitcode == 0)
        assert process.exitcode in (0, -signal.SIGKILL)
        assert out.exists() == whole[-1]
        if whole[-1]:
            checkpoint.load(out)
    assert whole[:4] == [False] * 4  # folder, weights and their fsync came before
    assert whole[-1]
