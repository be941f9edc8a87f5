"use strict";
const report = JSON.parse(document.getElementById("data").textContent);
const byId = (id) => document.getElementById(id);
const methodOf = new Map(report.methods.map((method) => [method.name, method]));
/** A number with so many digits after the point; large ones have none, and there is no minus before zero. */
function fixed(value, decimals) {
  const digits = Math.abs(value) >= 200 ? 0 : decimals;
  const text = value.toLocaleString("en", { minimumFractionDigits: digits, maximumFractionDigits: digits });
  return /^-[0.]+$/.test(text) ? text.slice(1) : text;
}

/** An HTML element with text and attributes. */
function element(tag, text = "", attributes = {}) {
  const made = document.createElement(tag);
  made.textContent = text;
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  return made;
}

/** Fill a <select> with [value, text] pairs. */
function fill(select, options, chosen) {
  select.replaceChildren(...options.map(([value, text]) => element("option", text, { value })));
  if (chosen !== undefined) select.value = chosen;
}

const shown = (cell, decimals) =>
  cell === null || cell === undefined ? "" : typeof cell === "number" ? fixed(cell, decimals ?? 0) : String(cell);

/** Missing values last, numbers by size, everything else by its letters. */
function compare(a, b, direction) {
  const missing = (value) => value === null || value === undefined || value === "";
  if (missing(a) || missing(b)) return missing(a) - missing(b);
  if (typeof a === "number" && typeof b === "number") return direction * (a - b);
  return direction * String(a).localeCompare(String(b), "en", { numeric: true });
}

/**
 * A table that sorts by a click on a heading, and again the other way round.
 * columns: {title, decimals?, number?, classOf?}; rows: arrays in their order.
 */
class SortableTable {
  constructor(id, columns, rows) {
    this.columns = columns;
    this.rows = rows;
    this.sorted = null;
    this.head = columns.map((column, index) => {
      const heading = element("th", "", { scope: "col", class: column.number ? "number" : "" });
      const button = element("button", column.title, { type: "button" });
      button.addEventListener("click", () => this.sort(index));
      heading.append(button);
      return heading;
    });
    const head = element("thead");
    const line = element("tr");
    line.append(...this.head);
    head.append(line);
    this.body = element("tbody");
    byId(id).replaceChildren(head, this.body);
    this.show(rows);
  }

  sort(index) {
    const again = this.sorted && this.sorted.index === index;
    this.sorted = { index, direction: again ? -this.sorted.direction : 1 };
    this.head.forEach((heading, at) => {
      heading.removeAttribute("aria-sort");
      if (at === index) {
        heading.setAttribute("aria-sort", this.sorted.direction > 0 ? "ascending" : "descending");
      }
    });
    this.show(this.visible);
  }

  show(rows) {
    this.visible = rows;
    const ordered = [...rows];
    if (this.sorted) {
      const { index, direction } = this.sorted;
      ordered.sort((a, b) => compare(a[index], b[index], direction));
    }
    this.body.replaceChildren(
      ...ordered.map((row) => {
        const line = element("tr");
        this.columns.forEach((column, index) => {
          const text = shown(row[index], column.decimals);
          const name = [column.number ? "number" : "", column.classOf ? column.classOf(row[index]) : ""].join(" ");
          line.append(element("td", text, { class: name.trim() }));
        });
        return line;
      }),
    );
  }
}

/** Rows that contain every word of a text, in any column. */
function matching(rows, text) {
  const words = text.toLowerCase().split(/\s+/).filter(Boolean);
  return rows.filter((row) => {
    const line = row.map((cell) => String(cell ?? "")).join(" ").toLowerCase();
    return words.every((word) => line.includes(word));
  });
}

const recordsTable = new SortableTable("records", report.columns, report.rows);
function filterRecords() {
  const rows = matching(report.rows, byId("records-filter").value);
  recordsTable.show(rows);
  byId("records-count").textContent = `${rows.length} of ${report.rows.length} records`;
}
byId("records-filter").addEventListener("input", filterRecords);
filterRecords();

const checkColumns = report.check.columns.map((column) =>
  column.title === "Verdict" ? { ...column, classOf: (verdict) => (verdict === "no record" ? "" : verdict) } : column,
);
const checkTable = new SortableTable("check-table", checkColumns, report.check.rows);
const verdictAt = checkColumns.findIndex((column) => column.title === "Verdict");
function filterCheck() {
  const verdict = byId("check-verdict").value;
  const rows = matching(report.check.rows, byId("check-filter").value).filter(
    (row) => verdict === "all" || (verdict === "answered" ? row[verdictAt] !== "no record" : row[verdictAt] === verdict),
  );
  checkTable.show(rows);
  byId("check-count").textContent = `${rows.length} of ${report.check.rows.length} printed cells`;
}
byId("check-verdict").addEventListener("change", filterCheck);
byId("check-filter").addEventListener("input", filterCheck);
filterCheck();
