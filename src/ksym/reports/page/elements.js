// SPDX-License-Identifier: BSD-2-Clause
// Elements of the page. Whatever comes from a recording gets in as text, never as HTML.

const find = (query, within = document) => within.querySelector(query);

// An element with attributes, properties (`on...`) and children; what is a string is text.
function make(name, attributes = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith("on")) element[key] = value;
    else if (value !== null && value !== false) element.setAttribute(key, value === true ? "" : value);
  }
  element.append(...children.filter((child) => child !== null));
  return element;
}

const button = (text, onclick, attributes = {}) =>
  make("button", { type: "button", onclick, ...attributes }, text);

// Fill a table: heads are {text, right, sort}, rows are arrays of cells {text | element, kind, right}.
function fill(table, heads, rows) {
  const row = make("tr", {});
  for (const head of heads) {
    const cell = make("th", {
      scope: "col",
      class: head.right ? "right" : null,
      "aria-sort": head.sorted ?? null,
    });
    cell.append(head.sort ? button(head.text, head.sort, { class: "sort" }) : head.text);
    row.append(cell);
  }
  find("thead", table).replaceChildren(row);
  find("tbody", table).replaceChildren(
    ...rows.map((cells) =>
      make(
        "tr",
        {},
        ...cells.map((cell, number) => {
          const kind = [cell.right ? "right" : "", cell.class ?? ""].join(" ").trim();
          const attributes = { class: kind || null, ...(cell.head ? { scope: "row" } : {}) };
          return make(cell.head ? "th" : "td", attributes, cell.element ?? cell.text ?? "");
        }),
      ),
    ),
  );
}

const newTable = (caption) =>
  make("table", {}, make("caption", { class: "unseen" }, caption), make("thead"), make("tbody"));

// Do something only while a <details> is open, and when it is opened.
function whileOpen(details, work) {
  details.addEventListener("toggle", () => details.open && work());
  return () => details.open && work();
}

// Keep the focus where it was when what has it is made anew: elements that are the same have the same data-key.
function keepingFocus(container, work) {
  const key = container.contains(document.activeElement) ? document.activeElement.dataset.key : null;
  work();
  if (key == null) return;
  for (const element of container.querySelectorAll("[data-key]")) {
    if (element.dataset.key === key) return element.focus({ preventScroll: true });
  }
}

const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
