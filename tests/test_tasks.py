"""What is particular to one family: formats it reads, what it refuses, and episodes that must never change."""

from __future__ import annotations

import io
import json
import wave
import zipfile
from collections.abc import Callable
from dataclasses import replace
from itertools import chain, product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from robustbench_meta import catalog
from robustbench_meta.episodes import fingerprint
from robustbench_meta.tasks import clinc150, spoken_digits
from robustbench_meta.tasks.cifar import Cifar
from robustbench_meta.tasks.clinc150 import Clinc150
from robustbench_meta.tasks.image_folder import ImageFolder
from robustbench_meta.tasks.omniglot import Omniglot
from robustbench_meta.tasks.spoken_digits import SpokenDigits
from robustbench_meta.tasks.strokes import Strokes
from robustbench_meta.types import SPLITS, InputError, Spec, Split

# learners that act


@pytest.mark.parametrize(
    ("name", "split", "known"),
    [
        ("navigation", "train", "7c91386112e16c33f3f5aec3dfc0a0346f84ce5fe346ea0841cb0cc07599319c"),
        ("navigation", "val", "4446b9bdf6b226239992531a487a8653339f6c37990af8a4c375373f868453e0"),
        ("navigation", "test", "2d6c8dfdd207a6c0c67ac9485f5b6fca959493cfe861dba94be1eb307d1f1ca7"),
        ("reach", "train", "e59fca9d95957bf3c4a52bb87d9d18e768c5a527c3a24c4cd5c6452b1468e744"),
        ("reach", "val", "d41c3cb1ef9d8315fe1a89b4e6dc1e648a4ee9c8037fb3cd2a19b223b18a95b6"),
        ("reach", "test", "7198446645743ff1873cc87256e548ac866674490a5889e8ba758d1254615b86"),
        ("reacher", "train", "64c15f054412b0257ad74fe00bc1662140ea3d767233ba4c3c476e0f90fce57d"),
        ("reacher", "val", "000a6a9323f7e13802464d2442dac82849827fc1b980d6c07275e4cc43a8c6f4"),
        ("reacher", "test", "6136a0e447aca5b5d4c62197cb95077b24accb24782764ad44d814f3e3f8db0f"),
    ],
)
def test_the_episodes_and_worlds_of_control_never_change(name: str, split: Split, known: str) -> None:
    assert fingerprint(catalog.family(name), split) == known


# learners that write


@pytest.mark.parametrize(
    ("name", "split", "known"),
    [
        ("transduction", "train", "319ecb7ad383aaa370c2f489ac57a1bf9764ec95473b53122d97774457bda91d"),
        ("transduction", "val", "f5d478e478e65ced79cccbb5d69bfb7b00956d75b1845126324be39cacdf3617"),
        ("transduction", "test", "d5584c846b9baa46ac93ac90154218b7a4d649f2b746595264654ccf1b41ea9c"),
        ("compression", "train", "f3fb5dbc5cd226f8e5b7da99b6eb780ba5c46a3664ba7bbdd8869fe2ec697346"),
        ("compression", "val", "4b388685762bb9cb453b80d3a520cd96cfc29e34d2a11672e9b05457f5d7b095"),
        ("compression", "test", "9e9441a9f51d1e013d55051efe734def66b036eb4425e609c4c2cdae2c5c8936"),
    ],
)
def test_the_pairs_of_languages_never_change(name: str, split: Split, known: str) -> None:
    assert fingerprint(catalog.family(name), split) == known


# strokes


@pytest.mark.parametrize(
    ("split", "known"),
    [
        ("train", "6ea93c9504d93091a34145d8aea6720c516b0f695ea35ac92e5786aa796cf9c9"),
        ("val", "529dcd594ee62dfc9abe3d7ec0b798e07c2e08c536cbab1dda11d511f8ddcad1"),
        ("test", "1ba530cc4009ee7c08b61d08992374edd444312824f0363e79c99a9d0c932320"),
    ],
)
def test_the_episodes_of_strokes_never_change(split: Split, known: str) -> None:
    assert fingerprint(Strokes(), split) == known


def test_more_classes_and_samples_change_none_that_is_there() -> None:
    small, large = Strokes(test=30, samples=6), Strokes(test=45, samples=9)
    few, many = (family.pool("test").images.view(-1, family.samples, 28, 28) for family in (small, large))
    assert few.equal(many[:30, :6])


