// What an empty gate shows: how to make the first write.

import { el } from "./dom.js";

/** Where clients reach the data listener: under the name by which this page was reached, where it listens everywhere. */
function dataAddress(data) {
  const port = data.slice(data.lastIndexOf(":") + 1);
  const host = data.slice(0, data.lastIndexOf(":"));
  return host === "0.0.0.0" || host === "[::]" ? `${location.hostname}:${port}` : data;
}

function lines(resource, scheme, data) {
  const at = `${scheme}://${data}${resource.path === "/" ? "" : resource.path}`;
  const token = "-H 'Fencing-Token: 1' -H 'Fencing-Holder: me'";
  if (resource.kind === "sqlite") {
    const sql = '{"requests":[{"type":"execute","stmt":{"sql":"CREATE TABLE IF NOT EXISTS hello (who TEXT)"}}]}';
    return [`curl ${at}/v2/pipeline \\`, `  ${token} \\`, "  -H 'Content-Type: application/json' \\", `  -d '${sql}'`];
  }
  return [`curl -X PUT ${at}/hello.txt \\`, `  ${token} \\`, "  -d 'hello'"];
}

function block(code) {
  const copy = el("button", { type: "button", class: "small" }, "Copy");
  copy.addEventListener("click", async () => {
    await navigator.clipboard.writeText(code);
    copy.textContent = "Copied";
  });
  return el("div", { class: "code" }, el("pre", { tabindex: "0" }, el("code", {}, code)), navigator.clipboard ? copy : null);
}

/** For each resource, the lines that make a first write to it. */
export function firstWrite(status, fences) {
  const data = dataAddress(status.data);
  const shown = status.resources.slice(0, 5);
  const claimed = fences[0]?.fence;
  return [
    el("h2", {}, "Make the first write"),
    el("p", {}, "No fence of this gate has been claimed yet. A write presents the token of whoever leads; the highest token that the gate has seen is the mark, and lower ones are refused from then on."),
    ...shown.flatMap((resource) => [
      el("h3", {}, resource.name, el("span", { class: "quiet" }, ` · ${resource.kind}, ${resource.guarantee}`)),
      block(lines(resource, status.scheme, data).join("\n")),
    ]),
    el("p", {}, "Then the same with ", el("code", {}, "Fencing-Token: 2"), ", and once more with 1: that one is stale, and appears here at once."),
    claimed ? el("p", { class: "quiet" }, "A leader that doesn't write yet claims: ", el("code", {}, `fencegate claim ${claimed} 1`)) : null,
  ];
}
