// A real gate process for one test or test file, on a free port, with its data in a temporary folder.
import { execFileSync, spawn } from "node:child_process";
import { appendFileSync, copyFileSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import { createClient } from "@libsql/client";

const root = fileURLToPath(new URL("../../..", import.meta.url));
const program = process.env.FENCEGATE ?? join(root, "target/debug/fencegate");

// An interrupted run leaves no gate and no folder behind either.
const running = new Set();
process.on("exit", () => running.forEach((end) => end()));
for (const signal of ["SIGINT", "SIGTERM"]) process.on(signal, () => process.exit(1));

/** What a command of the program prints. */
export const run = (...args) => execFileSync(program, args, { encoding: "utf8" });

/** Starts a gate; with a test's context `t`, it ends when the test does. `configure` adds to its configuration, in its folder. */
export async function startGate(t, configure) {
  const dir = mkdtempSync(join(tmpdir(), "fencegate-node-"));
  // Paths in it are relative to where it is.
  const config = join(dir, "gate.toml");
  copyFileSync(join(root, "tests/drivers/gate.toml"), config);
  if (configure) appendFileSync(config, configure(dir));
  const args = ["serve", "--config", config, "--data-dir", join(dir, "data")];
  args.push("--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--log", "warn");
  const child = spawn(program, args, { stdio: ["ignore", "pipe", "inherit"] });
  const ended = new Promise((resolve) => child.once("exit", resolve).once("error", resolve));
  const end = () => {
    child.kill("SIGKILL");
    rmSync(dir, { recursive: true, force: true });
  };
  running.add(end);
  const clients = [];
  const stop = async () => {
    clients.forEach((client) => client.close());
    child.kill("SIGKILL");
    await ended;
    end();
    running.delete(end);
  };
  t?.after(stop);

  const url = await new Promise((resolve, reject) => {
    createInterface({ input: child.stdout }).once("line", (line) => resolve(`http://${/data=(\S+)/.exec(line)[1]}`));
    ended.then((why) => reject(new Error(`the gate ended before it listened: ${why}`)));
  });
  return {
    url,
    stop,
    /** A client that presents `token`, written `7` or `7.HOLDER`; without one, it can only read. */
    client(token, options = {}) {
      const authToken = token === undefined ? undefined : `fgt.${token}`;
      const client = createClient({ url, authToken, ...options });
      clients.push(client);
      return client;
    },
    /** The fence's mark. */
    async highest() {
      const answer = await fetch(`${url}/-/fences/app`);
      return (await answer.json()).highest;
    },
  };
}

/** The holder's part of an `fgt.` credential. */
export const holder = (name) => Buffer.from(name).toString("base64url");
