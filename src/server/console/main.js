// From the address to the view, and from the stream of events to whatever is shown.

import * as gate from "./gate.js";
import { el, fill, moment, plural, text } from "./dom.js";
import { fenceView } from "./fence.js";
import { listView } from "./list.js";
import { watch } from "./live.js";

const $ = (id) => document.getElementById(id);
const main = $("main");

/** What the views share: whether what they show is live, and what was last told. */
const shared = { live: false, feed: [], status: null, route: null };
let view = null;

/** `#/` with a query is the list, `#/fence/NAME` one fence. */
function route() {
  const hash = location.hash.startsWith("#/") ? location.hash.slice(1) : "/";
  const [path, query = ""] = hash.split("?");
  if (path.startsWith("/fence/")) {
    try {
      return { fence: decodeURIComponent(path.slice("/fence/".length)) };
    } catch {
      return { fence: path.slice("/fence/".length) };
    }
  }
  return { look: Object.fromEntries(new URLSearchParams(query)) };
}

function show() {
  if (location.hash && !location.hash.startsWith("#/")) return;
  const wanted = route();
  const isNew = view === null || view.fence !== wanted.fence;
  if (isNew) {
    const wasThere = view !== null;
    view?.close();
    view = wanted.fence === undefined ? listView(shared) : fenceView(shared, wanted.fence);
    fill(main, view.element);
    document.title = wanted.fence === undefined ? "fencegate" : `${wanted.fence} · fencegate`;
    scrollTo(0, 0);
    // Whoever came by a link or a key goes on from the top of what it led to.
    if (wasThere) main.focus({ preventScroll: true });
  }
  view.show(wanted);
}

/** The gate wants to know who asks. */
function signIn(failed) {
  view?.close();
  view = null;
  const input = el("input", { type: "password", id: "secret", autocomplete: "off", required: true });
  const form = el("form", { class: "signin", onsubmit: (event) => { event.preventDefault(); gate.signIn(input.value); start(); } },
    el("h1", {}, "Sign in"),
    el("p", {}, "This gate's admin listener asks for a secret. It is kept for this tab only."),
    failed ? el("p", { class: "wrong", role: "alert" }, "That secret is not one of this gate's.") : null,
    el("label", { for: "secret" }, "Secret"), input, el("button", { class: "primary" }, "Sign in"));
  fill(main, form);
  input.focus();
}

// Refusals are said to those who listen, a few seconds' together: a flood of them must not talk without end.
const SAY_EVERY_MS = 4000;
const unsaid = new Map();
let sayTimer = null;

function say(event) {
  const key = `${event.fence}\n${event.event}\n${event.token}`;
  const before = unsaid.get(key);
  unsaid.set(key, { ...event, count: event.count + (before?.count ?? 0) });
  if (sayTimer) return;
  const speak = () => {
    const all = [...unsaid.values()];
    unsaid.clear();
    if (all.length === 0) { sayTimer = null; return; }
    const told = all.slice(0, 3).map(({ fence, event: verdict, token, count }) => `${fence}: ${verdict} token ${token} refused, ${plural(count, "time")}`);
    if (all.length > 3) told.push(`and ${all.length - 3} more`);
    text($("said"), told.join(". "));
    sayTimer = setTimeout(speak, SAY_EVERY_MS);
  };
  sayTimer = setTimeout(speak, 0);
}

const FEED_MAX = 60;
let noted = 0;

/** Somebody who knocks on and on is one line, with a count. */
const sameKnock = (one, other) => ["event", "fence", "token", "holder"].every((key) => one[key] === other[key]);
const KNOCKS = ["stale", "conflict", "unissued"];

function note(item) {
  const place = KNOCKS.includes(item.event) ? shared.feed.slice(0, 8).findIndex((other) => sameKnock(item, other)) : -1;
  const before = place < 0 ? null : shared.feed.splice(place, 1)[0];
  shared.feed.unshift({ ...item, count: (item.count ?? 1) + (before?.count ?? 0), key: before?.key ?? (noted += 1) });
  shared.feed.length = Math.min(shared.feed.length, FEED_MAX);
}

function setState(state, words) {
  document.documentElement.dataset.state = state;
  text($("state-text"), words);
}

async function readStatus() {
  shared.status = await gate.status();
  const { version, admin } = shared.status;
  text($("where"), `${location.host || admin} · version ${version}`);
  view?.told?.();
}

const told = {
  event(event) {
    note(event);
    if (KNOCKS.includes(event.event)) say(event);
    view?.event(event);
  },
  gap(count) {
    if (count) note({ event: "lost", count, at: new Date().toISOString() });
    view?.reload();
  },
  live() {
    shared.live = true;
    $("gone").hidden = true;
    setState("live", "Live");
    readStatus().catch(() => {});
  },
  gone(since, error) {
    shared.live = false;
    if (error?.status === 401) { setState("gone", "Not signed in"); signIn(gate.hasSecret()); return; }
    setState("gone", "Disconnected");
    const why = error?.status ? ` ${error.message}` : "";
    text($("gone"), `Disconnected since ${moment(since)}. What you see is from then; trying again.${why}`);
    $("gone").hidden = false;
    view?.stale?.();
  },
};

let stream = null;

function start() {
  show();
  stream = watch(told);
}

/** A tab that nobody has seen for this long watches no more, until somebody does. */
const UNSEEN_MS = 60_000;
let unseen = null;
let isPaused = false;

document.addEventListener("visibilitychange", () => {
  clearTimeout(unseen);
  if (document.hidden) {
    unseen = setTimeout(() => { isPaused = true; shared.live = false; setState("", "Paused"); view?.stale?.(); stream?.pause(); }, UNSEEN_MS);
    return;
  }
  if (isPaused) { isPaused = false; setState("", "Connecting"); stream?.resume(); }
  view?.tick();
});

addEventListener("hashchange", () => { if (view) show(); });
$("skip").addEventListener("click", (event) => { event.preventDefault(); main.focus(); });
// Countdowns and ages go on by themselves, but not where nobody looks.
setInterval(() => { if (!document.hidden) view?.tick(); }, 1000);
start();
