// The page: sidebar, conversation, panel; and what lies over them.

import { html, render, useEffect, useState } from "/static/vendor/preact.js";
import { takeKey } from "./api.js";
import { Composer } from "./composer.js";
import { Dialogs } from "./dialogs.js";
import { listen } from "./keys.js";
import { Panel } from "./panel.js";
import { Sidebar } from "./sidebar.js";
import { dropToast, importFile, offer, set, start, state, toast, watch } from "./state.js";
import * as api from "./api.js";
import { Thread } from "./thread.js";
import { TopBar } from "./topbar.js";

function Toasts() {
  return html`<div class="toasts" role="status">
    ${state.toasts.map(
      (item) => html`<div class="toast" key=${item.id}>
        <span>${item.text}</span>
        ${item.action &&
        html`<button type="button" onClick=${() => dropToast(item.id) || item.action.run()}>${item.action.label}</button>`}
      </div>`,
    )}
  </div>`;
}

function Locked() {
  return html`<main class="locked">
    <h1>This window has no key</h1>
    <p>The chat can only be opened by the program that serves it. Start it again:</p>
    <pre>turbosparse chat</pre>
  </main>`;
}

function App() {
  const [, tick] = useState(0);
  useEffect(() => watch(() => tick((n) => n + 1)), []);
  if (state.locked) return html`<${Locked} />`;
  if (!state.ready) return html`<p class="plain-note" id="loading">Opening...</p>`;
  const shape = `app${state.sidebar ? " with-sidebar" : ""}${state.panel ? " with-panel" : ""}`;
  return html`<div class=${shape}>
      <a class="skip" href="#composer" onClick=${skip}>Skip to the message box</a>
      ${state.sidebar && html`<${Sidebar} />`}
      <main class="main">
        <${TopBar} />
        <${Thread} key=${state.current?.conversation.id ?? "new"} />
        <${Composer} />
      </main>
      ${state.panel && html`<${Panel} />`}
    </div>
    <${Dialogs} />
    <${Toasts} />
    <div class="only-heard" aria-live="polite">${state.announcement}</div>`;
}

function skip(event) {
  event.preventDefault();
  document.querySelector("#composer").focus();
}

// --- files dropped on the window --------------------------------------------------

// A page learns a dropped file's name and size, not its place; the server looks for it.
async function dropped(event) {
  event.preventDefault();
  document.body.classList.remove("dropping");
  const item = event.dataTransfer.items[0];
  const entry = item?.webkitGetAsEntry?.();
  const file = event.dataTransfer.files[0];
  if (!file) return;
  const native = file.pywebviewFullPath;
  if (native) return void offer(native);
  if (!entry?.isDirectory && /\.(json|zip)$/.test(file.name)) return void importFile(file);
  if (!entry?.isDirectory && !file.name.endsWith(".gguf")) {
    return toast("Drop a .gguf model, a checkpoint directory, or exported conversations (.json, .zip)");
  }
  const { path } = await api.post("/models/locate", { name: file.name, size: entry?.isDirectory ? null : file.size });
  if (path) return void offer(path);
  toast(`Browsers do not say where ${file.name} lies, and it was not found nearby. Please pick it here.`);
  set({ dialog: { name: "models", browse: true } });
}

function acceptDrops() {
  addEventListener("dragover", (event) => {
    event.preventDefault();
    document.body.classList.add("dropping");
  });
  addEventListener("dragleave", (event) => event.relatedTarget || document.body.classList.remove("dropping"));
  addEventListener("drop", dropped);
}

document.querySelector("#app").replaceChildren();
render(html`<${App} />`, document.querySelector("#app"));
listen();
acceptDrops();
takeKey().then(start, () => set({ locked: true }));
