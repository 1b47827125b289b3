"use strict";

const $ = (id) => document.getElementById(id);
const REFRESH_MS = 2000;
const FULL_EVERY = 15;
const SVG = "http://www.w3.org/2000/svg";
const MOST_ROWS = 500;

// Names come from dumps and servers of others: they become text, never markup. Lines end between words and after the
// marks of paths; inside a word only where it is longer than any id, wider than a phone.
function put(element, text) {
  const piece = /\s+|(?:https?:\/\/)?[^\s/\\*;]{1,36}[/\\*;]*|[/\\*;]+/g;
  const parts = String(text).match(piece) || [];
  element.replaceChildren(...parts.flatMap((part, number) => {
    const isInWord = number > 0 && /\S/.test(part) && /\S/.test(parts[number - 1]);
    return isInWord ? [document.createElement("wbr"), part] : [part];
  }));
}

function make(name, text, className) {
  const element = document.createElement(name);
  if (text !== undefined) put(element, text);
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
const many = (number, one) => `${count(number)} ${one}${number === 1 ? "" : "s"}`;
const when = (seconds) => {
  return seconds ? new Date(seconds * 1000).toLocaleString([], { dateStyle: "medium", timeStyle: "short" }) : "not known";
};

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
  put($("command"), commands[shell]);
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

// What a chart can show: how far back, in spans of how many seconds, with a time at every so many of them.
const RANGES = {
  hour: { back: 3600, span: 300, every: 600, per: "5 minutes" },
  day: { back: 86400, span: 1800, every: 10800, per: "30 minutes" },
  week: { back: 604800, span: 10800, every: 86400, per: "3 hours" },
};
const KINDS = { hit: "hits", cold: "fetched", miss: "misses", failed: "failed" };
const HEIGHT = 180;
const PLOT = { left: 62, right: 8, top: 10, bottom: 22 };

// Local midnights and full hours stand at round numbers of this clock, in which summer time does not exist.
const local = (seconds) => seconds - new Date(seconds * 1000).getTimezoneOffset() * 60;
const clock = (seconds) => {
  return new Date(seconds * 1000).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit", hourCycle: "h23" });
};
const weekday = (seconds) => new Date(seconds * 1000).toLocaleDateString([], { weekday: "short", day: "numeric" });

function shape(parent, name, attributes, text) {
  const element = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  if (text !== undefined) element.textContent = text;
  parent.append(element);
  return element;
}

// The least of 1, 2, 5, 10, … that divides what is shown into four parts at most.
function stepOf(top) {
  const ten = 10 ** Math.floor(Math.log10(Math.max(top, 1) / 4));
  return Math.max(1, [1, 2, 5, 10].map((factor) => factor * ten).find((step) => step * 4 >= top));
}

// A chart of points {t, span, …}. The arrow keys and the pointer choose one, whose values are told below and, as those
// of a slider, to screen readers.
class Chart {
  constructor(id, { label, rate, valueOf, unit, tell, draw }) {
    Object.assign(this, { box: $(id), label, rate, valueOf, unit, tell, draw });
    Object.assign(this, { wish: "day", samples: [], points: [], at: null });
    this.words = make("p", "", "note");
    this.box.tabIndex = 0;
    this.box.setAttribute("role", "slider");
    this.ranges = this.box.parentNode.querySelector(".ranges");
    for (const name of Object.keys(RANGES)) {
      const button = make("button", name);
      button.type = "button";
      button.dataset.range = name;
      button.addEventListener("click", () => { this.wish = name; this.at = null; this.show(this.samples); });
      this.ranges.append(button);
    }
    this.box.addEventListener("keydown", (event) => this.move(event));
    this.box.addEventListener("pointermove", (event) => this.point(event));
    this.box.addEventListener("pointerdown", (event) => this.point(event));
    this.box.addEventListener("pointerleave", () => { if (document.activeElement !== this.box) this.choose(null); });
    this.box.addEventListener("focus", () => this.choose(this.at ?? this.points.at(-1)?.t ?? null));
    this.box.addEventListener("blur", () => this.choose(null));
    let width = 0;
    new ResizeObserver(() => requestAnimationFrame(() => { // what is drawn would change the size again
      if (width !== this.box.clientWidth) this.show(this.samples);
      width = this.box.clientWidth;
    })).observe(this.box);
    this.show([]);
  }

  show(samples) {
    this.samples = samples;
    const names = Object.keys(RANGES);
    const last = samples.length ? samples.at(-1).t : Date.now() / 1000;
    const reach = samples.length ? last - samples[0].t : 0;
    // A longer range than the shortest one that shows all would show no more.
    const enough = names.findIndex((name) => RANGES[name].back >= reach);
    const longest = enough < 0 ? names.length - 1 : enough;
    this.range = names[Math.min(names.indexOf(this.wish), longest)];
    names.forEach((name, number) => {
      this.ranges.children[number].disabled = number > longest;
      this.ranges.children[number].setAttribute("aria-pressed", String(name === this.range));
    });
    const { back, span, per } = RANGES[this.range];
    this.box.parentNode.querySelector(".per").textContent = ` ${this.rate} ${per}`;
    this.end = last - (local(last) % span) + span;
    this.begin = this.end - back;
    this.points = gather(samples.filter((sample) => sample.t >= this.begin), span);
    this.paint();
  }

  paint() {
    const width = Math.max(this.box.clientWidth, 200);
    const svg = document.createElementNS(SVG, "svg");
    svg.setAttribute("viewBox", `0 0 ${width} ${HEIGHT}`);
    svg.setAttribute("aria-hidden", "true");
    const step = stepOf(Math.max(1, ...this.points.map(this.valueOf)));
    const top = step * Math.ceil(Math.max(1, ...this.points.map(this.valueOf)) / step);
    const right = width - PLOT.right;
    const floor = HEIGHT - PLOT.bottom;
    this.x = (t) => PLOT.left + ((t - this.begin) / (this.end - this.begin)) * (right - PLOT.left);
    const y = (value) => floor - (value / top) * (floor - PLOT.top);
    for (let value = 0; value <= top; value += step) {
      shape(svg, "line", { class: value ? "grid" : "axis", x1: PLOT.left, y1: y(value), x2: right, y2: y(value) });
      shape(svg, "text", { class: "up", x: PLOT.left - 6, y: y(value) + 4 }, this.unit(value));
    }
    const { every } = RANGES[this.range];
    const each = every * Math.max(1, Math.ceil(60 / ((every / (this.end - this.begin)) * (right - PLOT.left))));
    for (let t = this.begin + (each - (local(this.begin) % each)) % each; t <= this.end; t += each) {
      shape(svg, "line", { class: "axis", x1: this.x(t), y1: floor, x2: this.x(t), y2: floor + 4 });
      const text = every < RANGES.day.back ? clock(t) : weekday(t);
      if (this.x(t) + 18 < width) shape(svg, "text", { class: "along", x: this.x(t), y: HEIGHT - 5 }, text);
    }
    this.draw(svg, this.points, this.x, y);
    this.mark = shape(svg, "line", { class: "at", y1: PLOT.top, y2: floor, visibility: "hidden" });
    this.box.replaceChildren(svg, this.words);
    this.box.setAttribute("aria-label", `${this.label}, last ${this.range}; arrow keys go through it`);
    this.box.setAttribute("aria-valuemin", 0);
    this.box.setAttribute("aria-valuemax", Math.max(0, this.points.length - 1));
    this.choose(this.at);
  }

  choose(t) {
    this.at = t;
    const number = this.points.findIndex((point) => point.t === t);
    const point = this.points[number] || this.points.at(-1);
    this.box.setAttribute("aria-valuenow", number < 0 ? Math.max(0, this.points.length - 1) : number);
    this.box.setAttribute("aria-valuetext", point ? `${this.timeOf(point)}: ${this.tell(point)}` : "nothing yet");
    this.mark.setAttribute("visibility", number < 0 ? "hidden" : "visible");
    if (number < 0) {
      put(this.words, this.points.length ? "" : "Nothing yet.");
      return;
    }
    const x = this.x(point.t + point.span / 2);
    this.mark.setAttribute("x1", x);
    this.mark.setAttribute("x2", x);
    put(this.words, `${this.timeOf(point)}: ${this.tell(point)}`);
  }

  timeOf(point) {
    const day = new Date(point.t * 1000).toLocaleDateString([], { dateStyle: "medium" });
    return `${day}, ${clock(point.t)} to ${clock(point.t + point.span)}`;
  }

  move(event) {
    const last = this.points.length - 1;
    const now = this.points.findIndex((point) => point.t === this.at);
    const steps = { ArrowLeft: -1, ArrowDown: -1, ArrowRight: 1, ArrowUp: 1, PageDown: -6, PageUp: 6 };
    Object.assign(steps, { Home: -last, End: last });
    if (!(event.key in steps) || last < 0) return;
    event.preventDefault();
    this.choose(this.points[Math.min(last, Math.max(0, (now < 0 ? last : now) + steps[event.key]))].t);
  }

  point(event) {
    const x = event.clientX - this.box.getBoundingClientRect().left;
    const off = (point) => Math.abs(this.x(point.t + point.span / 2) - x);
    if (this.points.length) this.choose(this.points.reduce((best, point) => (off(point) < off(best) ? point : best)).t);
  }
}

// Samples of five minutes, put together into longer spans that begin at full local hours.
function gather(samples, span) {
  const points = [];
  for (const sample of samples) {
    const t = sample.t - (local(sample.t) % span);
    if (!points.length || points.at(-1).t !== t) points.push({ t, span, hit: 0, cold: 0, miss: 0, failed: 0 });
    const point = points.at(-1);
    for (const kind of Object.keys(KINDS)) point[kind] += Number(sample[kind] || 0);
    if (sample.bytes !== undefined) point.bytes = sample.bytes;
  }
  return points;
}

const total = (point) => Object.keys(KINDS).reduce((sum, kind) => sum + point[kind], 0);

const charts = [
  new Chart("answers", {
    label: "Answers over time",
    rate: "in every",
    valueOf: total,
    unit: count,
    tell: (point) => Object.entries(KINDS).map(([kind, name]) => `${count(point[kind])} ${name}`).join(", "),
    draw(svg, points, x, y) {
      for (const point of points) {
        const left = x(point.t);
        const width = Math.max(1, (x(point.t + point.span) - left) * 0.85);
        let sum = 0;
        for (const kind of Object.keys(KINDS).filter((each) => point[each])) {
          const height = y(sum) - y(sum + point[kind]);
          sum += point[kind];
          shape(svg, "rect", { class: kind, x: left, y: y(sum), width, height });
        }
      }
    },
  }),
  new Chart("growth", {
    label: "Size of the store over time",
    rate: "after every",
    valueOf: (point) => point.bytes || 0,
    unit: size,
    tell: (point) => (point.bytes === undefined ? "not measured" : size(point.bytes)),
    draw(svg, points, x, y) {
      const known = points.filter((point) => point.bytes !== undefined);
      if (!known.length) return;
      const right = x(known.at(-1).t + known.at(-1).span / 2);
      const line = known.map((point) => [x(point.t + point.span / 2), y(point.bytes)]);
      if (line.length === 1) line.unshift([PLOT.left, line[0][1]]);
      const text = line.map((pair) => pair.map((value) => value.toFixed(1)).join(",")).join(" ");
      shape(svg, "polygon", { class: "area", points: `${line[0][0]},${y(0)} ${text} ${right},${y(0)}` });
      shape(svg, "polyline", { class: "line", points: text });
    },
  }),
];

/* What is going on */

function show(status) {
  $("version").textContent = status.version;
  $("host").textContent = location.host;
  $("state").textContent = `Up for ${duration(status.up_s)} · ${status.replicas > 1 ? `${many(status.replicas, "replica")} · ` : ""}${many(status.workers, "worker")} · ${many(status.transfers, "transfer")} now`;
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
  const watched = status.watched;
  $("watched").hidden = !watched;
  if (watched) tiles($("watch-tiles"), [
    ["Complete", count(watched.complete), "hit"],
    ["Incomplete", count(watched.missing), "miss"],
    ["Failed", count(watched.failed), "failed"],
    ["Unreadable", count(watched.unreadable), "failed"],
  ]);
  if (status.samples) for (const chart of charts) chart.show(status.samples);
  $("now-state").textContent = status.downloads.length ? "" : "No downloads.";
  fill($("now-table"), status.downloads.map((each) => [
    make("td", each.index, "file"),
    each.upstream || "asking",
    make("td", each.size_bytes ? `${size(each.whole_bytes)} of ${size(each.size_bytes)}` : "…", "number"),
    make("td", count(each.readers), "number"),
  ]));
  if (!status.missing) return;
  $("missing-state").textContent = status.missing.length ? "Files that clients asked for and no upstream has." : "Nothing is missing.";
  fill($("missing-table"), status.missing.map((each) => [
    make("td", each.index, "file"),
    make("td", `${count(each.times)}×`, "number"),
    make("td", when(each.since_s), "number"),
    make("td", each.maker, "text"),
    make("td", each.advice, "text"),
  ]));
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
    const missing = found.missing.map((each) => {
      return [make("td", each.index, "file"), `missing, asked for ${count(each.times)}×`];
    });
    fill($("search-table"), [
      ...found.files.map((each) => {
        const cell = make("td", undefined, "file");
        const link = make("a", each.index);
        link.href = `${each.index.split("/").map(encodeURIComponent).join("/")}`;
        link.download = "";
        cell.append(link);
        return [cell, make("td", size(each.bytes), "number")];
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

const STATES = ["missing", "failed", "present", "fetched"];
const TROUBLE = ["missing", "failed"];
const FORMS = {
  ".html": "HTML", ".xml": "JUnit", ".csv": "CSV", ".md": "Markdown", ".txt": "text", ".json": "JSON",
  ".log": "debugger's log",
};
const order = new Intl.Collator(undefined, { numeric: true }).compare;

let running = null;
let result = { rows: [], column: "order", rises: true };
let links = [];

async function warm(event) {
  event.preventDefault();
  const input = $("file").files[0] || ($("paste").value.trim() ? new Blob([$("paste").value]) : null);
  $("run").hidden = false;
  if (!input) {
    $("run-state").textContent = "Paste text or choose a file.";
    return;
  }
  if (running) running.abort();
  const own = running = new AbortController();
  $("stop").hidden = false;
  clearRun();
  const state = { wanted: 0, settled: 0 };
  $("run-state").textContent = "Sending…";
  $("run-bar").removeAttribute("value");
  try {
    const forms = Object.keys(FORMS).map((suffix) => suffix.slice(1));
    const answer = await fetch(`-/warm?images=${$("images").checked ? "all" : "auto"}&forms=${forms}`, {
      method: "POST",
      headers: { "Content-Type": "application/octet-stream", "X-Symcache": "warm" },
      body: input,
      signal: own.signal,
    });
    if (!answer.ok) throw new Error((await answer.text()).trim());
    for await (const line of lines(answer.body)) take(JSON.parse(line), state);
  } catch (error) {
    if (running !== own) return; // another run has begun
    $("run-state").textContent = error.name === "AbortError" ? "Stopped; what was fetched is kept." : `Failed: ${error.message}`;
  }
  $("stop").hidden = true;
  running = null;
}

function clearRun() {
  result = { rows: [], column: "order", rises: true };
  links.forEach(URL.revokeObjectURL);
  links = [];
  $("run-forms").replaceChildren("Report as");
  $("run-table").tBodies[0].replaceChildren();
  for (const id of ["run-forms", "run-advice", "run-report"]) $(id).hidden = true;
  $("run-ready").replaceChildren();
  $("run-words").value = "";
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

function take(said, state) {
  if (said.event === "planned") {
    state.wanted = said.wanted;
  } else if (said.event === "settled") {
    state.settled += 1;
    showSettled(said);
  } else if (said.event === "failed") {
    throw new Error(said.text);
  } else if (said.event === "report") {
    showReport(said.report);
    return;
  } else if (said.event === "form") {
    offer(said);
    return;
  }
  $("run-bar").max = Math.max(1, state.wanted);
  $("run-bar").value = state.settled;
  $("run-state").textContent = state.wanted ? `${count(state.settled)} of ${count(state.wanted)}` : "Reading…";
}

function showSettled(said) {
  const body = $("run-table").tBodies[0];
  const row = rowOf({ state: said.state, module: "", file: said.index, maker: "", bytes: null, why: "" });
  if (TROUBLE.includes(said.state)) body.prepend(row);
  else body.append(row);
  if (body.rows.length > MOST_ROWS) body.lastChild.remove();
}

function rowOf(each) {
  const row = make("tr");
  const module = make("td", each.module, "text");
  if (each.isOnStack) module.append(make("br"), make("span", "on the crash's stack", "soft"));
  row.append(
    make("td", each.state, `state-${each.state}`), module, make("td", each.file, "file"), make("td", each.maker, "text"),
    make("td", each.bytes === null ? "" : size(each.bytes), "number"), make("td", each.why, "text"),
  );
  return row;
}

function showReport(report) {
  const unreadable = report.unreadable.map((each) => ` ${each.path}: ${each.problem}.`).join("");
  put($("run-state"), `${report.text}.${unreadable}`);
  $("run-bar").max = $("run-bar").value = 1;
  $("run-ready").replaceChildren(...report.readiness.map((line) => make("li", line)));
  $("run-advice").hidden = !report.groups.length;
  $("run-advice").lastElementChild.replaceChildren(...report.groups.map((group) => {
    const item = make("li");
    const files = make("b", many(group.files, "file"), `state-${group.state}`);
    item.append(files, make("span", ` ${group.title}: ${group.advice}`));
    const servers = Object.entries(group.servers).map(([maker, url]) => `${maker} has a public server: ${url}`);
    for (const line of [group.said, ...servers].filter(Boolean)) item.append(make("br"), make("span", line, "soft"));
    return item;
  }));
  result.rows = report.symbols.map((symbol, number) => {
    const { state, module, bytes, why } = symbol;
    const each = { order: number, state, module, file: symbol.index || "", maker: symbol.made_by, bytes, why };
    each.isOnStack = Boolean(symbol.on_stack);
    const stack = each.isOnStack ? "on the crash's stack" : "";
    each.words = [state, module, each.file, each.maker, why, stack].join(" ").toLowerCase();
    return each;
  });
  const isTroubled = TROUBLE.some((state) => report.summary[state]);
  $("run-states").replaceChildren(...STATES.map((state) => {
    const label = make("label", undefined, "check");
    const box = make("input");
    Object.assign(box, { type: "checkbox", value: state, checked: !isTroubled || TROUBLE.includes(state) });
    label.append(box, make("span", `${state} (${count(report.summary[state])})`));
    return label;
  }));
  $("run-report").hidden = !result.rows.length;
  showRows();
}

function showRows() {
  const { column, rises } = result;
  const words = $("run-words").value.toLowerCase().split(/\s+/).filter(Boolean);
  const states = new Set([...$("run-states").querySelectorAll("input:checked")].map((box) => box.value));
  const shown = result.rows.filter((each) => states.has(each.state) && words.every((word) => each.words.includes(word)));
  const compare = (one, other) => (typeof one === "string" ? order(one, other) : (one ?? -1) - (other ?? -1));
  shown.sort((one, other) => (rises ? 1 : -1) * compare(one[column], other[column]) || one.order - other.order);
  $("run-table").tBodies[0].replaceChildren(...shown.slice(0, MOST_ROWS).map(rowOf));
  for (const button of $("run-table").querySelectorAll("[data-column]")) {
    if (button.dataset.column !== column) button.parentNode.removeAttribute("aria-sort");
    else button.parentNode.setAttribute("aria-sort", rises ? "ascending" : "descending");
  }
  const cut = shown.length > MOST_ROWS ? `; the first ${count(MOST_ROWS)} are listed, all are in the report` : "";
  $("run-shown").textContent = `${count(shown.length)} of ${many(result.rows.length, "file")}${cut}`;
}

function sortBy(column) {
  if (!result.rows.length) return;
  result.rises = result.column !== column || !result.rises;
  result.column = column;
  showRows();
}

// The server keeps nothing of a run: its report lies here, for as long as this page is open or another run begins.
function offer({ suffix, text }) {
  $("run-forms").hidden = false;
  if (text === null) {
    $("run-forms").append(make("span", `${FORMS[suffix]}: too long; run symcache warm where the input is`, "soft"));
    return;
  }
  const link = make("a", FORMS[suffix]);
  link.href = URL.createObjectURL(new Blob([text], { type: "application/octet-stream" })); // to be saved, never shown
  link.download = `symbols${suffix}`;
  links.push(link.href);
  $("run-forms").append(link);
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
for (const button of document.querySelectorAll("[data-column]")) {
  button.addEventListener("click", () => sortBy(button.dataset.column));
}
$("run-filter").addEventListener("input", showRows);
$("run-filter").addEventListener("submit", (event) => event.preventDefault());
$("stop").addEventListener("click", () => running && running.abort());
$("paste").addEventListener("input", () => { $("file").value = ""; });
dropping();
choose("windbg");
refresh();
