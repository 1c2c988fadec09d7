// The dashboard of the real router in a real browser.

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { writeFileSync } from "node:fs";
import { createServer as createHttpServer } from "node:http";
import { createRequire } from "node:module";
import { createServer } from "node:net";
import path from "node:path";
import { createInterface } from "node:readline";
import { after, before, test } from "node:test";

const { ROUTER, PAGE, CHROMIUM } = process.env;
const { chromium } = createRequire(path.resolve(PAGE, "package.json"))("playwright-core");

let browser;
before(async () => (browser = await chromium.launch({ executablePath: CHROMIUM, args: ["--no-sandbox"] })));
after(() => browser?.close());

/** A router with a simulated upstream, on free ports. */
async function router(t, ...options) {
  const fixed = ["--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0", "--simulator-pace", "instant"];
  // An empty URL of a Redis is none, whatever the environment says.
  if (!options.includes("--redis-url")) fixed.push("--redis-url", "");
  const child = spawn(ROUTER, [...fixed, ...options], { stdio: ["ignore", "pipe", "ignore"], env: { RUST_LOG: "off" } });
  t.after(async () => {
    child.kill();
    if (child.exitCode === null) await once(child, "exit");
  });
  const lines = createInterface({ input: child.stdout })[Symbol.asyncIterator]();
  const address = async () => (await lines.next()).value.match(/http:\S+/)[0];
  return { open: await address(), admin: await address() };
}

async function chat({ open }, model, question, headers = {}, status = 200) {
  const body = JSON.stringify({ model, messages: [{ role: "user", content: question }] });
  const answer = await fetch(`${open}/v1/chat/completions`, { method: "POST", headers: { "content-type": "application/json", ...headers }, body });
  assert.equal(answer.status, status);
  await answer.text();
}

async function api({ admin }, what) {
  const answer = await fetch(`${admin}/cache/${what}`);
  assert.equal(answer.status, 200);
  return answer.json();
}

/** Waits until all upstream calls are stored. */
async function stored(router, count) {
  while ((await api(router, "stats")).stored < count);
}

/** Waits until all requests are on record: records are made off the callers' path. */
async function recorded(router, count) {
  while ((await api(router, "metrics?hours=1")).requests < count);
}

/** A page that fails the test for whatever goes wrong in it, and for whatever it asks of anyone else. */
async function open(t, router, settings, expected = []) {
  const context = await browser.newContext(settings);
  t.after(() => context.close());
  const page = await context.newPage();
  const wrong = [];
  page.on("console", (message) => {
    if (["error", "warning"].includes(message.type()) && !expected.some((part) => message.text().includes(part))) wrong.push(message.text());
  });
  page.on("pageerror", (error) => wrong.push(String(error)));
  page.on("dialog", (dialog) => wrong.push(`dialog: ${dialog.message()}`));
  page.on("request", (request) => {
    if (!request.url().startsWith(router.admin) && !request.url().startsWith("data:")) wrong.push(`asks elsewhere: ${request.url()}`);
  });
  await page.goto(`${router.admin}/cache/`);
  return { page, wrong };
}

/** As the page writes them. */
const whole = new Intl.NumberFormat("en");
const compact = new Intl.NumberFormat("en", { maximumFractionDigits: 1, notation: "compact" });
const milliseconds = (value) => (value === null ? "–" : value < 10 ? `${value.toFixed(2)} ms` : value < 1000 ? `${Math.round(value)} ms` : `${(value / 1000).toFixed(2)} s`);

