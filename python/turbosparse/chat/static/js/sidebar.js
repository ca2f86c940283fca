// The list of conversations: search, folders, pins, rename, delete.

import { html, useEffect, useLayoutEffect, useRef, useState } from "/static/vendor/preact.js";
import * as api from "./api.js";
import { when } from "./format.js";
import { Icon, IconButton } from "./icons.js";
import { attempt, change, importFile, open, remove, set, setTheme, startNew, state, toggleSidebar } from "./state.js";

// Text with the matches of a search marked; the server puts U+E000 and U+E001 around them.
export function marked(text) {
  return text.split(/\ue000([^\ue001]*)\ue001/).map((part, i) => (i % 2 ? html`<mark>${part}</mark>` : part));
}

function Results({ hits }) {
  if (!hits.length) return html`<p class="side-note">Nothing found.</p>`;
  return html`<ul class="list">
    ${hits.map(
      (hit) => html`<li key=${hit.conversation_id}>
        <button type="button" class="item" onClick=${() => open(hit.conversation_id, hit.message_id)}>
          <span class="item-title">${hit.title || "Conversation"}</span>
          ${hit.message_id !== null && html`<span class="item-excerpt">${marked(hit.excerpt)}</span>`}
        </button>
      </li>`,
    )}
  </ul>`;
}

function Menu({ conversation, close }) {
  const menu = useRef(null);
  useLayoutEffect(() => menu.current.querySelector("button").focus(), []);
  useEffect(() => {
    const outside = (event) => menu.current?.contains(event.target) || close();
    addEventListener("pointerdown", outside);
    return () => removeEventListener("pointerdown", outside);
  }, []);
  const { id } = conversation;
  const act = (action) => () => {
    close();
    action();
  };
  const onKeyDown = (event) => {
    const items = [...menu.current.querySelectorAll("button")];
    const at = items.indexOf(document.activeElement);
    if (event.key === "Escape") close(true);
    else if (event.key === "ArrowDown") items[(at + 1) % items.length].focus();
    else if (event.key === "ArrowUp") items[(at + items.length - 1) % items.length].focus();
    else return;
    event.preventDefault();
    event.stopPropagation();
  };
  const entry = (label, action) => html`<button type="button" role="menuitem" onClick=${act(action)}>${label}</button>`;
  return html`<div class="menu" role="menu" ref=${menu} onKeyDown=${onKeyDown}>
    ${entry("Rename...", () => set({ dialog: { name: "rename", conversation } }))}
    ${entry(conversation.pinned ? "Unpin" : "Pin", () => change(id, { pinned: !conversation.pinned }))}
    ${entry("Move to folder...", () => set({ dialog: { name: "folder", conversation } }))}
    ${entry("Export as Markdown", () => attempt(() => api.download(`/conversations/${id}/export/md`)))}
    ${entry("Export as JSON", () => attempt(() => api.download(`/conversations/${id}/export/json`)))}
    ${entry("Delete", () => remove(id))}
  </div>`;
}

function Item({ conversation }) {
  const [isOpen, setOpen] = useState(false);
  const button = useRef(null);
  const here = state.current?.conversation.id === conversation.id;
  const close = (refocus) => {
    setOpen(false);
    if (refocus === true) button.current?.focus();
  };
  const title = conversation.title || "Conversation";
  return html`<li class=${`row${here ? " here" : ""}`}>
    <button type="button" class="item" aria-current=${here ? "page" : undefined} onClick=${() => open(conversation.id)} title=${title}>
      <span class="item-title">${conversation.pinned && html`<${Icon} name="pin" />`}${title}</span>
    </button>
    <button
      type="button"
      class="icon-button item-more"
      ref=${button}
      aria-label=${`Actions for ${title}`}
      aria-haspopup="menu"
      aria-expanded=${isOpen ? "true" : "false"}
      onClick=${() => setOpen(!isOpen)}
    >
      <${Icon} name="more" />
    </button>
    ${isOpen && html`<${Menu} conversation=${conversation} close=${close} />`}
  </li>`;
}

