"""Which papers stand behind the names of a results table, and their BibTeX entries from references.bib."""

from __future__ import annotations

import re
from collections.abc import Iterable
from fnmatch import fnmatchcase
from importlib.metadata import PackageNotFoundError, version
from importlib.resources import files
from typing import Literal

Kind = Literal["algorithms", "defenses", "attacks", "tasks"]

OURS = "robustbenchmeta"
# By kind and pattern of a name; all that match count, and () says that no paper stands behind a name.
PAPERS: dict[Kind, dict[str, tuple[str, ...]]] = {
    "algorithms": {
        "maml": ("finn2017maml",),
        "fomaml": ("finn2017maml",),
        "anil": ("raghu2020anil",),
        "protonet": ("snell2017protonet",),
        "r2d2": ("bertinetto2019r2d2",),
        "meta-sgd": ("li2017metasgd",),
        "reptile": ("nichol2018reptile",),
        "metaopt*": ("lee2019metaoptnet",),
        "transfer*": ("chen2019closer",),
    },
    "defenses": {
        "standard": (),
        "mixed": (),
        "overreach": (),
        "aq": ("goldblum2020aq",),
        "adml": ("yin2018adml",),
        "trades": ("zhang2019trades", "wang2021rmaml"),
        "rmaml*": ("wang2021rmaml",),
        "fast": ("wong2020fast",),
        "support": ("goldblum2020aq",),
    },
    "attacks": {
        "noise*": (),
        "flips-greedy": (),
        "reused-*": ("oldewage2022baseline",),
        "words-exhaustive": (),
        "words-greedy": ("jin2020textfooler",),
        "words-gradient": ("ebrahimi2018hotflip",),
        **dict.fromkeys(
            ("gaussian-noise", "shot-noise", "impulse-noise", "*-blur", "snow", "fog", "brightness", "contrast"),
            ("hendrycks2019corruptions",),
        ),
        **dict.fromkeys(("elastic", "pixelate", "jpeg"), ("hendrycks2019corruptions",)),
        "typo-*": ("pruthi2019misspellings",),
        **dict.fromkeys(("white-noise", "reverberation", "band-limit", "clipping"), ()),
        "fgsm": ("goodfellow2015fgsm",),
        "fgsm-rs": ("wong2020fast",),
        "pgd-*": ("madry2018pgd",),
        "pgd-mt-*": ("gowal2019multitargeted",),
        "pgd-*-aq": ("goldblum2020aq",),
        "pgd-*-rmaml": ("wang2021rmaml",),
        "pgd-*-dfsl": ("li2022dfsl",),
        "pgd-*-kl": ("zhang2019trades",),
        "apgd-*": ("croce2020autoattack",),
        "autoattack*": ("croce2020autoattack", "croce2020fab", "andriushchenko2020square"),
        "fab-t": ("croce2020fab",),
        "square*": ("andriushchenko2020square",),
        "stretches*": ("andriushchenko2020square",),
        "file:*": ("papernot2016transferability",),
        "foolbox:*": ("rauber2020foolbox",),
        "torchattacks:*": ("kim2020torchattacks",),
        "cleverhans:*": ("papernot2018cleverhans",),
        "*:*PGD*": ("madry2018pgd",),
        "*:projected_gradient_descent*": ("madry2018pgd",),
        "*:FG*": ("goodfellow2015fgsm",),
        "*:fast_gradient_method": ("goodfellow2015fgsm",),
        "*:BIM*": ("kurakin2017physical",),
        "*:*BasicIterative*": ("kurakin2017physical",),
        "*:*DeepFool*": ("moosavi2016deepfool",),
        "*:*CarliniWagner*": ("carlini2017towards",),
        "*:DDN*": ("rony2019ddn",),
        "*:MIFGSM": ("dong2018momentum",),
        "*:*MomentumIterative*": ("dong2018momentum",),
    },
    "tasks": {
        "strokes": (),
        "image-folder": (),
        "cifar-fs": ("bertinetto2019r2d2", "krizhevsky2009cifar"),
        "fc100": ("oreshkin2018tadam", "krizhevsky2009cifar"),
        "omniglot": ("lake2015omniglot",),
        "spoken-*": ("jackson2018fsdd",),
        "clinc150": ("larson2019clinc150",),
        "navigation": ("finn2017maml",),
        "reach": (),
        "transduction": (),
        "compression": (),
        "parallel-text": (),
        "reacher": ("towers2024gymnasium", "huang2017policies", "pattanaik2018robust"),
        "gym:*": ("towers2024gymnasium", "huang2017policies", "pattanaik2018robust"),
    },
}
# In L1, AutoAttack and its members are those of a later paper.
SPARSE, SPARSE_PAPER = ("apgd-*", "autoattack*", "square*"), "croce2021mind"


def papers(kind: Kind, name: str, norm: str = "") -> tuple[str, ...] | None:
    """Return the keys of the papers behind a name, () if there is none to cite, None if the name is not known.

    A name may have the hash of its settings behind it, and an attack be an ensemble a+b.
    """
    found: dict[str, None] = {}
    known = False
    parts = name.split("+") if kind == "attacks" and not name.startswith("file:") else [name]
    for part in (re.sub(r" #[0-9a-f]{6}$", "", one) for one in parts):
        for pattern, keys in PAPERS[kind].items():
            if fnmatchcase(part, pattern):
                known = True
                found |= dict.fromkeys(keys)
        if norm == "l1" and any(fnmatchcase(part, pattern) for pattern in SPARSE):
            found[SPARSE_PAPER] = None
    return tuple(found) if known else None


def entries() -> dict[str, str]:
    """Return every entry of references.bib as text, by its key."""
    text = files(__package__).joinpath("references.bib").read_text(encoding="utf-8").replace("VERSION", _version())
    found = re.findall(r"^@\w+\{(\w+),\n.*?^\}$", text, flags=re.DOTALL | re.MULTILINE)
    blocks = re.findall(r"^@\w+\{\w+,\n.*?^\}$", text, flags=re.DOTALL | re.MULTILINE)
    return dict(zip(found, blocks, strict=True))


def bibliography(keys: Iterable[str]) -> str:
    """Write the entries of `keys`, each once and in alphabetical order, and this benchmark's own."""
    every = entries()
    return "\n\n".join(every[key] for key in sorted({OURS, *keys})) + "\n"


def _version() -> str:
    try:
        return version("robustbench_meta")
    except PackageNotFoundError:  # a copy that was never installed
        return "unknown"
