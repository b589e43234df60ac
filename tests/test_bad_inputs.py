"""The 36 bad inputs: each ends in one line that says what is wrong, before any attack, and leaves what was there."""

from __future__ import annotations

import hashlib
import io
import json
import os
import pickle
import re
import resource
import shutil
import struct
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from safetensors.torch import save as save_tensors
from test_grid import RECIPE, STROKES, Centroids, saved
from torch import Tensor

import robustbench_meta
from robustbench_meta import catalog, checkpoint, cli, store, terminal
from robustbench_meta.attacks.pgd import MultiTargetedPGD
from robustbench_meta.downloads import Member, Source
from robustbench_meta.types import NORMS, Box, Episodes, InputError, Norm, Params, Spec, Split, Streams, Surface, Threat
from robustbench_meta.types import Victim as AnyVictim

ROOT = Path(__file__).resolve().parents[1]
EVALUATE = ("--attacks", "counted", "--eps", "0.05", "--queries", "3", "--tasks", "2", "--device", "cpu")
SECONDS = 5.0
COUNT = 36


@dataclass(frozen=True)
class Counted:
    """Returns clean inputs, and counts how often it was asked."""

    norms: ClassVar[tuple[Norm, ...]] = NORMS
    surfaces: ClassVar[tuple[Surface, ...]] = ("query",)
    needs_gradient: ClassVar[bool] = False
    needs_single_points: ClassVar[bool] = False
    asked: ClassVar[list[Threat]] = []

    def __call__(self, victim: AnyVictim, threat: Threat, rng: Streams) -> Tensor:
        self.asked.append(threat)
        return victim.x.clone()


@dataclass(frozen=True)
class Ascending(Counted):
    needs_gradient: ClassVar[bool] = True


@dataclass(frozen=True)
class Filling(Counted):
    """Fills the disk while the run goes on."""

    path: Path = Path("filler")

    def __call__(self, victim: AnyVictim, threat: Threat, rng: Streams) -> Tensor:
        fill(self.path)
        return victim.x.clone()


@dataclass(frozen=True)
class Place:
    """Where a case works: `folder` holds a good checkpoint to spoil and results that were there before."""

    folder: Path
    stack: ExitStack
    patch: pytest.MonkeyPatch

    @property
    def ckpt(self) -> Path:
        return self.folder / "tiny"

    @property
    def weights(self) -> Path:
        return self.ckpt / "weights.safetensors"

    @property
    def results(self) -> Path:
        return self.folder / "results"

    def files(self) -> dict[Path, bytes]:
        """Everything there is but downloads, whose parts may stay."""
        return {
            path: path.read_bytes()
            for path in sorted(self.folder.rglob("*"))
            if path.is_file() and "data" not in path.relative_to(self.folder).parts
        }


Arguments = Sequence[object]
Call = Callable[[], pd.DataFrame]


@dataclass(frozen=True)
class Case:
    """A bad input: `prepare` lays it out and gives a command line or a call; `said` is a regular expression."""

    prepare: Callable[[Place], Arguments | Call]
    status: int
    said: str


def evaluated(*more: object) -> Callable[[Place], Arguments]:
    """Evaluate the good checkpoint with these options."""
    return lambda place: ["evaluate", "--ckpt", place.ckpt, *EVALUATE, "--out", place.results, *more]


def spoilt(spoil: Callable[[Place], object]) -> Callable[[Place], Arguments]:
    """Evaluate the checkpoint after `spoil`."""

    def prepare(place: Place) -> Arguments:
        spoil(place)
        return evaluated()(place)

    return prepare


# Checkpoints.


def pin(place: Place, content: bytes) -> None:
    """Put other weights in place, with a card that vouches for them as an attacker's would."""
    place.weights.write_bytes(content)
    change_card(place, weights_sha256=hashlib.sha256(content).hexdigest(), weights_bytes=max(len(content), 1))


