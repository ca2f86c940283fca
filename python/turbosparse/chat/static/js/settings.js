// System prompt, presets, sampling.

import { html, useState } from "/static/vendor/preact.js";
import * as api from "./api.js";
import { IconButton } from "./icons.js";
import { attempt, remember, set, setPrompt, setSettings, settingsNow, state, toast } from "./state.js";

// name, label, smallest, largest, step, explanation
const SLIDERS = [
  ["temperature", "Temperature", 0, 2, 0.05, "0 always takes the likeliest token"],
  ["top_p", "Top p", 0, 1, 0.01, "smallest set of tokens with this probability; 1 = off"],
  ["top_k", "Top k", 0, 200, 1, "the k likeliest tokens; 0 = off"],
  ["min_p", "Min p", 0, 0.5, 0.01, "at least this likely relative to the best; 0 = off"],
  ["repeat_penalty", "Repeat penalty", 1, 2, 0.01, "divides the logits of tokens seen lately; 1 = off"],
  ["frequency_penalty", "Frequency penalty", 0, 2, 0.05, "subtracted for each time a token was seen; 0 = off"],
  ["presence_penalty", "Presence penalty", 0, 2, 0.05, "subtracted once for a token that was seen; 0 = off"],
];
const NUMBERS = [
  ["max_tokens", "Longest reply", "no limit", "tokens; empty = to the end of the context"],
  ["seed", "Seed", "drawn", "empty = a new one for each reply"],
];

const defaultOf = (name) => state.model.card?.defaults[name] ?? { temperature: 0.8, top_p: 0.95, top_k: 40, min_p: 0.05, repeat_penalty: 1, frequency_penalty: 0, presence_penalty: 0 }[name];

function Slider({ spec: [name, label, min, max, step, why] }) {
  const chosen = settingsNow()[name];
  const [moving, setMoving] = useState(null);
  const value = moving ?? chosen ?? defaultOf(name);
  const save = (event) => {
    setMoving(null);
    setSettings({ [name]: Number(event.target.value) });
  };
  return html`<div class="slider">
    <label for=${`set-${name}`}>${label}</label>
    <output>${Number(value.toFixed(2))}${chosen == null ? html`<span class="muted"> default</span>` : ""}</output>
    <input type="range" id=${`set-${name}`} min=${min} max=${max} step=${step} value=${value} title=${why} onInput=${(e) => setMoving(Number(e.target.value))} onChange=${save} />
  </div>`;
}

function NumberField({ spec: [name, label, empty, why] }) {
  const save = (event) => setSettings({ [name]: event.target.value === "" ? null : Number(event.target.value) });
  return html`<label class="number"><span>${label}</span>
    <input type="number" min="0" step="1" value=${settingsNow()[name] ?? ""} placeholder=${empty} title=${why} onChange=${save} /></label>`;
}

function Presets() {
  const [name, setName] = useState("");
  const apply = async (preset) => {
    await setPrompt(preset.system_prompt);
    await setSettings(preset.settings);
    toast(`"${preset.name}" applied`);
  };
  const save = async (event) => {
    event.preventDefault();
    const system_prompt = state.current ? state.current.conversation.system_prompt : state.draftPrompt;
    const presets = await attempt(() => api.post("/presets", { name, system_prompt, settings: settingsNow() }));
    if (!presets) return;
    set({ presets });
    setName("");
  };
  const drop = async (id) => {
    const presets = await attempt(() => api.del(`/presets/${id}`));
    if (presets) set({ presets });
  };
  return html`<section class="settings-group">
    <h3>Presets</h3>
    <ul class="presets">
      ${state.presets.map(
        (preset) => html`<li key=${preset.id}>
          <button type="button" class="quiet" onClick=${() => apply(preset)}>${preset.name}</button>
          <${IconButton} name="close" label=${`Delete preset ${preset.name}`} onClick=${() => drop(preset.id)} />
        </li>`,
      )}
    </ul>
    <form class="inline-form" onSubmit=${save}>
      <input type="text" aria-label="Name of a new preset" placeholder="Save as preset" value=${name} onInput=${(e) => setName(e.target.value)} />
      <button type="submit" disabled=${!name.trim()}>Save</button>
    </form>
  </section>`;
}

export function SettingsPanel() {
  const prompt = state.current ? state.current.conversation.system_prompt : state.draftPrompt;
  const reset = () => setSettings(Object.fromEntries([...SLIDERS, ...NUMBERS].map(([name]) => [name, null])));
  const keep = async () => {
    await remember({ defaults: settingsNow() });
    toast("New conversations will begin with these");
  };
  return html`
    <section class="settings-group">
      <h3><label for="system-prompt">System prompt</label></h3>
      <textarea id="system-prompt" rows="5" value=${prompt} placeholder="What the model should know or how it should answer" onChange=${(e) => setPrompt(e.target.value)}></textarea>
    </section>
    <${Presets} />
    <section class="settings-group">
      <h3>Sampling</h3>
      ${SLIDERS.map((spec) => html`<${Slider} key=${spec[0]} spec=${spec} />`)}
      ${NUMBERS.map((spec) => html`<${NumberField} key=${spec[0]} spec=${spec} />`)}
      <label class="number"><span>Stop at</span>
        <input type="text" value=${(settingsNow().stop || []).join(", ")} placeholder="nothing" title="texts, parted by commas"
          onChange=${(e) => setSettings({ stop: e.target.value.split(",").map((s) => s.trim()).filter(Boolean) })} /></label>
      <div class="buttons">
        <button type="button" class="quiet" onClick=${reset}>Back to defaults</button>
        <button type="button" class="quiet" onClick=${keep}>Use for new conversations</button>
      </div>
    </section>
  `;
}
