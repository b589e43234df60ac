// Pictures drawn where they are shown, as wide as there is room, so that their text has the size of text.
const LABEL_LINE = 15, LETTER = 6.3;

function place(number) {
  return Number(number.toFixed(1));
}

function picture(width, height, title, said, ...parts) {
  return drawn("svg", {
    class: "chart", viewBox: `0 0 ${width} ${height}`, width, height, role: "img", "aria-label": `${title}. ${said}`,
  }, drawn("title", {}, title), drawn("desc", {}, said), ...parts);
}

function label(text, x, y, name) {
  return drawn("text", { class: name, x: place(x), y: place(y) }, text);
}

function short(text, length) {
  return text.length <= length ? text : `${text.slice(0, length - 1)}…`;
}

function spread(wanted, low, high) {
  const places = [...wanted];
  for (let i = 1; i < places.length; i++) places[i] = Math.max(places[i], places[i - 1] + LABEL_LINE);
  const floor = Math.max(high, low + LABEL_LINE * (places.length - 1));
  return places.map((at, i) => Math.min(at, floor - LABEL_LINE * (places.length - 1 - i)));
}

// A line of an entry's accuracy from clean (eps 0) on: points {x, mean, half, complete}.
function curveOf(board, entry) {
  const points = entry.outcomes.filter((outcome) => board.budgets[outcome.eps] > 0).map((outcome) => ({
    x: board.budgets[outcome.eps], complete: outcome.complete, ...intervalOf(accuracies(outcome, "worst")),
  }));
  if (entry.clean.n) points.push({ x: 0, complete: true, ...entry.clean });
  return points.sort((a, b) => a.x - b.x);
}

function attackCurves(board, entry) {
  const attacks = [...new Set(entry.runs.map((run) => run.attack))];
  return attacks.map((name, i) => {
    const points = entry.runs.filter((run) => run.attack === name).map((run) => ({ ...run, x: board.budgets[run.eps] }));
    points.push({ ...entry.clean, x: 0 });
    return { name, look: `c${1 + (i % 7)}`, points: points.sort((a, b) => a.x - b.x), thin: true };
  });
}

// The mark of an entry, as the page draws it: one of SHAPES about a point, the circle where that has no corners.
function mark(shape, x, y, size, name) {
  const corners = DATA.shapes[shape];
  if (!corners.length) return drawn("circle", { class: name, cx: place(x), cy: place(y), r: size });
  return drawn("polygon", { class: name, points: corners.map(([right, down]) => `${place(x + size * right)},${place(y + size * down)}`).join(" ") });
}

// Lines {name, look, shape, dashed, points, thin} against eps; a band where there is an interval; a constant predictor dotted.
function curves(board, lines, room, title) {
  const width = Math.max(260, Math.round(room)), height = 270, left = 36, top = 20, floor = height - 36;
  const texts = [...lines.map((line) => short(line.name, Math.min(26, Math.floor(width / 22)))), board.chanceText];
  const right = width - 16 - LETTER * Math.max(...texts.map((text) => text.length));
  const values = lines.flatMap((line) => line.points);
  const high = Math.min(1, Math.max(board.chance, ...values.map((one) => one.mean + (one.half <= WIDEST ? one.half : 0))) + 0.04);
  const largest = Math.max(...board.budgets) || 1;
  const x = (eps) => left + 6 + (eps / largest) * (right - left - 12);
  const y = (value) => floor - (Math.max(0, value) / high) * (floor - top);
  const parts = [];
  for (let tick = 0; tick <= high; tick += high > 0.6 ? 0.2 : 0.1) {
    parts.push(drawn("path", { class: "grid", d: `M${left} ${place(y(tick))}H${place(right)}` }),
      label(Math.round(100 * tick), left - 6, y(tick) + 4, "tick end"));
  }
  let last = -Infinity;
  for (const [eps, text] of [[0, "0"], ...board.budgets.map((eps, i) => [eps, board.eps[i]]).sort((a, b) => a[0] - b[0])]) {
    if (x(eps) - last < LETTER * (text.length + 1) || (eps === 0 && text !== "0")) continue;
    last = x(eps);
    parts.push(label(text, x(eps), floor + 16, "tick mid"));
  }
  parts.push(label(board.budget, right, height - 4, "axis end"), label("accuracy, %", 0, 11, "axis"),
    drawn("path", { class: "chance", d: `M${left} ${place(y(board.chance))}H${place(right)}` }));
  for (const line of lines) parts.push(curve(line, x, y));
  const ends = lines.filter((line) => line.points.length).map((line, i) => ({ at: y(line.points.at(-1).mean), x: x(line.points.at(-1).x), text: texts[i], look: line.look }));
  ends.push({ at: y(board.chance), x: right, text: board.chanceText, look: "chance" });
  ends.sort((a, b) => a.at - b.at);
  spread(ends.map((end) => end.at), top, floor).forEach((at, i) => {
    const { x: from, at: own, text, look } = ends[i];
    parts.push(drawn("path", { class: `lead ${look}`, d: `M${place(from + 4)} ${place(own)}L${place(right + 11)} ${place(at)}` }),
      label(text, right + 14, at + 4, "name"));
  });
  const said = lines.filter((line) => !line.thin).map((line) =>
    `${line.name}: ${line.points.map((one) => `${valueText(one)} at ${board.budget} ${+one.x.toFixed(4)}`).join(", ")}`).join("; ");
  return picture(width, height, title, said, ...parts);
}

