// Two or three rows of one table side by side, with differences paired task by task.
const MOST = 3;
const tray = document.getElementById("tray"), dialog = document.getElementById("dialog");

function makeChoices() {
  for (const { board, rows } of tables) {
    for (const { body, id } of rows.filter((row) => row.id)) {
      const entry = entryOf(board.slug, id);
      const box = element("input", { type: "checkbox", "aria-label": `Compare ${entry.name}${stepsText(entry)}`, change: () => choose(board.slug, id, box.checked) });
      body.querySelector(".rank").prepend(box);
    }
  }
  document.getElementById("compare").addEventListener("click", () => { state.comparing = true; changed(); });
  document.getElementById("clear").addEventListener("click", () => {
    state.chosen = { slug: "", ids: [] };
    changed();
    document.getElementById("search").focus();
  });
  dialog.addEventListener("close", () => { state.comparing = false; changed(); });
}

function choose(slug, id, on) {
  const ids = state.chosen.ids.filter((one) => one !== id);
  if (on) ids.push(id);
  state.chosen = { slug: ids.length ? slug : "", ids };
  changed();
}

function showChoices() {
  const { slug, ids } = state.chosen;
  for (const { board, rows } of tables) {
    const here = board.slug === slug;
    for (const { body, id } of rows.filter((row) => row.id)) {
      const box = body.querySelector(".rank input");
      box.checked = here && ids.includes(id);
      box.disabled = slug !== "" && !box.checked && (!here || ids.length === MOST);
      box.title = box.disabled ? (here ? "three rows are the most" : "rows of one table can be compared") : "";
    }
  }
  tray.hidden = ids.length === 0;
  const names = ids.map((id) => { const entry = entryOf(slug, id); return entry.name + stepsText(entry); });
  document.getElementById("chosen").textContent = ids.length === 1 ? `${names[0]}: choose one or two more` : names.join(" · ");
  document.getElementById("compare").disabled = ids.length < 2;
  if (state.comparing && ids.length > 1) openComparison(BOARDS.get(slug), ids.map((id) => entryOf(slug, id)));
  else if (dialog.open) dialog.close();
}

function openComparison(board, chosen) {
  if (dialog.open) return;
  const entries = toldApart(chosen);
  dialog.replaceChildren(
    button("Close", () => dialog.close(), { class: "close" }),
    element("h2", { id: "dialog-title" }, ...entries.map((entry, i) => element("span", { class: "who" }, key(entry), `${i + 1} ${entry.name}${stepsText(entry)}`))),
    element("p", { class: "criterion" }, `${board.title}. Differences are paired task by task on the n tasks both ran; bold where the 95 % interval leaves out 0.`),
    element("div", { class: "wrap scroll", tabindex: "0", role: "region", "aria-label": "Comparison" }, comparison(board, entries)),
  );
  dialog.showModal();
  const lines = entries.map((entry, i) => {
    const [hue, shape, dashed] = entry.look;
    return { name: `${i + 1} ${entry.name}${stepsText(entry)}`, look: `c${hue}`, shape, dashed, points: curveOf(board, entry) };
  });
  dialog.append(element("h3", {}, `Worst case against ${board.budget}, with 95 % bands`));
  dialog.append(curves(board, lines, dialog.clientWidth - 52, "Robustness curves"));
  const differing = recipeRows(entries);
  if (differing.length) {
    dialog.append(element("h3", {}, "Where the recipes differ"), element("div", { class: "wrap scroll", tabindex: "0", role: "region", "aria-label": "Recipes" },
      element("table", {}, element("caption", {}, "Fields of the recipes that are not the same"),
        element("thead", {}, element("tr", {}, element("th", { class: "text", scope: "col" }, "Field"), ...entries.map((entry, i) => numbered(entry, i)))),
        element("tbody", {}, ...differing.map((cells) => tableRow(cells))))));
  }
}

// The first row of a hue keeps it, as on the rest of the page; a later one takes the first hue that no row has.
function toldApart(entries) {
  const hues = entries.map(({ look: [hue] }) => hue);
  hues.forEach((hue, i) => {
    if (hues.indexOf(hue) === i) return;
    let free = 0;
    while (hues.includes(free)) free += 1;
    hues[i] = free;
  });
  return entries.map((entry, i) => ({ ...entry, look: [hues[i], ...entry.look.slice(1)] }));
}

function key({ look: [hue, shape] }) {
  return drawn("svg", { class: `chart key c${hue}`, viewBox: "-7 -7 14 14", "aria-hidden": "true" }, mark(shape, 0, 0, 4.6, "dot"));
}

function numbered(entry, i) {
  return element("th", { scope: "col" }, key(entry), `${i + 1}`, element("span", { class: "long" }, ` ${entry.name}${stepsText(entry)}`));
}

function comparison(board, entries) {
  const pairs = entries.flatMap((_, i) => entries.slice(i + 1).map((_, j) => [i, i + 1 + j]));
  const heads = pairs.map(([i, j], place) => element("th", { scope: "col", class: place ? "" : "part" }, `${i + 1} ${MINUS} ${j + 1}`));
  const rows = measures(board).map(({ name, values }) => {
    const found = entries.map(values);
    const differences = pairs.map(([i, j]) => (found[i] && found[j] ? paired(found[i], found[j]) : { mean: NaN }));
    const own = found.map((one) => (one ? valueText(intervalOf(one)) : DASH));
    const classes = differences.map((one, place) => `${isDecided(one) ? "decided" : ""}${place ? "" : " part"}`);
    const n = [...new Set(differences.map((one) => one.n ?? DASH))].join(", ");
    return tableRow([name, ...own, ...differences.map((one) => valueText(one, "+")), n], ["", ...own.map(() => ""), ...classes]);
  });
  return element("table", {}, element("caption", {}, "Accuracy in %, differences in percentage points"),
    element("thead", {}, element("tr", {}, element("th", { class: "text", scope: "col" }, "Measure"), ...entries.map(numbered), ...heads, element("th", { scope: "col" }, "n shared"))),
    element("tbody", {}, ...rows));
}

// What can be paired: the worst case at each eps where every attack ran, and clean accuracy at the eps of the ranking.
function measures(board) {
  const outcome = (entry, eps) => entry.outcomes.find((one) => one.eps === eps);
  const made = board.eps.map((text, eps) => ({ name: `Worst case, ${board.budget} ${text}`, values: (entry) => {
    const found = outcome(entry, eps);
    return found?.complete ? accuracies(found, "worst") : undefined;
  } }));
  made.push({ name: "Clean", values: (entry) => {
    const found = outcome(entry, 0);
    return found ? accuracies(found, "clean") : undefined;
  } });
  return made;
}

function recipeRows(entries) {
  const recipes = entries.map((entry) => new Map(DATA.learners[entry.learner].recipe));
  if (recipes.some((recipe) => recipe.size === 0)) return [];
  const fields = [...new Set(recipes.flatMap((recipe) => [...recipe.keys()]))];
  return fields.map((field) => [field, ...recipes.map((recipe) => recipe.get(field) ?? DASH)])
    .filter(([, first, ...rest]) => rest.some((value) => value !== first));
}

listeners.push(showChoices);
