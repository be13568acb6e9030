// A real gate, a service behind it, and a real browser before its console. All of it ends with the test that began it.
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { existsSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { createServer } from "node:http";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import { chromium } from "playwright-core";

const root = fileURLToPath(new URL("../../..", import.meta.url));
const program = process.env.FENCEGATE ?? join(root, "target/debug/fencegate");

/** What a test waits for at most: whoever waits longer has found something that never comes. */
export const LONG = 30_000;

const running = new Set();
process.on("exit", () => running.forEach((end) => end()));
for (const signal of ["SIGINT", "SIGTERM"]) process.on(signal, () => process.exit(1));

const endings = new WeakMap();

/** Does this when the test has ended: what was begun last ends first. */
function atEnd(t, end) {
  if (!endings.has(t)) {
    const all = [];
    endings.set(t, all);
    t.after(async () => { while (all.length > 0) await all.pop()(); });
  }
  endings.get(t).push(end);
}

function chromiumPath() {
  const folders = (process.env.PATH ?? "").split(":");
  const known = ["chromium", "chromium-browser", "google-chrome"].flatMap((name) => folders.map((folder) => join(folder, name)));
  const found = [process.env.CHROMIUM, ...known].find((path) => path && existsSync(path));
  assert.ok(found, "no Chromium; set CHROMIUM to where it is");
  return found;
}

/** One browser for a whole file. Names below `.test` all lead to this machine, as an attacker's DNS would have it. */
export const browser = await chromium.launch({
  executablePath: chromiumPath(),
  timeout: LONG,
  args: [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--host-resolver-rules=MAP *.test 127.0.0.1",
  ],
});

const listen = (server) => new Promise((resolve) => server.listen(0, "127.0.0.1", () => resolve(server.address().port)));

/** An upstream that answers at once, and never where the path has `hang` in it. */
async function startUpstream(t) {
  const server = createServer((request, answer) => {
    request.resume();
    if (!request.url.includes("hang")) request.on("end", () => answer.end("done"));
  });
  const port = await listen(server);
  atEnd(t, () => { server.closeAllConnections(); server.close(); });
  return port;
}

/** A page of some other site, which says what it likes. */
export async function startSite(t, html) {
  const server = createServer((_, answer) => answer.setHeader("content-type", "text/html").end(html));
  const port = await listen(server);
  atEnd(t, () => { server.closeAllConnections(); server.close(); });
  return port;
}

/** A gate with a database (`shop`, `scheduler`) at `/shop` and a service (`stock/…`) at `/stock`; `more` is of its configuration. */
export async function startGate(t, more = "") {
  const dir = mkdtempSync(join(tmpdir(), "fencegate-console-"));
  const upstream = await startUpstream(t);
  writeFileSync(join(dir, "gate.toml"), `
    [[resource]]
    name = "shop"
    kind = "sqlite"
    file = "shop.db"
    tables = { "jobs" = "scheduler" }

    [[resource]]
    name = "stock"
    kind = "http"
    upstream = "http://127.0.0.1:${upstream}"
    fence = "stock/{1}"
    drain = "50ms"
    settle = "10m"
    ${more}
  `);
  let child;
  let ended;
  const gate = {
    /** Starts it, on the ports that it had before if it had any. */
    async start() {
      const at = (url) => (url ? url.slice("http://".length) : "127.0.0.1:0");
      const args = ["serve", "--config", join(dir, "gate.toml"), "--data-dir", join(dir, "data"), "--log", "error"];
      args.push("--listen", at(gate.data), "--admin", at(gate.admin));
      child = spawn(program, args, { stdio: ["ignore", "pipe", "inherit"] });
      ended = new Promise((resolve) => child.once("exit", resolve).once("error", resolve));
      const line = await new Promise((resolve, reject) => {
        createInterface({ input: child.stdout }).once("line", resolve);
        ended.then((why) => reject(new Error(`the gate ended before it listened: ${why}`)));
      });
      gate.data = `http://${/data=(\S+)/.exec(line)[1]}`;
      gate.admin = `http://${/admin=(\S+)/.exec(line)[1]}`;
    },
    signal: (signal) => child.kill(signal),
    async kill() { child.kill("SIGKILL"); await ended; },

    /** One statement of whoever leads with this token; the status. */
    async sql(token, sql = "INSERT INTO t VALUES (1)", holder) {
      const headers = { "fencing-token": String(token), "content-type": "application/json", ...(holder ? { "fencing-holder": holder } : {}) };
      const body = JSON.stringify({ requests: [{ type: "execute", stmt: { sql } }] });
      return (await fetch(`${gate.data}/shop/v2/pipeline`, { method: "POST", headers, body })).status;
    },
    async claim(fence, token, holder) {
      const headers = { "fencing-token": String(token), ...(holder ? { "fencing-holder": holder } : {}) };
      return (await fetch(`${gate.data}/-/fences/${encodeURIComponent(fence)}/claim`, { method: "POST", headers })).status;
    },
    put: (path, token) => fetch(`${gate.data}/stock${path}`, { method: "PUT", body: "x", headers: { "fencing-token": String(token) } }),
    async fence(name) { return (await fetch(`${gate.admin}/v1/fences/${encodeURIComponent(name)}`)).json(); },
    async history(name) { return (await (await fetch(`${gate.admin}/v1/fences/${encodeURIComponent(name)}/history`)).json()).events; },

    /** Quarantines `stock/NAME`: a write with this token hangs, and a newer leader comes. */
    async quarantine(name, token) {
      const hanging = gate.put(`/${name}/hang`, token).catch(() => {});
      await until(async () => (await gate.fence(`stock/${name}`)).in_flight === 1);
      gate.claim(`stock/${name}`, token + 1).catch(() => {});
      await until(async () => (await gate.fence(`stock/${name}`)).quarantined_until !== null);
      await hanging;
    },
  };
  const end = () => { child?.kill("SIGKILL"); rmSync(dir, { recursive: true, force: true }); };
  running.add(end);
  atEnd(t, async () => { await gate.kill(); end(); running.delete(end); });
  await gate.start();
  return gate;
}

/** Waits until this is true. */
export async function until(isSo) {
  const deadline = Date.now() + LONG;
  while (!(await isSo())) {
    assert.ok(Date.now() < deadline, `never: ${isSo}`);
    await new Promise((resolve) => setImmediate(resolve));
  }
}

/** A page, which must have nothing to complain of when the test ends. `allowed`: what it may complain of. */
export async function openPage(t, url, { allowed = /^$/, ...options } = {}) {
  const context = await browser.newContext({ viewport: { width: 1280, height: 800 }, ...options });
  context.setDefaultTimeout(LONG);
  const page = await context.newPage();
  const complaints = [];
  page.on("console", (message) => { if (["error", "warning"].includes(message.type())) complaints.push(message.text()); });
  page.on("pageerror", (error) => complaints.push(`${error}`));
  await page.addInitScript(() => addEventListener("securitypolicyviolation", (event) => console.error(`violated: ${event.violatedDirective}`)));
  atEnd(t, async () => {
    await context.close();
    assert.deepEqual(complaints.filter((text) => !allowed.test(text)), []);
  });
  await page.goto(url);
  return page;
}

/** The same, once it is live. */
export async function openConsole(t, gate, route = "#/", options = {}) {
  const page = await openPage(t, `${gate.admin}/${route}`, options);
  await live(page);
  return page;
}

export const live = (page) => page.locator("html[data-state=live]").waitFor();
/** The row of a fence. */
export const row = (page, fence) => page.locator(".fences tbody tr").filter({ has: page.locator(`a[title="${fence}"]`) });
export const cell = (page, fence, column) => row(page, fence).locator(`[data-label="${column}"]`);
