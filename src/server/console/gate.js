// What is asked of the gate, over its admin listener.

/** The gate said no, or said nothing. */
export class GateError extends Error {
  constructor(message, status) {
    super(message);
    /** The HTTP status; 0 where there was no answer. */
    this.status = status;
  }
}

const TIME_MS = 10_000;
const KEY = "fencegate-secret";

// Where the gate asks for a secret, it is kept for this tab, and sent by nobody but these functions.
let secret = sessionStorage.getItem(KEY);

export function signIn(given) {
  secret = given;
  if (given) sessionStorage.setItem(KEY, given);
  else sessionStorage.removeItem(KEY);
}

/** Whether a secret was given. */
export const hasSecret = () => secret !== null;

/** Asks; the answer is read by whoever asked. */
export async function ask(path, { signal, ...options } = {}) {
  const headers = { ...options.headers };
  if (secret) headers.authorization = `Bearer ${secret}`;
  let answer;
  try {
    answer = await fetch(path, { ...options, headers, signal, cache: "no-store", credentials: "omit", redirect: "error" });
  } catch (error) {
    if (signal?.aborted && signal.reason !== "late") throw error;
    throw new GateError("The gate does not answer.", 0);
  }
  if (answer.ok) return answer;
  const problem = await answer.json().catch(() => ({}));
  throw new GateError(problem.message ?? `The gate answered ${answer.status}.`, answer.status);
}

async function json(path, options = {}) {
  const late = new AbortController();
  const timer = setTimeout(() => late.abort("late"), TIME_MS);
  const given = options.signal;
  const abort = () => late.abort(given.reason);
  given?.addEventListener("abort", abort);
  try {
    const answer = await ask(path, { ...options, signal: late.signal });
    return await answer.json();
  } finally {
    clearTimeout(timer);
    given?.removeEventListener("abort", abort);
  }
}

const at = (fence, rest = "") => `/v1/fences/${encodeURIComponent(fence)}${rest}`;

function query(parameters) {
  const pairs = new URLSearchParams();
  for (const [key, values] of Object.entries(parameters)) {
    for (const value of [values].flat()) if (value !== undefined && value !== "") pairs.append(key, value);
  }
  return pairs.toString();
}

export const status = () => json("/v1/status");
export const overview = () => json("/v1/overview");
export const fences = (look, signal) => json(`/v1/fences?${query(look)}`, { signal });
export const named = (names) => json(`/v1/fences?${query({ name: names })}`);
export const fence = (name) => json(at(name));
export const history = (name, look = {}) => json(`${at(name, "/history")}?${query(look)}`);

const post = (path, body) =>
  json(path, { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(body) });
export const reset = (name, highest, reason) => post(at(name, "/reset"), { highest, reason });
export const release = (name, reason) => post(at(name, "/release"), { reason });