def test_no_two_characters_and_no_two_samples_look_alike() -> None:
    images = Strokes().pool("test").images
    assert len({image.numpy().tobytes() for image in images}) == len(images) == 8000
    assert (images.flatten(1).float().amax(dim=1) > 100).all()


def test_samples_of_a_character_are_nearer_than_those_of_another_of_its_alphabet() -> None:
    images = Strokes().pool("test").images.float().view(10, 20, 40, -1) / 255
    first, second = images[:, :, :20].mean(dim=2), images[:, :, 20:].mean(dim=2)
    nearest = torch.cdist(first, second).argmin(dim=2)
    assert (nearest == torch.arange(20)).float().mean() > 0.9


def test_raw_pixels_do_not_solve_strokes() -> None:
    episodes = Strokes().sample("test", Spec(), range(100))
    support = episodes.support_x.view(100, 5, 5, -1).mean(dim=2)
    guess = torch.cdist(episodes.query_x.flatten(2), support).argmin(dim=2)
    assert 0.3 < (guess == episodes.query_y).float().mean() < 0.75


def test_a_split_of_one_class_is_refused() -> None:
    with pytest.raises(InputError, match="val=1: must be at least 2"):
        Strokes(val=1).classes("val")


# cifar-fs and fc100


@pytest.mark.parametrize(
    ("name", "split", "known"),
    [
        ("cifar-fs", "train", "619d7be5c2b4fb2de2e4e8eadb5b1031546e8b4bba9ada40f97009cf920b8e89"),
        ("cifar-fs", "val", "59dace4cc8be2c1c8a12bdfeed9b19a63696f1d841c3d8adc677725a5c825cb6"),
        ("cifar-fs", "test", "1d6a142556b6a4fa7beef7ccee3b0e5c11f723d1af3a8c3acebfd7f541514498"),
        ("fc100", "train", "305359283c248734fa277a333837489b5126239a9eea80a173e8643948abab08"),
        ("fc100", "val", "27ced5c63963c1378914a08e57a9bd5ebc364a589077ba50397122232df3c7f1"),
        ("fc100", "test", "3962512cebee76c5abe769de02641b1bdce606e0e53b80e38b06ef7b6d9bbaa8"),
    ],
)
def test_the_episodes_of_cifar_100_never_change(cifar_root: Path, name: Any, split: Split, known: str) -> None:
    family = Cifar(name, root=cifar_root)
    if family.pool(split).smallest < 600:
        pytest.skip("the data root holds fewer than 600 images a class")
    assert fingerprint(family, split) == known


def test_the_class_splits_are_those_published_with_the_data(cifar_root: Path) -> None:
    published = json.loads((cifar_root / "cifar-100-binary" / "few-shot-splits.json").read_text())
    for name in ("cifar-fs", "fc100"):
        assert {split: Cifar(name).classes(split) for split in SPLITS} == published[name]


def test_the_classes_of_fc100_are_whole_superclasses(cifar_root: Path) -> None:
    rows = np.fromfile(cifar_root / "cifar-100-binary" / "test.bin", dtype=np.uint8).reshape(-1, 3074)
    names = (cifar_root / "cifar-100-binary" / "fine_label_names.txt").read_text().split()
    superclass = {names[fine]: int(coarse) for coarse, fine in rows[:, :2]}
    groups = [{superclass[name] for name in Cifar("fc100").classes(split)} for split in SPLITS]
    assert [len(group) for group in groups] == [12, 4, 4]
    assert len(set.union(*groups)) == 20


def test_a_class_is_its_train_and_its_test_images(cifar_root: Path) -> None:
    pool = Cifar("cifar-fs", root=cifar_root).pool("val")
    names = (cifar_root / "cifar-100-binary" / "fine_label_names.txt").read_text().split()
    files = [
        np.fromfile(cifar_root / "cifar-100-binary" / name, dtype=np.uint8).reshape(-1, 3074)
        for name in ("train.bin", "test.bin")
    ]
    rows = np.concatenate([file[file[:, 1] == names.index(pool.names[3]), 2:] for file in files])
    held = pool.images[pool.starts[3] : pool.starts[4]].flatten(1).numpy()
    assert sorted(map(bytes, held)) == sorted(map(bytes, rows))


