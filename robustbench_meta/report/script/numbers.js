"use strict";
// What the page holds, decoded, and its numbers: Student's t, paired differences, text as the tables write it.
const DATA = JSON.parse(document.getElementById("data").textContent);
const DASH = "–", MINUS = "−", WIDEST = 0.5;
// Runs are rows of numbers in the file and have names here.
for (const board of DATA.boards) {
  for (const entry of board.entries) {
    entry.runs = entry.runs.map(([attack, eps, mean, half, n, forwards, backwards, key]) => ({
      attack: board.attacks[attack], eps, mean: mean ?? NaN, half: half ?? NaN, n, forwards, backwards, key,
    }));
    const [mean, half, n] = entry.clean;
    entry.clean = { mean: mean ?? NaN, half: half ?? NaN, n };
  }
}
const BOARDS = new Map(DATA.boards.map((board) => [board.slug, board]));

function entryOf(slug, id) {
  return BOARDS.get(slug)?.entries.find((entry) => entry.id === id);
}

// The two-sided 95 % point of Student's t: tabulated, then Abramowitz and Stegun 26.7.5.
function quantile(degrees) {
  if (degrees <= DATA.quantiles.length) return DATA.quantiles[degrees - 1];
  const x = 1.959963984540054, x2 = x * x;
  const terms = [
    x * (x2 + 1) / 4,
    x * (5 * x2 ** 2 + 16 * x2 + 3) / 96,
    x * (3 * x2 ** 3 + 19 * x2 ** 2 + 17 * x2 - 15) / 384,
    x * (79 * x2 ** 4 + 776 * x2 ** 3 + 1482 * x2 ** 2 - 1920 * x2 - 945) / 92160,
  ];
  return terms.reduce((sum, term, i) => sum + term / degrees ** (i + 1), x);
}

// Mean, half-width of the 95 % interval, and n; NaN where too few values give none. `between` lists what training seeds
// add, as [variance, degrees] of each method: Welch's degrees, rounded down, in quadrature with the tasks.
function interval(values, between = []) {
  const n = values.length;
  const mean = values.reduce((sum, value) => sum + value, 0) / n;
  const squares = values.reduce((sum, value) => sum + (value - mean) ** 2, 0);
  const seeds = between.reduce((sum, [variance]) => sum + variance, 0);
  const degrees = seeds ** 2 / between.reduce((sum, [variance, own]) => sum + variance ** 2 / own, 0);
  const added = seeds ? quantile(Math.max(1, Math.floor(degrees + 1e-9))) * Math.sqrt(seeds) : 0;
  return { mean, half: n > 1 ? Math.hypot(quantile(n - 1) * Math.sqrt(squares / (n - 1) / n), added) : NaN, n };
}

// Accuracy by task: `kind` is "worst", or "clean" at the eps of the ranking. Counts are in base 36, all equally wide.
function accuracies(outcome, kind) {
  const tasks = outcome.tasks.split(",").flatMap((range) => {
    const [low, high = low] = range.split("-").map(Number);
    return Array.from({ length: high - low + 1 }, (_, i) => low + i);
  });
  const width = outcome[kind].length / tasks.length;
  const count = (i) => parseInt(outcome[kind].slice(i * width, (i + 1) * width), 36);
  const found = new Map(tasks.map((task, i) => [task, count(i) / outcome.queries]));
  found.between = [outcome.between?.[kind] ?? []].filter((one) => one.length);
  return found;
}

function intervalOf(found) {
  return interval([...found.values()], found.between);
}

// a minus b on the tasks that both have.
function paired(a, b) {
  const differences = [...a].filter(([task]) => b.has(task)).map(([task, value]) => value - b.get(task));
  return interval(differences, [...a.between, ...b.between]);
}

// One decimal; a true tie goes to the even digit, as in the tables.
function tenth(number) {
  if (!Number.isInteger(number * 4) || Number.isInteger(number * 2)) return number.toFixed(1);
  return (2 * Math.round(number * 5) / 10).toFixed(1);
}

function valueText({ mean, half, n }, sign = "") {
  if (Number.isNaN(mean)) return DASH;
  if (!(half <= WIDEST)) return `n = ${n} too small`;
  return `${mean >= 0 ? sign : ""}${tenth(100 * mean)} ± ${tenth(100 * half)}`;
}

function isDecided({ mean, half }) {
  return half <= WIDEST && Math.abs(mean) > half;
}

function stepsText(entry) {
  return entry.steps === null ? "" : `, ${entry.steps} step${entry.steps === 1 ? "" : "s"}`;
}