function curve({ points, look, shape, thin, dashed }, x, y) {
  const parts = [];
  const banded = points.filter((one) => one.half <= WIDEST);
  if (!thin && banded.length > 1) {
    const upper = banded.map((one) => `${place(x(one.x))} ${place(y(Math.min(1, one.mean + one.half)))}`);
    const lower = banded.map((one) => `${place(x(one.x))} ${place(y(Math.max(0, one.mean - one.half)))}`).reverse();
    parts.push(drawn("path", { class: "band", d: `M${[...upper, ...lower].join("L")}Z` }));
  }
  parts.push(drawn("path", {
    class: thin || dashed ? "stroke dashed" : "stroke", d: `M${points.map((one) => `${place(x(one.x))} ${place(y(one.mean))}`).join("L")}`,
  }));
  if (!thin) for (const one of points) parts.push(mark(shape, x(one.x), y(one.mean), 3.4, one.complete ? "dot" : "hollow"));
  return drawn("g", { class: look }, ...parts);
}

// A bar for each attack at each eps, with its interval and number; a constant predictor dotted.
function attackBars(board, entry, room) {
  const width = Math.max(260, Math.round(room)), step = 19, after = 8, parts = [];
  const attacks = [...new Set(entry.runs.map((run) => run.attack))].map((name) => [name, short(name, 22)]);
  const start = 64 + LETTER * Math.max(...attacks.map(([, text]) => text.length)), end = width - 86;
  const x = (value) => place(start + Math.min(1, Math.max(0, value)) * (end - start));
  let y = 14;
  for (const [attack, text] of attacks) {
    parts.push(label(text, 0, y + 10, "name"));
    for (const run of entry.runs.filter((one) => one.attack === attack)) {
      parts.push(...attackBar(run, board.eps[run.eps], x, y, width));
      y += step;
    }
    y += after;
  }
  parts.push(drawn("path", { class: "chance", d: `M${x(board.chance)} 8V${y - after}` }), label(board.chanceText, x(board.chance), y + 5, "note mid"));
  const said = entry.runs.map((run) => `${run.attack} at ${board.budget} ${board.eps[run.eps]}: ${valueText(run)}`).join(", ");
  return picture(width, y + 12, "Accuracy under each attack", said, ...parts);
}

function attackBar(run, eps, x, y, width) {
  const bar = (name, to) => drawn("rect", { class: name, x: x(0), y: y + 1, width: place(x(to) - x(0)), height: 10 });
  const parts = [label(eps, x(0) - 8, y + 10, "tick end"), bar("ground", 1), bar("amount", run.mean)];
  if (run.half <= WIDEST) parts.push(drawn("path", { class: "whisker", d: `M${x(run.mean - run.half)} ${y + 6}H${x(run.mean + run.half)}` }));
  return [...parts, label(valueText(run), width, y + 10, "tick end")];
}
