// The README's example does what the README says.
import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { copyFile, readFile, rm } from "node:fs/promises";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { startGate } from "./gate.mjs";

const example = fileURLToPath(new URL("../../../examples/node/replaced.mjs", import.meta.url));

test("the README shows the example, and it is told STALE_TOKEN", async () => {
  const readme = await readFile(new URL("../../../README.md", import.meta.url), "utf8");
  assert.ok(readme.includes(await readFile(example, "utf8")), "README.md and examples/node/replaced.mjs differ");
  const gate = await startGate();
  // Beside node_modules, where Node looks for packages.
  const copy = fileURLToPath(new URL("./replaced.copy.mjs", import.meta.url));
  try {
    await copyFile(example, copy);
    const { stdout } = await promisify(execFile)(process.execPath, [copy], { env: { ...process.env, FENCEGATE_URL: gate.url } });
    assert.match(stdout, /^STALE_TOKEN: You've been replaced: token 15 is lower than 16/);
  } finally {
    await rm(copy, { force: true });
    await gate.stop();
  }
});
