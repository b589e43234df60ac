// A row opens to its card: curve, bars for each attack, flags, cost, recipe; the rest stands there without a script.
function makeCards() {
  for (const { board, rows } of tables) {
    for (const { body, id } of rows.filter((row) => row.id)) {
      const card = body.querySelector(":scope > .more > td > details");
      const name = body.querySelector("th.name b");
      const opener = button("", () => toggleCard(board, id), { "aria-expanded": "false", "aria-controls": card.id });
      opener.append(...name.childNodes);
      name.append(opener);
    }
  }
}

function toggleCard(board, id) {
  const key = `${board.slug}:${id}`;
  if (!state.open.delete(key)) state.open.add(key);
  changed();
}

function showCards() {
  for (const { board, rows } of tables) {
    for (const { body, id } of rows.filter((row) => row.id)) {
      const open = state.open.has(`${board.slug}:${id}`);
      const card = body.querySelector(":scope > .more > td > details");
      if (card.open === open) continue;
      card.open = open;
      card.closest("tr").classList.toggle("open", open);
      body.querySelector("th.name button").setAttribute("aria-expanded", open);
      if (open) fillCard(board, entryOf(board.slug, id), card);
    }
  }
}

function fillCard(board, entry, card) {
  const box = card.querySelector(".drawn");
  if (box.firstChild) return;
  const learner = DATA.learners[entry.learner];
  const lines = [...attackCurves(board, entry), { name: "worst case", look: "c0", shape: 0, points: curveOf(board, entry) }];
  const parts = [
    ["Robustness curve", entry.outcomes.length, (room) => curves(board, lines, room, `Robustness of ${entry.name}`)],
    ["Each attack, in %", entry.runs.length, (room) => attackBars(board, entry, room)],
    ["Flags", 1, () => flagList(entry)],
    ["Cost and identity", 1, () => facts(identity(board, entry, learner))],
    ["Recipe", learner.recipe.length, () => facts(learner.recipe, "facts dense")],
  ].filter(([, known]) => known);
  // All at once, since how many stand side by side decides how wide each is.
  box.append(...parts.map(([title]) => element("div", {}, element("h3", {}, title))));
  parts.forEach(([, , content], i) => box.children[i].append(content(box.children[i].clientWidth)));
  const table = card.querySelector(".wrap");
  if (table) filled(table, { tabindex: "0", role: "region", "aria-label": `Each attack on ${entry.name}` }, []);
  for (const code of card.querySelectorAll(".command")) {
    code.after(button("Copy", (event) => copy(code.textContent, event.target)));
  }
}

function flagList(entry) {
  const raised = entry.flags.map(([code, colour, detail]) => {
    const [title, sentence, limit] = DATA.flags[code] ?? ["", "", ""];
    return [`${code}, ${colour}`, `${title}: ${detail}. ${sentence} Raised from: ${limit}.`];
  });
  return facts([["Raised", entry.audit], ...raised]);
}

function identity(board, entry, learner) {
  const sum = (name) => entry.runs.reduce((total, run) => total + run[name], 0).toLocaleString("en");
  const keys = entry.runs.map((run) => run.key).join(" ");
  const made = [["Evaluation", entry.spent], ["Passes", `${sum("forwards")} forward, ${sum("backwards")} backward`]];
  made.push(...learner.published.map(([name, text]) => [name, published(text)]), ...learner.facts);
  made.push(["Episodes", element("code", {}, board.episodes)]);
  if (keys) made.push(["Cells", element("code", {}, keys)]);
  return made;
}

// A link where the whole text is a secure address, else the text.
function published(text) {
  if (!/^https:\/\/[\w.-]+(\/[\w./?=&%#~+-]*)?$/.test(text)) return text;
  return element("a", { href: text, rel: "noopener noreferrer nofollow" }, text);
}

async function copy(text, shown) {
  const before = shown.textContent;
  try {
    await navigator.clipboard.writeText(text);
    shown.textContent = "Copied";
  } catch {
    // Where the clipboard is closed to this page, the text is at least chosen.
    const code = shown.parentElement.querySelector("code");
    if (code) getSelection().selectAllChildren(code);
    shown.textContent = code ? "Selected: press Ctrl+C" : "Not allowed here";
  }
  document.getElementById("said").textContent = shown.textContent;
  setTimeout(() => { shown.textContent = before; }, 1500);
}

listeners.push(showCards);