/** What the tables of a dimension say is what the API says, row by row and column by column. */
async function sameGroups(page, table, by) {
  const rows = await table.locator("tbody tr").evaluateAll((rows) => rows.map((row) => [...row.cells].map((cell) => cell.textContent)));
  assert.equal(rows.length, Object.keys(by).length);
  for (const [name, ...cells] of rows) {
    const of = by[name];
    const unknown = of.unpriced >= of.requests;
    const money = (cell, exact) => {
      if (unknown) assert.equal(cell, "unknown");
      else assert.ok(Math.abs(Number(cell.replace("$", "")) - exact) <= exact * 0.01, `${name}: ${cell}, ${exact}`);
    };
    const [requests, hitRate, hit, miss, billed, saved, tokens, replayed, errors] = cells;
    assert.equal(requests, whole.format(of.requests));
    assert.equal(hitRate, `${(100 * of.hit_rate).toFixed(1)} %`);
    assert.equal(hit, milliseconds(of.latency_ms.hit.p50), name);
    assert.equal(miss, milliseconds(of.latency_ms.miss.p50), name);
    money(billed, of.cost_usd);
    money(saved, of.saved_usd);
    assert.equal(tokens, compact.format(of.tokens.input + of.tokens.output));
    assert.equal(replayed, compact.format(of.tokens.replayed_input + of.tokens.replayed_output));
    assert.equal(errors, whole.format(of.errors));
  }
}

const text = (page, id) => page.locator(`#${id}`).textContent();

test("numbers on the page are those of the API, and what comes from callers is shown as text", async (t) => {
  const it = await router(t);
  const nasty = "<img/src=x/onerror=alert(1)>";
  for (const question of ["a", "b", "c"]) await chat(it, "gpt-4o", question);
  await stored(it, 3);
  for (const question of ["a", "b", "c", "a", "b"]) await chat(it, "gpt-4o", question, { "x-request-id": nasty });
  await chat(it, "<b>bold</b>", "unknown");
  await chat(it, "sim-error-500", "a", {}, 500);
  await stored(it, 4);
  await recorded(it, 10);

  for (const [name, settings] of [
    ["wide", { viewport: { width: 1280, height: 900 } }],
    ["narrow", { viewport: { width: 390, height: 844 }, colorScheme: "dark", deviceScaleFactor: 2 }],
  ]) {
    const { page, wrong } = await open(t, it, settings);
    await page.locator("#link.up").waitFor();
    const metrics = await api(it, "metrics?hours=1");
    assert.equal(await text(page, "requests"), String(metrics.requests));
    assert.deepEqual([metrics.requests, metrics.errors, metrics.failed], [10, 1, 0]);
    assert.deepEqual([await text(page, "errors"), await text(page, "failed")], ["1", "0"]);
    assert.equal(await text(page, "hit-rate"), `${(100 * metrics.hit_rate).toFixed(1)} %`);
    const money = async (id) => Number((await text(page, id)).replace("$", ""));
    for (const [id, exact] of [["saved-usd", metrics.saved_usd], ["cost-usd", metrics.cost_usd]]) {
      assert.ok(exact > 0 && Math.abs((await money(id)) / exact - 1) < 0.01, `${id}: ${await money(id)}, ${exact}`);
    }
    assert.equal(await text(page, "served"), "5");
    const models = await page.locator("#by-model tbody tr").allInnerTexts();
    assert.equal(models.length, 3);
    assert.match(models[0], /^gpt-4o\s/);
    const tables = { model: metrics.by_model, provider: metrics.by_provider, route: metrics.by_route };
    for (const [dimension, by] of Object.entries(tables)) await sameGroups(page, page.locator(`#by-${dimension}`), by);
    const [first] = await page.locator("#by-model tbody tr").all();
    assert.match(await first.innerText(), name === "wide" ? /^gpt-4o\s+8\s+62\.5 %\s/ : /gpt-4o/);
    const shown = await first.locator("td").evaluateAll((cells) => cells.map((cell) => getComputedStyle(cell, "::before").content));
    assert.deepEqual(new Set(shown.map((content) => content !== "none")), new Set([name === "narrow"]), "on a phone each value says what it is");
    const rows = page.locator("#records tbody tr");
    assert.equal(await rows.count(), 10);
    assert.match(await rows.nth(2).innerText(), /hit[\s\S]*gpt-4o[\s\S]*<img\/src=x\/onerror=alert\(1\)>/);
    assert.equal(await page.locator("img").count() + await page.locator("td b, th b").count(), 0);
    for (const chart of await page.locator("figure svg").all()) assert.ok((await chart.getAttribute("aria-label")).length > 10);
    assert.match(await page.locator("#chart-requests svg").getAttribute("aria-label"), /hits 5, coalesced 0, stale 0, misses 5/);
    await page.locator("#entries-said", { hasText: "4 answers on this page" }).waitFor();
    assert.equal(await page.locator("#entries tbody tr").count(), 4);
    assert.equal(await page.locator("#entries td", { hasText: /^<b>bold<\/b>$/ }).count(), 1);
    assert.equal(await page.locator("#entries b").count(), 0);
    const overflow = await page.evaluate(() => document.documentElement.scrollWidth - window.innerWidth);
    assert.ok(overflow <= 0, `${name}: ${overflow} pixels too wide`);
    for (const table of await page.locator("#groups table, #records").all()) {
      const hidden = await table.evaluate((it) => it.scrollWidth - it.parentElement.clientWidth);
      assert.ok(hidden <= 0, `${name}: ${hidden} pixels of a table out of sight`);
    }
    await page.screenshot({ path: path.join(PAGE, `dashboard-${name}.png`), fullPage: true });
    assert.deepEqual(wrong, []);
  }
});

