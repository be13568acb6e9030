// A worker that `fencegate lead … -- node worker.mjs` runs while it leads. No package is needed.
//
// `lead` has claimed the fence already, and ends this process when the leadership is lost. What this process writes carries the
// token, so that a write which comes too late all the same is refused.
import { setTimeout as sleep } from "node:timers/promises";

const { FENCEGATE_URL = "http://127.0.0.1:7070", FENCING_FENCE, FENCING_TOKEN, FENCING_HOLDER, EVERY = "1" } = process.env;

const headers = { "fencing-token": `${FENCING_FENCE}=${FENCING_TOKEN}`, "content-type": "application/json" };
if (FENCING_HOLDER) headers["fencing-holder"] = FENCING_HOLDER;

class Replaced extends Error {} // Somebody with a higher token has claimed the fence. Nothing was applied; stop.
class NotApplied extends Error {} // Surely not applied: it may be tried again.
class Unknown extends Error {} // It may or may not have been applied: look before trying again.

/** Sends one request with the token; the answer's JSON. */
async function post(path, body) {
  let answer, json;
  try {
    answer = await fetch(FENCEGATE_URL + path, { method: "POST", headers, body: JSON.stringify(body) });
    json = await answer.json();
  } catch (error) {
    if (error.cause?.code === "ECONNREFUSED") throw new NotApplied("no gate is there", { cause: error });
    throw new Unknown(error.message, { cause: error });
  }
  if (answer.ok) return json;
  if (answer.headers.get("fencing-verdict") === "stale") throw new Replaced(json.message);
  throw new (json.applied === "no" ? NotApplied : Unknown)(json.message ?? `status ${answer.status}`);
}

/** A value as Hrana has it. Tokens are texts here and whole numbers there: JavaScript's numbers lose digits past 2^53. */
function value(of) {
  if (of == null) return { type: "null" };
  if (typeof of === "bigint") return { type: "integer", value: String(of) };
  return typeof of === "number" ? { type: "float", value: of } : { type: "text", value: String(of) };
}

/** Runs one statement in a transaction of its own; its rows. */
async function sql(statement, ...args) {
  const work = { type: "execute", stmt: { sql: statement, args: args.map(value) } };
  const { results } = await post("/v3/pipeline", { requests: [work, { type: "close" }] });
  if (results[0].type === "error") throw new Error(results[0].error.message);
  return results[0].response.result.rows.map((row) => row.map((cell) => cell.value ?? null));
}

await sql("CREATE TABLE IF NOT EXISTS beats (who TEXT, token INTEGER)");
for (let beats = Number(process.env.BEATS ?? Infinity); beats > 0; beats--) {
  try {
    await sql("INSERT INTO beats VALUES (?, ?)", FENCING_HOLDER, BigInt(FENCING_TOKEN));
    console.log("written");
  } catch (error) {
    if (error instanceof Replaced) {
      console.error(`replaced: ${error.message}`);
      process.exit(1);
    }
    // One beat more or less does no harm. A write that must come once is looked for first.
    if (!(error instanceof NotApplied || error instanceof Unknown)) throw error;
    console.log(`trying again: ${error.message}`);
  }
  await sleep(Number(EVERY) * 1000);
}
