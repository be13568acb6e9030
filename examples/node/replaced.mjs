import { createClient } from "@libsql/client";

const url = process.env.FENCEGATE_URL ?? "http://127.0.0.1:7070";
const leader = (token) => createClient({ url, authToken: `fgt.${token}` });

await leader(15).execute("CREATE TABLE IF NOT EXISTS visits (who TEXT)");
await leader(15).execute({ sql: "INSERT INTO visits VALUES (?)", args: ["the first leader"] });
await leader(16).execute({ sql: "INSERT INTO visits VALUES (?)", args: ["its successor"] });
try {
  await leader(15).execute({ sql: "INSERT INTO visits VALUES (?)", args: ["the first leader, woken up"] });
} catch (error) {
  console.log(error.message); // STALE_TOKEN: You've been replaced: token 15 is lower than 16, …
}
