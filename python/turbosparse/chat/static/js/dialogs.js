// What opens over the page. Native dialogs: they keep the focus inside and close on Esc.

import { html, useEffect, useRef, useState } from "/static/vendor/preact.js";
import * as api from "./api.js";
import { integer } from "./format.js";
import { IconButton } from "./icons.js";
import { SHORTCUTS } from "./keys.js";
import { ModelDialog } from "./models.js";
import { attempt, change, open, refreshList, set, state, toast } from "./state.js";

const close = () => set({ dialog: null });

export function Dialog({ title, wide, children }) {
  const dialog = useRef(null);
  useEffect(() => {
    const before = document.activeElement;
    dialog.current.showModal();
    dialog.current.querySelector("[data-first]")?.focus();
    return () => before?.isConnected && before.focus();
  }, []);
  const outside = (event) => event.target === dialog.current && close();
  return html`<dialog class=${`dialog${wide ? " wide" : ""}`} ref=${dialog} aria-label=${title} onClose=${close} onClick=${outside}>
    <div class="dialog-inner">
      <header class="dialog-head"><h2>${title}</h2><${IconButton} name="close" label="Close" onClick=${close} /></header>
      ${children}
    </div>
  </dialog>`;
}

function Help() {
  return html`<${Dialog} title="Keyboard shortcuts">
    <dl class="shortcuts">
      ${SHORTCUTS.map(
        ([keys, what]) => html`<div key=${keys}>
          <dt>${keys.split(" ").map((key) => html`<kbd key=${key}>${key.replace("ArrowLeft", "←").replace("ArrowRight", "→")}</kbd>`)}</dt>
          <dd>${what}</dd>
        </div>`,
      )}
    </dl>
  <//>`;
}

function AskText({ title, label, value, onSave, choices }) {
  const [text, setText] = useState(value);
  const save = (event) => {
    event.preventDefault();
    close();
    onSave(text.trim());
  };
  return html`<${Dialog} title=${title}>
    <form class="ask" onSubmit=${save}>
      <label>${label}<input type="text" data-first list="choices" value=${text} onInput=${(e) => setText(e.target.value)} /></label>
      ${choices && html`<datalist id="choices">${choices.map((each) => html`<option key=${each} value=${each}></option>`)}</datalist>`}
      <div class="buttons"><button type="button" onClick=${close}>Cancel</button><button type="submit" class="primary">Save</button></div>
    </form>
  <//>`;
}

function Rename({ conversation }) {
  return html`<${AskText} title="Rename" label="Title" value=${conversation.title} onSave=${(title) => title && change(conversation.id, { title })} />`;
}

function Folder({ conversation }) {
  const choices = [...new Set(state.conversations.map((each) => each.folder).filter(Boolean))];
  return html`<${AskText} title="Move to folder" label="Folder (empty for none)" value=${conversation.folder} choices=${choices} onSave=${(folder) => change(conversation.id, { folder })} />`;
}

function Link({ href }) {
  const copyIt = async () => {
    await navigator.clipboard.writeText(href);
    close();
    toast("Address copied");
  };
  return html`<${Dialog} title="Open this address?">
    <p>The model wrote this link. Nothing is loaded unless you open it.</p>
    <pre class="address" tabindex="0">${href}</pre>
    <div class="buttons">
      <button type="button" data-first onClick=${copyIt}>Copy address</button>
      <a class="button" href=${href} target="_blank" rel="noopener noreferrer" onClick=${close}>Open in the browser</a>
    </div>
  <//>`;
}

function Overflow({ error }) {
  return html`<${Dialog} title="This does not fit the context">
    <p>${error.message}</p>
    <p>The conversation needs <strong>${integer(error.needed)}</strong> tokens, the context holds <strong>${integer(error.available)}</strong>. Nothing was sent, and nothing is ever cut off silently.</p>
    <ul class="advice">
      <li>Delete or edit earlier messages, or begin a new conversation.</li>
      <li>Open the model with a larger context.</li>
    </ul>
    <div class="buttons">
      <button type="button" onClick=${close}>Close</button>
      <button type="button" class="primary" data-first onClick=${() => set({ dialog: { name: "models" } })}>Model and context</button>
    </div>
  <//>`;
}

function Bin() {
  const [items, setItems] = useState(null);
  useEffect(() => void attempt(() => api.get("/conversations?deleted=1")).then((found) => setItems(found || [])), []);
  const restore = async (id) => {
    await attempt(() => api.post(`/conversations/${id}/restore`));
    await refreshList();
    close();
    await open(id);
  };
  const empty = async () => {
    const found = await attempt(() => api.del("/bin"));
    if (found) toast(`${found.purged} deleted for good`);
    close();
  };
  return html`<${Dialog} title="Deleted conversations">
    ${items?.length === 0 && html`<p>Nothing here. What you delete stays for 30 days.</p>`}
    <ul class="rows">
      ${items?.map((each) => html`<li key=${each.id}><span>${each.title || "Conversation"}</span><button type="button" onClick=${() => restore(each.id)}>Restore</button></li>`)}
    </ul>
    ${items?.length > 0 && html`<div class="buttons"><button type="button" class="danger" onClick=${empty}>Delete all for good</button></div>`}
  <//>`;
}

const KINDS = { help: Help, rename: Rename, folder: Folder, link: Link, overflow: Overflow, bin: Bin, models: ModelDialog };

export function Dialogs() {
  const { dialog } = state;
  if (!dialog) return null;
  const Kind = KINDS[dialog.name];
  return html`<${Kind} key=${dialog.name} ...${dialog} />`;
}
