// All fences at a glance: what needs attention, then a page of the rest.

import * as gate from "./gate.js";
import { arrange, el, fill, Keyed, lasting, name, plural, quarantine, rate, setClock, since, text, when } from "./dom.js";
import { firstWrite } from "./first.js";

const PAGE = 50;
const RATES_EVERY_MS = 2000;
const SOON_MS = 150;
/** How often a search that finds nothing goes on by itself: the gate looks through a hundred thousand names at a time. */
const LOOKS_MAX = 200;

export const linkTo = (fence) => `#/fence/${encodeURIComponent(fence)}`;
const link = (fence) => el("a", { href: linkTo(fence), class: "name", title: fence }, fence);
const token = (value) => el("span", { class: "token" }, value ?? "–");
const by = (holder) => (holder ? [" ", el("span", { class: "by" }, "(", name(holder), ")")] : []);

/** Counts of fences, from one look at the gate to the next. */
export class Rates {
  #seen = new Map();

  /** Takes the fences of an answer; each gets its rates. */
  take(fences, at) {
    const now = Date.parse(at);
    const seen = new Map();
    for (const info of fences) {
      const before = this.#seen.get(info.fence);
      const seconds = before ? (now - before.now) / 1000 : 0;
      // A look too soon after the last one says nothing.
      if (before && seconds < 0.8) { seen.set(info.fence, before); Object.assign(info, before.rates); continue; }
      // Counts begin anew with the gate, and those of HTTP services after 2^32.
      const grown = (key) => (info[key] >= before[key] ? (info[key] - before[key]) / seconds : undefined);
      const rates = before ? { writesRate: grown("writes"), refusedRate: grown("refused") } : {};
      Object.assign(info, rates);
      seen.set(info.fence, { now, writes: info.writes, refused: info.refused, rates });
    }
    this.#seen = seen;
  }
}

/** What happened to a fence, behind its name. */
function happened({ event, holder, count, previous, token: its }) {
  const times = count > 1 ? ` ${count.toLocaleString("en")} times` : "";
  const told = {
    advanced: () => [" is led by token ", token(its), by(holder), previous ? [", after ", token(previous)] : []],
    bound: () => [": token ", token(its), " is ", name(holder ?? "")],
    reset: () => [": an operator set the mark to ", token(its ?? "none")],
    quarantined: () => [" is quarantined"],
    settled: () => ["'s quarantine has ended"],
    released: () => [": an operator ended the quarantine"],
    stale: () => [" refused stale token ", token(its), by(holder), times],
    conflict: () => [" refused token ", token(its), by(holder), times, ": another holder has it"],
    unissued: () => [" refused token ", token(its), by(holder), times, ": nobody issued it"],
    lost: () => [`${plural(count, "event")} missed: this browser was too slow, or the gate too fast. What stands here was read anew.`],
  }[event];
  return told ? told().flat(2) : [` ${event}`];
}

/** One line of the feed. */
function feedItem(item) {
  const [at, rest] = [el("span"), el("span")];
  const element = el("li", { class: `happened ${item.event}` }, at, el("p", {}, item.fence ? link(item.fence) : null, rest));
  return { element, at, rest };
}

function updateFeedItem(shown, item) {
  if (shown.item === item) return;
  shown.item = item;
  fill(shown.at, when(item.at));
  fill(shown.rest, happened(item));
}

/** Why a fence needs attention: how bad it is, and a sentence. */
function reasonFor(info) {
  const knocked = info.knocked;
  const said = [];
  let kind = "knocked";
  if (info.quarantined_until) {
    kind = "stuck";
    said.push("Quarantined ", quarantine(info.quarantined_until), ": newer tokens wait, because an older write may still be applied. ");
  }
  if (knocked) {
    const often = knocked.last_minute > 0 ? `${knocked.last_minute.toLocaleString("en")} in the last minute` : "none in the last minute";
    if (kind !== "stuck") kind = knocked.conflict_at ? "conflict" : knocked.last_minute > 0 ? "knocking" : "knocked";
    const whose = knocked.verdict === "stale" ? "Stale token " : "Token ";
    const why = { stale: " is refused", conflict: " is refused: another holder has it", unissued: " is refused: nobody issued it" }[knocked.verdict];
    said.push(whose, token(knocked.token), by(knocked.holder), why, ` (${often}, last ${lasting(since(knocked.at))} ago). `);
    if (knocked.conflict_at && knocked.verdict !== "conflict") said.push("Two holders presented one token here. ");
  }
  said.push(...(info.highest ? ["The mark is ", token(info.highest), by(info.holder), "."] : ["No mark is set."]));
  const words = { stuck: "Quarantined", conflict: "Conflict", knocking: "Knocking", knocked: "Knocked" };
  return { key: `fence ${info.fence}`, fence: info.fence, kind, word: words[kind], said: said.flat(2) };
}

