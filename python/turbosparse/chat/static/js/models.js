// Choosing a model: bundled, recent, from the disk; what it needs; opening and converting.

import { html, useEffect, useState } from "/static/vendor/preact.js";
import * as api from "./api.js";
import { Dialog } from "./dialogs.js";
import { bytes, integer } from "./format.js";
import { Icon } from "./icons.js";
import { attempt, load, offer, state, unload } from "./state.js";

function Plan({ path, options }) {
  const [plan, setPlan] = useState(null);
  useEffect(() => {
    let current = true;
    setPlan(null);
    attempt(() => api.post("/models/plan", { path, options })).then((found) => current && setPlan(found));
    return () => (current = false);
  }, [path, JSON.stringify(options)]);
  if (!plan) return null;
  const whole = Math.max(plan.needed, plan.available, 1);
  return html`<div class="plan">
    <div class="plan-head">
      <span class=${`fit ${plan.fits ? "yes" : "no"}`}>${plan.fits ? "Fits" : "Does not fit"}</span>
      needs ${bytes(plan.needed)}, ${bytes(plan.available)} available <i class="source derived">derived</i>
    </div>
    <div class="bar" role="img" aria-label="Memory by pool">
      ${plan.pools.map((pool, i) => html`<span key=${pool.name} class=${["warm", "hot", "mid"][i % 3]} style=${{ width: `${(100 * pool.needed) / whole}%` }}></span>`)}
    </div>
    <dl class="pools">
      ${plan.pools.map((pool) => html`<div key=${pool.name} title=${pool.detail}><dt>${pool.name}</dt><dd>${bytes(pool.needed)} <span class="muted">${pool.where}</span></dd></div>`)}
    </dl>
    ${plan.advice.map(
      (advice) => html`<p class="advice-line" key=${advice.text}>
        <strong>What would make it fit:</strong> ${advice.text} (${bytes(advice.needed)})
        <button type="button" class="quiet inline" onClick=${() => load(path, { ...options, ...advice.options })}>Open like that</button>
      </p>`,
    )}
  </div>`;
}

function Browser({ onPick }) {
  const [folder, setFolder] = useState(null);
  const go = async (path) => {
    const found = await attempt(() => api.get(`/models/folder${path ? `?path=${encodeURIComponent(path)}` : ""}`));
    if (found) setFolder(found);
  };
  useEffect(() => void go(), []);
  if (!folder) return null;
  const pick = (entry) => {
    if (entry.kind === "folder") return go(entry.path);
    return onPick(entry.path);
  };
  const icons = { folder: "folder", model: "file", checkpoint: "grid" };
  return html`<div class="browser">
    <div class="browser-path"><button type="button" class="quiet" disabled=${!folder.parent} onClick=${() => go(folder.parent)}>Up</button><span>${folder.path}</span></div>
    <ul class="rows">
      ${folder.entries.map(
        (entry) => html`<li key=${entry.path}><button type="button" class="row-button" onClick=${() => pick(entry)}>
          <${Icon} name=${icons[entry.kind]} /><span>${entry.name}</span><span class="muted">${entry.kind === "model" ? bytes(entry.bytes) : entry.kind === "checkpoint" ? "checkpoint: convert and open" : ""}</span>
        </button></li>`,
      )}
      ${!folder.entries.length && html`<li class="muted">No folders, .gguf files or checkpoints here.</li>`}
    </ul>
  </div>`;
}

const CONTEXTS = [1024, 2048, 4096, 8192, 16384, 32768];

function Options({ options, setOptions }) {
  const put = (name, value) => setOptions({ ...options, [name]: value || undefined });
  return html`<div class="load-options">
    <label>Context <select value=${options.n_ctx ?? ""} onChange=${(e) => put("n_ctx", Number(e.target.value))}>
      <option value="">default</option>${CONTEXTS.map((n) => html`<option key=${n} value=${n}>${n} tokens</option>`)}
    </select></label>
    <label>Keys and values <select value=${options.kv_type ?? ""} onChange=${(e) => put("kv_type", e.target.value)}>
      <option value="">f16</option><option value="q8_0">q8_0, half the memory</option><option value="f32">f32</option>
    </select></label>
    <label>Threads <input type="number" min="1" max="256" value=${options.n_threads ?? ""} placeholder="all cores" onChange=${(e) => put("n_threads", Number(e.target.value))} /></label>
  </div>`;
}

function Task() {
  const { model } = state;
  if (!model.task) return null;
  const verb = model.task === "converting" ? "Converting the checkpoint" : "Opening";
  return html`<div class="task" role="status"><span>${verb}: ${model.path}</span><progress value=${model.fraction} max="1" aria-label=${verb}></progress></div>`;
}

function Failure() {
  const { error, path, task } = state.model;
  if (!error || task) return null;
  return html`<div class="failure" role="alert">
    <strong>${fileName(path)} could not be opened</strong>
    <p>${error.message}</p>
    ${error.needed > 0 && html`<p>${bytes(error.needed)} needed, ${bytes(error.available)} available.</p>`}
  </div>`;
}

const fileName = (path) => path.split(/[\\/]/).at(-1);

export function ModelDialog({ browse, picked }) {
  const [models, setModels] = useState([]);
  const [chosen, setChosen] = useState(null);
  useEffect(() => setChosen(picked), [picked]);
  const others = models.filter((model) => model.path !== picked);
  const shown = picked ? [{ name: fileName(picked), path: picked, kind: "picked", note: "It does not fit as it is." }, ...others] : models;
  const [options, setOptions] = useState({});
  const { card } = state.model;
  useEffect(() => void attempt(() => api.get("/models")).then((found) => found && setModels(found.models)), []);
  return html`<${Dialog} title="Model" wide>
    ${card &&
    html`<div class="model-now">
      <button type="button" class="quiet" onClick=${unload}>Unload</button>
      <strong>${card.name}</strong>${card.sparse ? "" : html` <span class="badge">sparsity off</span>`}
      <span class="muted">${card.n_layer} layers, ${card.n_ff} neurons each, context ${integer(card.n_ctx)}, ${bytes(card.bytes_file)}</span>
      ${!card.sparse && html`<p>${card.note}</p>`}
    </div>`}
    <${Failure} /><${Task} />
    <ul class="rows models">
      ${shown.map(
        (model) => html`<li key=${model.path}>
          <button type="button" class="row-button" aria-expanded=${chosen === model.path ? "true" : "false"} onClick=${() => setChosen(chosen === model.path ? null : model.path)}>
            <${Icon} name="file" /><span>${model.name}</span><span class="muted">${model.bytes ? `${bytes(model.bytes)}, ` : ""}${model.kind}</span>
          </button>
          ${chosen === model.path &&
          html`<div class="model-more">
            <p class="muted">${model.note}</p>
            <${Options} options=${options} setOptions=${setOptions} />
            <${Plan} path=${model.path} options=${options} />
            <div class="buttons"><button type="button" class="primary" disabled=${Boolean(state.model.task)} onClick=${() => load(model.path, options)}>Open</button></div>
          </div>`}
        </li>`,
      )}
    </ul>
    <details class="browse" open=${browse}>
      <summary>From this computer</summary>
      <p class="muted">A .gguf file, or a Hugging Face checkpoint directory, which is converted first. You can also drop either on the window.</p>
      <${Browser} onPick=${offer} />
    </details>
  <//>`;
}
