// Leads an election in etcd and writes through a gate with the token of each term. No package is needed.
//
// It speaks etcd's JSON gateway, and takes part in the same elections as `etcdctl elect` and `fencegate lead`. The token is the create
// revision of the leader's key: never a header's revision, never the lease. It stays a text: numbers lose digits past 2^53.
import { readFileSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";

const { ETCD = "http://127.0.0.1:2379", FENCEGATE_URL = "http://127.0.0.1:7070", ELECTION = "main", EVERY = "1" } = process.env;
const { LEASE_S = "10", FENCING_HOLDER: holder = `node-${process.pid}` } = process.env;

/** Seconds by a clock that goes on while the machine is suspended: by any other, a laptop that was closed would lead on. */
function now() {
  try {
    return Number(readFileSync("/proc/uptime", "utf8").split(" ")[0]);
  } catch {
    return performance.now() / 1000;
  }
}

async function post(url, path, body, { headers = {}, seconds } = {}) {
  const signal = seconds ? AbortSignal.timeout(seconds * 1000) : undefined;
  const init = { method: "POST", body: JSON.stringify(body), headers: { "content-type": "application/json", ...headers }, signal };
  const answer = await fetch(url + path, init);
  return { status: answer.status, json: await answer.json() };
}

/** Asks etcd. `seconds` is how long the answer may take. */
async function etcd(path, body, seconds = 5) {
  const { status, json } = await post(ETCD, path, body, { seconds });
  if (status !== 200) throw new Error(`etcd: ${json.error ?? status}`);
  return json;
}

const base64 = (text) => Buffer.from(text).toString("base64");

/** One term. `alive()` is asked before and after everything that is done for it. */
class Leadership {
  #lease;
  #until;
  #timer;
  #lost = false;
  token;

  async campaign(election) {
    // A new lease for every term: on an old one etcd would give the old term's token again.
    const sent = now();
    const granted = await etcd("/v3/lease/grant", { TTL: LEASE_S });
    this.#lease = granted.ID;
    this.#until = sent + 0.98 * Number(granted.TTL);
    // The lease is kept while this waits for its turn, too.
    this.#timer = setInterval(() => this.#keep(), (Number(granted.TTL) * 1000) / 3);
    try {
      await this.#win(election);
    } catch (error) {
      await this.resign();
      throw error;
    }
    return this;
  }

  async #win(election) {
    const name = base64(election);
    // Bounded, since a connection can break without a sign. Asked again, it stands at the end of the queue.
    let won;
    while (won === undefined) {
      won = await etcd("/v3/election/campaign", { name, lease: this.#lease, value: base64(holder) }, 240).catch((error) => {
        if (error.name !== "TimeoutError" || !this.alive()) throw error;
      });
    }
    this.token = won.leader.rev;
    // The wait may have been long: whether the key is still there is asked again before anybody believes in it.
    const { kvs = [] } = await etcd("/v3/kv/range", { key: won.leader.key });
    if (!this.alive() || kvs[0]?.create_revision !== this.token) throw new Error("the election was won and lost at once");
  }

  async #keep() {
    try {
      // Counted from before it was sent: etcd starts its own count later, and so ends it later.
      const sent = now();
      const { result } = await etcd("/v3/lease/keepalive", { ID: this.#lease });
      // A dead lease is no error to etcd: it says that 0 seconds are left.
      const left = Number(result?.TTL ?? 0);
      if (left === 0 || !this.alive()) this.#lost = true;
      else this.#until = Math.max(this.#until, sent + 0.98 * left);
    } catch {
      // The next try may come through; until then the clock runs.
    }
  }

  /** Whether the lease is known to be alive at this moment. Once it isn't, it never is again. */
  alive() {
    this.#lost ||= now() >= this.#until;
    return !this.#lost;
  }

  /** The next candidate leads at once, instead of when the lease runs out. */
  async resign() {
    this.#lost = true;
    clearInterval(this.#timer);
    await etcd("/v3/lease/revoke", { ID: this.#lease }).catch(() => {});
  }
}

/** Claims the fence, then writes until the leadership is over. */
async function lead(leadership, fence) {
  const headers = { "fencing-token": `${fence}=${leadership.token}`, "fencing-holder": holder };
  const claim = await post(FENCEGATE_URL, `/-/fences/${encodeURIComponent(fence)}/claim`, {}, { headers });
  if (claim.status !== 200) throw new Error(`the claim was refused: ${claim.json.message}`);
  console.log(`leading with token ${leadership.token}`);
  const args = [{ type: "text", value: holder }, { type: "integer", value: leadership.token }];
  const statements = [
    { sql: "CREATE TABLE IF NOT EXISTS beats (who TEXT, token INTEGER)" },
    { sql: "INSERT INTO beats VALUES (?, ?)", args },
  ];
  const requests = [...statements.map((stmt) => ({ type: "execute", stmt })), { type: "close" }];
  while (leadership.alive()) {
    // Where there is no answer, whether it was applied isn't known. One beat more or less does no harm.
    const failed = (error) => ({ status: 0, json: { message: error.message } });
    const { status, json } = await post(FENCEGATE_URL, "/v3/pipeline", { requests }, { headers }).catch(failed);
    if (json.code === "STALE_TOKEN") return console.log(`replaced: ${json.message}`);
    console.log(status === 200 ? "written" : `not known to be written: ${json.message}`);
    await sleep(Number(EVERY) * 1000);
  }
  console.log("the leadership is lost");
}

for (;;) {
  const leadership = await new Leadership().campaign(ELECTION);
  try {
    await lead(leadership, ELECTION);
  } finally {
    await leadership.resign();
  }
}
