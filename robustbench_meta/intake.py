"""Is a submission fit for the board? A checkpoint, an entry with or without its checkpoint, or an external evaluation.

What a folder holds decides how it is judged: external.json is an external evaluation, card.json a checkpoint, any other
JSON an entry. Nothing is written.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from robustbench_meta import catalog, checkpoint, external, submissions, tracks, verify
from robustbench_meta.episodes import fingerprint
from robustbench_meta.evaluate import check_learner
from robustbench_meta.external import Judged
from robustbench_meta.submissions import ENTRIES, EXTERNAL_FILE, Entry
from robustbench_meta.types import SPLITS, InputError, Spec
from robustbench_meta.verify import Finding

QUERIES = 15  # per class, as boards have them


@dataclass(frozen=True)
class Verdict:
    """All findings on a submission, and in one line what comes next."""

    findings: tuple[Finding, ...]
    advice: str

    @property
    def accepted(self) -> bool:
        return not any(one.status == "fails" for one in self.findings)


def judge(
    folder: Path,
    checkpoints: Sequence[Path] = (),
    *,
    board: Path | None = None,
    seconds: float = 45.0,
    root: Path | None = None,
    tell: Callable[[str], None] = lambda _: None,
) -> Verdict:
    """Judge a submission; raise InputError where `folder` holds none, or where what that takes is not here."""
    if not folder.is_dir():
        raise InputError(f"submission: {folder} is not a folder")
    if (folder / EXTERNAL_FILE).exists():
        return _external(folder, checkpoints, board, root, tell)
    if (folder / checkpoint.CARD).exists():
        return _checkpoint(folder, root)
    if submissions.files_of(folder):
        return _entries(folder, checkpoints, board, seconds, root, tell)
    raise InputError(
        f"submission: {folder} holds none; legal: a checkpoint ({checkpoint.CARD}), entries that `rbm leaderboard add`"
        f" writes, or an external evaluation ({EXTERNAL_FILE})"
    )


def _external(
    folder: Path, checkpoints: Sequence[Path], board: Path | None, root: Path | None, tell: Callable[[str], None]
) -> Verdict:
    given = [*checkpoints, *(card.parent for card in sorted(folder.glob(f"*/{checkpoint.CARD}")))]
    there = _on_board(board)
    findings = [
        _claimed(one, there.get(one.claim.weights))
        for one in external.judge(folder, verify.learners(given), root=root, tell=tell)
    ]
    advice = f"claims enter a board, all or none, by `rbm leaderboard add --external {folder}`"
    return Verdict(tuple(findings), advice)


def _claimed(one: Judged, entry: Entry | None) -> Finding:
    what = f"{one.claim.authors}, {one.claim.attack}: {one.claim.norm} {one.claim.eps:.4g}"
    if not one.accepted or one.run is None:
        return Finding(what, "fails", "; ".join(one.problems))
    queries = sum(len(record.survived) for record in one.run.records)
    detail = f"leaves {100 * one.robust:.2f} % of {queries} queries, {100 * one.claim.robust:.2f} % was claimed"
    if entry is not None:
        detail += f"; fools {external.lowered(one.run, entry.runs)} that all attacks on the board left"
    return Finding(what, "holds", detail, measured=True)


def _checkpoint(folder: Path, root: Path | None) -> Verdict:
    """Load a checkpoint, let it adapt and predict, and say what an entry would still lack."""
    try:
        loaded = checkpoint.load(folder)
        made = catalog.learner(loaded, root=root)
    except InputError as error:
        return Verdict((Finding("checkpoint", "fails", str(error)),), "nothing else was looked at")
    recipe, size = loaded.card.recipe, (folder / checkpoint.WEIGHTS).stat().st_size
    findings = [
        Finding("card and weights", "holds", f"schema, SHA-256 and tensors as the recipe calls for; {size} bytes")
    ]
    if loaded.card.weights_bytes not in (None, size):
        detail = f"the card says {loaded.card.weights_bytes} bytes, the file has {size}"
        findings.append(Finding("size", "fails", detail))
    family = catalog.family_of(recipe, root)
    # Raises where the data are not here, which is not the submission's fault.
    episodes: dict[str, str] = {part: fingerprint(family, part) for part in SPLITS}
    for part, told in sorted(loaded.card.episodes_sha256.items()):
        right = episodes.get(part)
        same = told == right
        detail = "SHA-256 as in the card" if same else f"SHA-256 {right or 'unknown'}, the card says {told}"
        findings.append(Finding(f"{part} episodes", "holds" if same else "fails", detail))
    board = tracks.known_episodes(root)(recipe.family, "test")
    if board is not None and board != episodes["test"]:
        detail = f"its own are not those of {recipe.family}: evaluate with --family {recipe.family}"
        findings.append(Finding("test episodes", "not verified", detail))
    spec = Spec(recipe.ways, recipe.shots, QUERIES)
    try:
        check_learner(made, family, "test", spec, made.algorithm.test_steps)
        findings.append(Finding("a held-out task", "holds", "adapts, and predicts with finite scores", measured=True))
    except InputError as error:
        findings.append(Finding("a held-out task", "fails", str(error)))
    lacks = _lacks(loaded.card)
    advice = f"an entry needs results: `rbm evaluate --ckpt {folder} --out RESULTS`, then `rbm leaderboard add RESULTS`"
    return Verdict(tuple(findings), f"{advice}; the card lacks {', '.join(lacks)}" if lacks else advice)


def _lacks(card: checkpoint.Card) -> list[str]:
    """Say what of a card is empty, so that `rbm verify` has nothing to compare with."""
    empty = {"hashes of its episodes": card.episodes_sha256, "versions": card.versions, "its history": card.history}
    return [what for what, value in empty.items() if not value]


def _entries(
    folder: Path,
    checkpoints: Sequence[Path],
    board: Path | None,
    seconds: float,
    root: Path | None,
    tell: Callable[[str], None],
) -> Verdict:
    """Check entries by themselves and beside a board, and run a sample of each again where its checkpoint is here."""
    read = {path.name: tracks.read_one(path) for path in submissions.files_of(folder)}
    entries = {file: entry for file, (entry, _) in read.items() if entry is not None}
    problems = [problem for _, found in read.values() for problem in found]
    problems += [
        tracks.Problem(file, "file", file, f"this entry's file is called {entry.file}")
        for file, entry in entries.items()
        if file != entry.file
    ]
    mine = {entry.weights for entry in entries.values()}
    others = {f"the board's {one.file}": one for one in _on_board(board).values() if one.weights not in mine}
    problems += [one for one in tracks.among({**others, **entries}) if one.file in entries]
    problems += tracks.drawn(entries, tracks.known_episodes(root))
    problems += _credited(entries, _on_board(board))
    findings = [Finding(one.file, "fails", one.text.removeprefix(f"{one.file}: ")) for one in problems]
    if problems:
        return Verdict(tuple(findings), "nothing was run again; docs/submitting.md says what belongs on a board")
    given = [*checkpoints, *(card.parent for card in sorted(folder.glob(f"*/{checkpoint.CARD}")))]
    learners = verify.learners(given)
    for file, entry in entries.items():
        findings.append(Finding(file, "holds", f"schema, hashes and tracks of {len(entry.cells)} cells"))
        if entry.weights not in learners:
            why = (
                "an object's numbers cannot be run again"
                if entry.card is None
                else "its checkpoint is not here: --ckpt"
            )
            findings.append(Finding(file, "not verified", why))
            continue
        with tempfile.TemporaryDirectory() as scratch:
            submissions.as_results(entry, Path(scratch))
            found = verify.verify_results(Path(scratch), given, seconds=seconds / len(entries), root=root, tell=tell)
        findings += found.findings
    return Verdict(tuple(findings), "a pull request that adds the file to entries/ is what remains")


def _credited(entries: Mapping[str, Entry], there: Mapping[str, Entry]) -> list[tracks.Problem]:
    """Refuse cells that credit an external evaluation which the board does not hold: examples are scored here."""
    found = []
    for file, entry in entries.items():
        known = {cell.external for cell in there[entry.weights].cells} if entry.weights in there else set()
        for number, cell in enumerate(entry.cells):
            if cell.external is not None and cell.external not in known:
                legal = (
                    "hand the examples in with an external.json, which are scored again; verdicts alone prove nothing"
                )
                found.append(tracks.Problem(file, f"cells.{number}.external", cell.external.text, legal))
    return found


def _on_board(board: Path | None) -> dict[str, Entry]:
    """Read the entries of a board by weights; none where there is no board."""
    if board is None or not (board / ENTRIES).is_dir():
        return {}
    return {entry.weights: entry for entry in tracks.read(board / ENTRIES)[0].values()}
