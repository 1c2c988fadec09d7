// The page asks for JSON and draws it. Whatever comes from there is set as text, never as markup.

const $ = (id) => document.getElementById(id);
const SVG = "http://www.w3.org/2000/svg";
const OUTCOMES = [
  ["hits", "hit", "Hits"],
  ["coalesced", "coalesced", "Coalesced"],
  ["stale", "stale", "Stale"],
  ["misses", "miss", "Misses"],
  ["bypassed", "bypassed", "Bypassed"],
  ["unanswered", "other", "Other"],
];
const COLOURS = { hit: "hit", revalidated: "hit", collapsed: "coalesced", stale: "stale", miss: "miss", bypass: "bypassed" };
/** What a breaker says, in the words of a link: closed is not what is closed to us. */
const LINK = { closed: "up", open: "down", probing: "down, being tried" };
const PERIOD = 5000;

let hours = 1;
let token = sessionStorage.getItem("token");
let timer = 0;
let round = 0;
let isListed = false;
let next = null;

const number = new Intl.NumberFormat("en", { maximumFractionDigits: 1, notation: "compact" });
const whole = new Intl.NumberFormat("en");

function usd(amount) {
  if (amount === null || amount === undefined) return "unknown";
  if (amount === 0) return "$0.00";
  const digits = amount >= 1 ? 2 : Math.min(9, 1 - Math.floor(Math.log10(amount)) + 1);
  return "$" + amount.toLocaleString("en", { minimumFractionDigits: 2, maximumFractionDigits: Math.max(2, digits) });
}

function span(seconds) {
  if (seconds < 1) return `${Math.round(seconds * 1000)} ms`;
  if (seconds < 120) return `${seconds.toFixed(1)} s`;
  if (seconds < 7200) return `${(seconds / 60).toFixed(1)} min`;
  if (seconds < 172800) return `${(seconds / 3600).toFixed(1)} h`;
  return `${(seconds / 86400).toFixed(1)} d`;
}

function ms(value) {
  if (value === null || value === undefined) return "–";
  return value < 10 ? `${value.toFixed(2)} ms` : value < 1000 ? `${Math.round(value)} ms` : `${(value / 1000).toFixed(2)} s`;
}

const percent = (share) => `${(100 * share).toFixed(1)} %`;

function clock(at, long) {
  const time = new Date(at * 1000);
  const day = hours > 24 || long ? { month: "short", day: "numeric" } : {};
  return time.toLocaleString([], { hour: "2-digit", minute: "2-digit", ...day, ...(long ? { second: "2-digit" } : {}) });
}

function node(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

function shape(name, attributes = {}, text) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text !== undefined) made.textContent = text;
  return made;
}

/** What shows nothing of itself, or changes what stands beside it: controls, marks of direction, blanks other than one between words. */
const ODD = /^ +| +$| {2,}|(?! )[\p{C}\p{Z}\p{Default_Ignorable_Code_Point}\u2800]/gu;

/** A value as text that neither turns its neighbours around nor hides what is in it. */
function plain(value) {
  const text = String(value ?? "–");
  const shown = node("bdi");
  const odd = (name) => node("span", { class: "odd" }, name);
  if (text === "") shown.append(odd("empty"));
  let from = 0;
  for (const { 0: found, index } of text.matchAll(ODD)) {
    shown.append(text.slice(from, index), ...Array.from(found, (sign) => odd(`U+${sign.codePointAt(0).toString(16).toUpperCase().padStart(4, "0")}`)));
    from = index + found.length;
  }
  shown.append(text.slice(from));
  return shown;
}

/** Header fields take bytes, one a character; a token is compared as it was set: in UTF-8. */
const bytes = (text) => String.fromCharCode(...new TextEncoder().encode(text));

async function ask(path, options = {}) {
  const headers = { ...options.headers };
  if (token) headers.authorization = `Bearer ${bytes(token)}`;
  const response = await fetch(path, { ...options, headers, cache: "no-store" });
  const body = await response.json().catch(() => ({}));
  if (!response.ok) throw Object.assign(new Error(body?.error?.message ?? `status ${response.status}`), { status: response.status });
  return body;
}

// Charts

const HIGH = 190, BOTTOM = 20, TOP = 6;

function ceiling(most) {
  if (most <= 0) return 1;
  const unit = 10 ** Math.floor(Math.log10(most));
  return [1, 2, 3, 4, 5, 6, 8, 10].map((step) => step * unit).find((step) => step >= most);
}

