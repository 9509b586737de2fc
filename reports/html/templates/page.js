"use strict";

// Sorting: by the number that a cell was written from, or else by its text; empty cells stay last.
const valueOf = (row, column) => {
  const cell = row.cells[column];
  return cell.dataset.sort === undefined ? cell.textContent.trim() : Number(cell.dataset.sort);
};
const compare = (a, b) =>
  typeof a === typeof b
    ? typeof a === "number" ? a - b : a.localeCompare(b, undefined, { numeric: true })
    : typeof a === "number" ? -1 : 1;

for (const button of document.querySelectorAll("th button")) {
  button.addEventListener("click", () => {
    const heading = button.parentElement;
    const body = heading.closest("table").tBodies[0];
    const numeric = heading.classList.contains("n");
    const before = heading.getAttribute("aria-sort");
    // Numbers begin with the largest.
    const down = before ? before === "ascending" : numeric;
    for (const other of heading.parentElement.cells) other.removeAttribute("aria-sort");
    heading.setAttribute("aria-sort", down ? "descending" : "ascending");
    const column = heading.cellIndex;
    const known = (row) => valueOf(row, column) !== "" && (!numeric || row.cells[column].dataset.sort !== undefined);
    const rows = [...body.rows];
    const filled = rows.filter(known).sort((a, b) => compare(valueOf(a, column), valueOf(b, column)));
    if (down) filled.reverse();
    body.append(...filled, ...rows.filter((row) => !known(row)));
  });
}

for (const input of document.querySelectorAll(".filter")) {
  input.addEventListener("input", () => {
    const words = input.value.toLowerCase().split(/\s+/).filter(Boolean);
    const model = input.closest(".model");
    for (const tests of model.querySelectorAll(".tests")) tests.open ||= words.length > 0;
    for (const row of model.querySelectorAll("tbody tr")) {
      const text = row.textContent.toLowerCase();
      row.hidden = !words.every((word) => text.includes(word));
    }
  });
}

// No expression is compiled (`ast`), so that the page's policy can forbid it; colours are CSS.
const specs = JSON.parse(document.getElementById("specs").textContent);
for (const [name, spec] of Object.entries(specs)) {
  vegaEmbed(document.getElementById(name), spec, {
    mode: "vega-lite",
    ast: true,
    renderer: "svg",
    actions: false,
    defaultStyle: false,
    tooltip: { theme: "page", disableDefaultStyle: true },
  }).catch((error) => console.error(name, error));
}
