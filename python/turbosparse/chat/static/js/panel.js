// The panel at the right: sparsity at work, or prompt and sampling.

import { html, useEffect, useState } from "/static/vendor/preact.js";
import * as api from "./api.js";
import { bytes, integer, percent, predictorShare, rate } from "./format.js";
import { IconButton } from "./icons.js";
import { useLive } from "./message.js";
import { SettingsPanel } from "./settings.js";
import { attempt, set, settingsNow, state, togglePanel, trace } from "./state.js";
import { Strip } from "./strip.js";

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
      { name: "saved of dense", text: bytes(sparsity.bytes_dense / n), share: Math.max(1 - share, 0), kind: "cold" },
    ]}
    note="FFN and predictor bytes are counted; attention, embedding and head follow from tensor sizes."
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

// Which memory served the active neurons. There is one pool until a GPU split exists; it says so.
function Pools() {
  return html`<${Bar}
    label="Active neurons served by"
    source="derived"
    parts=${[{ name: "RAM", text: "100 %", share: 1, kind: "warm" }]}
    note="This build computes every neuron on the CPU; there is no other pool yet."
  />`;
}

function Recall() {
  const [found, setFound] = useState(null);
  const [busy, setBusy] = useState(false);
  const { card } = state.model;
  if (!card?.modes.includes("predicted") || !card.modes.includes("exact") || !state.current?.messages.length) return null;
  const measure = async () => {
    setBusy(true);
    const answer = await attempt(() => api.post(`/conversations/${state.current.conversation.id}/recall`));
    setBusy(false);
    if (answer) setFound(answer);
  };
  return html`<div class="meter">
    <div class="meter-head"><span>Recall of the predictor</span>${found && html`<span class="source measured">measured</span>`}</div>
    ${found
      ? html`<p class="big-figure">${percent(found.recall)}</p>
          <p class="meter-note">Over the ${integer(found.tokens)} tokens of this conversation, Fast found ${percent(found.recall)} as many active neurons as Exact (${percent(found.active_predicted)} against ${percent(found.active_exact)} of all).</p>`
      : html`<p class="meter-note">Reads this conversation once in Exact and once in Fast, and compares how many neurons were active.</p>`}
    <button type="button" class="quiet" disabled=${busy} onClick=${measure}>${busy ? "Measuring..." : found ? "Measure again" : "Measure"}</button>
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
  if (!stats?.sparsity) return html`<p class="panel-note">Send a message: what each layer does appears here, token by token.</p><${Pools} />`;
  const { sparsity, timings } = stats;
  return html`
    <p class="panel-note">${live ? "The latest token of the reply under way." : `The reply of ${integer(timings?.predicted_n || 0)} tokens, mode ${sparsity.mode}.`}
      ${state.subject && html`<button type="button" class="quiet inline" onClick=${() => set({ subject: null })}>Show the latest</button>`}
    </p>
    ${(live || rows?.length > 0) && html`<${Strip} rows=${rows || []} live=${live} />`}
    <${Rows} sparsity=${sparsity} />
    <${Bytes} sparsity=${sparsity} />
    <${Time} sparsity=${sparsity} timings=${timings} />
    <${Pools} />
    <${Recall} />
    <p class="panel-note small">${card && `New replies: mode ${settingsNow().mode || card.default_mode}. `}<i class="source measured">measured</i> is counted or timed while the work is done, <i class="source derived">derived</i> follows from tensor sizes. Nothing is estimated.</p>
  `;
}
