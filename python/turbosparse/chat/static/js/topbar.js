// Title, model, mode: what this conversation is and what answers it.

import { html, useRef, useState } from "/static/vendor/preact.js";
import { IconButton, Icon } from "./icons.js";
import { change, set, startNew, state, togglePanel, toggleSidebar } from "./state.js";
import { choose, modeNow, shiftNow, wayOf, waysOf } from "./ways.js";

function Title() {
  const [editing, setEditing] = useState(false);
  const field = useRef(null);
  const { current } = state;
  if (!current) return html`<h1 class="title">New conversation</h1>`;
  const { id, title } = current.conversation;
  const save = (event) => {
    setEditing(false);
    const value = event.target.value.trim();
    if (value && value !== title) change(id, { title: value });
  };
  const onKeyDown = (event) => {
    if (event.key === "Enter") event.target.blur();
    if (event.key === "Escape") {
      event.target.value = title;
      event.target.blur();
    }
  };
  if (editing) {
    return html`<input class="title-field" aria-label="Title" ref=${field} autofocus defaultValue=${title} value=${title} onBlur=${save} onKeyDown=${onKeyDown} />`;
  }
  const begin = () => {
    setEditing(true);
    requestAnimationFrame(() => field.current?.select());
  };
  return html`<h1 class="title"><button type="button" title="Rename" onClick=${begin}>${title || "Conversation"}</button></h1>`;
}

export function ModeDial() {
  const { card } = state.model;
  if (!card) return null;
  if (!card.sparse) {
    return html`<button type="button" class="badge" title=${card.note} onClick=${() => set({ dialog: { name: "models" } })}>sparsity off</button>`;
  }
  const chosen = wayOf(modeNow(), shiftNow());
  return html`<div class="dial" role="radiogroup" aria-label="Which neurons are computed">
    ${waysOf(card).map(
      (way) => html`<button
        type="button"
        role="radio"
        key=${way.id}
        aria-checked=${way === chosen ? "true" : "false"}
        title=${way.why}
        onClick=${() => choose(way)}
      >
        ${way.name}
      </button>`,
    )}
  </div>`;
}

function ModelButton() {
  const { model } = state;
  const name = model.task ? `${model.task === "converting" ? "Converting" : "Opening"} ${Math.round(100 * model.fraction)} %` : model.card?.name || "Choose a model";
  return html`<button type="button" class="model-button" id="model-button" onClick=${() => set({ dialog: { name: "models" } })} title="Choose a model">
    ${model.task ? html`<progress value=${model.fraction} max="1" aria-label=${name}></progress>` : html`<span class=${`dot ${model.state}`}></span>`}
    <span class="model-name">${name}</span><${Icon} name="down" />
  </button>`;
}

export function TopBar() {
  return html`<header class="topbar">
    ${!state.sidebar && html`<${IconButton} name="side" label="Show conversations" keys="Ctrl B" onClick=${toggleSidebar} />`}
    ${!state.sidebar && html`<${IconButton} name="plus" label="New conversation" keys="Alt N" onClick=${startNew} />`}
    <${Title} />
    <div class="topbar-right">
      <${ModelButton} />
      <${ModeDial} />
      <${IconButton} name="grid" label="Sparsity at work" keys="Alt S" aria-pressed=${state.panel === "sparsity" ? "true" : "false"} onClick=${() => togglePanel("sparsity")} />
      <${IconButton} name="gear" label="Prompt and sampling" keys="Alt P" aria-pressed=${state.panel === "settings" ? "true" : "false"} onClick=${() => togglePanel("settings")} />
    </div>
  </header>`;
}