def change_card(place: Place, **changes: object) -> None:
    card = json.loads((place.ckpt / "card.json").read_text())
    (place.ckpt / "card.json").write_text(json.dumps({**card, **changes}))


def change_recipe(place: Place, **changes: object) -> None:
    recipe = RECIPE.model_copy(update=changes)
    change_card(place, recipe=recipe.model_dump(mode="json"), recipe_sha256=recipe.sha256)


def with_tensors(change: Callable[[Params], Params]) -> Callable[[Place], Arguments]:
    return spoilt(lambda place: pin(place, save_tensors(change(checkpoint.load(place.ckpt).params))))


def without(name: str) -> Callable[[Params], Params]:
    return lambda params: {key: value for key, value in params.items() if key != name}


def one(name: str, change: Callable[[Tensor], Tensor]) -> Callable[[Params], Params]:
    return lambda params: {**params, name: change(params[name])}


def flip(place: Place) -> None:
    content = bytearray(place.weights.read_bytes())
    content[-5] ^= 1
    place.weights.write_bytes(content)


class Payload:
    """A pickle of it makes a file where it is loaded."""

    def __reduce__(self) -> tuple[Callable[..., object], tuple[str, str]]:
        return open, ("exploded", "w")


def payload(zipped: bool) -> bytes:
    if not zipped:
        return pickle.dumps(Payload())
    file = io.BytesIO()
    torch.save({"state": Payload()}, file)
    return file.getvalue()


def as_pt(content: Callable[[], bytes]) -> Callable[[Place], Arguments]:
    def prepare(place: Place) -> Arguments:
        (place.folder / "model.pt").write_bytes(content())
        return ["evaluate", "--ckpt", place.folder / "model.pt", *EVALUATE, "--out", place.results]

    return prepare


def module() -> bytes:
    file = io.BytesIO()
    torch.save(torch.nn.Linear(2, 2), file)
    return file.getvalue()


def oversized(place: Place) -> None:
    declared = len(place.weights.read_bytes())
    os.truncate(place.weights, 4 * declared + 1)


def huge(place: Place) -> None:
    """A sparse file of 3 GB where the card, an old one, declares no size."""
    change_card(place, weights_bytes=None)
    os.truncate(place.weights, 3 * 2**30)


def huge_card(place: Place) -> None:
    os.truncate(place.ckpt / "card.json", 2 * 2**30)


def twice_in_card(place: Place) -> None:
    text = (place.ckpt / "card.json").read_text()
    (place.ckpt / "card.json").write_text(text.replace("{", '{"device": "tpu",', 1))


# Learners.


class ShortScores(Centroids):
    def predict(self, fitted: Tensor, x: Tensor) -> Tensor:
        return super().predict(fitted, x)[:, :-1]


class NoScores(Centroids):
    def predict(self, fitted: Tensor, x: Tensor) -> Any:
        return "three"


class NotANumber(Centroids):
    def predict(self, fitted: Tensor, x: Tensor) -> Tensor:
        return super().predict(fitted, x) * torch.nan


class Softmax(Centroids):
    """Gives probabilities so sure that they are 0 and 1."""

    def predict(self, fitted: Tensor, x: Tensor) -> Tensor:
        return (1e4 * super().predict(fitted, x)).softmax(dim=1)


class Detached(Centroids):
    def predict(self, fitted: Tensor, x: Tensor) -> Tensor:
        return super().predict(fitted, x.detach())


class Random(Centroids):
    def predict(self, fitted: Tensor, x: Tensor) -> Tensor:
        scores = super().predict(fitted, x)
        return scores + torch.randn(scores.shape)


class Together(Centroids):
    """Judges queries by their distance from the mean of their batch."""

    def predict(self, fitted: Tensor, x: Tensor) -> Tensor:
        return super().predict(fitted, x - x.mean(dim=0))


