"""benchmarks/translations.py: catalogues of real bytes in real archives become files that the family reads."""

from __future__ import annotations

import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path

import pytest
from scripts import load

from robustbench_meta.tasks.parallel_text import ParallelText, _pairs
from robustbench_meta.types import SPLITS, InputError, Spec

translations = load("translations")
HEADER = "Project-Id-Version: one\nContent-Type: text/plain; charset={}\n"


def catalogue(messages: Mapping[str, str], charset: str = "utf-8", order: str = "<") -> bytes:
    """Write an MO file as GNU gettext's manual has it: two tables of lengths and places, then texts ended by zeros."""
    rows = sorted({"": HEADER.format(charset), **messages}.items(), key=lambda row: row[0].encode())
    texts = [[row[side].encode(charset) for row in rows] for side in (0, 1)]
    place, tables, body = 28 + 16 * len(rows), [], b""
    for side in texts:
        for text in side:
            tables.append(struct.pack(f"{order}2I", len(text), place + len(body)))
            body += text + b"\0"
    head = struct.pack(f"{order}7I", 0x950412DE, 0, len(rows), 28, 28 + 8 * len(rows), 0, 0)
    return head + b"".join(tables) + body


def wheel(path: Path, catalogues: Mapping[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as made:
        for language, content in catalogues.items():
            made.writestr(f"package/locale/{language}/LC_MESSAGES/django.mo", content)
    return path


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("charset", ["utf-8", "iso-8859-1"])
def test_messages_are_read_in_either_byte_order_and_any_charset(order: str, charset: str) -> None:
    content = catalogue({"Delete": "L\u00f6schen", "menu\x04Open": "\u00d6ffnen"}, charset, order)
    assert list(translations.messages(content, "de.mo")) == [("Delete", "L\u00f6schen"), ("Open", "\u00d6ffnen")]


@pytest.mark.parametrize("cut", [0, 3, 19, 40, -3])
def test_a_broken_catalogue_is_refused_in_one_line(tmp_path: Path, cut: int) -> None:
    content = bytearray(catalogue({"Delete": "L\u00f6schen"}))
    if cut < 0:  # a byte that is no UTF-8
        content[content.index("\u00f6".encode())] = 0xFF
    path = wheel(tmp_path / "one.whl", {"de": bytes(content[:cut] if cut >= 0 else content)})
    with pytest.raises(
        InputError, match=r"^wheels: .*one\.whl, package/locale/de/.* is no catalogue of messages"
    ) as no:
        translations.read([path])
    assert "\n" not in str(no.value)


def test_what_is_no_archive_is_refused(tmp_path: Path) -> None:
    (tmp_path / "one.whl").write_bytes(b"no archive")
    with pytest.raises(InputError, match=r"^wheels: .*one\.whl cannot be read"):
        translations.read([tmp_path / "one.whl"])


def test_variants_are_one_language_and_what_is_no_plain_sentence_is_counted(tmp_path: Path) -> None:
    one = {
        "Delete": "Apagar",
        "Save changes": "Salvar altera\u00e7\u00f5es",
        "%(count)s page\0%(count)s pages": "%(count)s p\u00e1gina\0%(count)s p\u00e1ginas",
        "Hello %s": "Ol\u00e1 %s",
        "Click <b>here</b>": "Clique <b>aqui</b>",
        "Send to me@example.org": "Enviar a me@example.org",
        "two\nlines": "duas\nlinhas",
        "Email": "email",
        "...": "...",
    }
    path = wheel(
        tmp_path / "one.whl",
        {
            "pt": catalogue(one),
            "pt_BR": catalogue({"Delete": "Excluir"}),
            "en_GB": catalogue({"Color": "Colour"}),
            "ja": catalogue({"Delete": "\u524a\u9664"}),
        },
    )
    found = translations.read([path])
    assert set(found) == {"pt"}
    assert list(found["pt"].pairs) == [
        ("Apagar", "Delete"),
        ("Salvar altera\u00e7\u00f5es", "Save changes"),
        ("Excluir", "Delete"),
    ]
    assert found["pt"].left_out == {
        "with a plural": 1,
        "with markup or placeholders": 4,
        "not translated": 1,
        "without a word": 1,
    }


def test_a_language_is_dealt_with_its_genus_and_one_without_relatives_as_its_name_says() -> None:
    names = " ".join(translations.GENERA.values()).split()
    assert len(set(names)) == len(names)
    assert all(len(one.split()) > 1 for one in translations.GENERA.values())
    for genus in translations.GENERA.values():
        assert len({translations.split_of(name) for name in genus.split()}) == 1
    alone = {
        "el": "test",
        "eu": "train",
        "hu": "train",
        "ka": "val",
        "ko": "train",
        "mn": "val",
        "sq": "test",
        "vi": "train",
    }
    assert {name: translations.split_of(name) for name in alone} == alone


def languages() -> dict[str, list[str]]:
    """Two languages for every split, by the names that the script deals."""
    found: dict[str, list[str]] = {split: [] for split in SPLITS}
    for name in ("de", "fr", "pt", "sv", "cs", "et", "he", "fi", "it", "ru", "tr", "nl", "uk", "pl"):
        found[translations.split_of(name)].append(name)
    return {split: names[:2] for split, names in found.items()}


def test_the_folders_are_tasks_of_the_family_and_no_language_is_in_two_splits(tmp_path: Path) -> None:
    chosen = languages()
    assert all(len(names) == 2 for names in chosen.values())
    english = [f"{verb} {thing}" for verb in ("add", "change", "delete") for thing in map("thing{}".format, range(60))]
    made = {
        name: catalogue({text: " ".join(f"{name}{word}" for word in reversed(text.split())) for text in english})
        for names in chosen.values()
        for name in names
    }
    small = {"ast": catalogue({"Delete": "Desaniciar"})}
    paths = [wheel(tmp_path / "a.whl", made), wheel(tmp_path / "b.whl", small)]
    out = tmp_path / "pairs"
    told = list(translations.write(paths, out, least=100))
    assert told[-1] == "6 languages of 7, the others have fewer than 100 pairs; 0 words swap"
    for split in SPLITS:
        assert sorted(path.stem for path in (out / split).iterdir()) == sorted(chosen[split])
        name = chosen[split][0]
        assert f"{split}/{name}: 180 pairs; left out: none" in told
        assert ((f"{name}thing0", f"{name}add"), ("add", "thing0")) in _pairs(out / split / f"{name}.tsv")
        episodes = ParallelText(root=out).sample(split, Spec(5, 5, 5), range(2))
        assert episodes.query_x.shape == (2, 25, 6, 32)
    grouped = [line.split("\t") for line in (out / "groups.tsv").read_text(encoding="utf-8").splitlines()]
    assert grouped == [[name, translations.GENUS[name]] for name in sorted(made) if name in translations.GENUS]
    with pytest.raises(InputError, match=r"^out: .*pairs is there already"):
        next(translations.write(paths, out))


def test_words_stand_for_one_another_that_translate_the_same_message_in_one_language(tmp_path: Path) -> None:
    dutch = catalogue({"Delete": "Wissen"})
    paths = [
        wheel(
            tmp_path / "a.whl",
            {"de": catalogue({"Delete": "L\u00f6schen", "One": "1", "Save": "Sichern"}), "nl": dutch},
        ),
        wheel(tmp_path / "b.whl", {"de": catalogue({"Delete": "Entfernen", "One": "Eins", "Save": "Jetzt sichern"})}),
    ]
    out = tmp_path / "pairs"
    list(translations.write(paths, out, least=1))
    (path,) = (out / "synonyms").iterdir()
    assert path.name == "de.tsv"
    assert path.read_text(encoding="utf-8") == "entfernen\tl\u00f6schen\nl\u00f6schen\tentfernen\n"