function groups(conversations) {
  const found = new Map();
  const put = (name, conversation) => found.set(name, [...(found.get(name) || []), conversation]);
  for (const each of conversations) if (each.pinned) put("Pinned", each);
  const folders = [...new Set(conversations.map((each) => each.folder).filter(Boolean))].sort();
  for (const folder of folders) for (const each of conversations) if (!each.pinned && each.folder === folder) put(folder, each);
  for (const each of conversations) if (!each.pinned && !each.folder) put(when(each.updated_at), each);
  return { found, folders };
}

function List() {
  if (!state.conversations.length) return html`<p class="side-note">Conversations appear here. They stay on this computer.</p>`;
  const { found, folders } = groups(state.conversations);
  return [...found].map(
    ([name, items]) => html`<section key=${name} class="group">
      <h2>${folders.includes(name) && html`<${Icon} name="folder" />`}${name}</h2>
      <ul class="list">${items.map((each) => html`<${Item} key=${each.id} conversation=${each} />`)}</ul>
    </section>`,
  );
}

const THEMES = { system: ["screen", "light", "System theme"], light: ["sun", "dark", "Light theme"], dark: ["moon", "system", "Dark theme"] };

function Foot() {
  const file = useRef(null);
  const theme = document.documentElement.dataset.theme;
  const [icon, next, label] = THEMES[theme] || THEMES.system;
  const chosen = async (event) => {
    for (const each of event.target.files) await importFile(each);
    event.target.value = "";
  };
  return html`<footer class="side-foot">
    <${IconButton} name=${icon} label=${`${label}: change`} onClick=${() => setTheme(next)} />
    <${IconButton} name="into" label="Import conversations" onClick=${() => file.current.click()} />
    <${IconButton} name="out" label="Export all conversations" onClick=${() => attempt(() => api.download("/export"))} />
    <${IconButton} name="bin" label="Deleted conversations" onClick=${() => set({ dialog: { name: "bin" } })} />
    <${IconButton} name="help" label="Keyboard shortcuts" keys="?" onClick=${() => set({ dialog: { name: "help" } })} />
    <input type="file" class="only-heard" tabindex="-1" aria-hidden="true" id="import-file" ref=${file} accept=".json,.zip" multiple onChange=${chosen} />
  </footer>`;
}

export function Sidebar() {
  const [text, setText] = useState("");
  const [hits, setHits] = useState(null);
  useEffect(() => {
    if (!text.trim()) return void setHits(null);
    let current = true;
    const timer = setTimeout(async () => {
      const found = await attempt(() => api.get(`/search?q=${encodeURIComponent(text)}`));
      if (current && found) setHits(found);
    }, 80);
    return () => {
      current = false;
      clearTimeout(timer);
    };
  }, [text]);
  const onKeyDown = (event) => {
    if (event.key === "Escape") setText("");
    if (event.key === "ArrowDown") {
      document.querySelector(".side-list .item")?.focus();
      event.preventDefault();
    }
  };
  return html`<nav class="sidebar" aria-label="Conversations">
    <div class="side-head">
      <span class="brand"><img src="/static/icon.svg" alt="" width="22" height="22" /> TurboSparse</span>
      <${IconButton} name="side" label="Hide conversations" keys="Ctrl B" onClick=${toggleSidebar} />
    </div>
    <button type="button" class="new-button" onClick=${startNew}><${Icon} name="plus" /> New conversation</button>
    <label class="search-field">
      <${Icon} name="search" />
      <input type="search" id="search" placeholder="Search" aria-label="Search conversations" value=${text} onInput=${(e) => setText(e.target.value)} onKeyDown=${onKeyDown} />
      <kbd>Ctrl K</kbd>
    </label>
    <div class="side-list" onKeyDown=${arrows}>${hits ? html`<${Results} hits=${hits} />` : html`<${List} />`}</div>
    <${Foot} />
  </nav>`;
}

// Up and down go through the list.
function arrows(event) {
  if (event.key !== "ArrowDown" && event.key !== "ArrowUp") return;
  const items = [...event.currentTarget.querySelectorAll(".item")];
  const at = items.indexOf(document.activeElement);
  if (at < 0) return;
  event.preventDefault();
  items[Math.min(Math.max(at + (event.key === "ArrowDown" ? 1 : -1), 0), items.length - 1)].focus();
}