test("what is long in one row hides nothing of the others", async (t) => {
  const it = await router(t);
  await chat(it, "long".repeat(40), "a");
  await stored(it, 1);
  const { page, wrong } = await open(t, it, { viewport: { width: 1280, height: 900 } });
  await page.locator("#entries-said", { hasText: "1 answer" }).waitFor();
  for (const table of ["records", "entries", "by-model", "by-provider", "by-route"]) {
    const hidden = await page.locator(`#${table}`).evaluate((it) => it.scrollWidth - it.parentElement.clientWidth);
    assert.ok(hidden <= 0, `${table}: ${hidden} pixels out of sight`);
  }
  assert.deepEqual(wrong, []);
});

test("what went wrong is said, and how much of it came without a whole answer", async (t) => {
  const it = await router(t, "--upstream", "http://127.0.0.1:1");
  await chat(it, "gpt-4o", "a", {}, 502);
  await recorded(it, 1);
  const { page, wrong } = await open(t, it, { viewport: { width: 390, height: 844 } });
  await page.locator("#link.up").waitFor();
  const metrics = await api(it, "metrics?hours=1");
  assert.deepEqual([metrics.requests, metrics.errors, metrics.failed], [1, 1, 1]);
  assert.match(await page.locator(".figure", { hasText: "Requests" }).innerText(), /\b1 went wrong, 1 of them without a whole answer/);
  await sameGroups(page, page.locator("#by-provider"), metrics.by_provider);
  assert.deepEqual(wrong, []);
});

test("with Redis the page says how the link is and whose figures they are", async (t) => {
  const port = await new Promise((found) => {
    const server = createServer().listen(0, "127.0.0.1", () => {
      const { port } = server.address();
      server.close(() => found(port));
    });
  });
  const redis = spawn("redis-server", ["--port", port, "--bind", "127.0.0.1", "--save", "", "--dir", PAGE], { stdio: "ignore" });
  t.after(() => redis.kill("SIGKILL"));
  const it = await router(t, "--redis-url", `redis://127.0.0.1:${port}/0`);
  while ((await api(it, "stats")).redis.link !== "closed" || !(await api(it, "stats")).store_answers);
  await chat(it, "gpt-4o", "a");
  await stored(it, 1);
  await recorded(it, 1);
  const { page, wrong } = await open(t, it, { viewport: { width: 390, height: 844 } });
  const said = (name, value) => page.locator("#store div", { has: page.locator("dt", { hasText: name }) }).locator("dd", { hasText: value }).waitFor();
  await said("Link to Redis", /^up/);
  await said("Figures are of", /^all who share this Redis$/);
  await sameGroups(page, page.locator("#by-model"), (await api(it, "metrics?hours=1")).by_model);
  redis.kill("SIGKILL");
  await page.locator("#link.down", { hasText: "the store does not answer: requests go upstream" }).waitFor();
  await said("Link to Redis", /^down/);
  await said("Figures are of", /^this process alone$/);
  assert.equal(await text(page, "requests"), "1");
  assert.deepEqual(wrong, []);
});

