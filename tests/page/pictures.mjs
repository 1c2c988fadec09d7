// Traffic as of an office, and pictures of the page that shows it.

import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, writeFileSync } from "node:fs";
import { createServer, request } from "node:http";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import path from "node:path";
import { createInterface } from "node:readline";
import { setTimeout as sleep } from "node:timers/promises";

const { ROUTER, PAGE, CHROMIUM, MINUTES = "15" } = process.env;
const { chromium } = createRequire(path.resolve(PAGE, "package.json"))("playwright-core");
const until = Date.now() + Number(MINUTES) * 60_000;

async function router(...options) {
  const fixed = ["--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0", "--redis-url", ""];
  const child = spawn(ROUTER, [...fixed, ...options], { stdio: ["ignore", "pipe", "inherit"], env: { RUST_LOG: "off" } });
  const lines = createInterface({ input: child.stdout })[Symbol.asyncIterator]();
  const address = async () => (await lines.next()).value.match(/http:\S+/)[0];
  return { child, open: await address(), admin: await address() };
}

/** Passes everything on to the simulator and tags it; now and then it has had enough. */
async function provider(simulator, tags) {
  const server = createServer((from, to) => {
    if (Math.random() < 0.004) {
      from.resume();
      return void to.writeHead(529, { "content-type": "application/json" }).end('{"error": {"message": "overloaded"}}');
    }
    const ask = request(simulator.open + from.url, { method: from.method, headers: from.headers }, (answer) => {
      to.writeHead(answer.statusCode, { ...answer.headers, "cache-tag": tags });
      answer.pipe(to);
    });
    ask.on("error", () => to.destroy());
    from.pipe(ask);
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  return { server, url: `http://127.0.0.1:${server.address().port}` };
}

const CALLS = [
  [4, (model, ask) => ["/v1/chat/completions", { model, stream: true, stream_options: { include_usage: true }, messages: ask }], "gpt-4o"],
  [5, (model, ask) => ["/v1/chat/completions", { model, messages: ask }], "gpt-4o-mini"],
  [3, (model, ask) => ["/v1/messages", { model, max_tokens: 400, stream: true, messages: ask }], "claude-sonnet-4-5"],
  [2, (model, [ask]) => [`/v1beta/models/${model}:generateContent`, { contents: [{ role: "user", parts: [{ text: ask.content }] }] }], "gemini-2.5-flash"],
  [2, (model, [ask]) => ["/v1/embeddings", { model, input: ask.content }], "text-embedding-3-small"],
];
const TENANTS = ["support", "support", "support", "search", "search", "docs"];
const PARAGRAPH = "Our handbook says how parcels are accepted, weighed, insured, sorted and brought to their doors, and what to do when nobody is there. ".repeat(60);

const pick = (list) => list[Math.floor(Math.random() * list.length)];
const weighted = CALLS.flatMap(([weight, ...call]) => Array(weight).fill(call));
/** Few questions are asked often, and many seldom. */
const question = (most) => Math.floor(most ** Math.random());

async function send({ open }, [make, model], number, tenant) {
  const [where, body] = make(model, [{ role: "user", content: `${PARAGRAPH}\nQuestion ${number}: what now?` }]);
  const headers = { "content-type": "application/json", "anthropic-version": "2023-06-01", ...(tenant ? { "x-tenant": tenant } : {}) };
  const answer = await fetch(open + where, { method: "POST", headers, body: JSON.stringify(body) });
  await answer.arrayBuffer();
}

const simulator = await router("--read-only", "--sharing", "shared");
const providers = [await provider(simulator, "handbook:v12, assistant"), await provider(simulator, "handbook:v12"), await provider(simulator, "handbook:v11")];
const [openai, anthropic, google] = providers;
const config = path.join(mkdtempSync(path.join(tmpdir(), "pictures-")), "router.toml");
writeFileSync(
  config,
  `sharing = "header:x-tenant"\nresponse_tags = true\ndefault = "openai"
[[upstream]]\nname = "openai"\nurl = "${openai.url}"\nmodels = ["gpt-", "text-"]
[[upstream]]\nname = "anthropic"\nurl = "${anthropic.url}"\nmodels = ["claude-"]
[[upstream]]\nname = "google"\nurl = "${google.url}"\nmodels = ["gemini-"]\n`,
);
const it = await router("--config", config);

const begun = Date.now();
const pending = new Set();
const begin = (...args) => {
  const call = send(it, ...args).catch(() => {});
  pending.add(call);
  call.finally(() => pending.delete(call));
};
for (let round = 0; Date.now() < until; round++) {
  const share = (Date.now() - begun) / (until - begun);
  // One rings all bells: many ask the same at once.
  if (round % 150 === 149) for (let n = 0; n < 8; n++) begin(weighted[0], 10_000 + round, "support");
  begin(pick(weighted), question(160), Math.random() < 0.03 ? undefined : pick(TENANTS));
  await sleep((500 - 260 * share) * (0.5 + Math.random()));
}
await Promise.all(pending);

const browser = await chromium.launch({ executablePath: CHROMIUM, args: ["--no-sandbox"] });
async function open(settings) {
  const page = await (await browser.newContext({ locale: "en-GB", ...settings })).newPage();
  await page.goto(`${it.admin}/cache/`);
  await page.locator("#link.up").waitFor();
  await page.locator("#entries-said", { hasText: "answers on this page" }).waitFor();
  return page;
}
const wide = await open({ viewport: { width: 1280, height: 900 } });
const last = await wide.locator("#groups .card").last().boundingBox();
await wide.screenshot({ path: "docs/dashboard-wide.png", fullPage: true, clip: { x: 0, y: 0, width: 1280, height: last.y + last.height + 14 } });
const listed = await wide.locator("section:has(#entries)").last().boundingBox();
await wide.screenshot({ path: "docs/entries-wide.png", fullPage: true, clip: { ...listed, height: 450 } });

// On a phone: what one sees first, then after some scrolling.
const narrow = await open({ viewport: { width: 390, height: 844 }, colorScheme: "dark", deviceScaleFactor: 2 });
for (const [name, from] of [["dashboard", "header"], ["tables", "#groups"], ["entries", "section:has(#entries)"]]) {
  await narrow.locator(from).last().evaluate((it) => window.scrollTo(0, it.getBoundingClientRect().top + window.scrollY - 12));
  await narrow.screenshot({ path: `docs/${name}-narrow.png` });
}
await browser.close();
for (const { server } of providers) server.close();
for (const { child } of [it, simulator]) child.kill();
