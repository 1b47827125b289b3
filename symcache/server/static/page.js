"use strict";

const $ = (id) => document.getElementById(id);
const REFRESH_MS = 2000;
const FULL_EVERY = 15;
const SVG = "http://www.w3.org/2000/svg";
const MOST_BARS = 96;

// Names come from dumps and servers of others: they become text, never markup.
function make(name, text, className) {
  const element = document.createElement(name);
  if (text !== undefined) element.textContent = text;
  if (className) element.className = className;
  return element;
}

function size(bytes) {
  if (bytes === undefined || bytes === null) return "?";
  for (const unit of ["bytes", "KB", "MB", "GB", "TB"]) {
    if (bytes < 1000 || unit === "TB") return unit === "bytes" ? `${bytes} bytes` : `${bytes.toFixed(1)} ${unit}`;
    bytes /= 1000;
  }
}

const count = (number) => Number(number || 0).toLocaleString();
const when = (seconds) => (seconds ? new Date(seconds * 1000).toLocaleString([], { dateStyle: "medium", timeStyle: "short" }) : "not known");

function fill(table, rows) {
  const body = table.tBodies[0];
  body.replaceChildren(...rows.map((cells) => {
    const row = make("tr");
    row.append(...cells.map((cell) => (cell instanceof Node ? cell : make("td", cell))));
    return row;
  }));
  table.hidden = rows.length === 0;
}

function tiles(list, entries) {
  list.replaceChildren(...entries.map(([name, value, kind]) => {
    const tile = make("div", undefined, kind);
    tile.append(make("dt", name), make("dd", value));
    return tile;
  }));
}

/* How to point a debugger here */

const server = `${location.origin}${location.pathname}`;
const commands = {
  windbg: `.sympath srv*C:\\Symbols*${server}`,
  cmd: `setx _NT_SYMBOL_PATH srv*C:\\Symbols*${server}`,
  powershell: `[Environment]::SetEnvironmentVariable('_NT_SYMBOL_PATH', 'srv*C:\\Symbols*${server}', 'User')`,
  sh: `export _NT_SYMBOL_PATH='srv*'"$HOME"'/symbols*${server}'`,
  lldb: `settings set plugin.symbol-locator.symstore.urls ${server}`,
};

function choose(shell) {
  $("command").textContent = commands[shell];
  for (const button of document.querySelectorAll("[data-shell]")) {
    button.setAttribute("aria-pressed", String(button.dataset.shell === shell));
  }
  $("copied").textContent = "";
}

async function copy() {
  const text = $("command").textContent;
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    // Without HTTPS browsers offer no clipboard but this one.
    const range = document.createRange();
    range.selectNodeContents($("command"));
    getSelection().removeAllRanges();
    getSelection().addRange(range);
    document.execCommand("copy");
  }
  $("copied").textContent = "Copied.";
}

/* Charts */

function drawing(label) {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("viewBox", "0 0 600 150");
  svg.setAttribute("preserveAspectRatio", "none");
  svg.setAttribute("role", "img");
  svg.setAttribute("aria-label", label);
  return svg;
}

function shape(svg, name, attributes, text) {
  const element = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  if (text !== undefined) {
    const title = document.createElementNS(SVG, "title");
    title.textContent = text;
    element.append(title);
  }
  svg.append(element);
}

function frame(box, svg, top, samples) {
  shape(svg, "line", { class: "axis", x1: 0, y1: 140, x2: 600, y2: 140 });
  const words = make("p", samples.length ? `up to ${top}, ${when(samples[0].t)} to ${when(samples.at(-1).t)}` : "", "note");
  box.replaceChildren(svg, words);
}

function drawAnswers(samples) {
  const kinds = ["hit", "cold", "miss", "failed"];
  const step = Math.ceil(samples.length / MOST_BARS) || 1;
  const bars = [];
  for (let at = 0; at < samples.length; at += step) {
    const bar = { t: samples[at].t, hit: 0, cold: 0, miss: 0, failed: 0 };
    for (const sample of samples.slice(at, at + step)) for (const kind of kinds) bar[kind] += sample[kind] || 0;
    bars.push(bar);
  }
  const total = (bar) => kinds.reduce((sum, kind) => sum + bar[kind], 0);
  const top = Math.max(1, ...bars.map(total));
  const svg = drawing(`Requests over time, at most ${top} in one bar`);
  const width = 600 / Math.max(bars.length, 12);
  bars.forEach((bar, number) => {
    let y = 140;
    for (const kind of kinds) {
      const height = (bar[kind] / top) * 130;
      y -= height;
      if (height) {
        const attributes = { class: kind, x: number * width + width * 0.1, y, width: width * 0.8, height };
        shape(svg, "rect", attributes, `${when(bar.t)}: ${count(bar[kind])} ${kind}`);
      }
    }
  });
  frame($("answers"), svg, `${count(top)} requests`, bars);
}