test("where a field names tenants there is a table of them, too", async (t) => {
  const it = await router(t, "--sharing", "header:x-tenant");
  const nasty = "<i>blue</i>";
  for (const tenant of [nasty, "red", "red"]) {
    await chat(it, "gpt-4o", "a", { "x-tenant": tenant });
    await stored(it, tenant === nasty ? 1 : 2);
  }
  await recorded(it, 3);
  for (const viewport of [{ width: 1280, height: 900 }, { width: 390, height: 844 }]) {
    const { page, wrong } = await open(t, it, { viewport });
    const card = page.locator("[data-label]");
    await card.waitFor();
    assert.equal(await card.locator("h2").textContent(), "By tenant");
    await sameGroups(page, card.locator("table"), (await api(it, "metrics?hours=1")).by_label.tenant);
    assert.equal(await page.locator("td i, th i").count(), 0);
    const overflow = await page.evaluate(() => document.documentElement.scrollWidth - window.innerWidth);
    assert.ok(overflow <= 0, `${overflow} pixels too wide`);
    assert.deepEqual(wrong, []);
  }
});

test("it is live, and used by keyboard alone it invalidates", async (t) => {
  const it = await router(t);
  await chat(it, "gpt-4o", "a");
  await chat(it, "gpt-4.1", "a");
  await stored(it, 2);
  await recorded(it, 2);
  const { page, wrong } = await open(t, it, { viewport: { width: 1280, height: 900 } });
  await page.locator("#link.up").waitFor();
  assert.equal(await text(page, "requests"), "2");
  await chat(it, "gpt-4.1", "a");
  await page.locator("#requests", { hasText: /^3$/ }).waitFor();

  await page.locator("[data-hours='1']").focus();
  await page.keyboard.press("Tab");
  await page.keyboard.press("Enter");
  assert.equal(await page.locator("[data-hours='24']").getAttribute("aria-pressed"), "true");

  // New figures arrive and are drawn, and who is about to press a key is still where they were.
  await page.locator("#chart-requests summary").focus();
  await chat(it, "gpt-4.1", "a");
  await page.locator("#requests", { hasText: /^4$/ }).waitFor();
  await page.keyboard.press("Enter");
  await page.locator("#chart-requests table").waitFor();

  await page.locator("#by").focus();
  await page.keyboard.press("p");
  await page.keyboard.press("Tab");
  await page.keyboard.type("model=gpt-4.1*");
  await page.keyboard.press("Enter");
  await page.locator("#invalidated", { hasText: "1 answer invalidated" }).waitFor();
  assert.equal((await api(it, "stats")).cached_responses, 1);
  assert.deepEqual(wrong, []);
});

