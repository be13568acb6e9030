// Being replaced: what the product is for, seen from an unmodified driver.

import assert from "node:assert/strict";
import { test } from "node:test";
import { LibsqlError } from "@libsql/client";
import { holder, startGate } from "./gate.mjs";

/** Fails unless the call is refused because a newer leader has written. */
async function assertReplaced(call) {
  await assert.rejects(call, (error) => {
    assert.ok(error instanceof LibsqlError, `${error}`);
    assert.equal(error.code, "STALE_TOKEN");
    assert.match(error.message, /You've been replaced/);
    return true;
  });
}

/** A gate with a table `t`, written by leader A with token 7. */
async function setting(t) {
  const gate = await startGate(t);
  const a = gate.client(7);
  await a.execute("CREATE TABLE t (name TEXT)");
  const names = async () => (await gate.client().execute("SELECT name FROM t ORDER BY rowid")).rows.map((row) => row.name);
  return { gate, a, b: gate.client(8), names };
}

const insert = (name) => ({ sql: "INSERT INTO t VALUES (?)", args: [name] });

test("the deposed leader is told so, however it writes", async (t) => {
  const { gate, a, b, names } = await setting(t);
  await a.execute(insert("a"));
  await b.execute(insert("b"));
  await assertReplaced(a.execute(insert("a")));
  await assertReplaced(a.batch([insert("a"), insert("a")], "write"));
  await assertReplaced(a.batch([insert("a")], "deferred"));
  await assertReplaced(a.executeMultiple("INSERT INTO t VALUES ('a'); INSERT INTO t VALUES ('a')"));
  await assertReplaced(a.migrate(["INSERT INTO t VALUES ('a')"]));
  const tx = await a.transaction("write");
  await assertReplaced(tx.execute(insert("a")));
  assert.equal(tx.closed, true);
  // Every request with a token is judged, reads included.
  await assertReplaced(a.execute("SELECT 1"));
  assert.deepEqual(await names(), ["a", "b"]);
  assert.equal(await gate.highest(), "8");
});

test("an open transaction is rolled back at once, and nobody waits for it", async (t) => {
  const { a, b, names } = await setting(t);
  const tx = await a.transaction("write");
  await tx.execute(insert("a"));
  await b.execute(insert("b")); // BUSY, where it waits for its predecessor's transaction
  assert.deepEqual(await names(), ["b"]);
  await assertReplaced(tx.execute(insert("a")));
  await assert.rejects(tx.commit(), { code: "TRANSACTION_CLOSED" });
  assert.deepEqual(await names(), ["b"]);
});

test("COMMIT itself is refused", async (t) => {
  const { a, b, names } = await setting(t);
  const tx = await a.transaction("write");
  await tx.execute(insert("a"));
  await b.execute(insert("b"));
  await assertReplaced(tx.commit());
  assert.deepEqual(await names(), ["b"]);
});

test("a read with a higher token claims, and ends the transaction", async (t) => {
  const { gate, a, b, names } = await setting(t);
  const tx = await a.transaction("write");
  await tx.execute(insert("a"));
  await b.execute("SELECT 1");
  assert.equal(await gate.highest(), "8");
  await assertReplaced(tx.commit());
  assert.deepEqual(await names(), []);
});

test("a transaction that waits for another's lock is refused too", async (t) => {
  const { gate, a, b, names } = await setting(t);
  const first = await a.transaction("write");
  await first.execute(insert("first"));
  const second = await gate.client(7).transaction("write");
  const waiting = assertReplaced(second.execute(insert("second")));
  await b.execute(insert("b"));
  await waiting;
  assert.deepEqual(await names(), ["b"]);
});

test("reads need no token, writes do", async (t) => {
  const { gate, a } = await setting(t);
  await a.execute(insert("a"));
  const reader = gate.client();
  assert.equal((await reader.execute("SELECT name FROM t")).rows[0].name, "a");
  const refused = { name: "LibsqlError", code: "TOKEN_REQUIRED" };
  await assert.rejects(reader.execute(insert("x")), refused);
  await assert.rejects(reader.batch([insert("x")], "write"), refused);
  await assert.rejects(reader.executeMultiple("INSERT INTO t VALUES ('x')"), refused);
  await assert.rejects(reader.execute("DROP TABLE t"), refused);
  assert.equal((await reader.execute("SELECT count(*) AS n FROM t")).rows[0].n, 1);
});

test("one token, two holders: the second is refused", async (t) => {
  const gate = await startGate(t);
  const first = gate.client(`7.${holder("node-a")}`);
  await first.execute("CREATE TABLE t (name TEXT)");
  await assert.rejects(gate.client(`7.${holder("node-b")}`).execute(insert("b")), { code: "TOKEN_CONFLICT" });
  await first.execute(insert("a"));
  await gate.client(7).execute(insert("a, which gives no name"));
});

test("the token can be a header, by the driver's fetch option", async (t) => {
  const gate = await startGate(t);
  const leader = (token) =>
    gate.client(undefined, {
      fetch: (request) => {
        request.headers.set("Fencing-Token", `app=${token}`);
        request.headers.set("Fencing-Holder", `node-${token}`);
        return fetch(request);
      },
    });
  const [a, b] = [leader(7), leader(8)];
  await a.execute("CREATE TABLE t (name TEXT)");
  await b.execute(insert("b"));
  await assertReplaced(a.execute(insert("a")));
});

test("a malformed token is refused, whatever it is asked for", async (t) => {
  const gate = await startGate(t);
  for (const token of ["0", "07", "-1", "9223372036854775808", "7.%%%"]) {
    await assert.rejects(gate.client(token).execute("SELECT 1"), { code: "TOKEN_MALFORMED" }, token);
  }
  await gate.client("9223372036854775807").execute("CREATE TABLE t (name TEXT)");
  assert.equal(await gate.highest(), "9223372036854775807");
});

test("under load, no write of the old leader follows one of the new", async (t) => {
  const { gate, b, names } = await setting(t);
  const clients = Array.from({ length: 4 }, () => gate.client(7));
  const old = Array.from({ length: 80 }, (_, n) => clients[n % 4].execute(insert("a")).then(() => "written", (error) => error.code));
  await Promise.race(old);
  await b.execute(insert("b"));
  const outcomes = await Promise.all(old);
  const written = await names();
  assert.equal(written.at(-1), "b");
  assert.equal(written.length - 1, outcomes.filter((outcome) => outcome === "written").length);
  assert.ok(outcomes.every((outcome) => ["written", "STALE_TOKEN"].includes(outcome)), `${outcomes}`);
});