def learner(made: type[Centroids], attack: Any, name: str = "mine") -> Callable[[Place], Call]:
    def prepare(place: Place) -> Call:
        options: dict[str, Any] = {"eps": 0.05, "ways": 3, "queries": 3, "tasks": 2, "out": place.results}
        return lambda: robustbench_meta.evaluate(
            learner=made(), name=name, family=STROKES, attacks={"counted": attack}, **options
        )

    return prepare


# Data.


@dataclass(frozen=True)
class Spoilt:
    """The strokes family after a change to its tasks; `first` is the first task that is changed."""

    change: Callable[[Episodes], Episodes]
    first: int = 0
    name: str = "spoilt"
    space: ClassVar[Box] = STROKES.space
    default_network: ClassVar[str] = "conv4"
    default_network_options: ClassVar[dict[str, Any]] = {}

    def sample(self, split: Split, spec: Spec, indices: Sequence[int], *, seed: int = 0) -> Episodes:
        made = STROKES.sample(split, spec, indices, seed=seed)
        return made if max(indices) < self.first else self.change(made)

    def classes(self, split: Split) -> list[str]:
        return STROKES.classes(split)


def family(change: Callable[[Episodes], Episodes]) -> Callable[[Place], Arguments]:
    def prepare(place: Place) -> Arguments:
        place.patch.setitem(catalog.shelf("tasks").presets, "spoilt", Spoilt(change))
        return evaluated("--family", "spoilt")(place)

    return prepare


def leak(episodes: Episodes) -> Episodes:
    query = episodes.query_x.clone()
    query[:, 1] = episodes.support_x[:, 0]
    return replace(episodes, query_x=query)


def images(classes: int, each: int) -> Callable[[Place], Arguments]:
    def prepare(place: Place) -> Arguments:
        rng = np.random.default_rng(0)
        for split in ("train", "val", "test"):
            for label in range(classes):
                made = place.folder / "images" / split / f"{split}{label}"
                made.mkdir(parents=True)
                for number in range(each):
                    pixels = rng.integers(0, 256, STROKES.space.shape[1:], dtype=np.uint8)
                    Image.fromarray(pixels).save(made / f"{number}.png")
        options = {"folder": place.folder / "images", "size": STROKES.space.shape[1], "channels": 1}
        named = [word for name, value in options.items() for word in ("--family-option", f"{name}={value}")]
        return evaluated("--family", "image-folder", *named)(place)

    return prepare


