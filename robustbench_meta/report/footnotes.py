"""What the marks and words of a report mean."""

from __future__ import annotations

from robustbench_meta.flags import WIDEST
from robustbench_meta.intervals import LEAST_SEEDS
from robustbench_meta.ranking import Standing
from robustbench_meta.report.values import CONSTANT_MARK, LACKING

FEW = f"fewer than {LEAST_SEEDS} seeds speak of no method"
ALWAYS = (
    (LACKING, "Not every required attack ran on this entry at this ε, so the number may flatter it; no rank."),
    (
        CONSTANT_MARK,
        "Not shown to be better than a constant: the 95 % interval does not lie above what it has, 1/K, or 0 where "
        "learners act or write. A model that always gives the same class has that accuracy at every ε, so such a "
        "number is worth nothing.",
    ),
    (
        "±",
        "Half-width of a 95 % Student t interval over tasks. It says how well these tasks measure this checkpoint, "
        "not how another training seed would do. Where every task gives the same value it is 0 and says little "
        f"if n is small. One task has no interval, and two or three often one beyond ± {100 * WIDEST:.0f} points: "
        "then the table says that n is too small, and cells.csv keeps the numbers.",
    ),
    (
        "Rank",
        "One more than the number of ranked entries that are shown to be better: by a paired t test on the tasks "
        "that the two met, its p-value no smaller than the signs of n differences allow, 2^(1-n), and corrected "
        "for all pairs of the table (Holm's method), so that with 95 % confidence no ranked entry is placed behind "
        "one that it equals or beats. Few tasks show nothing, however far the means lie apart.",
    ),
    ("=", "Shared rank: equally many entries are shown to be better than each; they are ordered by their mean."),
    (
        "ε",
        "In units of the inputs: pixels lie in [0, 1], sound in [-1, 1]; normalisation is inside the model. "
        "Of words and labels, how many are replaced.",
    ),
    (
        "autoattack",
        "With K-1 target classes, K the number of ways: all there are for K ≤ 10, so nothing is weakened.",
    ),
)
SOMETIMES = {
    "inductive": "Inductive: each query is judged alone; normalisation by the support set or by running statistics.",
    "transductive": (
        "Transductive: the query batch itself normalises, so one query's perturbation moves its neighbours and "
        "the number depends on the batch. Such entries have tables of their own."
    ),
    "file:": (
        "Adversarial examples kept of an attack on the learner it names. They are no part of the worst case, "
        "or whoever was scored on more of them would rank lower; no entry needs them for a rank."
    ),
    "Seeds": (
        "Training seeds of one recipe share a row, whose numbers are means over them on the tasks that all of them "
        f"met. From {LEAST_SEEDS} seeds on the row is a method: its intervals and tests are over seeds and tasks, each "
        "part with its own Student t, added in quadrature. Fewer are checkpoints, with intervals over tasks alone. A "
        "red flag of one seed takes the rank of the row away."
    ),
    "support": (
        "Poisoned support: the adversary moves the support's inputs or flips its labels, all or of each class the "
        "fraction that the title names, judging by labelled items of its own; scored on fresh, clean queries."
    ),
    "severity": (
        "A corruption has no adversary: one draw, the same for every learner, of a strength that its severity "
        "names, 1 to 5 (Hendrycks and Dietterich, arXiv 1903.12261). What each leaves, and their mean, is plain "
        "accuracy on the corrupted queries, also those that were wrong when clean; the worst case counts a query "
        "that is right when clean and under every corruption up to its severity."
    ),
    "rollouts": (
        "Success rates: the adversary adds to what a policy observes at every step of a rollout; whether it "
        "succeeds is judged on a replay. A constant predictor does one thing all the time and never succeeds."
    ),
    "sequences": (
        "Exact match: a sentence is right where every token that the learner writes is the target's, the end "
        "included. The adversary, who attacks the source sentence or the support, makes one of them wrong. A "
        "constant predictor writes one token all the time, which is no target, so its 0 is no measure of what a "
        "task gives away: who always writes the commonest target of the support, whatever the source says, may "
        "have more. benchmarks/writing.py measures how much; a learner that has no more than that has not learned "
        "to read."
    ),
}


def footnotes(boards: list[list[Standing]]) -> list[tuple[str, str]]:
    """Explain what these boards show, as marks or words with a text each."""
    entries, about = [one for board in boards for one in board], [board[0].board for board in boards]
    shown = {
        **{one.track: True for one in about},
        "file:": any(outcome.transferred for one in entries for outcome in one.outcomes.values()),
        "Seeds": any(one.members for one in entries),
        "support": any(one.surface == "support" for one in about),
        "severity": any(one.corrupted for one in about),
        "rollouts": any(one.surface == "rollout" for one in about),
        "sequences": any(one.whole for one in about),
    }
    return [*ALWAYS, *((mark, text) for mark, text in SOMETIMES.items() if shown.get(mark))]