/** What is wrong with the gate itself, or with what a resource is kept in. */
function troubles({ ready, troubles: all }) {
  const reason = (word, whose, why) => ({ key: `${word} ${whose}`, whose, kind: "conflict", word, said: [why] });
  return [
    ...(ready ? [] : [reason("Stopping", "fencegate", "This gate is stopping: requests in work finish, and no new ones are taken.")]),
    ...all.map(({ resource, why }) => reason("Trouble", resource, `It can't be written: ${why}.`)),
  ];
}

const CALM = { key: "calm", kind: "calm", said: ["Nothing: no fence is quarantined, and nobody was refused in the last ten minutes."] };

function attentionItem(reason) {
  const [badge, said] = [el("span", { class: "badge" }), el("p")];
  const whose = reason.fence ? link(reason.fence) : reason.whose ? name(reason.whose) : null;
  return { element: el("li", {}, reason.word ? badge : null, whose, said), badge, said };
}

function updateAttention({ element, badge, said }, reason) {
  element.className = reason.kind === "calm" ? "quiet calm" : `attention ${reason.kind}`;
  text(badge, reason.word);
  fill(said, reason.said);
}

const COLUMNS = [
  ["Fence", ""], ["Mark", "number"], ["Holder", ""], ["Since", ""], ["Writes/s", "number"], ["Refused/s", "number"], ["In flight", "number"], ["State", ""],
];

/** One row of the table, and how it is brought up to date. */
function row(info) {
  const cells = COLUMNS.map(([label, kind], index) => el(index === 0 ? "th" : "td", { class: kind, "data-label": label, role: index === 0 ? "rowheader" : "cell", scope: index === 0 ? "row" : null }));
  const [fence, mark, holder, at, writes, refused, flight, state] = cells;
  const element = el("tr", { role: "row" }, cells);
  fence.append(link(info.fence));
  const update = (now) => {
    text(mark, now.highest ?? "–");
    if (holder.textContent !== (now.holder ?? "–")) fill(holder, now.holder ? name(now.holder) : "–");
    const dated = at.firstElementChild?.getAttribute("datetime") ?? null;
    if (dated !== now.advanced_at || !at.firstChild) fill(at, when(now.advanced_at));
    text(writes, rate(now.writesRate));
    text(refused, rate(now.refusedRate));
    refused.classList.toggle("hot", now.refusedRate > 0);
    text(flight, now.in_flight.toLocaleString("en"));
    const words = now.quarantined_until ? `Quarantined ${quarantine(now.quarantined_until)}` : now.highest === null ? "Unclaimed" : now.refusedRate > 0 ? "Refusing" : "Quiet";
    text(state, words);
    element.className = now.quarantined_until ? "stuck" : now.refusedRate > 0 ? "knocking" : "";
  };
  const flash = () => { element.classList.remove("flash"); void element.offsetWidth; element.classList.add("flash"); };
  return { element, update, flash, info };
}