def write_cifar(root: Path, *, order: int = 1, each: int = 8) -> Path:
    """Write `each` random images of every class, half of them to test.bin, in file order or (-1) in reverse."""
    folder = root / "cifar-100-binary"
    folder.mkdir(parents=True)
    rows = np.random.default_rng(0).integers(0, 256, (100 * each, 3074), dtype=np.uint8)
    rows[:, 1] = np.arange(100 * each) % 100
    for name, part in (("train.bin", rows[: 50 * each]), ("test.bin", rows[50 * each :])):
        part[::order].tofile(folder / name)
    splits = [Cifar("cifar-fs").classes(split) for split in SPLITS]
    (folder / "fine_label_names.txt").write_text("\n".join(sorted(chain(*splits))) + "\n")
    return root


def test_the_order_of_images_in_the_files_does_not_matter(tmp_path: Path) -> None:
    spec = Spec(shots=2, queries=3)
    one, other = (
        Cifar("fc100", root=write_cifar(tmp_path / str(order), order=order)).sample("val", spec, range(3))
        for order in (1, -1)
    )
    assert one.support_x.equal(other.support_x)
    assert one.query_x.equal(other.query_x)


def test_channels_rows_and_columns_are_where_the_publisher_puts_them(tmp_path: Path) -> None:
    root = write_cifar(tmp_path, each=2)
    pixels = np.arange(3072) % 251
    rows = np.fromfile(root / "cifar-100-binary" / "train.bin", dtype=np.uint8).reshape(-1, 3074)
    rows[:, 2:] = pixels
    rows.tofile(root / "cifar-100-binary" / "train.bin")
    images = Cifar("cifar-fs", root=root).pool("val").images
    assert any(image.flatten().tolist() == pixels.tolist() for image in images[:2])


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("train.bin", b"x" * 3075, "3075 bytes, must be a positive multiple of 3074"),
        ("test.bin", b"", "0 bytes, must be a positive multiple of 3074"),
        ("test.bin", b"\x00\x64" + bytes(3072), "a label of 100, must be below 100"),
        ("fine_label_names.txt", b"apple\n", "not the 100 class names"),
        ("fine_label_names.txt", b"\xff\xfe", "not the 100 class names"),
        ("train.bin", b"\x00\x00" + bytes(3072), "0 images of class"),
    ],
)
def test_files_of_another_format_are_refused(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    root = write_cifar(tmp_path, each=2)
    (root / "cifar-100-binary" / "test.bin").write_bytes(bytes(3074))
    (root / "cifar-100-binary" / name).write_bytes(content)
    with pytest.raises(InputError, match=message) as refusal:
        Cifar("cifar-fs", root=root).pool("val")
    assert "\n" not in str(refusal.value)


def test_what_another_split_set_has_seen_is_left_out_of_every_split() -> None:
    family = Cifar("fc100", unseen_by="cifar-fs")
    seen = {*Cifar("cifar-fs").classes("train"), *Cifar("cifar-fs").classes("val")}
    left = {split: family.classes(split) for split in SPLITS}
    assert left == {split: [name for name in Cifar("fc100").classes(split) if name not in seen] for split in SPLITS}
    assert left["test"] == ["baby", "fox", "man", "whale", "woman"]
    assert sorted(chain(*left.values())) == sorted(Cifar("cifar-fs").classes("test"))


def test_an_image_that_a_seen_class_holds_too_is_left_out(tmp_path: Path) -> None:
    root = write_cifar(tmp_path)
    whole = Cifar("fc100", unseen_by="cifar-fs", root=root).pool("test")
    file = root / "cifar-100-binary" / "train.bin"
    names = (root / "cifar-100-binary" / "fine_label_names.txt").read_text().split()
    rows = np.fromfile(file, dtype=np.uint8).reshape(-1, 3074)
    seen = rows[rows[:, 1] == names.index(Cifar("cifar-fs").classes("train")[0])]
    rows[np.flatnonzero(rows[:, 1] == names.index("fox"))[0], 2:] = seen[0, 2:]
    rows.tofile(file)
    moved = tmp_path / "moved"  # a folder is read once per process
    moved.mkdir()
    (root / "cifar-100-binary").rename(moved / "cifar-100-binary")
    pool = Cifar("fc100", unseen_by="cifar-fs", root=moved).pool("test")
    counts = {name: end - start for name, start, end in zip(pool.names, pool.starts, pool.starts[1:], strict=False)}
    assert counts == {"baby": 8, "fox": 7, "man": 8, "whale": 8, "woman": 8}
    assert len(whole.images) == 40
    assert not (pool.images.flatten(1) == torch.from_numpy(seen[0, 2:].copy())).all(dim=1).any()


def test_the_episodes_of_unseen_classes_never_change(cifar_root: Path) -> None:
    family = Cifar("fc100", unseen_by="cifar-fs", root=cifar_root)
    if family.pool("test").smallest < 596:
        pytest.skip("the data root holds fewer than 600 images a class")
    assert fingerprint(family, "test") == "49504e8bddd727797d3e4d8a79dbacad1738b25e669f4def3be4b252a7b4dcd5"


@pytest.mark.parametrize("name", ["fc100", "omniglot", "CIFAR-FS"])
def test_only_another_split_set_of_the_same_classes_can_have_seen_some(name: str) -> None:
    with pytest.raises(InputError, match=f"unseen_by='{name}': must be empty or cifar-fs"):
        Cifar("fc100", unseen_by=name)


# omniglot


@pytest.mark.parametrize(
    ("split", "classes", "known"),
    [
        ("train", 114, "fee4605301e8ad5ab095af113178d8c4a69d30cc3497820776b85deeb6d837df"),
        ("val", 22, "4b5a514dec735c090f09c3effc15f179b196e786c9ac587f806f351e24e2a8c4"),
        ("test", 106, "e03dbe896fa34544a3203536ffe7a9dcb8249dd5653946b95ae5b1e2a80b6c9e"),
    ],
)
def test_the_episodes_of_the_small_sets_of_omniglot_never_change(
    omniglot_root: Path, tmp_path: Path, split: Split, classes: int, known: str
) -> None:
    (tmp_path / "omniglot").mkdir()
    for number in (1, 2):
        name = f"images_background_small{number}.zip"
        (tmp_path / "omniglot" / name).symlink_to(omniglot_root / "omniglot" / name)
    family = Omniglot(root=tmp_path)
    assert len(family.classes(split)) == classes
    assert fingerprint(family, split) == known


def page(seed: int) -> bytes:
    """A 1-bit page of noise as PNG, 0 = ink, as the publisher's."""
    ink = np.random.default_rng(seed).random((105, 105)) < 0.2
    file = io.BytesIO()
    Image.fromarray(~ink).save(file, format="PNG")
    return file.getvalue()


def write_zip(path: Path, alphabets: dict[str, int], *, draw: Any = page) -> Path:
    """Write characters of 3 pages each; `alphabets` counts characters. Returns the data root."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        for alphabet, count in alphabets.items():
            for character in range(1, count + 1):
                for number in range(3):
                    file = f"{path.stem}/{alphabet}/character{character:02d}/{number}.png"
                    archive.writestr(file, draw(sum(map(ord, alphabet)) * 1000 + character * 10 + number))
    return path.parent.parent


def test_ink_is_one_and_averaged_over_squares_of_equal_area(tmp_path: Path) -> None:
    ink = np.random.default_rng(5).random((105, 105)) < 0.3
    file = io.BytesIO()
    Image.fromarray(~ink).save(file, format="PNG")
    root = write_zip(tmp_path / "omniglot" / "images_background.zip", {"Braille": 2}, draw=lambda seed: file.getvalue())
    fine = ink.repeat(4, axis=0).repeat(4, axis=1).reshape(28, 15, 28, 15).sum(axis=(1, 3))
    image = Omniglot(root=root).pool("train").images[0, 0]
    assert image.tolist() == np.rint(fine * 255 / 225).astype(int).tolist()


def test_a_character_in_two_zips_counts_once(tmp_path: Path) -> None:
    write_zip(tmp_path / "omniglot" / "images_background.zip", {"Greek": 3, "Braille": 2})
    root = write_zip(tmp_path / "omniglot" / "images_background_small1.zip", {"Greek": 3, "Latin": 1})
    pool = Omniglot(root=root).pool("train")
    assert pool.names == tuple(
        ["Braille/character01", "Braille/character02"]
        + [f"Greek/character0{n}" for n in (1, 2, 3)]
        + ["Latin/character01"]
    )
    assert len(pool.images) == 18


def test_an_alphabet_is_in_one_split_whichever_zips_are_there(tmp_path: Path) -> None:
    write_zip(tmp_path / "omniglot" / "images_background.zip", {"Greek": 2, "Sanskrit": 2, "Hebrew": 2})
    root = write_zip(tmp_path / "omniglot" / "images_evaluation.zip", {"Tengwar": 2})
    found = {split: {name.split("/")[0] for name in Omniglot(root=root).classes(split)} for split in SPLITS}
    assert found == {"train": {"Greek"}, "val": {"Hebrew"}, "test": {"Sanskrit", "Tengwar"}}


@pytest.mark.parametrize(
    ("content", "message"), [(b"<html>not found</html>", "cannot be read"), (b"", "cannot be read")]
)
def test_a_zip_that_is_none_is_refused_by_name(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "omniglot").mkdir()
    (tmp_path / "omniglot" / "images_background.zip").write_bytes(content)
    with pytest.raises(InputError, match=f"images_background.zip: {message}"):
        Omniglot(root=tmp_path).classes("train")


def test_a_page_of_another_size_is_refused_by_name(tmp_path: Path) -> None:
    file = io.BytesIO()
    Image.new("1", (300, 20)).save(file, format="PNG")
    path = tmp_path / "omniglot" / "images_background.zip"
    root = write_zip(path, {"Greek": 1}, draw=lambda seed: file.getvalue())
    with pytest.raises(InputError, match=r"Greek/character01/0.png has 300x20 pixels, must have 105x105"):
        Omniglot(root=root).classes("train")


def test_a_split_without_an_alphabet_is_refused(tmp_path: Path) -> None:
    root = write_zip(tmp_path / "omniglot" / "images_background.zip", {"Greek": 1})
    with pytest.raises(InputError, match="no alphabet of split test in images_background"):
        Omniglot(root=root).classes("test")


# image-folder


def save(path: Path, image: Image.Image, **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, **options)
    return path


def only(root: Path, **options: Any) -> np.ndarray:
    """The one image below `root` as a family of one class sees it: uint8 [size,size,C]."""
    family = ImageFolder(root=root, size=8, split=(0, 0, 1), **options)
    return family.pool("test").images[0].permute(1, 2, 0).numpy()


def test_an_image_of_the_right_size_is_read_as_it_is(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    save(tmp_path / "a" / "1.png", Image.fromarray(pixels))
    assert np.array_equal(only(tmp_path), pixels)


def test_exif_turns_the_image(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    save(tmp_path / "a" / "1.png", Image.fromarray(pixels), exif=exif)
    assert np.array_equal(only(tmp_path), np.rot90(pixels, -1))


def test_the_middle_square_is_taken(tmp_path: Path) -> None:
    pixels = np.zeros((8, 24, 3), dtype=np.uint8)
    pixels[:, 8:16] = 200
    save(tmp_path / "a" / "1.png", Image.fromarray(pixels))
    assert (only(tmp_path) == 200).all()


def test_transparent_pixels_are_white(tmp_path: Path) -> None:
    save(tmp_path / "a" / "1.png", Image.new("RGBA", (8, 8), (10, 20, 30, 0)))
    assert (only(tmp_path) == 255).all()


def test_a_palette_with_a_transparent_colour_is_white_there(tmp_path: Path) -> None:
    image = Image.new("P", (8, 8), 1)
    image.putpalette([0, 0, 0, 9, 9, 9])
    image.putpixel((0, 0), 0)
    save(tmp_path / "a" / "1.gif", image, transparency=0)
    pixels = only(tmp_path)
    assert pixels[0, 0].tolist() == [255] * 3
    assert pixels[4, 4].tolist() == [9] * 3


def test_grey_becomes_three_equal_channels_and_colour_one(tmp_path: Path) -> None:
    save(tmp_path / "a" / "1.png", Image.new("L", (8, 8), 77))
    assert only(tmp_path).tolist() == np.full((8, 8, 3), 77).tolist()
    assert only(tmp_path, channels=1).tolist() == np.full((8, 8, 1), 77).tolist()


def test_sixteen_bits_a_pixel_keep_their_high_byte(tmp_path: Path) -> None:
    save(tmp_path / "a" / "1.png", Image.fromarray(np.full((8, 8), 0x4DFF, dtype=np.uint16)))
    assert (only(tmp_path) == 0x4D).all()


@pytest.mark.parametrize("content", [b"", b"no image at all", None])
def test_a_broken_image_is_named_in_one_line(tmp_path: Path, content: bytes | None) -> None:
    path = save(tmp_path / "a" / "broken.jpg", Image.effect_noise((64, 64), 90).convert("RGB"))
    path.write_bytes(path.read_bytes()[:-400] if content is None else content)
    with pytest.raises(InputError, match=r"a/broken.jpg cannot be read: ") as refusal:
        only(tmp_path)
    assert "\n" not in str(refusal.value)


def many(root: Path, names: list[str]) -> Path:
    for name in names:
        save(root / name / "1.png", Image.new("RGB", (8, 8)))
    return root


def test_a_class_that_is_added_moves_no_other(tmp_path: Path) -> None:
    names = [f"class{n}" for n in range(100)]
    family = ImageFolder(root=many(tmp_path, names), size=8)
    before = {split: family.classes(split) for split in SPLITS}
    assert sorted(chain(*before.values())) == sorted(names)
    assert before["train"] == sorted(before["train"])
    assert 50 < len(before["train"]) < 78
    many(tmp_path, ["another"])
    assert {split: [n for n in family.classes(split) if n != "another"] for split in SPLITS} == before
    assert replace(family, split_seed=1).classes("test") != before["test"]


def test_folders_named_train_val_and_test_are_the_splits(tmp_path: Path) -> None:
    many(tmp_path, ["train/b", "train/a", "val/c", "test/d"])
    family = ImageFolder(folder=str(tmp_path), size=8)
    assert [family.classes(split) for split in SPLITS] == [["a", "b"], ["c"], ["d"]]


def test_a_class_in_two_splits_is_refused(tmp_path: Path) -> None:
    many(tmp_path, ["train/a", "test/a"])
    with pytest.raises(InputError, match="class a is in both train and test"):
        ImageFolder(root=tmp_path).classes("train")


def test_folders_that_cannot_serve_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is empty"):
        ImageFolder(root=tmp_path).classes("train")
    with pytest.raises(InputError, match="nowhere is not a folder"):
        ImageFolder(folder="nowhere", root=tmp_path).classes("train")
    (tmp_path / "a").mkdir()
    with pytest.raises(InputError, match="holds no image"):
        ImageFolder(root=tmp_path, split=(1, 0, 0)).pool("train")
    with pytest.raises(InputError, match=r"too few classes for val \(1 train, 0 val, 0 test"):
        ImageFolder(root=tmp_path, split=(1, 0, 0)).pool("val")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 0}, "size=0: must be at least 8"),
        ({"channels": 2}, "channels=2: must be 1 "),
        ({"split": (0.5, 0.5, 0.5)}, "must be three shares"),
        ({"split": (1.0,)}, "must be three shares"),
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        ImageFolder(**options)


# spoken digits


def recording(path: Path, samples: np.ndarray, *, rate: int = 8000) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(samples.astype("<i2").tobytes())


def spoken(root: Path, *, takes: int = 3) -> dict[str, np.ndarray]:
    """Ten digits by six speakers, a few takes of noise each, as the publisher names them."""
    rng, made = np.random.default_rng(0), {}
    for digit, speaker, take in product(range(10), spoken_digits.SPEAKERS, range(takes)):
        name = f"{digit}_{speaker}_{take}.wav"
        made[name] = rng.integers(-900, 900, rng.integers(1000, 9000))
        recording(root / "fsdd" / "recordings" / name, made[name])
    return made


@pytest.mark.parametrize(
    ("name", "split", "known"),
    [
        ("spoken-digits", "train", "0be768066b0debcd0a81dfee591b814cee690b6fd8573ad51f0331267a54c338"),
        ("spoken-digits", "val", "595496d51f2f2d40ca264616efa688d44f08fe1becab6233ad3ccea28ecf5fba"),
        ("spoken-digits", "test", "e80dea99e6cc35cf5faae1a350772e81c70492dfa99fc54cd28e3ff3a5c284e5"),
        ("spoken-new-digits", "train", "6b6e27f9566cb5d0ca9ba5a604d8038103d18353500b07c92075309a05697f34"),
        ("spoken-new-digits", "val", "1052978b7a8f4c827728d72dc03ecfce4a45ff7cb54427608abff1f4b4895a87"),
        ("spoken-new-digits", "test", "b43b61a9bec5b8448621d8576577e8d775a29c26b41be592575c58ae2d97b603"),
    ],
)
def test_the_episodes_of_spoken_digits_never_change(
    real_data: Callable[[str], Path], name: str, split: Split, known: str
) -> None:
    assert fingerprint(catalog.family(name, root=real_data("fsdd")), split) == known


def test_a_recording_is_levelled_cut_and_followed_by_silence(tmp_path: Path) -> None:
    made = spoken(tmp_path)
    pool = SpokenDigits(root=tmp_path).pool("test")
    assert pool.names[:3] == ("0/nicolas", "0/theo", "1/nicolas")
    assert pool.starts == tuple(range(0, 61, 3))
    for take in range(3):
        raw = made[f"0_theo_{take}.wav"][: spoken_digits.LENGTH].astype(float)
        wave_ = pool.images[3 + take, 0].double().numpy() / pool.full
        heard = wave_[: len(raw)]
        assert np.sqrt(np.mean(heard**2)) == pytest.approx(spoken_digits.LEVEL, rel=1e-3)
        assert np.abs(heard - raw * spoken_digits.LEVEL / np.sqrt(np.mean(raw**2))).max() <= 0.5 / pool.full + 1e-9
        assert not wave_[len(raw) :].any()


def test_a_zip_of_the_publisher_gives_the_episodes_of_the_folder(tmp_path: Path) -> None:
    spoken(tmp_path / "folder")
    (tmp_path / "zip" / "fsdd").mkdir(parents=True)
    with zipfile.ZipFile(tmp_path / "zip" / spoken_digits.ARCHIVE, "w") as archive:
        for file in sorted((tmp_path / "folder" / "fsdd" / "recordings").iterdir(), reverse=True):
            archive.write(file, f"free-spoken-digit-dataset-26eb9aa/recordings/{file.name}")
        archive.writestr("free-spoken-digit-dataset-26eb9aa/README.md", "hello")
    folder, zipped = (SpokenDigits(root=tmp_path / name).pool("val") for name in ("folder", "zip"))
    assert torch.equal(folder.images, zipped.images)
    places = (tmp_path / "folder" / spoken_digits.RECORDINGS, tmp_path / "zip" / spoken_digits.ARCHIVE)
    assert len({spoken_digits.samples_checksum(place) for place in places}) == 1


def test_speakers_or_digits_are_held_out_whole() -> None:
    for held_out, part in (("speakers", 1), ("digits", 0)):
        family = SpokenDigits(held_out)  # type: ignore[arg-type]
        kinds = [{name.split("/")[part] for name in family.classes(split)} for split in SPLITS]
        assert not kinds[0] & kinds[1]
        assert not kinds[0] & kinds[2]
        assert not kinds[1] & kinds[2]
        assert sum(len(family.classes(split)) for split in SPLITS) == 60
    with pytest.raises(InputError, match=r"^held_out='takes': must be speakers or digits"):
        SpokenDigits("takes")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "cannot be read"),
        (b"RIFF", "cannot be read"),
        (b"\x00" * (2**20 + 1), "has more than 1048576 bytes"),
        ("rate", r"has \(rate, channels, bytes\) \(16000, 1, 2\), must have \(8000, 1, 2\)"),
        ("silence", "holds no sound"),
    ],
)
def test_a_recording_that_is_none_is_refused_by_name(tmp_path: Path, content: Any, said: str) -> None:
    spoken(tmp_path, takes=1)
    path = tmp_path / spoken_digits.RECORDINGS / "3_theo_0.wav"
    if content == "rate":
        recording(path, np.ones(2000), rate=16_000)
    elif content == "silence":
        recording(path, np.zeros(2000))
    else:
        path.write_bytes(content)
    with pytest.raises(InputError, match=said) as refusal:
        SpokenDigits(root=tmp_path).pool("test")
    assert "\n" not in str(refusal.value)


def test_a_class_without_recordings_is_refused(tmp_path: Path) -> None:
    spoken(tmp_path, takes=1)
    (tmp_path / spoken_digits.RECORDINGS / "3_theo_0.wav").unlink()
    with pytest.raises(InputError, match="no recording of 3/theo"):
        SpokenDigits(root=tmp_path).pool("test")
    with pytest.raises(InputError, match=r"holds neither recordings/ nor .*; run: rbm data get spoken-digits"):
        SpokenDigits(root=tmp_path / "elsewhere").pool("test")


# CLINC150


def intents(root: Path, **changed: Any) -> dict[str, Any]:
    """Write a file of the publisher's form that holds three sentences of every intent."""
    words = clinc150.table().words[1:]
    names = [name.split("/")[1] for split in SPLITS for name in Clinc150().classes(split)]
    each = {name: [f"{words[7 * n + i]} the {words[3000 + n]}" for i in range(3)] for n, name in enumerate(names)}
    made: dict[str, Any] = {
        part: [[texts[i], name] for name, texts in each.items()] for i, part in enumerate(clinc150.PARTS)
    }
    (root / clinc150.FILE).parent.mkdir(parents=True, exist_ok=True)
    (root / clinc150.FILE).write_text(json.dumps(made | changed))
    return made


@pytest.mark.parametrize(
    ("split", "known"),
    [
        ("train", "d26dd3140efde0f1abadf655d3f672a40d464a3f98e88c9a8e392b8ba91efb46"),
        ("val", "6d53ef2314969b14d7cd6102a0df3558e99c139061ab8e786a33a2e21dfda167"),
        ("test", "c7e2e4296d28b647b0a7f8aa1765b3be962ecc536e81fb89e7b91d124864e953"),
    ],
)
def test_the_episodes_of_clinc150_never_change(real_data: Callable[[str], Path], split: Split, known: str) -> None:
    assert fingerprint(catalog.family("clinc150", root=real_data("clinc150")), split) == known


def test_a_sentence_is_its_words_in_the_table_and_padding(tmp_path: Path) -> None:
    made = intents(tmp_path)
    family = Clinc150(root=tmp_path)
    pool = family.pool("test")
    assert (len(pool.names), pool.starts[-1]) == (30, 90)
    x = pool.images[:3].float() / pool.full
    expected = [text for part in clinc150.PARTS for text, name in made[part] if f"credit_cards/{name}" == pool.names[0]]
    assert family.space.text(x) == expected
    assert (x[:, 3:] == 0).all()
    assert torch.allclose(x[:, :3].norm(dim=-1), torch.ones(3, 3), atol=1e-3)


def test_domains_are_held_out_whole() -> None:
    domains = [{name.split("/")[0] for name in Clinc150().classes(split)} for split in SPLITS]
    assert sum(map(len, domains)) == len(set.union(*domains)) == 10
    assert [len(Clinc150().classes(split)) for split in SPLITS] == [90, 30, 30]


def test_words_are_read_without_case_accents_and_marks() -> None:
    assert clinc150.words_of("What\u2019s the CAF\u00c9's Wi-Fi, at 7pm?") == [
        "what's",
        "the",
        "cafe's",
        "wi",
        "fi",
        "at",
        "7pm",
    ]


def test_no_word_is_replaced_by_itself_a_stop_word_or_one_without_vector() -> None:
    held = clinc150.table()
    assert len(held.words) == len(held.vectors) == len(held.swaps) > 6000
    for number, row in enumerate(held.swaps):
        assert number not in row
        assert len(row) <= 8
        assert all(held.words[other] not in clinc150.stop_words() and held.words[other].isalpha() for other in row)
    assert not any(held.swaps[held.words.index(word)] for word in ("", "not", "the", "what", "never"))


def test_a_changed_word_table_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clinc150, "TABLE_SHA256", "0" * 64)
    with pytest.raises(InputError, match=r"^clinc150: the word table has SHA-256 \w{12}…, must be 000000000000…$"):
        clinc150.table.__wrapped__()


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"train": []}, None),
        ({"train": None, "val": [], "test": []}, "not the data of CLINC150"),
        ({"train": [["one"]]}, "not the data of CLINC150"),
        ({"train": [[None, "travel_alert"]]}, r"train holds \[None, 'travel_alert'\], must hold \[sentence, intent\]"),
        ({"train": [], "val": [], "test": []}, "no sentence of credit_cards/"),
        ({"train": [["a zyzzyva", "credit_score"]]}, "the word 'zyzzyva' of credit_cards/credit_score is not in"),
    ],
)
def test_a_file_that_is_not_clinc150_is_refused_in_one_line(tmp_path: Path, changed: Any, said: str | None) -> None:
    intents(tmp_path, **changed)
    if said is None:
        assert Clinc150(root=tmp_path).pool("test").starts[-1] == 60
        return
    with pytest.raises(InputError, match=said) as refusal:
        Clinc150(root=tmp_path).pool("test")
    assert "\n" not in str(refusal.value)


def test_the_file_of_clinc150_is_asked_for_where_it_is_not(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="run: rbm data get clinc150"):
        Clinc150(root=tmp_path).pool("test")
