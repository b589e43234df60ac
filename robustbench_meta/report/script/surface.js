// A number of the steps x shots surface opens the curve behind it.
const surfaces = [...document.querySelectorAll("div.surface")];

function makeSurfaces() {
  for (const surface of surfaces) {
    for (const cell of surface.querySelectorAll("td[data-entry]")) {
      const inside = [...cell.childNodes];
      const opener = button("", () => pick(surface, cell), { "aria-pressed": "false" });
      opener.append(...inside);
      cell.append(opener);
    }
  }
}

function pick(surface, cell) {
  const panel = surface.querySelector(".picked"), opener = cell.querySelector("button");
  const chosen = opener.getAttribute("aria-pressed") === "false";
  for (const one of surface.querySelectorAll("[aria-pressed=true]")) one.setAttribute("aria-pressed", "false");
  opener.setAttribute("aria-pressed", chosen);
  panel.hidden = !chosen;
  panel.replaceChildren();
  if (!chosen) return;
  const board = BOARDS.get(cell.dataset.board), entry = entryOf(board.slug, cell.dataset.entry);
  const title = `${entry.name}${stepsText(entry)}, ${board.facets.shots}-shot`;
  const lines = [...attackCurves(board, entry), { name: "worst case", look: "c0", shape: 0, points: curveOf(board, entry) }];
  panel.append(element("h4", {}, title));
  panel.append(curves(board, lines, panel.clientWidth, title));
}

// Strips follow the search.
function showSurfaces() {
  const found = new Set(tables.flatMap((one) => [...one.found]));
  for (const surface of surfaces) {
    for (const strip of surface.querySelectorAll("tbody")) {
      strip.hidden = ![...strip.querySelectorAll("td[data-entry]")].some((cell) => found.has(cell.dataset.entry));
    }
  }
}

listeners.push(showSurfaces);
