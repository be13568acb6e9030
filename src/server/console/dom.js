// Elements and texts. Whatever comes from the gate becomes a text node or an attribute here, never markup.

/** An element. `props`: `class`, `on…` listeners, properties and attributes; children are elements, texts, or nothing. */
export function el(tag, props = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(props)) {
    if (value === undefined || value === null || value === false) continue;
    if (name === "class") element.className = value;
    else if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value === true) element.setAttribute(name, "");
    else element.setAttribute(name, value);
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

/** Puts these children in the place of all that were there. */
export const fill = (element, ...children) => element.replaceChildren(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));

/**
 * Makes these the children, leaving alone those that are there already: what is taken out and put in again loses the focus, and whoever
 * uses a keyboard is back at the beginning.
 */
export function arrange(parent, elements) {
  const focused = document.activeElement;
  const wanted = new Set(elements);
  for (const child of [...parent.children]) if (!wanted.has(child)) child.remove();
  let place = parent.firstElementChild;
  for (const element of elements) {
    if (element === place) place = place.nextElementSibling;
    else parent.insertBefore(element, place);
  }
  if (focused !== document.activeElement && focused.isConnected) focused.focus({ preventScroll: true });
}

/** Elements by key: `make` makes one, and `update` brings it up to date with its item. */
export class Keyed {
  #all = new Map();

  show(parent, items, keyOf, make, update) {
    const all = new Map();
    for (const item of items) {
      const key = keyOf(item);
      const one = this.#all.get(key) ?? make(item);
      update(one, item);
      all.set(key, one);
    }
    this.#all = all;
    arrange(parent, [...all.values()].map((one) => one.element));
  }
}

/** Sets a text, where it is another: nothing is laid out or said again for the same. */
export function text(element, value) {
  const wanted = String(value ?? "");
  if (element.textContent !== wanted) element.textContent = wanted;
}

/** A name that may be long: it is cut off where there is no room, and can be read whole. */
export const name = (value, tag = "span") => el(tag, { class: "name", title: value }, value);

export const plural = (count, one, many = `${one}s`) => `${count.toLocaleString("en")} ${count === 1 ? one : many}`;

/** A count for a second. */
export function rate(value) {
  if (value === undefined) return "–";
  if (value === 0) return "0";
  return value < 10 ? value.toFixed(1) : Math.round(value).toLocaleString("en");
}

/** A span of time in its two largest units. */
export function lasting(ms) {
  const s = Math.max(0, Math.round(ms / 1000));
  const parts = [[Math.floor(s / 86400), "d"], [Math.floor(s / 3600) % 24, "h"], [Math.floor(s / 60) % 60, "min"], [s % 60, "s"]];
  const first = parts.findIndex(([count]) => count > 0);
  if (first < 0) return "0 s";
  return parts.slice(first, first + 2).filter(([count]) => count > 0).map(([count, unit]) => `${count} ${unit}`).join(" ");
}

const two = (number) => String(number).padStart(2, "0");

/** A moment by this browser's clock's zone: the time today, else the day too. */
export function moment(at) {
  const then = new Date(at);
  const time = `${two(then.getHours())}:${two(then.getMinutes())}:${two(then.getSeconds())}`;
  if (then.toDateString() === new Date().toDateString()) return time;
  return `${then.getFullYear()}-${two(then.getMonth() + 1)}-${two(then.getDate())} ${time}`;
}

/** The same as an element, with the exact moment in it. */
export const when = (at) => (at ? el("time", { datetime: at, title: at }, moment(at)) : el("span", {}, "–"));

// The gate's clock minus this browser's: how long ago something was is told by the gate's.
let ahead = 0;

/** Takes the gate's time from an answer. */
export const setClock = (at) => { if (at) ahead = Date.parse(at) - Date.now(); };
/** Now, by the gate's clock. */
export const now = () => Date.now() + ahead;
/** How long ago that was, in milliseconds. */
export const since = (at) => now() - Date.parse(at);

/** What a quarantine's end says. */
export function quarantine(until) {
  if (!until) return null;
  if (until.startsWith("9999-")) return "until an operator releases it";
  return `for another ${lasting(Math.max(1000, -since(until)))}`;
}
