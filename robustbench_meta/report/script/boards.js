// Tables: sorting, columns, search and the selection of tracks. `state` is what a link restores.
const COLUMN_NAMES = {
  worst: "Worst case", eps: "Other ε", clean: "Clean", area: "Area under the curve",
  gain: "Over chance", steps: "Steps", n: "n", seed: "Seed", flags: "Flags",
};
const FACETS = {
  surface: "Surface", setting: "Setting", norm: "Norm", family: "Dataset", split: "Split", ways: "Ways", shots: "Shots",
};
const HIDDEN_AT_FIRST = ["area", "gain", "seed"];
const state = {
  search: "", facets: {}, hidden: new Set(HIDDEN_AT_FIRST), sorts: new Map(), open: new Set(),
  chosen: { slug: "", ids: [] }, comparing: false,
};
const listeners = [];

// Say that `state` has changed: whoever shows a part of it shows it again.
function changed() {
  for (const listener of listeners) listener();
}

class BoardTable {
  constructor(table) {
    this.table = table;
    this.board = BOARDS.get(table.dataset.board);
    this.section = table.closest("section");
    this.heads = [...table.tHead.rows[0].cells];
    const texts = new Map(this.board.entries.map((entry) => [
      entry.id, [entry.name, entry.algorithm, entry.defense, entry.mode].join(" ").toLowerCase(),
    ]));
    this.rows = [...table.tBodies].map((body) => ({ body, id: body.dataset.entry, text: texts.get(body.dataset.entry) }));
    this.labelCells();
    for (const head of this.heads.filter((cell) => cell.dataset.sort)) {
      const inside = [...head.childNodes];
      head.append(button("", () => this.sortNext(head)));
      head.lastChild.append(...inside);
    }
    this.order = this.orderChoice();
    table.parentElement.before(this.order);
    for (const [kind, on] of [["pointerover", true], ["pointerout", false], ["focusin", true], ["focusout", false]]) {
      table.addEventListener(kind, (event) => this.light(event.target.closest("tbody")?.dataset.entry, on));
    }
  }

  // Every cell knows its column, to be hidden with it and to be headed by it on a phone.
  labelCells() {
    for (const { body } of this.rows) {
      [...body.rows[0].cells].forEach((cell, i) => {
        const { column } = this.heads[i].dataset;
        cell.dataset.column = column;
        if (!["rank", "name"].includes(column)) cell.dataset.label = this.heads[i].textContent;
      });
    }
  }

  // On a phone, where the heads are out of sight.
  orderChoice() {
    const options = this.heads.filter((head) => head.dataset.sort && head.dataset.column !== "rank").flatMap((head) =>
      this.orders(head).map((order) => element("option", { value: `${this.keyOf(head)}:${order}` },
        `${head.textContent}, ${order === "descending" ? "high to low" : "low to high"}`)));
    const select = element("select", { change: () => this.sortBy(select.value) },
      element("option", { value: "" }, "Rank"), ...options);
    return element("p", { class: "order" }, element("label", {}, "Sort by ", select));
  }

  keyOf(head) {
    return head.dataset.column === "eps" ? head.textContent : head.dataset.column;
  }

  orders(head) {
    return head.dataset.sort === "down" ? ["descending", "ascending"] : ["ascending", "descending"];
  }

  // First order, other order, back to the ranks.
  sortNext(head) {
    const orders = this.orders(head);
    const next = orders[orders.indexOf(head.getAttribute("aria-sort")) + 1];
    this.sortBy(next ? `${this.keyOf(head)}:${next}` : "");
  }

  sortBy(sort) {
    if (sort) state.sorts.set(this.board.slug, sort);
    else state.sorts.delete(this.board.slug);
    changed();
  }

  showOrder() {
    const wanted = state.sorts.get(this.board.slug) ?? "";
    if (wanted === (this.shown ?? "")) return;
    this.shown = wanted;
    this.order.querySelector("select").value = wanted;
    const cut = wanted.lastIndexOf(":");
    const order = wanted.slice(cut + 1);
    const column = this.heads.findIndex((head) => head.dataset.sort && this.keyOf(head) === wanted.slice(0, cut));
    this.heads.forEach((head, i) => {
      if (i === column) head.setAttribute("aria-sort", order);
      else head.removeAttribute("aria-sort");
    });
    if (column < 0) return this.table.append(...this.rows.map((row) => row.body));
    const sign = order === "ascending" ? 1 : -1;
    const isText = ["name", "flags"].includes(this.heads[column].dataset.column);
    const keyed = this.rows.map(({ body }) => {
      const text = body.rows[0].cells[column].textContent.trim();
      return [body, isText ? text : parseFloat(text)];
    });
    // What is equal stays in the order of the ranks; what has no number comes last in either order.
    keyed.sort(([, a], [, b]) => {
      if (isText) return sign * a.localeCompare(b);
      return Number.isNaN(a) || Number.isNaN(b) ? Number.isNaN(a) - Number.isNaN(b) : sign * (a - b);
    });
    this.table.append(...keyed.map(([body]) => body));
  }