def archive(*entries: tuple[str, int]) -> bytes:
    """A gzipped tar of files by name and the size that each claims; a file of more than a kilobyte has no content."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz") as tar:
        for name, size in entries:
            entry = tarfile.TarInfo(name)
            entry.size = size
            tar.addfile(entry, io.BytesIO(bytes(size)) if size < 1024 else None)
    return file.getvalue()


@dataclass(frozen=True)
class Served:
    sources: tuple[Source, ...]
    name: str = "served"
    root: Path | None = None
    space: ClassVar[Box] = STROKES.space
    default_network: ClassVar[str] = "conv4"
    default_network_options: ClassVar[dict[str, Any]] = {}
    sample: ClassVar[Any] = STROKES.sample
    classes: ClassVar[Any] = STROKES.classes


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None: ...


def fetched(body: bytes, checksum: str = "") -> Callable[[Place], Arguments]:
    """Download an archive from a server on loopback."""

    def prepare(place: Place) -> Arguments:
        (place.folder / "served").mkdir()
        (place.folder / "served" / "pack.tar.gz").write_bytes(body)
        handler = partial(Quiet, directory=str(place.folder / "served"))
        server = place.stack.enter_context(ThreadingHTTPServer(("127.0.0.1", 0), handler))
        threading.Thread(target=server.serve_forever, daemon=True).start()
        place.stack.callback(server.shutdown)
        digest = checksum or f"sha256:{hashlib.sha256(body).hexdigest()}"
        address = f"http://127.0.0.1:{server.server_address[1]}/pack.tar.gz"
        source = Source(address, "pack.tar.gz", digest, len(body), (Member("a.bin"),))
        place.patch.setitem(catalog.shelf("tasks").presets, "served", Served((source,)))
        return ["data", "get", "served", "--data-root", place.folder / "data"]

    return prepare


def picture_bomb(place: Place) -> Arguments:
    """A gallery file of a few hundred bytes that claims to unpack to two gigabytes."""
    (path,) = (place.results / "gallery").glob("*.npz")
    file = io.BytesIO()
    np.savez_compressed(file, clean=np.zeros((1, 1, 2, 2), np.float32))
    content = bytearray(file.getvalue())
    entry = content.index(b"PK\x01\x02")
    content[entry + 24 : entry + 28] = struct.pack("<I", 2**31)
    path.write_bytes(content)
    return ["report", place.results, "--out", place.folder / "report"]


# The environment.


def fill(path: Path) -> None:
    """Write until the disk takes no more."""
    with path.open("wb", buffering=0) as file:
        for size in (2**12, 2**6, 1):
            try:
                while True:
                    file.write(bytes(size))
            except OSError:
                continue


def disk(place: Place) -> Path | None:
    """Mount a disk of half a megabyte that holds the results; None where this machine allows no mounting."""
    where = place.folder / "disk"
    where.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=512k", "none", where], capture_output=True)
    if mounted.returncode:
        return None
    place.stack.callback(partial(subprocess.run, ["umount", "--lazy", where], check=True))
    shutil.copytree(place.results, where / "results")
    return where


def no_room(place: Place) -> Path:
    """Give results on a full disk: a real one where it can be mounted, else a limit on the size of files."""
    if (where := disk(place)) is not None:
        fill(where / "filler")
        return where / "results"
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1, before[1]))
    place.stack.callback(resource.setrlimit, resource.RLIMIT_FSIZE, before)
    return place.results


def read_only(place: Place) -> Path:
    """Give results that cannot be written: on a disk mounted so, else, not being root, by their permissions."""
    if (where := disk(place)) is not None:
        subprocess.run(["mount", "-o", "remount,ro", where], check=True)
        return where / "results"
    if os.geteuid() == 0:  # whom permissions do not stop
        return Path("/proc/results")
    folders = [place.results, *(path for path in place.results.rglob("*") if path.is_dir())]
    for folder in folders:
        folder.chmod(0o555)
        place.stack.callback(folder.chmod, 0o755)
    return place.results


def on(where: Callable[[Place], Path]) -> Callable[[Place], Arguments]:
    return lambda place: evaluated("--out", where(place))(place)


def newer(place: Place) -> None:
    for path in (place.results / "cells").iterdir():
        path.write_text(path.read_text().replace('"schema":', '"schema":9'))


CKPT = r"ckpt: \S+"
CASES = {
    "01 missing checkpoint": Case(evaluated("--ckpt", "nowhere"), 2, "ckpt: nowhere is not a folder with weights"),
    "02 a folder without a card": Case(
        spoilt(lambda p: (p.ckpt / "card.json").unlink()), 2, f"{CKPT}card.json is missing"
    ),
    "03 empty weights": Case(spoilt(lambda p: p.weights.write_bytes(b"")), 2, f"{CKPT}safetensors is empty"),
    "03 empty card": Case(spoilt(lambda p: (p.ckpt / "card.json").write_bytes(b"")), 2, f"{CKPT}card.json: content"),
    "04 truncated weights": Case(
        spoilt(lambda p: os.truncate(p.weights, 200)), 2, f"{CKPT}safetensors has SHA-256.*200 bytes, not"
    ),
    "04 truncated weights that a card pins": Case(
        spoilt(lambda p: pin(p, p.weights.read_bytes()[:-8])), 2, f"{CKPT}safetensors is not a safetensors file"
    ),
    "05 bit flip": Case(spoilt(flip), 2, f"{CKPT}safetensors has SHA-256 [0-9a-f]{{12}}…, its card says"),
    "06 web page": Case(
        spoilt(lambda p: p.weights.write_text("<!DOCTYPE html><html>404</html>")), 2, f"{CKPT}.*SHA-256.*a web page"
    ),
    "06 web page that a card pins": Case(
        spoilt(lambda p: pin(p, b"<!DOCTYPE html><html>404</html>")), 2, f"{CKPT} is not a safetensors.*a web page"
    ),
    "07 pickle payload": Case(
        spoilt(lambda p: pin(p, payload(False))), 2, f"{CKPT}safetensors is not a safetensors.*a pickle"
    ),
    "07 pickle payload as torch.save writes it": Case(
        spoilt(lambda p: pin(p, payload(True))), 2, f"{CKPT}safetensors is not a safetensors.*never loaded"
    ),
    "07 pickle payload in a .pt": Case(
        as_pt(lambda: payload(True)), 2, r"model.pt is a pickle-style file; a checkpoint is a folder with weights"
    ),
    "08 whole module": Case(
        spoilt(lambda p: pin(p, module())), 2, f"{CKPT}safetensors is not a safetensors.*torch.save.*never loaded"
    ),
    "08 whole module in a .pt": Case(as_pt(module), 2, "model.pt is a pickle-style file"),
    "09 wrong architecture": Case(
        spoilt(lambda p: change_recipe(p, network="r2d2", network_options={})),
        2,
        f"{CKPT}.*conv0.beta has shape .* as in protonet on r2d2",
    ),
    "10 wrong shape": Case(
        with_tensors(one("conv0.gamma", lambda t: torch.ones(3))),
        2,
        rf"{CKPT}.*conv0.gamma has shape \(3,\), not \(4,\)",
    ),
    "11 missing keys": Case(with_tensors(without("conv0.gamma")), 2, f"{CKPT}.*lacks tensor 'conv0.gamma'"),
    "11 a key too many": Case(
        with_tensors(lambda params: {**params, "extra": torch.ones(1)}), 2, f"{CKPT}.*unknown tensor 'extra'"
    ),
    "11 statistics that nothing uses": Case(
        with_tensors(lambda params: {**params, "running.conv0.mean": torch.ones(4)}),
        2,
        "no running statistics: conv0",
    ),
    "12 NaN": Case(
        with_tensors(one("conv0.gamma", lambda t: t * torch.nan)), 2, f"{CKPT}.*conv0.gamma holds NaN or Inf"
    ),
    "12 Inf": Case(with_tensors(one("conv0.gamma", lambda t: t / 0)), 2, f"{CKPT}.*conv0.gamma holds NaN or Inf"),
    "13 complex": Case(
        with_tensors(one("conv0.gamma", lambda t: t.to(torch.complex64))),
        2,
        "conv0.gamma is complex64, not floating point of 32",
    ),
    "13 integers": Case(
        with_tensors(one("conv0.gamma", lambda t: t.long())),
        2,
        "conv0.gamma is int64, not floating point of 32 or 64",
    ),
    "13 mixed precision": Case(with_tensors(one("conv0.gamma", lambda t: t.double())), 2, f"{CKPT}.*must be alike"),
    "14 more than 4 times the declared size": Case(
        spoilt(oversized), 2, rf"{CKPT}.*has \d+ bytes, more than 4 times the \d+ its card declares"
    ),
    "14 larger than any": Case(spoilt(huge), 2, f"{CKPT}.*has {3 * 2**30} bytes, more than {2**30}"),
    "14 a card of gigabytes": Case(spoilt(huge_card), 2, f"{CKPT}card.json.*has {2**31} bytes, more than"),
    "15 output shape": Case(learner(ShortScores, Counted()), 2, r"scores of shape \(\d+, 2\), not \(\d+, 3\)"),
    "15 no tensor": Case(learner(NoScores, Counted()), 2, "predict: returned str, not scores"),
    "16 NaN logits": Case(learner(NotANumber, Counted()), 2, "learner: scores are NaN or infinite"),
    "18 no gradient path": Case(
        learner(Detached, Ascending()),
        2,
        "attacks: nothing is left to run: counted on mine: needs gradients.*square",
    ),
    "21 pixels out of range": Case(
        family(lambda e: replace(e, query_x=255 * e.query_x)),
        2,
        r"query_x has values from 0 to 25., must lie in \[0, 1\]",
    ),
    "21 pixels not a number": Case(
        family(lambda e: replace(e, support_x=e.support_x * torch.nan)),
        2,
        "support_x has values from nan.*must lie in",
    ),
    "22 labels": Case(
        family(lambda e: replace(e, query_y=e.query_y + 1)),
        2,
        r"query_y has labels from 1 to 5, must be from 0 to 4",
    ),
    "22 labels that are no integers": Case(
        family(lambda e: replace(e, support_y=e.support_y.float())),
        2,
        "support_y is .* torch.float32, must be .* int64",
    ),
    "22 a class without support": Case(
        family(lambda e: replace(e, support_y=torch.zeros_like(e.support_y))), 2, "no item of class 1"
    ),
    "23 too few images a class": Case(images(3, 2), 2, "shots=2 queries=3: together at most 2, the number of images"),
    "24 too few classes": Case(images(2, 6), 2, "ways=3: must be from 2 to 2, the number of classes"),
    "25 support and query share an image": Case(family(leak), 2, "query item 1 of task 0 is in its support too"),
    "26 archive traversal": Case(
        fetched(archive(("../evil", 3), ("a.bin", 3))), 2, "pack.tar.gz: cannot be unpacked: .*evil.* outside"
    ),
    "27 zip bomb": Case(
        fetched(archive(("a.bin", 2**40))), 2, f"pack.tar.gz: cannot be unpacked: it holds more than {2**30} bytes"
    ),
    "27 zip bomb in a gallery": Case(picture_bomb, 2, rf"results: \S+npz is not.*unpacks to {2**31} bytes, more than"),
    "28 checksum": Case(
        fetched(archive(("a.bin", 3)), "sha256:" + "0" * 64),
        2,
        "sha256:[0-9a-f]{64} came, must be sha256:0{64}; removed",
    ),
    "29 eps below 0": Case(evaluated("--eps", "-1/255"), 2, "eps: -1/255 is not a finite number >= 0"),
    "29 eps NaN": Case(evaluated("--eps", "nan"), 2, "eps: nan is not a finite number >= 0"),
    "29 eps infinite": Case(evaluated("--eps", "0.1,inf"), 2, "eps: inf is not a finite number >= 0"),
    "29 eps above half the box": Case(
        evaluated("--eps", "8"), 2, r"eps: 8 is above half the box width \(0.5\).*did you mean 8/255\?"
    ),
    "30 unknown attack": Case(
        evaluated("--attacks", "pdg-20"), 2, r"attack: 'pdg-20' is unknown; did you mean 'pgd-20'\?"
    ),
    "30 unknown norm": Case(
        evaluated("--norm", "linf2"), 2, r"norm: 'linf2' is unknown; did you mean 'linf'\? legal: linf"
    ),
    "30 unknown algorithm": Case(
        lambda p: ["train", "--algorithm", "protnet", "--out", p.folder / "x"],
        2,
        r"algorithm: 'protnet'.*'protonet'\?",
    ),
    "30 unknown algorithm in a card": Case(
        spoilt(lambda p: change_recipe(p, algorithm="protnet")), 2, r"algorithm: 'protnet'.*'protonet'\?"
    ),
    "31 steps": Case(evaluated("--attacks", "pgd-0"), 2, "steps: 0 is not between 1 and"),
    "31 adaptation steps": Case(evaluated("--steps", "1,1001"), 2, "steps: 1001 is not between 1 and 1000"),
    "31 restarts": Case(
        lambda p: (
            lambda: robustbench_meta.evaluate(
                p.ckpt, attacks={"a": MultiTargetedPGD(steps=9, step=1.0, restarts=0)}, out=p.results
            )
        ),
        2,
        "restarts: 0 is not between 1 and 100",
    ),
    "31 chunk": Case(
        spoilt(lambda p: change_card(p, chunk=0)), 2, f"{CKPT}card.json: chunk: '0': .*greater than or equal"
    ),
    "32 ways below 2": Case(evaluated("--ways", "1"), 2, "ways: 1 is not a whole number >= 2"),
    "33 device absent": Case(evaluated("--device", "cuda"), 2, r"device: cuda is not there \(torch sees no GPU\); use"),
    "33 device unknown": Case(evaluated("--device", "tpu"), 2, "device: 'tpu' is not one of auto, cpu, cuda"),
    "34 disk full": Case(on(no_room), 3, r"environment: .*(No space left|File too large).*: '\S+results'"),
    "35 read-only store": Case(on(read_only), 3, "environment: .*(Read-only|Permission|No such file)"),
    "36 store of a newer schema": Case(
        spoilt(newer), 3, r"results: \S+jsonl has schema version 91; this version reads"
    ),
    "36 card of a newer schema": Case(
        spoilt(lambda p: change_card(p, schema_version=99)),
        2,
        "card.json: schema_version: '99': .*less than or equal to 1",
    ),
    "36 a card that says one thing twice": Case(
        spoilt(twice_in_card), 2, "card.json: not a card.*'device' stands twice"
    ),
}
# Judged by what they do, and flagged: nothing of them is wrong in itself.
FLAGGED = {"17 softmax outputs": (Softmax, "F6"), "19 random forward": (Random, "F8"), "20 batch": (Together, "F10")}


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a checkpoint and its results, pictures included."""
    folder = tmp_path_factory.mktemp("good")
    robustbench_meta.evaluate(
        saved(folder / "tiny"), attacks="fgsm", eps=0.1, queries=3, tasks=1, device="cpu", out=folder / "results"
    )
    assert len(list((folder / "results").rglob("*.npz"))) == 1
    return folder