function drawGrowth(samples) {
  const known = samples.filter((sample) => sample.bytes !== undefined);
  const top = Math.max(1, ...known.map((sample) => sample.bytes));
  const svg = drawing(`Size of the store over time, now ${size(known.length ? known.at(-1).bytes : 0)}`);
  const x = (number) => (known.length > 1 ? (number * 600) / (known.length - 1) : 600);
  const points = known.map((sample, number) => `${x(number).toFixed(1)},${(140 - (sample.bytes / top) * 125).toFixed(1)}`);
  if (points.length === 1) points.unshift(`0,${points[0].split(",")[1]}`);
  if (points.length) {
    shape(svg, "polygon", { class: "area", points: `0,140 ${points.join(" ")} 600,140` });
    shape(svg, "polyline", { class: "line", points: points.join(" ") });
  }
  frame($("growth"), svg, size(top), known);
}

/* What is going on */

function show(status) {
  $("version").textContent = status.version;
  $("host").textContent = location.host;
  const many = (number, one) => `${count(number)} ${one}${number === 1 ? "" : "s"}`;
  $("state").textContent = `Up for ${duration(status.up_s)} · ${many(status.workers, "worker")} · ${many(status.transfers, "transfer")} now`;
  $("warm-section").hidden = !status.can_warm;
  const store = status.store;
  tiles($("store-tiles"), [
    ["Size", store.bytes === undefined ? "being measured" : size(store.bytes)],
    ["Files", store.files === undefined ? "…" : count(store.files)],
    ["Sent", size(status.sent_bytes)],
    ["Fetched", size(status.fetched_bytes)],
  ]);
  const answers = status.answers;
  tiles($("request-tiles"), [
    ["Hits", count(answers.hit), "hit"],
    ["Fetched", count(answers.cold), "cold"],
    ["Misses", count(answers.miss), "miss"],
    ["Failed", count((answers.failed || 0) + (answers.late || 0) + (answers.cut || 0)), "failed"],
  ]);
  if (status.samples) {
    drawGrowth(status.samples);
    drawAnswers(status.samples);
  }
  $("now-state").textContent = status.downloads.length ? "" : "No downloads.";
  fill($("now-table"), status.downloads.map((each) => [
    each.index,
    each.upstream || "asking",
    each.size_bytes ? `${size(each.whole_bytes)} of ${size(each.size_bytes)}` : "…",
    count(each.readers),
  ]));
  if (!status.missing) return;
  $("missing-state").textContent = status.missing.length ? "Files that clients asked for and no upstream has." : "Nothing is missing.";
  fill($("missing-table"), status.missing.map((each) => [each.index, `${count(each.times)}×`, when(each.since_s)]));
}

function duration(seconds) {
  const minutes = Math.floor(seconds / 60);
  if (minutes < 1) return `${Math.floor(seconds)} s`;
  if (minutes < 120) return `${minutes} min`;
  return minutes < 2880 ? `${Math.floor(minutes / 60)} h` : `${Math.floor(minutes / 1440)} days`;
}

let refreshed = 0;

async function refresh() {
  try {
    const answer = await fetch(refreshed++ % FULL_EVERY ? "-/status?brief" : "-/status", { cache: "no-store" });
    if (!answer.ok) throw new Error(`status ${answer.status}`);
    show(await answer.json());
    document.body.dataset.ready = "yes";
  } catch (error) {
    $("state").textContent = `The server does not answer: ${error.message}`;
  }
  if (!document.hidden) setTimeout(refresh, REFRESH_MS);
}

document.addEventListener("visibilitychange", () => { if (!document.hidden) refresh(); });

/* Search */

let searches = 0;

