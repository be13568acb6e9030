// What an operator does on the console, and what nobody else can make it do.
import assert from "node:assert/strict";
import { createHash, randomBytes } from "node:crypto";
import { createRequire } from "node:module";
import { readFileSync } from "node:fs";
import { after, test } from "node:test";
import { browser, cell, live, openConsole, openPage, row, startGate, startSite, until } from "./world.mjs";

after(() => browser.close());

test("a mark is set with a reason, after it was said what that does", async (t) => {
  const gate = await startGate(t);
  await gate.sql(6, "CREATE TABLE t (v)", "node-b");
  const page = await openConsole(t, gate, "#/fence/shop");
  await page.click("#reset");
  const dialog = page.getByRole("dialog", { name: "Set the mark of shop" });
  await dialog.getByLabel("The new mark").fill("4");
  await dialog.locator(".warn").filter({ hasText: "The mark goes down from 6 to 4. Whoever holds a token from 4 up can write again" }).waitFor();
  const act = dialog.getByRole("button", { name: "Set the mark to 4" });
  await act.click();
  assert.equal((await gate.fence("shop")).highest, "6", "it wants a reason, and that the old leaders are stopped");
  await dialog.getByLabel("Why?").fill("etcd restored from Monday's backup <b>");
  await act.click();
  assert.equal((await gate.fence("shop")).highest, "6", "it wants that the old leaders are stopped");
  await dialog.getByLabel("The leaders that were replaced are stopped.").check();
  await act.click();
  await page.getByText("The mark was 6 and is 4 now.").waitFor();
  assert.equal((await gate.fence("shop")).highest, "4");
  const [event] = await gate.history("shop");
  assert.deepEqual([event.event, event.reason], ["reset", "etcd restored from Monday's backup <b>"]);
  await page.getByRole("region", { name: "History" }).getByText("etcd restored from Monday's backup <b>").waitFor();
  assert.equal(await page.evaluate(() => document.activeElement.id), "reset", "the focus is back where it was");

  await page.click("#reset");
  await dialog.getByLabel("The new mark").fill("9");
  await dialog.locator(".warn").filter({ hasText: "whoever leads now, with 4, is shut out" }).waitFor();
  await dialog.getByLabel("No mark").check();
  await dialog.locator(".warn").filter({ hasText: "forgets who leads" }).waitFor();
  await page.keyboard.press("Escape");
  await dialog.waitFor({ state: "hidden" });
  assert.equal((await gate.fence("shop")).highest, "4", "cancelled");
});

test("where there are principals, an operator signs in, and a browser keeps nothing of it", async (t) => {
  const bytes = randomBytes(32);
  const secret = `fgs.${bytes.toString("base64url")}`;
  const gate = await startGate(t, `
    [[principal]]
    name = "ops"
    secret_hash = "sha256:${createHash("sha256").update(bytes).digest("hex")}"
    grants = [ { resource = "*", fence = "*", rights = ["observe", "operate"] } ]
  `);
  const page = await openPage(t, `${gate.admin}/#/fence/shop`, { allowed: /401 \(Unauthorized\)/ });
  const [field, go] = [page.getByLabel("Secret"), page.getByRole("button", { name: "Sign in" })];
  await field.fill(`${secret.slice(0, -6)}AAAAAA`);
  await go.click();
  await page.getByRole("alert").filter({ hasText: "not one of this gate's" }).waitFor();
  await field.fill(secret);
  await go.click();
  await live(page);
  await page.click("#reset");
  const dialog = page.getByRole("dialog", { name: "Set the mark of shop" });
  await dialog.getByLabel("The new mark").fill("4");
  await dialog.getByLabel("Why?").fill("to begin with");
  await dialog.getByRole("button", { name: "Set the mark to 4" }).click();
  await page.getByText("is 4 now.").waitFor();
  const kept = await page.evaluate(() => [document.cookie, localStorage.length]);
  assert.deepEqual(kept, ["", 0]);
  const other = await (await page.context().newPage()).goto(`${gate.admin}/v1/fences`);
  assert.equal(other.status(), 401, "nothing is added to what another page asks for");
  assert.doesNotMatch(other.headers()["www-authenticate"], /basic/i, "and nobody is asked for a password");
});