@pytest.fixture
def place(good: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    shutil.copytree(good, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RBM_DATA", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setitem(catalog.shelf("attacks").presets, "counted", Counted())
    Counted.asked.clear()
    with ExitStack() as stack:
        yield Place(tmp_path, stack, monkeypatch)


def outcome(made: Arguments | Call, patch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    """Run a command line, or a call whose InputError stands for exit status 2; return status and stderr."""
    capsys.readouterr()
    if callable(made):
        with pytest.raises(InputError) as refused:
            made()
        return terminal.INPUT, f"rbm: {refused.value}\n"
    patch.setattr(sys, "argv", ["rbm", *map(str, made)])
    with pytest.raises(SystemExit) as left:
        cli.app()
    assert isinstance(left.value.code, int)
    return left.value.code, capsys.readouterr().err


def check(case: Case, status: int, err: str) -> None:
    assert "Traceback" not in err
    line, *others = [line for line in err.splitlines() if line.startswith("rbm: ")]
    assert not others
    assert status == case.status, err
    said = [one for one in err.splitlines() if not one.startswith("pack.tar.gz ")]  # how far a download came
    assert said == [line] if status == terminal.INPUT else said[-1] == line
    assert re.search(case.said, line), line


@pytest.mark.parametrize("name", CASES)
def test_a_bad_input_is_refused_in_one_line_before_any_attack(
    name: str, place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    case = CASES[name]
    made = case.prepare(place)
    before, started = place.files() if "gigabytes" not in name and "larger" not in name else {}, time.monotonic()
    status, err = outcome(made, place.patch, capsys)
    seconds = time.monotonic() - started
    check(case, status, err)
    assert seconds < SECONDS
    assert not Counted.asked
    if before:
        assert place.files() == before
    assert not [path for name in ("evil", "exploded") for path in place.folder.rglob(name)]
    if not name.startswith(("27 zip bomb in", "36 store")):
        assert len(store.read(place.results).tasks) == 1


@pytest.mark.parametrize("name", FLAGGED)
def test_a_learner_that_hides_its_gradient_or_depends_on_chance_is_flagged_not_refused(name: str, place: Place) -> None:
    made, flag = FLAGGED[name]
    options: dict[str, Any] = {"eps": 0.05, "ways": 3, "queries": 3, "tasks": 2, "out": place.results}
    table = robustbench_meta.evaluate(learner=made(), name="mine", family=STROKES, attacks="fgsm", **options)
    (flags,) = table["flags"]
    assert flag in re.findall(r"F\d+", str(flags))


def test_a_learner_without_a_gradient_meets_the_attacks_that_need_none(place: Place) -> None:
    table = learner(Detached, Counted())(place)()
    assert (table["status"].tolist(), len(Counted.asked)) == (["ok"], 2)


def test_the_cases_are_the_36_of_the_promise() -> None:
    assert {int(name[:2]) for name in (*CASES, *FLAGGED)} == set(range(1, COUNT + 1))


@pytest.mark.parametrize("name", ["07 pickle payload", "29 eps above half the box", "36 store of a newer schema"])
def test_a_process_of_its_own_says_the_same(name: str, place: Place) -> None:
    made = CASES[name].prepare(place)
    assert not callable(made)
    words = ["fgsm" if word == "counted" else str(word) for word in made]
    before = place.files()
    command = [sys.executable, "-m", "robustbench_meta", *words]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, cwd=place.folder, env=environment)
    check(CASES[name], done.returncode, done.stderr)
    assert done.stdout == ""
    assert place.files() == before


def test_a_disk_that_fills_up_during_a_run_ends_it_and_keeps_what_was_there(
    place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    where = disk(place)
    if where is None:
        pytest.skip("no disk can be mounted here; 34 disk full has the limit on the size of files")
    place.patch.setitem(catalog.shelf("attacks").presets, "filling", Filling(where / "filler"))
    before = place.files()
    arguments = evaluated("--out", where / "results", "--attacks", "filling")(place)
    status, err = outcome(arguments, place.patch, capsys)
    check(Case(evaluated(), 3, r"environment: .*No space left on device: '\S+jsonl'"), status, err)
    (where / "filler").unlink()
    after = place.files()
    assert before.items() <= after.items()
    assert len(store.read(where / "results").tasks) == 1
    place.patch.setitem(catalog.shelf("attacks").presets, "filling", Counted())
    assert outcome(arguments, place.patch, capsys)[0] == 0


@pytest.mark.parametrize("first", [0, 25])
def test_a_family_that_goes_wrong_later_fails_its_cell_and_names_the_task(
    first: int, place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    place.patch.setitem(catalog.shelf("tasks").presets, "spoilt", Spoilt(leak, first))
    small = ("--shots", "1", "--queries", "1", "--tasks", str(first + 1))
    arguments = evaluated("--family", "spoilt", *small)(place)
    status, err = outcome(arguments, place.patch, capsys)
    assert status == (terminal.NEGATIVE if first else terminal.INPUT)
    assert "query item 1 of task " in err
    if first:
        (failed,) = store.read(place.results).cells.query("status == 'error'").to_dict("records")
        assert failed["reason"].startswith("family: query item 1 of task ")


def test_copies_in_a_source_that_says_it_holds_some_are_no_error(place: Place) -> None:
    @dataclass(frozen=True)
    class Honest(Spoilt):
        duplicates: ClassVar[bool] = True

    place.patch.setitem(catalog.shelf("tasks").presets, "spoilt", Honest(leak))
    table = robustbench_meta.evaluate(
        place.ckpt, family="spoilt", attacks={"counted": Counted()}, eps=0.05, queries=3, tasks=1, device="cpu"
    )
    assert table["status"].tolist() == ["ok"]


def test_a_norm_is_known_whichever_way_it_is_written(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    assert outcome(evaluated("--norm", "L2,linf")(place), place.patch, capsys)[0] == 0
    assert {threat.norm for threat in Counted.asked} == {"l2", "linf"}
