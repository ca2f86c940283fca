// A reply that is being written: follows the server's stream, keeps the rows, tells who watches.
// After a reload the page attaches again and gets everything from the start.

import { events } from "./api.js";

export const TEXT = 1, PROBABILITY = 2, ACTIVE = 3, ALTERNATIVES = 4, LAYERS = 5; // places in a row

export class LiveReply {
  constructor(path) {
    this.path = path;
    this.text = this.prefix = "";
    this.rows = [];
    this.timings = this.sparsity = this.ttft_ms = this.progress = null;
    this.watchers = new Set();
    this.abort = new AbortController();
    this.ended = this.run();
  }

  // Resolves with the last event, or null when the page stopped watching.
  async run() {
    let last = null;
    try {
      for await (const event of events(`${this.path}/events?from=${this.rows.length}`, this.abort.signal)) {
        if (event.type === "end") last = event;
        else this.take(event);
      }
    } catch (error) {
      if (error.name !== "AbortError") console.warn(error.message);
    }
    return last;
  }

  take(event) {
    if (event.type === "start") this.text = this.prefix = event.prefix;
    if (event.type === "progress") this.progress = event;
    if (event.type === "delta") {
      for (const row of event.rows) this.rows.push(row);
      this.text += event.rows.map((row) => row[TEXT]).join("");
      this.timings = event.timings;
      this.sparsity = event.sparsity;
      this.ttft_ms = event.ttft_ms;
    }
    for (const watcher of this.watchers) watcher(this);
  }

  // What the footer shows while it runs: the latest token's counters.
  get stats() {
    return { timings: this.timings, sparsity: this.sparsity, ttft_ms: this.ttft_ms };
  }

  watch(watcher) {
    this.watchers.add(watcher);
    return () => this.watchers.delete(watcher);
  }

  leave() {
    this.abort.abort();
  }
}

// Calls `draw` after it was asked for, not more often than every `ms`, and leaves three quarters of
// the time to the rest of the page when drawing takes long.
export function paced(draw, ms = 30) {
  let asked = false, next = 0, stopped = false;
  const run = () => {
    if (stopped) return;
    const begin = performance.now();
    if (begin < next) return void setTimeout(() => requestAnimationFrame(run), next - begin);
    asked = false;
    draw();
    const end = performance.now();
    next = Math.max(begin + ms, end + Math.min(3 * (end - begin), 1000)) - 4;
  };
  const ask = () => {
    if (asked || stopped) return;
    asked = true;
    if (document.hidden) setTimeout(run, 200);
    else requestAnimationFrame(run);
  };
  ask.stop = () => (stopped = true);
  return ask;
}
