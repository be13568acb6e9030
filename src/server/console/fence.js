// One fence: who leads, who led, who was refused, and what an operator can do.

import * as gate from "./gate.js";
import { releaseDialog, resetDialog } from "./actions.js";
import { el, fill, lasting, name, quarantine, rate, setClock, since, text, when } from "./dom.js";
import { Rates } from "./list.js";
import { drawTerms, placeRefusals, termRows, termsOf } from "./timeline.js";

const HISTORY = 200;
const SOON_MS = 120;

const WORDS = {
  advanced: "led", bound: "named", reset: "mark set", quarantined: "quarantined", settled: "quarantine ended", released: "released",
};
const VERDICTS = { stale: "stale", conflict: "conflict: another holder has it", unissued: "nobody issued it" };

function table(label, heads) {
  const body = el("tbody");
  const element = el("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": label },
    el("table", {}, el("caption", { class: "unseen" }, label), el("thead", {}, el("tr", {}, heads.map(([head, kind]) => el("th", { scope: "col", class: kind ?? "" }, head)))), body));
  return { element, body };
}

const fact = (label, ...value) => el("div", {}, el("dt", {}, label), el("dd", {}, ...value));

export function fenceView(shared, fence) {
  const title = el("h1", { class: "fence-name" }, fence);
  const what = el("p", { class: "quiet" });
  const wrong = el("p", { class: "wrong", role: "alert", hidden: true });
  const stuck = el("div", { class: "panel stuck", hidden: true });
  const said = el("p", { class: "quiet", role: "status" });
  const facts = el("dl", { class: "facts" });
  const strip = el("div", { class: "strip", tabindex: "0", role: "region", "aria-label": "The latest terms, the newest at the end. The table below says the same." });
  const terms = table("Terms, the newest first", [["Token", "number"], ["Holder"], ["From"], ["Until"], ["Lasted"], ["End"]]);
  const refused = table("Who was refused, the latest first", [["Token", "number"], ["Holder"], ["Why"], ["Times", "number"], ["First"], ["Last"]]);
  const lines = table("History, the newest first", [["When"], ["What"], ["Mark", "number"], ["Before", "number"], ["Holder"], ["Reason"]]);
  const older = el("button", { type: "button" }, "Older");
  const resetButton = el("button", { type: "button", id: "reset" }, "Set the mark…");
  const releaseButton = el("button", { type: "button", id: "release" }, "End the quarantine…");
  const legend = el("p", { class: "quiet legend", "aria-hidden": "true" }, el("i", { class: "dot" }), " refused, the last time  ", el("i", { class: "span" }), " quarantined  · longer terms are drawn wider, not to scale");
  const noRefusals = el("p", { class: "quiet" }, "Nobody was refused here.");
  const noTerms = el("p", { class: "quiet" }, "Nobody has claimed this fence yet.");
  const untilCell = el("strong", {});
  const causeCell = el("p", {});
  fill(stuck, el("p", {}, "Quarantined ", untilCell, ". Newer tokens wait: an older write may still be applied."), causeCell, releaseButton);
  const content = el("div", {}, stuck, said, facts,
    el("section", { "aria-labelledby": "h-terms" }, el("h2", { id: "h-terms" }, "Who led"), noTerms, strip, legend, terms.element),
    el("section", { "aria-labelledby": "h-refused" }, el("h2", { id: "h-refused" }, "Who was refused"), noRefusals, refused.element),
    el("section", { "aria-labelledby": "h-history" }, el("h2", { id: "h-history" }, "History"), lines.element, older),
    el("section", { "aria-labelledby": "h-acts" }, el("h2", { id: "h-acts" }, "Operator"), el("p", { class: "quiet" }, "For the one case in which a mark has to fall: the coordinator was restored, and its numbers went back."), resetButton));
  content.hidden = true;
  const element = el("article", {}, el("p", { class: "crumb" }, el("a", { href: "#/" }, "All fences")), title, what, wrong, content);

  const rates = new Rates();
  let info = null;
  let events = [];
  let next = null;
  let known = [];
  let closed = false;
  let timer = null;
  let again = null;

  const showFacts = () => {
    if (!info) return;
    fill(facts,
      fact(info.highest === null ? "Mark" : "Leads with token", el("span", { class: "token big" }, info.highest ?? "none")),
      fact("Holder", info.holder ? name(info.holder) : "not named"),
      fact("Since", when(info.advanced_at), info.advanced_at ? el("span", { class: "quiet" }, ` ${lasting(since(info.advanced_at))}`) : null),
      fact("Writes/s", rate(info.writesRate)), fact("Refused/s", rate(info.refusedRate)),
      fact("In flight", info.in_flight.toLocaleString("en")), fact("Refused since the gate started", info.refused.toLocaleString("en")));
    stuck.hidden = !info.quarantined_until;
    text(untilCell, quarantine(info.quarantined_until) ?? "");
    const cause = events.find((event) => event.event === "quarantined");
    text(causeCell, cause?.reason ? `Why: ${cause.reason}.` : "");
  };

  const showTerms = () => {
    const all = placeRefusals(termsOf(events), known);
    drawTerms(strip, all);
    fill(terms.body, termRows(all));
    noTerms.hidden = all.length > 0;
    strip.hidden = legend.hidden = terms.element.hidden = all.length === 0;
    fill(lines.body, events.map((event) => el("tr", { class: event.event },
      el("td", {}, when(event.at)), el("th", { scope: "row" }, WORDS[event.event] ?? event.event), el("td", { class: "number" }, event.token ?? "none"),
      el("td", { class: "number" }, event.previous ?? "–"), el("td", {}, event.holder ? name(event.holder) : "–"), el("td", { class: "reason" }, event.reason ?? ""))));
    older.hidden = next === null;
  };

  const showRefused = () => {
    fill(refused.body, known.map((one) => el("tr", { class: one.verdict },
      el("th", { scope: "row", class: "number" }, one.token), el("td", {}, one.holder ? name(one.holder) : "–"), el("td", {}, VERDICTS[one.verdict] ?? one.verdict),
      el("td", { class: "number" }, one.count.toLocaleString("en")), el("td", {}, when(one.first_at)), el("td", {}, when(one.last_at)))));
    noRefusals.hidden = known.length > 0;
    refused.element.hidden = known.length === 0;
  };

  const read = async (withHistory) => {
    const [now, lately] = await Promise.all([gate.fence(fence), withHistory ? gate.history(fence, { limit: HISTORY }) : null]);
    if (closed) return;
    setClock(now.at);
    rates.take([now], now.at);
    info = now;
    wrong.hidden = true;
    content.hidden = false;
    text(what, `${now.resource} · ${now.guarantee === "atomic" ? "atomic: check and write are one transaction" : "drained: older writes end before newer ones begin"}`);
    if (lately) {
      // What was read of older times stays.
      const oldest = lately.events.at(-1)?.id;
      const rest = oldest === undefined ? [] : events.filter((event) => BigInt(event.id) < BigInt(oldest));
      if (rest.length === 0) next = lately.next;
      events = [...lately.events, ...rest];
    }
    const refusals = JSON.stringify(now.refusals);
    if (lately || refusals !== JSON.stringify(known)) {
      known = now.refusals;
      showTerms();
      showRefused();
    }
    showFacts();
  };

  const fail = (error) => {
    if (closed || (error.status === 0 && !shared.live)) return;
    text(wrong, error.message ?? String(error));
    wrong.hidden = false;
  };

  /** Events of a moment are read together; `again` is what is still wanted when a reading ends. */
  const soon = (withHistory, ms = SOON_MS) => {
    if (timer !== null) { again = again || withHistory ? true : (again ?? false); return; }
    timer = setTimeout(async () => {
      await read(withHistory).catch(fail);
      timer = null;
      if (again !== null && !closed) { const wanted = again; again = null; soon(wanted, 300); }
    }, ms);
  };

  older.addEventListener("click", async () => {
    try {
      const page = await gate.history(fence, { limit: HISTORY, before: next });
      events = [...events, ...page.events];
      next = page.next;
      showTerms();
    } catch (error) { fail(error); }
  });
  resetButton.addEventListener("click", () => {
    if (info) resetDialog(info, (answer) => { text(said, `The mark was ${answer.previous ?? "none"} and is ${answer.highest ?? "none"} now.`); soon(true, 0); });
  });
  releaseButton.addEventListener("click", () => {
    if (info) releaseDialog(info, (answer) => { text(said, answer.released ? "The quarantine has ended." : "There was no quarantine any more."); soon(true, 0); });
  });

  let turn = 0;
  return {
    fence,
    element,
    show() { soon(true, 0); },
    reload() { soon(true); },
    event(event) {
      if (event.fence !== fence) return;
      soon(!["stale", "conflict", "unissued"].includes(event.event));
    },
    tick() {
      if (!shared.live) return;
      turn += 1;
      showFacts();
      if ((turn % 2 === 0 || turn === 1)) soon(false);
    },
    stale() { wrong.hidden = true; if (info) { delete info.writesRate; delete info.refusedRate; showFacts(); } },
    close() { closed = true; clearTimeout(timer); document.querySelectorAll("dialog").forEach((dialog) => dialog.close()); },
  };
}