test("a quarantine is ended with a reason", async (t) => {
  const gate = await startGate(t);
  await gate.quarantine("seven", 5);
  const page = await openConsole(t, gate, `#/fence/${encodeURIComponent("stock/seven")}`);
  const panel = page.locator(".panel.stuck");
  await panel.filter({ hasText: /Quarantined for another 9 min \d+ s/ }).waitFor();
  await panel.filter({ hasText: "Why: a write was cut off, or its connection broke" }).waitFor();
  await page.click("#release");
  const dialog = page.getByRole("dialog", { name: "End the quarantine of stock/seven" });
  await dialog.getByText("can still be applied after them").waitFor();
  await dialog.getByLabel("Why?").fill("looked at the stock: it was not applied");
  await dialog.getByRole("button", { name: "End the quarantine" }).click();
  await page.getByText("The quarantine has ended.").waitFor();
  await panel.waitFor({ state: "hidden" });
  assert.equal((await gate.fence("stock/seven")).quarantined_until, null);
  assert.equal((await gate.history("stock/seven"))[0].reason, "looked at the stock: it was not applied");
});

test("everything by keyboard", async (t) => {
  const gate = await startGate(t);
  await gate.sql(6, "CREATE TABLE t (v)", "node-b");
  const page = await openConsole(t, gate);
  await row(page, "shop").waitFor();
  const press = (key) => page.keyboard.press(key);
  const focused = () => page.evaluate(() => document.activeElement.id || document.activeElement.textContent);
  const tabTo = async (wanted) => {
    for (let presses = 0; presses < 40; presses += 1) {
      if ((await focused()) === wanted) return;
      await press("Tab");
    }
    assert.fail(`the key never leads to ${wanted}`);
  };
  await press("Tab");
  assert.equal(await focused(), "skip");
  await press("Enter");
  assert.equal(await focused(), "main");
  await tabTo("search");
  await page.keyboard.type("sho");
  await until(async () => (await page.locator(".fences tbody tr").count()) === 1);
  await tabTo("shop");
  // What happens meanwhile takes the focus away from nobody.
  await gate.claim("scheduler", 1);
  await gate.sql(5, undefined, "node-a");
  await page.locator("#attention .knocking").filter({ hasText: "shop" }).waitFor();
  await page.locator("#attention .knocking").filter({ hasText: /last [2-9] s ago/ }).waitFor();
  assert.equal(await focused(), "shop");
  const outline = await page.evaluate(() => getComputedStyle(document.activeElement).outlineStyle);
  assert.equal(outline, "solid", "where the focus is can be seen");
  await press("Enter");
  await page.locator("h1", { hasText: "shop" }).waitFor();
  assert.equal(await focused(), "main");
  await page.locator("#reset").waitFor();
  await tabTo("reset");
  await press("Enter");
  await page.getByRole("dialog").waitFor();
  await tabTo("reset-to");
  await page.keyboard.type("7");
  await tabTo("reset-none");
  await press("Tab");
  await page.keyboard.type("a test");
  await press("Enter");
  await page.getByText("The mark was 6 and is 7 now.").waitFor();
  assert.equal(await focused(), "reset");
});

const axe = readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");