export function listView(shared) {
  const summary = el("p", { class: "summary", id: "summary" }, "…");
  const attention = el("ul", { class: "plain", id: "attention" });
  const first = el("section", { hidden: true });
  const how = el("select", { id: "how", "aria-label": "How the name is looked for" }, el("option", { value: "prefix" }, "begins with"), el("option", { value: "part" }, "contains"));
  const search = el("input", { type: "search", id: "search", placeholder: "a part of its name", autocomplete: "off", spellcheck: "false", maxlength: "255" });
  const found = el("p", { class: "quiet", role: "status", id: "found" });
  const body = el("tbody", { role: "rowgroup" });
  const heads = COLUMNS.map(([label, kind]) => el("th", { scope: "col", class: kind, role: "columnheader" }, label));
  const table = el("table", { class: "fences", role: "table", "aria-label": "Fences, in the order of their names" }, el("thead", { role: "rowgroup" }, el("tr", { role: "row" }, heads)), body);
  const toFirst = el("button", { type: "button", id: "first" }, "First page");
  const toNext = el("button", { type: "button", id: "next" }, "Next page");
  const pages = el("div", { class: "pages" }, toFirst, toNext);
  const wrong = el("p", { class: "wrong", role: "alert", hidden: true });
  const feed = el("ol", { class: "plain feed", id: "feed" });
  const element = el("div", { class: "list" },
    el("h1", { class: "unseen" }, "Fences"), summary,
    el("div", { class: "columns" },
      el("div", {},
        el("section", { "aria-labelledby": "needs" }, el("h2", { id: "needs" }, "Needs attention"), attention),
        first,
        el("section", { "aria-labelledby": "all" },
          el("div", { class: "bar" }, el("h2", { id: "all" }, "All fences"),
            el("form", { class: "search", role: "search", onsubmit: (event) => { event.preventDefault(); go({}); } }, el("label", { for: "search" }, "Name"), how, search)),
          wrong, table, el("div", { class: "bar" }, found, pages))),
      el("section", { class: "side", "aria-labelledby": "happens" }, el("h2", { id: "happens" }, "What happens"), feed)));

  const [attentionItems, feedItems] = [new Keyed(), new Keyed()];
  const rates = new Rates();
  let rows = new Map();
  let look = {};
  let next = null;
  let overview = null;
  let reading = null;
  let timers = [];
  let closed = false;

  const fail = (error) => {
    // That the gate doesn't answer stands above everything already.
    if (closed || error.name === "AbortError" || error === "new" || (error.status === 0 && !shared.live)) return;
    text(wrong, error.message);
    wrong.hidden = false;
  };

  const showOverview = () => {
    if (!overview) return;
    const { fences, quarantined, refused_last_minute: refused, fences_refusing: knocking } = overview;
    fill(summary, el("strong", {}, plural(fences, "fence")), " · ",
      el("span", { class: quarantined ? "stuck" : "" }, `${quarantined.toLocaleString("en")} quarantined`), " · ",
      el("span", { class: refused ? "knocking" : "" }, `${refused.toLocaleString("en")} refused in the last minute`), knocking ? ` on ${plural(knocking, "fence")}` : "");
    const all = [...troubles(overview), ...overview.attention.map(reasonFor)];
    attentionItems.show(attention, all.length > 0 ? all : [CALM], (reason) => reason.key, attentionItem, updateAttention);
  };

  const readOverview = async () => {
    const answer = await gate.overview();
    setClock(answer.at);
    if (closed) return;
    overview = answer;
    showOverview();
  };

  /** Calls are put together: a thousand events read the overview once. */
  const soon = (read, ms) => {
    let timer = null;
    let again = false;
    const run = async () => {
      again = false;
      await read().catch(fail);
      timer = again && !closed ? setTimeout(run, ms) : null;
    };
    return () => { if (timer) { again = true; return; } timer = setTimeout(run, SOON_MS); timers.push(timer); };
  };
  const overviewSoon = soon(readOverview, 500);

  const update = (fences, at) => {
    setClock(at);
    rates.take(fences, at);
    for (const info of fences) {
      const shown = rows.get(info.fence);
      if (shown) { shown.info = info; shown.update(info); }
    }
  };
  const readRows = async () => {
    if (rows.size === 0) return;
    const answer = await gate.named([...rows.keys()]);
    if (!closed) update(answer.fences, answer.at);
  };
  const rowsSoon = soon(readRows, 500);

  const showPage = (fences, at) => {
    setClock(at);
    rates.take(fences, at);
    const before = rows;
    rows = new Map(fences.map((info) => { const shown = before.get(info.fence) ?? row(info); shown.info = info; shown.update(info); return [info.fence, shown]; }));
    arrange(body, [...rows.values()].map((shown) => shown.element));
    table.hidden = fences.length === 0;
    const isEmpty = !look.after && !look.prefix && !look.part && !next && fences.every((info) => info.highest === null);
    first.hidden = !isEmpty || !shared.status;
    if (!first.hidden) fill(first, firstWrite(shared.status, fences));
  };

  /** Reads the page anew. A search that finds little goes on until it has a page, or there is nothing left. */
  const readPage = async () => {
    reading?.abort("new");
    const mine = (reading = new AbortController());
    const all = [];
    let { after } = look;
    let answer;
    for (let looks = 0; looks < LOOKS_MAX; looks += 1) {
      answer = await gate.fences({ prefix: look.prefix, part: look.part, after, limit: PAGE - all.length }, mine.signal);
      all.push(...answer.fences);
      after = answer.next;
      if (!after || all.length >= PAGE) break;
      text(found, `Looking: past ${after}`);
    }
    if (closed || mine !== reading) return;
    wrong.hidden = true;
    next = after ?? null;
    showPage(all, answer.at);
    pages.hidden = !look.after && !next;
    toFirst.disabled = !look.after;
    toNext.disabled = !next;
    const searched = look.prefix || look.part;
    text(found, all.length === 0 ? (searched ? "No fence has such a name." : look.after ? "No more fences." : "No fence is known yet.") : `${plural(all.length, "fence")} shown${next ? "; there are more" : ""}`);
  };
  const pageSoon = soon(readPage, 1000);

  const go = ({ after }) => {
    const query = new URLSearchParams();
    if (search.value) query.set(how.value, search.value);
    if (after) query.set("after", after);
    const hash = query.size > 0 ? `#/?${query}` : "#/";
    if (location.hash !== hash) location.hash = hash;
  };
  let typing = null;
  const typed = () => { clearTimeout(typing); typing = setTimeout(() => go({}), 200); };
  search.addEventListener("input", typed);
  how.addEventListener("change", () => go({}));
  toFirst.addEventListener("click", () => go({}));
  toNext.addEventListener("click", () => { if (next) go({ after: next }); });

  const showFeed = () => {
    const items = shared.feed.slice(0, 40);
    if (items.length === 0) fill(feed, el("li", { class: "quiet" }, "Nothing since this page was opened. What happens appears here at once."));
    else feedItems.show(feed, items, (item) => item.key, feedItem, updateFeedItem);
  };
  /** Whether a new fence of this name would stand on this page. */
  const isOnPage = (fence) =>
    fence.startsWith(look.prefix ?? "") && fence > (look.after ?? "") && (!next || fence <= next) && fence.toLowerCase().includes((look.part ?? "").toLowerCase());

  let painting = false;
  const paintFeed = () => {
    if (painting) return;
    painting = true;
    // At once, and once however many came together. A page that isn't seen paints nothing until it is.
    setTimeout(() => { painting = false; if (!closed) showFeed(); }, 30);
  };

  let turn = 0;
  return {
    element,
    show({ look: wanted }) {
      look = wanted;
      if (document.activeElement !== search) search.value = look.part || look.prefix || "";
      how.value = look.part ? "part" : look.prefix ? "prefix" : how.value;
      showFeed();
      readPage().catch(fail);
      overviewSoon();
    },
    reload() { paintFeed(); pageSoon(); overviewSoon(); },
    told() { pageSoon(); },
    event(event) {
      paintFeed();
      overviewSoon();
      const shown = rows.get(event.fence);
      if (!shown) { if (event.event === "advanced" && !event.previous && isOnPage(event.fence)) pageSoon(); return; }
      if (event.event === "advanced" || event.event === "bound" || event.event === "reset") {
        Object.assign(shown.info, { highest: event.token, holder: event.holder, advanced_at: event.event === "bound" ? shown.info.advanced_at : event.at });
        shown.update(shown.info);
      }
      if (["stale", "conflict", "unissued"].includes(event.event)) shown.flash();
      rowsSoon();
    },
    tick() {
      // What is from an earlier time stands still.
      if (!shared.live) return;
      turn += 1;
      showOverview();
      rows.forEach((shown) => shown.update(shown.info));
      if (turn % (RATES_EVERY_MS / 1000) === 0 || turn === 1) rowsSoon();
      if (turn % 5 === 0) overviewSoon();
    },
    stale() {
      wrong.hidden = true;
      // A rate of then is nothing that one should take for now's.
      rows.forEach((shown) => { delete shown.info.writesRate; delete shown.info.refusedRate; shown.update(shown.info); });
    },
    close() { closed = true; reading?.abort("new"); timers.forEach(clearTimeout); clearTimeout(typing); },
  };
}
