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

document.addEventListener("DOMContentLoaded", () => {
  const watcher = new ResizeObserver((entries) => entries.forEach((e) => mark(e.target)));
  document.querySelectorAll(BOXES).forEach((box) => watcher.observe(box));
});