async function search(event) {
  event.preventDefault();
  const text = $("q").value.trim();
  if (!text) return;
  const number = ++searches;
  $("search-state").textContent = "Searching…";
  try {
    const answer = await fetch(`-/search?q=${encodeURIComponent(text)}`);
    const found = await answer.json();
    if (number !== searches) return; // the answer to an earlier search came late
    const missing = found.missing.map((each) => [each.index, `missing, asked for ${count(each.times)}×`]);
    fill($("search-table"), [
      ...found.files.map((each) => {
        const cell = make("td");
        const link = make("a", each.index);
        link.href = `${each.index.split("/").map(encodeURIComponent).join("/")}`;
        link.download = "";
        cell.append(link);
        return [cell, size(each.bytes)];
      }),
      ...missing,
    ]);
    const more = found.is_complete ? "" : " There are more; say more of the name.";
    $("search-state").textContent = `${count(found.files.length)} in the store, ${count(found.missing.length)} missing.${more}`;
  } catch (error) {
    if (number === searches) $("search-state").textContent = `Failed: ${error.message}`;
  }
}

/* Warming */

let running = null;

async function warm(event) {
  event.preventDefault();
  const input = $("file").files[0] || ($("paste").value.trim() ? new Blob([$("paste").value]) : null);
  $("run").hidden = false;
  if (!input) {
    $("run-state").textContent = "Paste text or choose a file.";
    return;
  }
  running = new AbortController();
  $("stop").hidden = false;
  const seen = new Map();
  const body = $("run-table").tBodies[0];
  body.replaceChildren();
  const state = { wanted: 0, settled: 0 };
  $("run-state").textContent = "Sending…";
  $("run-bar").removeAttribute("value");
  try {
    const answer = await fetch(`-/warm?images=${$("images").checked ? "all" : "auto"}`, {
      method: "POST",
      headers: { "Content-Type": "application/octet-stream", "X-Symcache": "warm" },
      body: input,
      signal: running.signal,
    });
    if (!answer.ok) throw new Error((await answer.text()).trim());
    for await (const line of lines(answer.body)) take(JSON.parse(line), state, seen, body);
  } catch (error) {
    $("run-state").textContent = error.name === "AbortError" ? "Stopped; what was fetched is kept." : `Failed: ${error.message}`;
  }
  $("stop").hidden = true;
  running = null;
}

async function* lines(stream) {
  const reader = stream.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    const parts = (rest + (value || "")).split("\n");
    rest = parts.pop();
    yield* parts.filter((part) => part);
    if (done) return;
  }
}

function take(said, state, seen, body) {
  if (said.event === "planned") {
    state.wanted = said.wanted;
  } else if (said.event === "settled") {
    state.settled += 1;
    const row = seen.get(said.index) || make("tr");
    row.replaceChildren(make("td", said.index), make("td", said.state, `state-${said.state}`));
    seen.set(said.index, row);
    body.append(row);
  } else if (said.event === "failed") {
    throw new Error(said.text);
  } else if (said.event === "report") {
    const sum = said.report.summary;
    body.replaceChildren(...said.report.symbols.map((symbol) => {
      const row = make("tr");
      const cause = symbol.cause ? `${symbol.state}: ${symbol.cause}` : symbol.state;
      row.append(make("td", symbol.index || symbol.module), make("td", cause, `state-${symbol.state}`));
      return row;
    }));
    const unreadable = said.report.unreadable.map((each) => ` ${each.path || "input"}: ${each.problem}.`).join("");
    $("run-state").textContent = `${count(sum.wanted)} wanted: ${count(sum.present)} present, ${count(sum.fetched)} fetched (${size(sum.bytes)}), ${count(sum.missing)} missing, ${count(sum.failed)} failed.${unreadable}`;
    $("run-bar").max = $("run-bar").value = 1;
    return;
  }
  $("run-bar").max = Math.max(1, state.wanted);
  $("run-bar").value = state.settled;
  $("run-state").textContent = state.wanted ? `${count(state.settled)} of ${count(state.wanted)}` : "Reading…";
}

function dropping() {
  const drop = $("drop");
  for (const name of ["dragenter", "dragover"]) {
    drop.addEventListener(name, (event) => { event.preventDefault(); drop.classList.add("over"); });
  }
  for (const name of ["dragleave", "drop"]) drop.addEventListener(name, () => drop.classList.remove("over"));
  drop.addEventListener("drop", (event) => {
    event.preventDefault();
    if (event.dataTransfer.files.length) $("file").files = event.dataTransfer.files;
  });
}

for (const button of document.querySelectorAll("[data-shell]")) {
  button.addEventListener("click", () => choose(button.dataset.shell));
}
$("copy").addEventListener("click", copy);
$("search-form").addEventListener("submit", search);
$("warm-form").addEventListener("submit", warm);
$("stop").addEventListener("click", () => running && running.abort());
$("paste").addEventListener("input", () => { $("file").value = ""; });
dropping();
choose("windbg");
refresh();
