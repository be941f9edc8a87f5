"use strict";
/* Which method fits my GPU: looked up in the grid. */
const { grid } = report;
const choices = ["card", "model", "res", "batch", "kernel", "checkpointing"];

fill(byId("fits-card"), report.cards.map((card) => [card.name, `${card.title}, ${(card.mib / 1024).toFixed(1)} GiB`]), "rtx3060");
fill(byId("fits-model"), grid.models.map((model) => [model, { vit_s: "ViT-S/16", vit_b: "ViT-B/16", vit_l: "ViT-L/16" }[model] ?? model]), "vit_b");
fill(byId("fits-res"), grid.res.map((res) => [res, `${res} px`]), "512");
fill(byId("fits-batch"), grid.batches.map((batch) => [batch, batch]), "16");
fill(byId("fits-kernel"), grid.kernels.map((kernel) => [kernel, kernel]));
fill(byId("fits-checkpointing"), [["none", "none"], ["block", "every block"]]);

/** An entry of the grid at each batch size; methods with nothing to checkpoint have one row for both. */
function lookedUp(entries, method, asked) {
  const key = (checkpointing) => [method, asked.model, asked.res, asked.kernel, checkpointing].join("|");
  return entries[key(asked.checkpointing)] ?? entries[key("none")];
}

/** Reserved MiB at each batch size. */
const reserved = (method, asked) => lookedUp(grid.rows, method, asked);

/** The other settings under which it would fit, the smallest changes first. */
function remedies(method, asked, capacity, batchAt) {
  const found = [];
  for (const kernel of grid.kernels) {
    for (const checkpointing of ["none", "block"]) {
      const sizes = reserved(method, { ...asked, kernel, checkpointing });
      if (sizes[batchAt] <= capacity) {
        const changes = [];
        if (kernel !== asked.kernel) changes.push(kernel);
        if (checkpointing !== asked.checkpointing) changes.push(checkpointing === "block" ? "checkpointing" : "no checkpointing");
        found.push(changes);
      }
    }
  }
  const least = Math.min(...found.map((changes) => changes.length));
  return found.filter((changes) => changes.length === least).map((changes) => changes.join(" + ")).join(", or ");
}

function verdict(method, asked, card) {
  const capacity = card.mib - card.context_mib;
  const batchAt = grid.batches.indexOf(Number(asked.batch));
  const sizes = reserved(method, asked);
  const fits = sizes[batchAt] <= capacity;
  const largest = grid.batches.filter((_, at) => sizes[at] <= capacity).at(-1) ?? 0;
  const needs = sizes[batchAt] + card.context_mib;
  const limit = grid.batches.at(-1);
  return [
    methodOf.get(method).title,
    fits ? "fits" : "does not fit",
    needs,
    card.mib - needs,
    largest === 0 ? "none" : largest === limit ? `${limit} or more` : String(largest),
    fits ? "" : remedies(method, asked, capacity, batchAt) || "nothing here; a smaller batch or resolution",
    lookedUp(grid.sources, method, asked)[batchAt],
  ];
}

const fitsTable = new SortableTable(
  "fits-table",
  [
    { title: "Method" },
    { title: "Verdict", classOf: (text) => (text === "fits" ? "yes" : "no") },
    { title: "Needs MiB", number: true },
    { title: "Left MiB", number: true },
    { title: "Largest batch", number: true },
    { title: "Would fit with" },
    { title: "Memory is" },
  ],
  [],
);

function drawFits() {
  const asked = Object.fromEntries(choices.map((name) => [name, byId(`fits-${name}`).value]));
  const card = report.cards.find((one) => one.name === asked.card);
  const rows = report.methods.map((method) => verdict(method.name, asked, card));
  fitsTable.show(rows);
  const count = rows.filter((row) => row[1] === "fits").length;
  byId("fits-summary").textContent = `${count} of ${rows.length} methods fit a ${card.title}.`;
}
for (const name of choices) byId(`fits-${name}`).addEventListener("change", drawFits);
drawFits();