function frame(id, title, keys, slices, show, top, log) {
  const figure = $(id);
  // As many units as pixels, so that nothing is stretched.
  const wide = Math.max(figure.clientWidth - 38, 220);
  const caption = node("figcaption", {}, node("h2", {}, title));
  const occurs = ([key]) => slices.some((slice) => slice[key]);
  for (const [, colour, name] of keys.some(occurs) ? keys.filter(occurs) : keys) caption.append(node("span", { class: `key c-${colour}` }, node("span", {}, name)));
  const svg = shape("svg", { viewBox: `0 0 ${wide} ${HIGH}`, role: "img" });
  const height = HIGH - BOTTOM - TOP;
  const y = log
    ? (value) => TOP + height * (1 - Math.log10(Math.max(value, log) / log) / Math.log10(top / log))
    : (value) => TOP + height * (1 - value / top);
  const marks = log ? decades(log, top) : [0, top / 2, top];
  // As much room as the longest of them takes.
  const left = Math.max(52, 10 + 7 * Math.max(...marks.map((mark) => show(mark).length)));
  for (const mark of marks) {
    svg.append(shape("line", { class: "grid", x1: left, x2: wide, y1: y(mark), y2: y(mark) }));
    svg.append(shape("text", { x: left - 6, y: y(mark) + 4, "text-anchor": "end" }, show(mark)));
  }
  const width = (wide - left) / Math.max(slices.length, 1);
  const x = (place) => left + width * place;
  const every = Math.max(1, Math.ceil(slices.length / Math.max(2, Math.floor(wide / (hours > 24 ? 130 : 90)))));
  slices.forEach((slice, place) => {
    if (place % every === 0) svg.append(shape("text", { x: x(place), y: HIGH - 4 }, clock(slice.at)));
  });
  // What takes the focus stays where it is: a new drawing must not take it away from who is there.
  if (!figure.querySelector("details")) {
    const table = node("div", { class: "scroll" }, node("table"));
    figure.append(node("div"), node("div"), node("details", {}, node("summary", {}, "As a table"), table));
  }
  figure.children[0].replaceWith(caption);
  figure.children[1].replaceWith(svg);
  const rows = slices.filter((slice) => keys.some(([key]) => slice[key])).map((slice) => [clock(slice.at, true), ...keys.map(([key]) => [show(slice[key] ?? 0), "n"])]);
  fill(figure.querySelector("table"), ["Time", ...keys.map(([, , name]) => [name, "n"])], rows);
  return { svg, x, y, width };
}

function decades(least, most) {
  const marks = [];
  for (let mark = least; mark <= most * 1.001; mark *= 10) marks.push(mark);
  return marks.length > 5 ? marks.filter((_, place) => place % 2 === 0) : marks;
}

function bars(id, title, keys, slices, show) {
  const sum = (slice) => keys.reduce((all, [key]) => all + (slice[key] ?? 0), 0);
  const { svg, x, y, width } = frame(id, title, keys, slices, show, ceiling(Math.max(0, ...slices.map(sum))));
  const all = keys.map(([key, , name]) => `${name.toLowerCase()} ${show(slices.reduce((sum, slice) => sum + (slice[key] ?? 0), 0))}`);
  svg.setAttribute("aria-label", `${title}: ${all.join(", ")}`);
  slices.forEach((slice, place) => {
    let below = 0;
    const group = shape("g");
    group.append(shape("title", {}, `${clock(slice.at, true)}\n${keys.map(([key, , name]) => `${name} ${show(slice[key] ?? 0)}`).join("\n")}`));
    for (const [key, colour] of keys) {
      const value = slice[key] ?? 0;
      if (value <= 0) continue;
      const top = y(below + value);
      group.append(shape("rect", { class: `fill c-${colour}`, x: x(place) + width * 0.1, width: Math.max(width * 0.8, 1), y: top, height: Math.max(y(below) - top, 0.5) }));
      below += value;
    }
    svg.append(group);
  });
}

