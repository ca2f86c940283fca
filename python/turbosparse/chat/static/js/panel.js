// The panel at the right: sparsity at work, or prompt and sampling.

import { html, useEffect, useState } from "/static/vendor/preact.js";
import * as api from "./api.js";
import { bytes, integer, percent, predictorShare, rate } from "./format.js";
import { IconButton } from "./icons.js";
import { useLive } from "./message.js";
import { SettingsPanel } from "./settings.js";
import { attempt, set, setSettings, state, togglePanel, trace } from "./state.js";
import { Strip } from "./strip.js";
import { modeNow, nameOf, SHIFTS, shiftNow, signed, WAYS } from "./ways.js";

export function Panel() {
  const title = state.panel === "sparsity" ? "Sparsity at work" : "Prompt and sampling";
  return html`<aside class="panel" aria-label=${title}>
    <header class="panel-head">
      <h2>${title}</h2>
      <${IconButton} name="close" label="Close panel" onClick=${() => togglePanel(state.panel)} />
    </header>
    <div class="panel-body">${state.panel === "sparsity" ? html`<${SparsityPanel} />` : html`<${SettingsPanel} />`}</div>
  </aside>`;
}

// The reply that the panel shows: the chosen one, else the one under way, else the last.
function subject() {
  const messages = state.current?.messages || [];
  const running = messages.find((message) => state.live.has(message.id));
  const chosen = messages.find((message) => message.id === state.subject);
  return chosen || running || messages.findLast((message) => message.role === "assistant" && message.stats.seed !== undefined);
}

function Bar({ label, parts, note, source }) {
  return html`<div class="meter">
    <div class="meter-head"><span>${label}</span><span class=${`source ${source}`}>${source}</span></div>
    <div class="bar" role="img" aria-label=${`${label}: ${parts.map((p) => `${p.name} ${p.text}`).join(", ")}`}>
      ${parts.map((part) => html`<span key=${part.name} class=${part.kind} style=${{ width: `${Math.max(100 * part.share, part.share > 0 ? 0.6 : 0)}%` }}></span>`)}
    </div>
    <div class="legend">${parts.map((part) => html`<span key=${part.name}><i class=${part.kind}></i>${part.name} ${part.text}</span>`)}</div>
    ${note && html`<p class="meter-note">${note}</p>`}
  </div>`;
}

function Rows({ sparsity }) {
  const share = sparsity.rows / sparsity.rows_dense;
  return html`<${Bar}
    label="FFN rows"
    source="measured"
    parts=${[
      { name: "computed", text: percent(share), share, kind: "hot" },
      { name: "skipped", text: percent(1 - share), share: 1 - share, kind: "cold" },
    ]}
    note=${`${percent(sparsity.active_frac)} of neurons were not zero${sparsity.selected_frac < 1 ? `; the predictor let ${percent(sparsity.selected_frac)} pass` : ""}.`}
  />`;
}

function Bytes({ sparsity }) {
  const n = Math.max(sparsity.tokens, 1);
  const share = sparsity.bytes_read / sparsity.bytes_dense;
  return html`<${Bar}
    label="Weights read per token"
    source="derived"
    parts=${[
      { name: "read", text: bytes(sparsity.bytes_read / n), share, kind: "hot" },
      { name: "saved", text: bytes(Math.max(sparsity.bytes_dense - sparsity.bytes_read, 0) / n), share: Math.max(1 - share, 0), kind: "cold" },
    ]}
    note=${`Dense reads ${bytes(sparsity.bytes_dense / n)}.${sparsity.bytes_read > sparsity.bytes_dense ? " This read more: the predictor cost more than it saved." : ""} FFN and predictor bytes are counted; attention, embedding and head follow from tensor sizes.`}
  />`;
}

function Time({ sparsity, timings }) {
  const share = predictorShare({ sparsity, timings });
  if (share === null) return null;
  return html`<${Bar}
    label="Time per token"
    source="measured"
    parts=${[
      { name: "predictor", text: percent(share), share, kind: "warm" },
      { name: "everything else", text: percent(1 - share), share: 1 - share, kind: "cold" },
    ]}
    note=${`${(timings.predicted_ms / Math.max(timings.predicted_n, 1)).toFixed(1)} ms, ${rate(timings.predicted_per_second)} tokens per second.`}
  />`;
}

// Which memory served the active neurons: one pool, as this build computes on the CPU alone.
function Pools({ active }) {
  const { card } = state.model;
  if (!card) return null;
  const pool = card.resident ? "RAM in large pages" : "RAM as mapped file";
  return html`<${Bar}
    label="Active neurons served by"
    source="derived"
    parts=${[{ name: pool, text: "100 %", share: 1, kind: "hot" }]}
    note=${`${active == null ? "" : `${percent(active)} of all neurons were active. `}This build computes every neuron on the CPU: there is no GPU pool, so nothing is hot or cold by place.`}
  />`;
}