  showColumns() {
    for (const column of Object.keys(COLUMN_NAMES)) this.table.classList.toggle(`no-${column}`, state.hidden.has(column));
    this.fit();
  }

  // Only a table that fits lets its heads stick to the window.
  fit() {
    const wrap = this.table.parentElement;
    wrap.classList.toggle("fits", this.table.offsetWidth <= wrap.clientWidth);
  }

  // Hide what is not asked for; return how many rows are left.
  showRows(words) {
    this.section.hidden = !matches(this.board);
    document.querySelector(`nav [data-board="${this.board.slug}"]`).hidden = this.section.hidden;
    this.found = new Set();
    for (const { body, id, text } of this.rows) {
      const wanted = text === undefined || words.every((word) => text.includes(word));
      body.hidden = !wanted;
      if (wanted && id) this.found.add(id);
    }
    return this.section.hidden ? 0 : this.found.size;
  }

  light(id, on) {
    if (!id) return;
    for (const line of this.section.querySelectorAll(`.line[data-entry="${id}"]`)) line.classList.toggle("lit", on);
  }
}

function matches(board, except = "") {
  return Object.entries(state.facets).every(([facet, value]) => facet === except || String(board.facets[facet]) === value);
}

const tables = [...document.querySelectorAll("table.board")].map((table) => new BoardTable(table));

function makeControls() {
  const search = document.getElementById("search");
  search.addEventListener("input", () => { state.search = search.value; changed(); });
  const box = document.getElementById("facets");
  for (const [facet, name] of Object.entries(FACETS)) {
    const values = new Set(DATA.boards.map((board) => String(board.facets[facet])));
    if (values.size < 2) continue;
    const select = element("select", { "data-facet": facet, change: () => {
      if (select.value) state.facets[facet] = select.value;
      else delete state.facets[facet];
      changed();
    } });
    box.append(element("label", { class: "field" }, element("span", {}, name), select));
  }
  const menu = document.getElementById("menu");
  const there = new Set(tables.flatMap((one) => one.heads.map((head) => head.dataset.column)));
  for (const [column, name] of Object.entries(COLUMN_NAMES).filter(([one]) => there.has(one))) {
    const input = element("input", { type: "checkbox", value: column, change: () => {
      if (input.checked) state.hidden.delete(column);
      else state.hidden.add(column);
      changed();
    } });
    menu.querySelector("fieldset").append(element("label", {}, input, name));
  }
  menu.addEventListener("keydown", (event) => {
    if (event.key !== "Escape" || !menu.open) return;
    menu.open = false;
    menu.querySelector("summary").focus();
  });
  document.addEventListener("pointerdown", (event) => { if (!menu.contains(event.target)) menu.open = false; });
  document.getElementById("controls").hidden = tables.length === 0;
}

// Every select shows the values that exist beside what the others have chosen.
function showFacets() {
  for (const select of document.querySelectorAll("#facets select")) {
    const facet = select.dataset.facet;
    const values = [...new Set(DATA.boards.filter((board) => matches(board, facet)).map((board) => String(board.facets[facet])))];
    values.sort((a, b) => (isNaN(a) || isNaN(b) ? a.localeCompare(b) : a - b));
    select.replaceChildren(element("option", { value: "" }, "all"), ...values.map((value) => element("option", { value }, value)));
    select.value = state.facets[facet] ?? "";
  }
}

function showBoards() {
  const search = document.getElementById("search");
  if (search.value !== state.search) search.value = state.search;
  for (const input of document.querySelectorAll("#menu input")) input.checked = !state.hidden.has(input.value);
  showFacets();
  const words = state.search.toLowerCase().split(/\s+/).filter(Boolean);
  let rows = 0;
  for (const one of tables) {
    rows += one.showRows(words);
    one.showOrder();
    one.showColumns();
  }
  const all = DATA.boards.reduce((sum, board) => sum + board.entries.length, 0);
  const shown = tables.filter((one) => !one.section.hidden).length;
  const text = `${rows === all ? rows : `${rows} of ${all}`} row${all === 1 ? "" : "s"} in ${shown} table${shown === 1 ? "" : "s"}`;
  const count = document.getElementById("count");
  if (count.textContent !== text) count.textContent = text;
  if (rows === 0 && all > 0) count.textContent = "No row matches: widen the search or press Reset";
}

listeners.push(showBoards);