function lines(id, title, keys, slices, show, { log } = {}) {
  const values = slices.flatMap((slice) => keys.map(([key]) => slice[key])).filter((value) => value !== null && value !== undefined);
  const most = Math.max(0, ...values);
  const least = log ? 10 ** Math.floor(Math.log10(Math.max(Math.min(...values.filter((value) => value > 0), most || 1), 0.001))) : 0;
  const top = log ? 10 ** Math.ceil(Math.log10(Math.max(most, least * 10))) : ceiling(most);
  const { svg, x, y, width } = frame(id, title, keys, slices, show, top, log ? least : undefined);
  const last = keys.map(([key, , name]) => `${name.toLowerCase()} ${show(slices.findLast((slice) => slice[key])?.[key] ?? 0)}`);
  svg.setAttribute("aria-label", `${title}, at last: ${last.join(", ")}`);
  for (const [key, colour] of keys) {
    const points = slices.map((slice, place) => [x(place + 0.5), slice[key]]).filter(([, value]) => value !== null && value !== undefined);
    if (points.length === 0) continue;
    const line = points.map(([at, value], place) => `${place ? "L" : "M"}${at.toFixed(1)} ${y(value).toFixed(1)}`).join("");
    if (!log) svg.append(shape("path", { class: `area c-${colour}`, d: `${line}L${points.at(-1)[0]} ${y(0)}L${points[0][0]} ${y(0)}Z` }));
    svg.append(shape("path", { class: `stroke c-${colour}`, d: line }));
    if (points.length < 40 || log) {
      for (const [at, value] of points) svg.append(shape("circle", { class: `fill c-${colour}`, cx: at, cy: y(value), r: 2 }));
    }
  }
  slices.forEach((slice, place) => {
    const cover = shape("rect", { x: x(place), width, y: TOP, height: HIGH - BOTTOM - TOP, fill: "transparent" });
    cover.append(shape("title", {}, `${clock(slice.at, true)}\n${keys.map(([key, , name]) => `${name} ${show(slice[key] ?? 0)}`).join("\n")}`));
    svg.append(cover);
  });
}

// Tables

function fill(table, head, rows) {
  const parts = (content) => (Array.isArray(content) ? content : [content]);
  const cell = (name, content, attributes = {}) => {
    const [value, kind] = parts(content);
    return node(name, { ...attributes, ...(kind ? { class: kind } : {}) }, value instanceof Node ? value : plain(value));
  };
  const header = node("thead", {}, node("tr", {}, ...head.map((content) => cell("th", content, { scope: "col" }))));
  // Where there is no room for a table each value stands beside its name.
  const named = (place) => ({ "data-name": parts(head[place])[0] });
  const line = ([first, ...rest]) => node("tr", {}, cell("th", first, { scope: "row" }), ...rest.map((content, place) => cell("td", content, named(place + 1))));
  const body = node("tbody", {}, ...rows.map(line));
  if (rows.length === 0) body.append(node("tr", {}, node("td", { colspan: head.length, class: "empty" }, "Nothing yet")));
  table.replaceChildren(header, body);
}

const GROUP = [["Requests", "n"], ["Hit rate", "n"], ["Median hit", "n"], ["Median miss", "n"], ["Billed", "n"], ["Saved", "n"], ["Tokens", "n"], ["Replayed", "n"], ["Errors", "n"]];

function groups(table, title, by) {
  const rows = Object.entries(by)
    .sort(([, a], [, b]) => b.requests - a.requests)
    .map(([name, of]) => [name, of, of.unpriced >= of.requests])
    .map(([name, of, unknown]) => [
      name,
      [whole.format(of.requests), "n"],
      [percent(of.hit_rate), "n"],
      [ms(of.latency_ms.hit.p50), "n"],
      [ms(of.latency_ms.miss.p50), "n"],
      [unknown ? "unknown" : usd(of.cost_usd), "n"],
      [unknown ? "unknown" : usd(of.saved_usd), "n"],
      [number.format(of.tokens.input + of.tokens.output), "n"],
      [number.format(of.tokens.replayed_input + of.tokens.replayed_output), "n"],
      [whole.format(of.errors), "n"],
    ]);
  fill(table, [title, ...GROUP], rows);
}

/** A table for each label that is summed up; there may be none. */
function labels(by) {
  const known = new Map([...document.querySelectorAll("#groups [data-label]")].map((card) => [card.dataset.label, card]));
  for (const [label, values] of Object.entries(by)) {
    let card = known.get(label);
    if (!card) {
      const title = `By ${plain(label).textContent}`;
      const scroll = node("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": title }, node("table", { class: "stacked" }));
      card = node("div", { class: "card", "data-label": label }, node("h2", {}, title), scroll);
      $("groups").append(card);
    }
    known.delete(label);
    groups(card.querySelector("table"), label.slice(0, 1).toUpperCase() + label.slice(1), values);
  }
  for (const card of known.values()) card.remove();
}