// The predictor's threshold, for those who want another than Balanced's and Fast's.
function Threshold() {
  const { card } = state.model;
  const [moving, setMoving] = useState(null);
  if (!card?.modes.includes("predicted") || modeNow() !== "predicted") return null;
  const value = moving ?? shiftNow();
  const [least, most, step] = SHIFTS;
  const save = (event) => {
    setMoving(null);
    setSettings({ mode: "predicted", threshold_shift: Number(event.target.value) });
  };
  return html`<div class="meter">
    <div class="slider">
      <label for="threshold">Predictor's threshold</label>
      <output>${signed(value)}<span class="muted"> from the file's</span></output>
      <input type="range" id="threshold" min=${least} max=${most} step=${step} value=${value} onInput=${(e) => setMoving(Number(e.target.value))} onChange=${save} />
      <span class="ends" aria-hidden="true"><span>misses less</span><span>computes less</span></span>
    </div>
  </div>`;
}

// Balanced, Fast, and the threshold that is set, if it is neither.
function candidates() {
  const shifts = WAYS.filter((way) => way.mode === "predicted").map((way) => way.shift);
  const own = shiftNow();
  return modeNow() === "predicted" && !shifts.includes(own) ? [...shifts, own] : shifts;
}

function Recall() {
  const [found, setFound] = useState(null);
  const [busy, setBusy] = useState(false);
  const { card } = state.model;
  const id = state.current?.conversation.id;
  useEffect(() => setFound(null), [id, card?.path]);
  if (!card?.modes.includes("predicted") || !state.current?.messages.length) return null;
  const measure = async () => {
    setBusy(true);
    const answer = await attempt(() => api.post(`/conversations/${id}/recall`, { threshold_shifts: candidates() }));
    setBusy(false);
    if (answer) setFound(answer);
  };
  const row = (name, each) => html`<tr key=${name}>
    <th scope="row">${name}</th>
    <td class="recall-bar"><span class="bar" aria-hidden="true"><span class="hot" style=${{ width: `${100 * each.recall}%` }}></span></span></td>
    <td>${percent(each.recall)}</td><td>${percent(each.weighted_recall)}</td><td>${percent(each.selected)}</td>
  </tr>`;
  return html`<div class="meter">
    <div class="meter-head"><span>Recall of the predictor</span>${found && html`<span class="source measured">measured</span>`}</div>
    ${found
      ? html`<table class="recall">
            <thead><tr><td></td><td></td><th scope="col" title="Share of the active neurons that were selected">found</th><th scope="col" title="The same, each neuron counted by its activation">by weight</th><th scope="col" title="Share of all neurons that were selected">selected</th></tr></thead>
            <tbody>${found.found.map((each) => row(nameOf("predicted", each.threshold_shift), each))}</tbody>
          </table>
          <p class="meter-note">Of the neurons that are active, the share that the predictor lets pass: ${integer(found.found[0].columns)} FFN evaluations of this conversation's first ${integer(found.tokens)} tokens were also computed in full. Exact and Dense miss none.</p>`
      : html`<p class="meter-note">Reads the beginning of this conversation in Balanced and in Fast, computes a quarter of it also in full, and counts which active neurons the predictor missed.</p>`}
    <button type="button" class="quiet" id="measure-recall" disabled=${busy} onClick=${measure}>${busy ? "Measuring..." : found ? "Measure again" : "Measure"}</button>
  </div>`;
}

function SparsityPanel() {
  const message = subject();
  const live = message && state.live.get(message.id);
  const rows = message && state.traces.get(message.id);
  useLive(live, 250);
  useEffect(() => {
    if (message && !live && !rows) trace(message.id);
  }, [message?.id, live]);
  const { card } = state.model;
  if (card && !card.sparse) return html`<p class="panel-note"><strong>Sparsity off.</strong> ${card.note}</p>`;
  const stats = live ? live.stats : message?.stats;
  if (!stats?.sparsity) return html`<p class="panel-note">Send a message: what each layer does appears here, token by token.</p><${Threshold} /><${Pools} />`;
  const { sparsity, timings } = stats;
  return html`
    <p class="panel-note">${live ? "The latest token of the reply under way." : `The reply of ${integer(timings?.predicted_n || 0)} tokens, ${nameOf(sparsity.mode, stats.threshold_shift)}.`}
      ${state.subject && html`<button type="button" class="quiet inline" onClick=${() => set({ subject: null })}>Show the latest</button>`}
    </p>
    ${(live || rows?.length > 0) && html`<${Strip} rows=${rows || []} live=${live} />`}
    <${Rows} sparsity=${sparsity} />
    <${Bytes} sparsity=${sparsity} />
    <${Time} sparsity=${sparsity} timings=${timings} />
    <${Threshold} />
    <${Recall} />
    <${Pools} active=${sparsity.active_frac} />
    <p class="panel-note small">${card && `New replies: ${nameOf(modeNow(), shiftNow())}. `}<i class="source measured">measured</i> is counted or timed while the work is done, <i class="source derived">derived</i> follows from tensor sizes. Nothing is estimated.</p>
  `;
}