test("what is stored is browsed page by page and invalidated from there, by keyboard alone", async (t) => {
  const it = await router(t);
  for (let n = 0; n < 25; n++) await chat(it, ["gpt-4o", "gpt-4o-mini", "gpt-4.1"][n % 3], `question ${n}`);
  await stored(it, 25);
  for (const [name, settings] of [
    ["wide", { viewport: { width: 1280, height: 900 } }],
    ["narrow", { viewport: { width: 390, height: 844 }, colorScheme: "dark", deviceScaleFactor: 2 }],
  ]) {
    const { page, wrong } = await open(t, it, settings);
    const rows = page.locator("#entries tbody tr");
    const count = (await api(it, "stats")).cached_responses;
    await page.locator("#entries-said", { hasText: "20 answers on this page" }).waitFor();
    assert.equal(await rows.count(), 20);
    const first = await page.locator("#entries tbody th button").evaluateAll((buttons) => buttons.map((button) => button.title));
    await page.locator("#entries-next").focus();
    await page.keyboard.press("Enter");
    await page.locator("#entries-said", { hasText: `${count - 20} answers on this page, the last` }).waitFor();
    assert.equal(await page.locator("#entries-next").isDisabled(), true);
    const second = await page.locator("#entries tbody th button").evaluateAll((buttons) => buttons.map((button) => button.title));
    assert.equal(new Set([...first, ...second]).size, count, "pages do not overlap in memory, and leave none out");

    await page.locator("section:has(#entries)").last().screenshot({ path: path.join(PAGE, `entries-${name}.png`) });

    // One of them looked at, and then gone.
    await page.locator("#entries tbody th button").first().focus();
    await page.keyboard.press("Enter");
    await page.locator("#entry dd", { hasText: /^200$/ }).waitFor();
    assert.equal(await page.locator("#key").inputValue(), second[0]);
    await page.locator("#entries tbody .danger").first().focus();
    await page.keyboard.press("Enter");
    await page.locator("#entries-said", { hasText: "1 answer invalidated" }).waitFor();
    assert.equal((await api(it, "stats")).cached_responses, count - 1);
    assert.equal(await page.evaluate(() => document.activeElement.textContent), "Invalidate", "the focus is on the next");
    const overflow = await page.evaluate(() => document.documentElement.scrollWidth - window.innerWidth);
    assert.ok(overflow <= 0, `${overflow} pixels too wide`);
    assert.deepEqual(wrong, []);
  }
});

test("everything is removed by keyboard alone, and not by a slip", async (t) => {
  const it = await router(t);
  for (const question of ["a", "b", "c"]) await chat(it, "gpt-4o", question);
  await stored(it, 3);
  for (const viewport of [{ width: 1280, height: 900 }, { width: 390, height: 844 }]) {
    const { page, wrong } = await open(t, it, { viewport });
    const dialog = page.getByRole("dialog", { name: "Remove every stored answer?" });
    const kept = async () => assert.equal((await api(it, "stats")).cached_responses, 3);
    const focused = () => page.evaluate(() => document.activeElement.textContent || document.activeElement.id);
    const ask = async () => {
      await page.getByRole("button", { name: "Remove everything…" }).focus();
      await page.keyboard.press("Enter");
      await dialog.waitFor();
      assert.equal(await focused(), "sure-word");
    };
    await page.locator("#link.up").waitFor();
    await page.locator("#entries-said", { hasText: "3 answers" }).waitFor();

    // Keys that are held down, other words, and the button without the word do nothing.
    await ask();
    const box = await dialog.boundingBox();
    assert.ok(box.x > 0 && box.x + box.width < viewport.width && Math.abs(box.x * 2 + box.width - viewport.width) < 20, "in the middle");
    for (let n = 0; n < 3; n++) await page.keyboard.press("Enter");
    await page.keyboard.type("every");
    await page.keyboard.press("Enter");
    await dialog.getByRole("button", { name: "Remove everything" }).click();
    assert.ok(await dialog.isVisible());
    await kept();

    // Both ways out lead back to where one came from.
    await page.keyboard.press("Escape");
    await dialog.waitFor({ state: "hidden" });
    assert.equal(await focused(), "Remove everything…");
    await ask();
    assert.equal(await page.locator("#sure-word").inputValue(), "");
    await page.keyboard.press("Tab");
    await page.keyboard.press("Enter");
    await dialog.waitFor({ state: "hidden" });
    await kept();
    assert.deepEqual(wrong, []);
    if (viewport.width > 1000) continue;

    await ask();
    await page.keyboard.type("everything");
    await page.keyboard.press("Enter");
    await dialog.waitFor({ state: "hidden" });
    await page.locator("#invalidated", { hasText: "3 answers invalidated" }).waitFor();
    assert.equal(await focused(), "Remove everything…");
    assert.equal((await api(it, "stats")).cached_responses, 0);
    await page.locator("#entries-said", { hasText: "0 answers on this page" }).waitFor();
    assert.deepEqual(wrong, []);
  }
});

