// A signed leadership credential where an unmodified driver has its auth token.

import assert from "node:assert/strict";
import { join } from "node:path";
import { test } from "node:test";
import { createClient } from "@libsql/client";
import { run, startGate } from "./gate.mjs";

test("the credential is the auth token", async (t) => {
  let secret;
  const gate = await startGate(t, (dir) => {
    run("keys", "new", join(dir, "gate"));
    const made = JSON.parse(run("principal", "new", "node", "--json"));
    secret = made.secret;
    // Of the resource, which is the last table of the file.
    return `require_credential = true
[credentials]
signing_key = "gate.key"
[[principal]]
name = "node"
secret_hash = "${made.secret_hash}"
grants = [ { rights = ["read", "write"] } ]
`;
  });
  const campaign = async (holder) => {
    const body = JSON.stringify({ holder, wait_ms: 0, ttl_ms: 60000 });
    const headers = { authorization: `Bearer ${secret}` };
    const answer = await fetch(`${gate.url}/-/elections/app/campaign`, { method: "POST", headers, body });
    return answer.json();
  };
  const elected = await campaign("node-a");
  const clients = [];
  t.after(() => clients.forEach((client) => client.close()));
  const client = (authToken) => {
    clients.push(createClient({ url: gate.url, authToken }));
    return clients.at(-1);
  };
  const leader = client(elected.credentials.app);
  await leader.execute("CREATE TABLE t (v)");
  await leader.batch([{ sql: "INSERT INTO t VALUES (?)", args: [1] }, "INSERT INTO t VALUES (2)"], "write");
  const tx = await leader.transaction("write");
  await tx.execute("INSERT INTO t VALUES (3)");
  await tx.commit();
  assert.equal((await leader.execute("SELECT count(*) AS n FROM t")).rows[0].n, 3);

  // Anybody else with a good secret, and without one, and with the credential changed.
  const refused = async (authToken, code) => {
    await assert.rejects(client(authToken).execute("INSERT INTO t VALUES (4)"), (error) => error.code === code);
  };
  const borrowed = `fgt.${elected.token}.${Buffer.from("node-a").toString("base64url")}`;
  await refused(`${borrowed}.${secret.slice(4)}`, "FORBIDDEN");
  await refused(borrowed, "UNAUTHENTICATED");
  await refused(elected.credentials.app.slice(0, -8), "UNAUTHENTICATED");
  assert.equal((await leader.execute("SELECT count(*) AS n FROM t")).rows[0].n, 3);

  // The successor's, and then the first one's again, which has not expired and is stale all the same.
  const resign = JSON.stringify({ candidate: elected.candidate });
  const headers = { authorization: `Bearer ${secret}` };
  await fetch(`${gate.url}/-/elections/app/resign`, { method: "POST", headers, body: resign });
  const successor = await campaign("node-b");
  await client(successor.credentials.app).execute("INSERT INTO t VALUES (5)");
  await refused(elected.credentials.app, "STALE_TOKEN");
});
