// A box that scrolls can be scrolled with the keyboard; one that fits is no Tab stop.
const BOXES =
  "pre, .table-wrapper, .math-wrapper, .output_subarea, .sidebar-scroll, .toc-scroll";

function mark(box) {
  const scrolls =
    box.scrollWidth > box.clientWidth + 1 || box.scrollHeight > box.clientHeight + 1;
  if (scrolls) {
    box.tabIndex = 0;
  } else {
    box.removeAttribute("tabindex");
  }
}

// A table of class "sortable" is sorted by the column whose head is pressed: numbers by
// value, text as people count, empty cells last. A second press turns the order round.
// A cell may say in data-sort what it sorts by.
const TEXT = new Intl.Collator("en", { numeric: true });

function sortKey(cell) {
  const text = (cell.dataset.sort ?? cell.textContent).trim();
  const number = Number(text.replaceAll(",", ""));
  return text === "" || Number.isNaN(number) ? text : number;
}

function compare(a, b) {
  const numbers = typeof a === "number" && typeof b === "number";
  return numbers ? a - b : TEXT.compare(a, b);
}

function sortBy(head, heads, body) {
  const turned = head.getAttribute("aria-sort") === "ascending";
  const rows = [...body.rows].map((row) => [sortKey(row.cells[head.cellIndex]), row]);
  const full = rows.filter(([key]) => key !== "");
  full.sort(([a], [b]) => (turned ? compare(b, a) : compare(a, b)));
  const empty = rows.filter(([key]) => key === "");
  body.append(...[...full, ...empty].map(([, row]) => row));
  heads.forEach((other) => other.removeAttribute("aria-sort"));
  head.setAttribute("aria-sort", turned ? "descending" : "ascending");
}

function makeSortable(table) {
  const heads = [...table.tHead.rows[0].cells].filter((cell) => cell.textContent.trim());
  for (const head of heads) {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    button.addEventListener("click", () => sortBy(head, heads, table.tBodies[0]));
    head.append(button);
  }
}

document.addEventListener("DOMContentLoaded", () => {
  const watcher = new ResizeObserver((entries) => entries.forEach((e) => mark(e.target)));
  document.querySelectorAll("table.sortable").forEach(makeSortable);
  document.querySelectorAll(BOXES).forEach((box) => watcher.observe(box));
});