test("what a pattern is is said where one is asked for", async (t) => {
  const it = await router(t);
  await chat(it, "[a]", "a");
  await stored(it, 1);
  const { page, wrong } = await open(t, it, {});
  await page.locator("#entries-said", { hasText: "1 answer" }).waitFor();
  await page.getByLabel("By", { exact: true }).selectOption("pattern");
  assert.match(await page.locator("#value").evaluate((it) => document.getElementById(it.getAttribute("aria-describedby")).textContent), /\* is any run of characters, \? any one, and all else is itself/);
  for (const [pattern, removed] of [["[a", "0 answers"], ["[a]", "1 answer"]]) {
    await page.locator("#value").fill(pattern);
    await page.keyboard.press("Enter");
    await page.locator("#invalidated", { hasText: `${removed} invalidated` }).waitFor();
  }
  assert.deepEqual(wrong, []);
});

test("names neither turn around what is shown nor hide what is in them", async (t) => {
  const it = await router(t, "--sharing", "header:x-tenant");
  const names = { "gpt\u202e4o": "gptU+202E4o", "   ": "U+0020U+0020U+0020", "\u2066a\u200b b\u00a0": "U+2066aU+200B bU+00A0" };
  for (const model of Object.keys(names)) await chat(it, model, "a", { "x-tenant": "blue" });
  await stored(it, 3);
  await recorded(it, 3);
  for (const viewport of [{ width: 1280, height: 900 }, { width: 390, height: 844 }]) {
    const { page, wrong } = await open(t, it, { viewport });
    await page.locator("#link.up").waitFor();
    await page.locator("#entries-said", { hasText: "3 answers" }).waitFor();
    for (const cells of ["#by-model tbody th", "#records tbody td:nth-child(4)", "#entries tbody td:nth-child(6)"]) {
      const found = await page.locator(cells).allTextContents();
      assert.deepEqual(found.sort(), Object.values(names).sort(), cells);
      const apart = await page.locator(cells).evaluateAll((cells) => cells.map((cell) => getComputedStyle(cell.firstElementChild).unicodeBidi));
      assert.deepEqual(apart, ["isolate", "isolate", "isolate"], cells);
    }
    const { entries: [entry] } = await api(it, "entries?limit=1");
    await page.locator("#key").fill(entry.key);
    await page.keyboard.press("Enter");
    await page.locator("#entry dd", { hasText: names[entry.model] }).first().waitFor();
    const shown = await page.evaluate(() => document.body.innerText);
    assert.ok(!/[\u202a-\u202e\u2066-\u2069\u200b]/.test(shown), "nothing of it is left as it was");
    assert.deepEqual(wrong, []);
  }
});

test("who waited for a call of another is not in the median of hits", async (t) => {
  let finish;
  const origin = createHttpServer((from, to) => {
    from.resume();
    const say = (delta, reason) => `data: ${JSON.stringify({ model: "gpt-4o", choices: [{ index: 0, delta, finish_reason: reason }] })}\n\n`;
    to.writeHead(200, { "content-type": "text/event-stream" }).write(say({ content: "a" }, null));
    finish = () => to.end(`${say({}, "stop")}data: [DONE]\n\n`);
  }).listen(0, "127.0.0.1");
  t.after(() => origin.close());
  await once(origin, "listening");
  const it = await router(t, "--upstream", `http://127.0.0.1:${origin.address().port}`);
  const body = JSON.stringify({ model: "gpt-4o", stream: true, messages: [{ role: "user", content: "a" }] });
  const answers = [];
  // Each has the head of the one answer before there is an end of it.
  while (answers.length < 4) answers.push(await fetch(`${it.open}/v1/chat/completions`, { method: "POST", headers: { "content-type": "application/json" }, body }));
  finish();
  for (const answer of answers) assert.match(await answer.text(), /\[DONE\]/);
  await recorded(it, 4);
  const { page, wrong } = await open(t, it, {});
  await page.locator("#link.up").waitFor();
  const { by_outcome: outcomes, latency_ms: { hit, miss } } = await api(it, "metrics?hours=1");
  assert.deepEqual([outcomes, hit.p50], [{ collapsed: 3, miss: 1 }, null]);
  assert.deepEqual([await text(page, "hit-latency"), await text(page, "miss-latency")], ["–", milliseconds(miss.p50)]);
  assert.match(await page.locator(".figure", { hasText: "Median latency" }).innerText(), /what was coalesced is in neither/);
  assert.deepEqual(wrong, []);
});

