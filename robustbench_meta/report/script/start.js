// Theme, links, and the beginning of it all.
const root = document.documentElement;

function makeTheme() {
  const theme = document.getElementById("theme");
  const show = (value) => {
    if (value === "auto") delete root.dataset.theme;
    else root.dataset.theme = value;
    theme.querySelector(`[value=${value}]`).checked = true;
  };
  theme.hidden = false;
  theme.addEventListener("change", (event) => {
    show(event.target.value);
    stored((storage) => storage.setItem("theme", event.target.value));
  });
  const kept = stored((storage) => storage.getItem("theme"));
  if (["light", "dark"].includes(kept)) show(kept);
}

// Storage may be forbidden, and then asking for it throws.
function stored(use) {
  try {
    return use(localStorage);
  } catch {
    return null;
  }
}

function linkText() {
  const link = new URLSearchParams(state.facets);
  if (state.search) link.set("q", state.search);
  for (const [slug, sort] of state.sorts) link.append("sort", `${slug}:${sort}`);
  const hidden = [...state.hidden].sort().join(" ");
  if (hidden !== HIDDEN_AT_FIRST.toSorted().join(" ")) link.set("hide", hidden);
  for (const key of state.open) link.append("open", key);
  if (state.chosen.ids.length) link.set(state.comparing ? "compare" : "chosen", [state.chosen.slug, ...state.chosen.ids].join(" "));
  return link.toString();
}

// Take up a link, as far as this page has what it names; a link to a place on the page is none.
function readLink() {
  const text = location.hash.slice(1);
  if (text && !text.includes("=")) return;
  const link = new URLSearchParams(text);
  state.search = link.get("q") ?? "";
  state.facets = Object.fromEntries(Object.keys(FACETS).filter((facet) =>
    DATA.boards.some((board) => String(board.facets[facet]) === link.get(facet))).map((facet) => [facet, link.get(facet)]));
  state.sorts = new Map(link.getAll("sort").map((one) => [one.slice(0, one.indexOf(":")), one.slice(one.indexOf(":") + 1)])
    .filter(([slug]) => BOARDS.has(slug)));
  state.hidden = new Set(link.has("hide") ? link.get("hide").split(" ").filter((one) => one in COLUMN_NAMES) : HIDDEN_AT_FIRST);
  state.open = new Set(link.getAll("open").filter((key) => entryOf(...key.split(":"))));
  const [slug = "", ...ids] = (link.get("compare") ?? link.get("chosen") ?? "").split(" ");
  const known = ids.filter((id) => entryOf(slug, id)).slice(0, MOST);
  state.chosen = { slug: known.length ? slug : "", ids: known };
  state.comparing = link.has("compare");
  changed();
}

function keepLink() {
  const text = linkText();
  if (text === location.hash.slice(1) || (!text && !location.hash.includes("="))) return;
  try {
    history.replaceState(null, "", text ? `#${text}` : location.pathname + location.search);
  } catch {
    // A page shown from where it may not have an address of its own still works, only without links.
  }
}

function reset() {
  Object.assign(state, { search: "", facets: {}, hidden: new Set(HIDDEN_AT_FIRST), sorts: new Map(), open: new Set() });
  changed();
}

root.classList.add("js");
if (matchMedia("(max-width: 42rem)").matches) for (const how of document.querySelectorAll(".how")) how.open = false;
makeTheme();
makeControls();
makeCards();
makeChoices();
makeSurfaces();
listeners.push(keepLink);
document.getElementById("reset").addEventListener("click", reset);
document.getElementById("link").addEventListener("click", (event) => copy(location.href, event.target));
addEventListener("hashchange", readLink);
addEventListener("resize", () => tables.forEach((one) => one.fit()));
readLink();
changed();