function records(list) {
  const rows = list.map((record) => [
    clock(record.at, true),
    node("span", { class: `tag c-${COLOURS[record.outcome] ?? "other"}` }, node("span", {}, record.reason ? `${record.outcome} (${record.reason})` : record.outcome)),
    record.status,
    record.model,
    record.provider,
    [ms(record.response_time_ms), "n"],
    [record.cost_usd === null ? "–" : usd(record.cost_usd), "n"],
    [record.saved_usd === null ? "–" : usd(record.saved_usd), "n"],
    record.request_id,
  ]);
  fill($("records"), ["Time", "Outcome", "Status", "Model", "Provider", ["Took", "n"], ["Billed", "n"], ["Saved", "n"], "Request"], rows);
}

function pairs(list, entries, wrap) {
  list.replaceChildren(
    ...entries.flatMap(([name, value]) => {
      const pair = [node("dt", {}, name), node("dd", {}, value instanceof Node ? value : plain(value ?? "unknown"))];
      return wrap ? [node("div", {}, ...pair)] : pair;
    }),
  );
}

// What is shown

function show(metrics, series, newest, stats) {
  const text = (id, value) => ($(id).textContent = value);
  const outcome = (name) => metrics.by_outcome[name] ?? 0;
  text("hit-rate", percent(metrics.hit_rate));
  $("hit-bar").style.width = `${100 * metrics.hit_rate}%`;
  text("served", whole.format(outcome("hit") + outcome("revalidated") + outcome("stale") + outcome("collapsed")));
  text("saved-usd", usd(metrics.saved_usd));
  text("cost-usd", usd(metrics.cost_usd));
  text("saved-time", span(metrics.saved_seconds));
  text("requests", whole.format(metrics.requests));
  text("errors", whole.format(metrics.errors));
  text("failed", whole.format(metrics.failed));
  $("unfinished").hidden = metrics.failed === 0;
  text("replayed", number.format(metrics.tokens.replayed_input + metrics.tokens.replayed_output));
  text("fresh", number.format(metrics.tokens.input + metrics.tokens.output));
  text("hit-latency", ms(metrics.latency_ms.hit.p50));
  text("miss-latency", ms(metrics.latency_ms.miss.p50));
  // A cache that is young shows what there is, not the time before it.
  const first = series.findIndex((slice) => slice.requests > 0);
  series = first < 0 ? series : series.slice(Math.max(0, Math.min(first - 1, series.length - 12)));
  for (const slice of series) {
    slice.paid = slice.tokens.input + slice.tokens.output;
    slice.replayed = slice.tokens.replayed_input + slice.tokens.replayed_output;
  }
  bars("chart-requests", "Requests by outcome", OUTCOMES, series, (value) => number.format(value));
  lines("chart-money", "Money", [["saved_usd", "hit", "Saved"], ["cost_usd", "other", "Billed"]], series, usd);
  lines("chart-latency", "Median latency", [["hit_p50_ms", "hit", "Hits"], ["miss_p50_ms", "miss", "Misses"]], series, ms, { log: true });
  bars("chart-tokens", "Tokens", [["replayed", "hit", "Replayed"], ["paid", "other", "Paid for"]], series, (value) => number.format(value));
  groups($("by-model"), "Model", metrics.by_model);
  groups($("by-provider"), "Provider", metrics.by_provider);
  groups($("by-route"), "Route", metrics.by_route);
  labels(metrics.by_label);
  records(newest);
  pairs(
    $("store"),
    [
      ["Store", stats.store_answers ? "answers" : "does not answer"],
      ...(stats.redis ? [["Link to Redis", [LINK[stats.redis.link] ?? stats.redis.link, stats.redis.last_error && `last error: ${stats.redis.last_error}`].filter(Boolean).join(", ")]] : []),
      ["Figures are of", metrics.of_all_processes ? "all who share this Redis" : "this process alone"],
      ["Memory", stats.memory_human],
      ["Stored answers", stats.cached_responses],
      ["Keys", stats.total_keys],
      ["Stored since the start", whole.format(stats.stored)],
      ["Not stored", whole.format(stats.not_stored)],
      ["Store errors", whole.format(stats.store_errors)],
      ["Without a known price", whole.format(stats.unpriced)],
      ["Records dropped", whole.format(metrics.records_dropped)],
    ],
    true,
  );
}

