// Elements with text that is never read as markup. A function is a listener, true and false are properties.
function element(tag, attributes = {}, ...children) {
  return filled(document.createElement(tag), attributes, children);
}

function drawn(tag, attributes = {}, ...children) {
  return filled(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);
}

function filled(made, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") made.addEventListener(name, value);
    else if (typeof value === "boolean") made[name] = value;
    else made.setAttribute(name, value);
  }
  made.append(...children);
  return made;
}

function button(text, click, attributes = {}) {
  return element("button", { type: "button", click, ...attributes }, text);
}

function facts(pairs, name = "facts") {
  return element("dl", { class: name }, ...pairs.flatMap(([name, value]) => [
    element("dt", {}, name), element("dd", {}, value),
  ]));
}

// A row of cells; the first heads it.
function tableRow(cells, classes = []) {
  return element("tr", {}, ...cells.map((cell, i) =>
    element(i ? "td" : "th", i ? { class: classes[i] ?? "" } : { class: "text", scope: "row" }, cell)));
}
