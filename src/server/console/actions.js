// What an operator does to a fence: each is asked for twice, says first what it will do, and wants a reason.

import * as gate from "./gate.js";
import { el, fill, text } from "./dom.js";

let numbered = 0;

/** A dialog with a form: `fields`, what will happen, and a reason. `done` is called when the gate has done it. */
function dialog({ title, fields, consequences, label, act, done }) {
  const id = `dialog-${(numbered += 1)}`;
  const reason = el("input", { id: `${id}-reason`, required: true, maxlength: "500", autocomplete: "off" });
  const wrong = el("p", { class: "wrong", role: "alert", hidden: true });
  const will = el("div", { class: "will", role: "status", id: `${id}-will` });
  const cancel = el("button", { type: "button" }, "Cancel");
  const submit = el("button", { type: "submit", class: "primary" });
  const form = el("form", {}, el("h2", { id: `${id}-title` }, title), ...fields, will,
    el("label", { for: `${id}-reason` }, "Why? It is kept in the history."), reason, wrong, el("div", { class: "pages" }, cancel, submit));
  const element = el("dialog", { "aria-labelledby": `${id}-title`, "aria-describedby": `${id}-will` }, form);
  const refresh = () => {
    fill(will, consequences());
    text(submit, label());
    submit.classList.toggle("danger", will.querySelector(".warn") !== null);
  };
  form.addEventListener("input", refresh);
  cancel.addEventListener("click", () => element.close());
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    submit.disabled = true;
    wrong.hidden = true;
    try {
      const answer = await act(reason.value.trim());
      element.close();
      done(answer);
    } catch (error) {
      text(wrong, error.message);
      wrong.hidden = false;
    } finally {
      submit.disabled = false;
    }
  });
  const opener = document.activeElement;
  element.addEventListener("close", () => { element.remove(); opener?.focus?.(); });
  document.body.append(element);
  refresh();
  element.showModal();
  return element;
}

const IS_TOKEN = /^[1-9][0-9]{0,18}$/;

/** Setting the mark, lower or higher or none. */
export function resetDialog(info, done) {
  const now = info.highest;
  const value = el("input", { id: "reset-to", inputmode: "numeric", pattern: "[1-9][0-9]{0,18}", required: true, autocomplete: "off", title: "a token: digits, without a leading zero" });
  const none = el("input", { type: "checkbox", id: "reset-none" });
  const stopped = el("input", { type: "checkbox", id: "reset-stopped", required: true });
  const stoppedLine = el("p", { class: "check" }, stopped, el("label", { for: "reset-stopped" }, "The leaders that were replaced are stopped."));
  const lowers = () => now !== null && (none.checked || (IS_TOKEN.test(value.value) && BigInt(value.value) < BigInt(now)));
  const consequences = () => {
    value.disabled = none.checked;
    stoppedLine.hidden = !lowers();
    stopped.disabled = !lowers();
    const ends = info.guarantee === "atomic" ? "Open transactions on the fence are rolled back." : "Writes in flight have their time to finish, and are cut off then.";
    if (none.checked) return [el("p", { class: "warn" }, "The fence forgets who leads. The next token that comes is admitted, whatever it is: also that of a leader that was replaced long ago."), el("p", {}, ends)];
    if (!IS_TOKEN.test(value.value)) return el("p", { class: "quiet" }, now === null ? "No mark is set now." : `The mark is ${now} now.`);
    const to = BigInt(value.value);
    if (now === null) return el("p", {}, `Tokens below ${to} are refused from then on.`);
    if (to < BigInt(now)) {
      return [el("p", { class: "warn" }, `The mark goes down from ${now} to ${to}. Whoever holds a token from ${to} up can write again, leaders that were replaced included.`), el("p", {}, "This is for one case: the coordinator was restored and its numbers went back. Stop the old leaders first."), el("p", {}, ends)];
    }
    if (to === BigInt(now)) return el("p", {}, `The mark stays ${now}. Its holder is forgotten, and the first that presents it is bound to it.`);
    return [el("p", { class: "warn" }, `Tokens below ${to} are refused from then on: whoever leads now, with ${now}, is shut out.`), el("p", {}, ends)];
  };
  dialog({
    title: `Set the mark of ${info.fence}`,
    fields: [el("label", { for: "reset-to" }, "The new mark"), value, el("p", { class: "check" }, none, el("label", { for: "reset-none" }, "No mark")), stoppedLine],
    consequences,
    label: () => (none.checked ? "Take the mark away" : IS_TOKEN.test(value.value) ? `Set the mark to ${value.value}` : "Set the mark"),
    act: (reason) => gate.reset(info.fence, none.checked ? null : value.value, reason),
    done,
  });
}

/** Ending a quarantine. */
export function releaseDialog(info, done) {
  dialog({
    title: `End the quarantine of ${info.fence}`,
    fields: [],
    consequences: () => [
      el("p", { class: "warn" }, "Newer writes go on at once. The older write whose end is not known can still be applied after them, if the service behind the gate has not dropped it."),
      el("p", {}, "Look there first: was it applied, or can it not be any more?"),
    ],
    label: () => "End the quarantine",
    act: (reason) => gate.release(info.fence, reason),
    done,
  });
}
