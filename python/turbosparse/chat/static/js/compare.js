// The same prompt and seed, as it was answered and in dense mode, side by side.

import { html } from "/static/vendor/preact.js";
import { Figures, GrowingProse, Prose, useLive } from "./message.js";
import { nameOf } from "./ways.js";

// Where two texts part, in characters.
export function common(a, b) {
  let i = 0;
  while (i < a.length && i < b.length && a[i] === b[i]) i += 1;
  return i;
}

function Verdict({ mine, other, mode }) {
  const same = common(mine, other);
  if (mine === other) return html`<p class="verdict">The two texts are identical.</p>`;
  const why =
    mode === "predicted"
      ? "The predictor leaves out a neuron now and then; once one token differs, the texts go separate ways."
      : "Both compute the same function; sums taken in another order (a reused prompt, another batch) can tip a close draw.";
  return html`<p class="verdict">${same ? `Identical for the first ${same} characters.` : "Different from the first character on."} ${why}</p>`;
}

function Column({ name, stats, children }) {
  return html`<section class="column">
    <h3>${name}</h3>
    ${children}
    <${Figures} stats=${stats} />
  </section>`;
}

export function Comparison({ message, live, result }) {
  useLive(live);
  const mode = message.stats.mode || "";
  return html`<div class="comparison" role="group" aria-label="Comparison with dense">
    <div class="columns">
      <${Column} name=${mode ? nameOf(mode, message.stats.threshold_shift) : "This reply"} stats=${message.stats}><${Prose} text=${message.content} /><//>
      <${Column} name="Dense" stats=${live ? live.stats : result?.stats}>
        ${live ? html`<${GrowingProse} live=${live} />` : html`<${Prose} text=${result?.content || ""} />`}
      <//>
    </div>
    ${result && html`<${Verdict} mine=${message.content} other=${result.content} mode=${mode} />`}
  </div>`;
}
