// A reply as tokens: how sure the model was, what else it could have said, how much of it woke.

import { html, useState } from "/static/vendor/preact.js";
import { percent } from "./format.js";
import { ACTIVE, ALTERNATIVES, PROBABILITY, TEXT } from "./live.js";

const SHOWN = 1500; // tokens drawn at once

const visible = (text) => (text.trim() ? text.trim() : text.replace(/\n/g, "⏎").replace(/ /g, "␣") || "∅");

// 0 (calm) .. 9 (noticeable): five steps each side would be noise.
function level(row, by, peak) {
  if (by === "sure") return row[PROBABILITY] == null ? 0 : Math.round(9 * (1 - row[PROBABILITY]));
  return row[ACTIVE] == null || !peak ? 0 : Math.round((9 * row[ACTIVE]) / peak);
}

function Details({ row }) {
  if (!row) return html`<p class="token-details empty-details">Point at a token, or walk with the arrow keys.</p>`;
  return html`<div class="token-details">
    <strong>${visible(row[TEXT])}</strong>
    ${row[PROBABILITY] != null && html`<span>probability ${percent(row[PROBABILITY])}<i class="source measured">measured</i></span>`}
    ${row[ACTIVE] != null && html`<span>${percent(row[ACTIVE])} of neurons active<i class="source measured">measured</i></span>`}
    ${row[ALTERNATIVES]?.length > 0 &&
    html`<ol class="alternatives">
      ${row[ALTERNATIVES].map(([text, p]) => html`<li><span class="bar" style=${{ width: `${100 * p}%` }}></span><code>${visible(text)}</code><span>${percent(p)}</span></li>`)}
    </ol>`}
  </div>`;
}

export function Tokens({ rows }) {
  const [by, setBy] = useState("sure");
  const [at, setAt] = useState(-1);
  const peak = Math.max(...rows.map((row) => row[ACTIVE] || 0));
  const walk = (event) => {
    const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    if (!step || event.altKey) return;
    event.preventDefault();
    setAt(Math.min(Math.max(at + step, 0), Math.min(rows.length, SHOWN) - 1));
  };
  const point = (event) => event.target.dataset.at !== undefined && setAt(Number(event.target.dataset.at));
  if (!rows.length) return html`<p class="note">Nothing was recorded for this reply.</p>`;
  return html`<div class="tokens">
    <div class="token-head">
      <div class="dial small" role="radiogroup" aria-label="Colour tokens by">
        <button type="button" role="radio" aria-checked=${by === "sure" ? "true" : "false"} onClick=${() => setBy("sure")}>Surprise</button>
        <button type="button" role="radio" aria-checked=${by === "active" ? "true" : "false"} onClick=${() => setBy("active")}>Active neurons</button>
      </div>
      <span class="muted">${rows.length} tokens${rows.length > SHOWN ? `, the first ${SHOWN} shown` : ""}</span>
    </div>
    <div class="token-text" tabindex="0" role="group" aria-label="Tokens; arrow keys walk through them" onKeyDown=${walk} onMouseOver=${point}>
      ${rows.slice(0, SHOWN).map((row, i) => html`<span key=${i} data-at=${i} class=${`token level-${level(row, by, peak)}${i === at ? " at" : ""}`}>${row[TEXT].replace(/\n/g, "⏎\n")}</span>`)}
    </div>
    <${Details} row=${rows[at]} />
  </div>`;
}