/** What is wrong for those who see, hear or point otherwise. */
async function violations(page) {
  // Past the page's policy, which lets no other script in: by the debugger, not by the page.
  await page.evaluate(axe);
  const found = await page.evaluate(() => window.axe.run(document, { runOnly: ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"] }));
  return found.violations.map(({ id, nodes }) => `${id}: ${nodes.map((node) => node.html).join(" | ").slice(0, 500)}`);
}

test("for everybody: light, dark, and on a phone", async (t) => {
  const gate = await startGate(t);
  const empty = await openConsole(t, gate);
  await empty.getByRole("heading", { name: "Make the first write" }).waitFor();
  assert.deepEqual(await violations(empty), [], "an empty gate");
  await gate.sql(4, "CREATE TABLE t (v)", "node-a");
  await gate.sql(6, undefined, "node-b");
  await gate.sql(4, undefined, "node-a");
  await gate.quarantine("two", 5);
  await gate.claim(`stock/${"x".repeat(200)}`, 5, "y".repeat(255));
  for (const colorScheme of ["light", "dark"]) {
    for (const viewport of [{ width: 1280, height: 800 }, { width: 360, height: 740 }]) {
      const page = await openConsole(t, gate, "#/", { colorScheme, viewport, reducedMotion: "reduce" });
      const where = `${colorScheme}, ${viewport.width}`;
      const fits = async () => {
        const over = await page.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth);
        assert.equal(over, 0, `${where}: wider than the window`);
      };
      await page.locator("#attention .stuck").waitFor();
      await gate.sql(4, undefined, "node-a");
      await page.locator("#feed .stale").first().waitFor();
      await cell(page, "shop", "State").filter({ hasText: /Refusing|Quiet/ }).waitFor();
      assert.deepEqual(await violations(page), [], `the list: ${where}`);
      await fits();
      for (const fence of ["stock/two", "shop"]) {
        await page.goto(`${gate.admin}/#/fence/${encodeURIComponent(fence)}`);
        await page.locator(".strip .segment").first().waitFor();
        assert.deepEqual(await violations(page), [], `${fence}: ${where}`);
        await fits();
      }
      await page.click("#reset");
      await page.getByLabel("The new mark").fill("2");
      await page.locator(".warn").waitFor();
      assert.deepEqual(await violations(page), [], `the dialog: ${where}`);
      await page.context().close();
    }
  }
});

const ATTEMPTS = `
  const json = JSON.stringify({ highest: "1", reason: "evil" });
  const path = "/v1/fences/shop/reset";
  const tries = [
    (at) => fetch(at + path, { method: "POST", body: json, headers: { "content-type": "application/json" } }),
    (at) => fetch(at + path, { method: "POST", body: json, mode: "no-cors" }),
    (at) => fetch(at + path, { method: "POST", body: new Blob([json], { type: "text/plain" }), mode: "no-cors", credentials: "include" }),
    async (at) => { if (!navigator.sendBeacon(at + path, json)) throw new Error("not sent"); },
    async (at) => (await fetch(at + "/v1/fences")).text(),
  ];
`;

test("a page of another site can neither post nor read", async (t) => {
  const gate = await startGate(t);
  await gate.sql(6, "CREATE TABLE t (v)", "node-b");
  const port = await startSite(t, `<!doctype html><title>evil</title><script>${ATTEMPTS}
    const form = (at, enctype) => {
      const frame = Object.assign(document.createElement("iframe"), { name: "f" + enctype });
      document.body.append(frame);
      const form = Object.assign(document.createElement("form"), { method: "post", action: at + path, enctype, target: frame.name });
      const input = Object.assign(document.createElement("input"), { name: '{"highest":"1","reason":"evil', value: '"}' });
      form.append(input);
      document.body.append(form);
      form.submit();
      return new Promise((done) => frame.addEventListener("load", done));
    };
    const events = (at) => new Promise((done) => {
      const source = new EventSource(at + "/v1/events");
      source.onopen = () => done("opened");
      source.onerror = () => done("refused");
    });
    window.attack = async (at) => {
      const said = [];
      for (const one of tries) said.push(await one(at).then((answer) => (answer?.type === "opaque" || answer === undefined ? "blind" : "read"), () => "refused"));
      said.push(await events(at));
      await form(at, "text/plain");
      await form(at, "application/x-www-form-urlencoded");
      return said;
    };
  </script>`);
  // Another port, which browsers count as the same site; and another name.
  for (const [site, at] of [["127.0.0.1", gate.admin], ["localhost", gate.admin], ["127.0.0.1", gate.admin.replace("127.0.0.1", "localhost")]]) {
    const page = await openPage(t, `http://${site}:${port}/`, { allowed: /./ });
    const said = await page.evaluate((admin) => window.attack(admin), at);
    assert.deepEqual(said, ["refused", "refused", "refused", "blind", "refused", "refused"], `${site} to ${at}`);
    assert.equal((await gate.fence("shop")).highest, "6", `${site} to ${at}`);
    assert.deepEqual((await gate.history("shop")).map((event) => event.event), ["advanced"]);
  }
  // The negative control: the gate's own page can.
  const own = await openConsole(t, gate);
  const answer = await own.evaluate(`(async () => { ${ATTEMPTS} return (await tries[0](location.origin)).status })()`);
  assert.equal(answer, 200);
  assert.equal((await gate.fence("shop")).highest, "1");
});

test("a name of an attacker's that leads here is refused", async (t) => {
  const gate = await startGate(t);
  await gate.sql(6, "CREATE TABLE t (v)", "node-b");
  const rebound = gate.admin.replace("127.0.0.1", "rebound.test");
  const page = await openPage(t, rebound, { allowed: /403|Cross-Origin-Opener-Policy/ });
  await page.getByText("asked under the name").waitFor();
  // For the browser, this is the page's own server: no origin is foreign, and no permission is needed.
  const said = await page.evaluate(`(async () => { ${ATTEMPTS}
    const posted = (await tries[0](location.origin)).status;
    const read = (await fetch("/v1/fences")).status;
    const streamed = (await fetch("/v1/events")).status;
    return [posted, read, streamed];
  })()`);
  assert.deepEqual(said, [403, 403, 403]);
  assert.equal((await gate.fence("shop")).highest, "6");
});
