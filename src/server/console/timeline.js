// A fence's terms, made from its history, and drawn.

import { el, fill, lasting, moment, name, now as gateNow, since, when } from "./dom.js";

/**
 * The terms that a history tells of, the oldest first: `{ token, holder, from, until, end, refusals, quarantines }`. `events` come as the
 * gate tells them, the newest first. A token that is null is a mark that an operator took away.
 */
export function termsOf(events) {
  const terms = [];
  for (const event of [...events].reverse()) {
    const last = terms.at(-1);
    if (event.event === "advanced" || event.event === "reset" || event.event === "restored") {
      if (last) Object.assign(last, { until: event.at, end: event.event });
      terms.push({ token: event.token, holder: event.holder, from: event.at, until: null, end: null, began: event.event, reason: event.reason, refusals: [], quarantines: [] });
    } else if (event.event === "bound" && last) {
      last.holder = event.holder;
    } else if (event.event === "quarantined" && last) {
      last.quarantines.push({ from: event.at, until: null });
    } else if (event.event === "settled" || event.event === "released") {
      // One that outlasts its term is drawn in the term in which it began, to that term's end.
      const open = terms.flatMap((term) => term.quarantines).filter((quarantine) => !quarantine.until);
      open.forEach((quarantine) => { quarantine.until = event.at; });
    }
  }
  return terms;
}

const time = (at) => Date.parse(at);

/** Puts each refusal into the term in which it was the last time. */
export function placeRefusals(terms, refusals) {
  for (const refusal of refusals) {
    const at = time(refusal.last_at);
    const term = terms.findLast((one) => time(one.from) <= at);
    term?.refusals.push(refusal);
  }
  return terms;
}

const SHOWN = 24;

/** Where in a term something was, from 0 to 1. */
function place(term, at, now) {
  const [from, until] = [time(term.from), term.until ? time(term.until) : now];
  return until > from ? Math.min(1, Math.max(0, (at - from) / (until - from))) : 0.5;
}

function segment(term, now) {
  const lasted = (term.until ? time(term.until) : now) - time(term.from);
  const isNow = term.until === null;
  const bar = el("div", { class: `bar-term${isNow ? " now" : ""}${term.token === null ? " none" : ""}` },
    el("b", {}, term.token ?? "no mark"), el("span", { class: "name" }, term.holder ?? ""));
  const marks = el("div", { class: "marks" });
  for (const quarantine of term.quarantines) {
    const [from, to] = [place(term, time(quarantine.from), now), quarantine.until ? place(term, time(quarantine.until), now) : 1];
    const span = el("i", { class: "span" });
    span.style.left = `${from * 100}%`;
    span.style.width = `${Math.max(2, (to - from) * 100)}%`;
    marks.append(span);
  }
  for (const refusal of term.refusals) {
    const [from, to] = [place(term, time(refusal.first_at), now), place(term, time(refusal.last_at), now)];
    const line = el("i", { class: "knocks" });
    line.style.left = `${from * 100}%`;
    line.style.width = `${(to - from) * 100}%`;
    const dot = el("i", { class: "dot" });
    dot.style.left = `${to * 100}%`;
    marks.append(line, dot);
  }
  const element = el("div", { class: "segment" }, bar, marks, el("span", { class: "from" }, moment(term.from)), el("span", { class: "lasted" }, lasting(lasted)));
  // Longer terms are wider, but a day not a thousand times as wide as a minute.
  element.style.flexGrow = String(1 + Math.log2(1 + Math.max(0, lasted) / 1000));
  return element;
}

/** Draws the latest terms into `strip`; what it shows is in the table as well. */
export function drawTerms(strip, terms) {
  const now = gateNow();
  const shown = terms.slice(-SHOWN);
  // Whoever looks at earlier ones is left there, until there is a new one.
  const isLonger = shown.length !== strip.children.length;
  fill(strip, shown.map((term) => segment(term, now)));
  if (isLonger) strip.scrollLeft = strip.scrollWidth;
}

const ENDS = { advanced: "a newer leader came", reset: "an operator set the mark", restored: "a backup was restored" };

/** The same terms as rows of a table, the newest first. */
export function termRows(terms) {
  return terms.toReversed().map((term) => el("tr", {},
    el("th", { scope: "row", class: "number" }, term.token ?? "none"),
    el("td", {}, term.holder ? name(term.holder) : "–"),
    el("td", {}, when(term.from)),
    el("td", {}, term.until ? when(term.until) : "still"),
    el("td", {}, lasting((term.until ? time(term.until) : time(term.from) + since(term.from)) - time(term.from))),
    el("td", {}, term.end ? ENDS[term.end] : "it leads", term.began === "reset" && term.reason ? el("span", { class: "quiet" }, ` · set by an operator: ${term.reason}`) : null)));
}