async function refresh() {
  clearTimeout(timer);
  const mine = ++round;
  const link = $("link");
  try {
    const asked = [`metrics?hours=${hours}`, `series?hours=${hours}`, "records?limit=50", "stats"];
    const answers = await Promise.all(asked.map((path) => ask(path)));
    if (mine !== round) return;
    // Charts are as wide as the room that they have.
    $("content").hidden = $("ranges").hidden = false;
    show(...answers);
    if (!$("door").hidden) {
      $("door").hidden = true;
      // What had the focus is gone: who comes in starts at the top.
      $("title").focus();
    }
    if (!isListed) entries(null);
    const store = answers[3].store_answers;
    link.className = store ? "link up" : "link down";
    const said = store ? "live" : "the store does not answer: requests go upstream";
    if (link.textContent !== said) link.textContent = said;
  } catch (error) {
    if (mine !== round) return;
    link.className = "link down";
    if (error.status === 401) {
      $("content").hidden = $("ranges").hidden = true;
      link.textContent = "locked";
      $("door-answer").textContent = token === null ? "" : "That is not the token.";
      if ($("door").hidden) {
        $("sure").close();
        $("door").hidden = false;
        $("token").focus();
      }
      return;
    }
    link.textContent = `no answer: ${error.message}`;
  }
  if (!document.hidden) timer = setTimeout(refresh, PERIOD);
}

for (const button of document.querySelectorAll("[data-hours]")) {
  button.addEventListener("click", () => {
    hours = Number(button.dataset.hours);
    for (const other of document.querySelectorAll("[data-hours]")) other.setAttribute("aria-pressed", String(other === button));
    refresh();
  });
}

$("door").addEventListener("submit", (event) => {
  event.preventDefault();
  // Blanks around it come from where it was copied. What is said twice is only heard if it was gone between.
  token = $("token").value.trim();
  $("door-answer").textContent = "";
  sessionStorage.setItem("token", token);
  refresh();
});

const EXAMPLES = { tag: "team:blue", pattern: "model=gpt-4*", key: "64 hexadecimal digits" };
const HINTS = {
  tag: ["Answers that carry this very tag."],
  pattern: ["*", " is any run of characters, ", "?", " any one, and all else is itself; there are no sets as in ", "[a-z]", ". It is held against keys, models, providers and labels, or against one: ", "model=gpt-4*", "."],
  key: ["The one answer of this key."],
};

function choose(by) {
  $("by").value = by;
  $("value").placeholder = EXAMPLES[by];
  $("hint").replaceChildren(...HINTS[by].map((part, place) => (place % 2 || HINTS[by].length === 1 ? part : node("code", {}, part))));
}

$("by").addEventListener("change", () => choose($("by").value));
choose("tag");

const counted = (count) => `${whole.format(count)} ${count === 1 ? "answer" : "answers"}`;

async function invalidate(by, value) {
  const body = JSON.stringify({ [by]: value });
  return (await ask("invalidate", { method: "POST", headers: { "content-type": "application/json" }, body })).invalidated;
}

/** Fills the form in, and leaves it to the reader to send it. */
function wish(by, value) {
  choose(by);
  $("value").value = value;
  $("value").focus();
}

$("invalidate").addEventListener("submit", async (event) => {
  event.preventDefault();
  const answer = $("invalidated");
  try {
    answer.textContent = `${counted(await invalidate($("by").value, $("value").value))} invalidated`;
    refresh();
    entries(null);
  } catch (error) {
    answer.textContent = error.message;
  }
});

// All at once: the word has to be typed, so that neither a slip nor a key that is held down does it.

$("everything").addEventListener("click", () => {
  $("sure-form").reset();
  $("sure-answer").textContent = "";
  $("sure").showModal();
  $("sure-word").focus();
});
$("sure-not").addEventListener("click", () => $("sure").close());
$("sure-form").addEventListener("submit", async (event) => {
  event.preventDefault();
  try {
    const removed = await invalidate("all", true);
    $("sure").close();
    $("invalidated").textContent = `${counted(removed)} invalidated`;
    refresh();
    entries(null);
  } catch (error) {
    $("sure-answer").textContent = error.message;
  }
});

