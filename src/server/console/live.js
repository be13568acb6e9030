// The stream of events, read with fetch: an EventSource can't send a secret. It is opened again whenever it ends, and whoever listens
// is told of every gap, because what was missed has to be read anew.

import { ask, GateError } from "./gate.js";

/** The gate says something every five seconds; after this, it doesn't. */
const SILENT_MS = 12_000;
const AGAIN_MS = [250, 500, 1000, 2000, 4000];

/** Cuts a stream into events: `{ type, data }`. */
export class Parser {
  #rest = "";

  feed(chunk) {
    const blocks = (this.#rest + chunk).split("\n\n");
    this.#rest = blocks.pop();
    return blocks.flatMap((block) => {
      let type = "message";
      const data = [];
      for (const line of block.split("\n")) {
        if (line.startsWith("event: ")) type = line.slice(7);
        else if (line.startsWith("data: ")) data.push(line.slice(6));
      }
      return data.length === 0 ? [] : [{ type, data: JSON.parse(data.join("\n")) }];
    });
  }
}

/**
 * Watches until it is paused, and again from when it is resumed. `told`: `event(data)`; `gap(count)`, after events were missed and after each new connection (`undefined`);
 * `live()`; `gone(since, error)`, again for each attempt that fails.
 */
export function watch(told) {
  let attempts = 0;
  let heardAt = Date.now();
  let stop = new AbortController();
  let paused = false;
  let resume = () => {};

  const once = async () => {
    stop = new AbortController();
    let timer;
    const heard = () => {
      heardAt = Date.now();
      clearTimeout(timer);
      timer = setTimeout(() => stop.abort("late"), SILENT_MS);
    };
    try {
      timer = setTimeout(() => stop.abort("late"), SILENT_MS);
      const answer = await ask("/v1/events", { signal: stop.signal });
      heard();
      attempts = 0;
      told.live();
      told.gap();
      const parser = new Parser();
      const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
      for (;;) {
        const { done, value } = await reader.read();
        if (done) return new GateError("The gate ended the stream.", 0);
        heard();
        for (const { type, data } of parser.feed(value)) {
          if (type === "lost") told.gap(data.count);
          else told.event(data);
        }
      }
    } catch (error) {
      return error;
    } finally {
      clearTimeout(timer);
      stop.abort("over");
    }
  };

  const loop = async () => {
    for (;;) {
      if (paused) {
        await new Promise((resolve) => { resume = resolve; });
        attempts = 0;
      }
      const error = await once();
      if (paused) continue;
      told.gone(heardAt, error);
      if (error instanceof GateError && error.status === 401) return;
      const wait = AGAIN_MS[Math.min(attempts, AGAIN_MS.length - 1)];
      attempts += 1;
      await new Promise((resolve) => setTimeout(resolve, wait * (0.75 + Math.random() / 2)));
    }
  };
  loop();
  return {
    /** Ends the stream: a browser has few connections to one gate, and tabs that nobody sees need none. */
    pause() { paused = true; stop.abort("paused"); },
    resume() { paused = false; resume(); },
  };
}
