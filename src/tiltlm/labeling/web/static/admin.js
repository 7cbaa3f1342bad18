// Adds to pages that work without it: tables that sort by a column, the keys of a decision, one decision a press.
import { request } from "/static/api.js";

function valueOf(row, column) {
  const cell = row.cells[column];
  const text = (cell.dataset.value ?? cell.textContent).trim();
  const number = Number(text.replaceAll(",", "").replace("−", "-"));
  return text !== "" && Number.isFinite(number) ? number : text;
}

function compare(a, b) {
  if (typeof a === typeof b) return a < b ? -1 : a > b ? 1 : 0;
  return typeof a === "number" ? -1 : 1; // what has no number comes last
}

function makeSortable(table) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.className = "sort";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const isDescending = head.getAttribute("aria-sort") !== "descending";
      for (const other of heads) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", isDescending ? "descending" : "ascending");
      const body = table.tBodies[0];
      const rows = [...body.rows].sort((x, y) => compare(valueOf(x, column), valueOf(y, column)));
      body.append(...(isDescending ? rows.reverse() : rows));
    });
  });
}

for (const table of document.querySelectorAll("table[data-sortable]")) if (table.rows.length > 2) makeSortable(table);

const signOut = document.getElementById("sign-out");
if (signOut) {
  signOut.hidden = false;
  signOut.addEventListener("click", async () => {
    await request("DELETE", "/api/session");
    location.assign("/join");
  });
}

const link = document.getElementById("link");
if (link) link.addEventListener("focus", () => link.select());

const decision = document.getElementById("decision");
if (decision) {
  const KEYS = { 1: "left", ArrowLeft: "left", 2: "right", ArrowRight: "right", 0: "tie" };
  let isSent = false;
  decision.addEventListener("submit", (event) => {
    if (isSent) event.preventDefault();
    isSent = true;
  });
  addEventListener("pageshow", () => { isSent = false; });
  addEventListener("keydown", (event) => {
    const typing = event.target.closest("input, textarea, select, [contenteditable]");
    if (typing || event.repeat || event.ctrlKey || event.altKey || event.metaKey) return;
    const scrolled = event.key.startsWith("Arrow") && event.target.closest("[tabindex='0']");
    const choice = KEYS[event.key];
    if (!choice || scrolled) return;
    event.preventDefault();
    decision.querySelector(`button[value="${choice}"]`).click();
  });
}
