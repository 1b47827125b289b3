"use strict";
const rows = Array.from(document.querySelectorAll("tbody tr"));
const words = document.querySelector("input[type=search]");
const boxes = Array.from(document.querySelectorAll("input[type=checkbox]"));
const shown = document.querySelector("#shown");

function filter() {
  const wanted = words.value.toLowerCase().split(/\s+/).filter(Boolean);
  const states = new Set(boxes.filter(box => box.checked).map(box => box.value));
  let count = 0;
  for (const row of rows) {
    const text = row.textContent.toLowerCase();
    row.hidden = !states.has(row.dataset.state) || !wanted.every(word => text.includes(word));
    count += row.hidden ? 0 : 1;
  }
  shown.textContent = `${count} of ${rows.length} shown`;
}

function sort(heading) {
  const column = Array.from(heading.parentNode.children).indexOf(heading);
  const ascending = heading.getAttribute("aria-sort") !== "ascending";
  for (const other of heading.parentNode.children) other.removeAttribute("aria-sort");
  heading.setAttribute("aria-sort", ascending ? "ascending" : "descending");
  const key = row => row.children[column].dataset.order ?? row.children[column].textContent;
  const order = new Intl.Collator(undefined, {numeric: true}).compare;
  rows.sort((one, other) => (ascending ? 1 : -1) * order(key(one), key(other)));
  document.querySelector("tbody").append(...rows);
}

words.addEventListener("input", filter);
boxes.forEach(box => box.addEventListener("change", filter));
document.querySelectorAll("th button").forEach(button => button.addEventListener("click", () => sort(button.parentNode)));
document.querySelector("form").addEventListener("submit", event => event.preventDefault());
document.querySelector("form").hidden = false;
filter();