$("look").addEventListener("submit", async (event) => {
  event.preventDefault();
  const said = $("looked");
  pairs($("entry"), []);
  try {
    const entry = await ask(`entry?key=${encodeURIComponent($("key").value.toLowerCase())}`);
    said.textContent = "";
    pairs($("entry"), [
      ["Status", entry.status],
      ["Size", `${whole.format(entry.bytes)} B`],
      ["Age", span(entry.age_seconds)],
      ["Fresh for", entry.ttl_seconds === null ? "stale" : span(entry.ttl_seconds)],
      ["Model", entry.model],
      ["Provider", entry.provider],
      ["Made for", entry.request_id],
      ["Upstream took", ms(entry.upstream_ms)],
      ["Tags", listed(entry.tags.map(plain))],
      ["Labels", listed(entry.labels.map(([name, value]) => node("span", {}, plain(name), "=", plain(value))))],
    ]);
  } catch (error) {
    said.textContent = error.message;
  }
});

function listed(values) {
  return values.length ? node("span", {}, ...values.flatMap((value, place) => (place ? [", ", value] : [value]))) : "none";
}

// What is stored, page by page. It stays as it is until it is asked for anew: nobody loses their place.

const ENTRIES = 20;

function entryRow(entry) {
  const name = entry.key.slice(0, 12);
  const label = (wanted) => entry.labels.find(([name]) => name === wanted)?.[1];
  const look = node("button", { type: "button", class: "mono", "aria-label": `Show stored answer ${name}`, title: entry.key }, `${name}…`);
  look.addEventListener("click", () => {
    $("key").value = entry.key;
    $("look").requestSubmit();
    $("entry-title").focus();
  });
  const tags = entry.tags.map((tag) => {
    const button = node("button", { type: "button", "aria-label": `Invalidate by tag ${plain(tag).textContent}` }, plain(tag));
    button.addEventListener("click", () => wish("tag", tag));
    return button;
  });
  const drop = node("button", { type: "button", class: "danger", "aria-label": `Invalidate stored answer ${name}` }, "Invalidate");
  const cell = (name, value, kind = "") => node("td", { "data-name": name, ...(kind ? { class: kind } : {}) }, value instanceof Node ? value : plain(value));
  const row = node(
    "tr",
    {},
    node("th", { scope: "row" }, look),
    cell("Status", entry.status, "n"),
    cell("Age", span(entry.age_seconds), "n"),
    cell("Fresh for", entry.ttl_seconds === null ? "stale" : span(entry.ttl_seconds), "n"),
    cell("Size", `${whole.format(entry.bytes)} B`, "n"),
    cell("Model", entry.model),
    cell("Route", label("route")),
    cell("Tags", tags.length ? node("span", { class: "tags" }, ...tags) : "–", "wide"),
    node("td", { class: "wide" }, drop),
  );
  drop.addEventListener("click", async () => {
    drop.disabled = true;
    try {
      const removed = await invalidate("key", entry.key);
      const beside = row.nextElementSibling ?? row.previousElementSibling;
      row.remove();
      (beside?.querySelector(".danger") ?? $("entries-title")).focus();
      $("entries-said").textContent = `${counted(removed)} invalidated`;
      refresh();
    } catch (error) {
      drop.disabled = false;
      $("entries-said").textContent = error.message;
    }
  });
  return row;
}

async function entries(cursor) {
  isListed = true;
  const said = $("entries-said");
  try {
    // Where others share the store a page may be empty and not the last.
    let page = { entries: [], next: cursor };
    do {
      page = await ask(`entries?limit=${ENTRIES}${page.next ? `&cursor=${encodeURIComponent(page.next)}` : ""}`);
    } while (page.entries.length === 0 && page.next);
    next = page.next;
    fill($("entries"), ["Key", ["Status", "n"], ["Age", "n"], ["Fresh for", "n"], ["Size", "n"], "Model", "Route", "Tags", "Action"], []);
    if (page.entries.length) $("entries").tBodies[0].replaceChildren(...page.entries.map(entryRow));
    said.textContent = `${counted(page.entries.length)} on this page${next ? "" : ", the last"}`;
  } catch (error) {
    next = null;
    said.textContent = error.message;
  }
  $("entries-next").disabled = !next;
}

$("entries-first").addEventListener("click", () => entries(null));
$("entries-next").addEventListener("click", async () => {
  await entries(next);
  $("entries-title").focus();
});

window.addEventListener("resize", () => {
  clearTimeout(timer);
  timer = setTimeout(refresh, 200);
});
document.addEventListener("visibilitychange", () => (document.hidden ? clearTimeout(timer) : refresh()));
refresh();
