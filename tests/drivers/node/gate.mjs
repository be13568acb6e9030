// A real gate process for one test file, on a free port, with its data in a temporary folder.
import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";

const root = fileURLToPath(new URL("../../..", import.meta.url));
const program = process.env.FENCEGATE ?? join(root, "target/debug/fencegate");

export async function startGate() {
  const dir = await mkdtemp(join(tmpdir(), "fencegate-node-"));
  const args = ["serve", "--sqlite", join(dir, "app.db"), "--fence", "app", "--data-dir", join(dir, "data")];
  args.push("--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--log", "warn");
  const child = spawn(program, args, { stdio: ["ignore", "pipe", "inherit"] });
  const [line] = await once(createInterface({ input: child.stdout }), "line");
  const url = `http://${/data=(\S+)/.exec(line)[1]}`;
  const stop = async () => {
    child.kill("SIGKILL");
    await once(child, "exit");
    await rm(dir, { recursive: true });
  };
  return { url, stop };
}