test("a stored answer is looked up by its key, without its body", async (t) => {
  const it = await router(t);
  const { page, wrong } = await open(t, it, {}, ["404"]);
  await page.locator("#key").fill("0".repeat(64));
  await page.locator("#look button").click();
  await page.locator("#looked", { hasText: "nothing is stored under this key" }).waitFor();
  assert.deepEqual(wrong, []);
});

test("where there is a token the page asks for it and shows nothing before", async (t) => {
  const it = await router(t, "--admin-token", "s3cret");
  await chat(it, "gpt-4o", "a");
  const { page, wrong } = await open(t, it, {}, ["401"]);
  await page.locator("#door").waitFor();
  assert.equal(await page.locator("#content").isVisible(), false);
  assert.equal(await page.getByRole("button").count(), 1, "there is no period to choose yet");
  await page.keyboard.type("wrong");
  await page.keyboard.press("Enter");
  await page.locator("#door-answer", { hasText: "That is not the token." }).waitFor();
  // As it is pasted, with what was around it where it came from.
  await page.locator("#token").fill(" \ts3cret\u00a0 ");
  await page.keyboard.press("Enter");
  await page.locator("#link.up").waitFor();
  assert.equal(await page.evaluate(() => document.activeElement.tagName), "H1", "who was in the field that is gone starts at the top");
  await page.keyboard.press("Tab");
  assert.equal(await page.evaluate(() => document.activeElement.textContent), "1 h");
  assert.equal(await text(page, "requests"), "1");
  assert.equal(await page.locator("#door").isVisible(), false);
  await page.reload();
  await page.locator("#link.up").waitFor();
  assert.deepEqual(wrong, []);
});

test("a token is no less one for what is not ASCII in it", async (t) => {
  const it = await router(t, "--admin-token", "schlüssel-☃");
  const { page, wrong } = await open(t, it, {}, ["401"]);
  await page.locator("#door").waitFor();
  await page.locator("#token").fill("schlüssel-☂");
  await page.keyboard.press("Enter");
  await page.locator("#door-answer", { hasText: "That is not the token." }).waitFor();
  await page.locator("#token").fill("schlüssel-☃");
  await page.keyboard.press("Enter");
  await page.locator("#link.up").waitFor();
  assert.deepEqual(wrong, []);
});

test("sums of any size have room, in figures and beside charts", async (t) => {
  const prices = path.resolve(PAGE, "dear.json");
  writeFileSync(prices, JSON.stringify({ "gpt-4o": { input_cost_per_token: 1000, output_cost_per_token: 987.65 } }));
  const it = await router(t, "--prices", prices);
  await chat(it, "gpt-4o", "a");
  await stored(it, 1);
  await chat(it, "gpt-4o", "a");
  await recorded(it, 2);
  for (const viewport of [{ width: 1280, height: 900 }, { width: 360, height: 800 }]) {
    const { page, wrong } = await open(t, it, { viewport });
    await page.locator("#link.up").waitFor();
    const overflow = await page.evaluate(() => document.documentElement.scrollWidth - window.innerWidth);
    assert.ok(overflow <= 0, `${overflow} pixels too wide`);
    const cut = await page.locator("#chart-money svg text").evaluateAll((marks) => marks.filter((mark) => mark.getBBox().x < 0).map((mark) => mark.textContent));
    assert.deepEqual(cut, [], "marks are whole");
    assert.deepEqual(wrong, []);
  }
});
