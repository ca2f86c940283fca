// One message: text, what it cost, and what can be done with it.

import { html, useEffect, useLayoutEffect, useRef, useState } from "/static/vendor/preact.js";
import { Comparison } from "./compare.js";
import { figures, integer } from "./format.js";
import { Icon, IconButton } from "./icons.js";
import { paced } from "./live.js";
import { Growing, renderInto } from "./markdown.js";
import { compare, edit, hideComparison, proceed, regenerate, removeMessage, select, set, showComparison, state, toast, togglePanel, trace } from "./state.js";
import { Tokens } from "./tokens.js";

export async function copy(text, what) {
  await navigator.clipboard.writeText(text);
  toast(`${what} copied`);
}

// Clicks inside drawn text: copy a block of code, look at where a link goes.
function onClick(event) {
  const button = event.target.closest("button");
  if (button?.dataset.copy) copy(button.closest(".code").querySelector("code").textContent, "Code");
  else if (button?.dataset.href) set({ dialog: { name: "link", href: button.dataset.href } });
}

// Text that stands.
export function Prose({ text }) {
  const body = useRef(null);
  useLayoutEffect(() => renderInto(body.current, text), [text]);
  return html`<div class="prose" ref=${body} onClick=${onClick}></div>`;
}

// Text that grows; drawn outside the virtual DOM.
export function GrowingProse({ live }) {
  const body = useRef(null);
  useEffect(() => {
    const growing = new Growing(body.current);
    const ask = paced(() => growing.set(live.text));
    const leave = live.watch(ask);
    ask();
    return () => {
      leave();
      ask.stop();
    };
  }, [live]);
  return html`<div class="prose growing" ref=${body} onClick=${onClick}></div>`;
}

// The latest state of a live reply, a few times a second.
export function useLive(live, ms = 200) {
  const [, tick] = useState(0);
  useEffect(() => {
    if (!live) return undefined;
    let timer = null;
    const leave = live.watch(() => {
      timer ??= setTimeout(() => {
        timer = null;
        tick((n) => n + 1);
      }, ms);
    });
    return () => {
      leave();
      clearTimeout(timer);
    };
  }, [live]);
}

// The figures, those that are measured together and those that are derived together.
export function Figures({ stats }) {
  const found = figures(stats);
  if (!found.length) return null;
  const item = ({ id, text, source, why }) =>
    html`<li key=${id} data-figure=${id} title=${`${source}: ${why}`}><span class=${`source-dot ${source}`}></span>${text}</li>`;
  const of = (source) => found.filter((figure) => figure.source === source);
  const group = (source) =>
    of(source).length > 0 && html`<ul class="figures-group" aria-label=${source}>${of(source).map(item)}<li class="source-name" aria-hidden="true">${source}</li></ul>`;
  return html`<div class="figures" role="group" aria-label="What this reply cost">${group("measured")}${group("derived")}</div>`;
}

function Progress({ live }) {
  useLive(live, 100);
  if (live.rows.length) return html`<${Figures} stats=${live.stats} />`;
  const { progress } = live;
  if (!progress || progress.total < 64) return html`<p class="waiting" aria-label="Waiting for the first token"><span></span><span></span><span></span></p>`;
  return html`<p class="reading">
    <progress value=${progress.processed} max=${progress.total} aria-label="Reading the prompt"></progress>
    reading ${integer(progress.processed)} of ${integer(progress.total)} prompt tokens${progress.cached ? `, ${integer(progress.cached)} known` : ""}
  </p>`;
}

function Branches({ message }) {
  const { siblings, id } = message;
  if (siblings.length < 2) return null;
  const at = siblings.indexOf(id);
  return html`<span class="branches">
    <${IconButton} name="left" label="Earlier version" disabled=${at === 0} onClick=${() => select(siblings[at - 1])} />
    <span aria-label=${`Version ${at + 1} of ${siblings.length}`}>${at + 1}/${siblings.length}</span>
    <${IconButton} name="right" label="Later version" disabled=${at === siblings.length - 1} onClick=${() => select(siblings[at + 1])} />
  </span>`;
}

function Editor({ message }) {
  const field = useRef(null);
  useLayoutEffect(() => {
    field.current.value = message.content; // not as a property: drawing again must not undo what was typed
    field.current.focus();
  }, []);
  const save = () => edit(message.id, field.current.value);
  const onKeyDown = (event) => {
    if (event.key === "Escape") set({ editing: null });
    else if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) save();
    else return;
    event.preventDefault();
    event.stopPropagation();
  };
  const verb = message.role === "user" ? "Send" : "Save as new version";
  return html`<div class="editor">
    <textarea ref=${field} aria-label="Edit the message" onKeyDown=${onKeyDown} rows=${Math.min(message.content.split("\n").length + 1, 18)}></textarea>
    <div class="editor-foot">
      <span>The version before is kept.</span>
      <button type="button" onClick=${() => set({ editing: null })}>Cancel</button>
      <button type="button" class="primary" onClick=${save}>${verb}</button>
    </div>
  </div>`;
}

const NOTES = { stopped: "Stopped.", interrupted: "Interrupted: the program ended while this was written." };

function Note({ message }) {
  if (message.status === "failed") {
    const { error } = message.stats;
    return html`<p class="note failed" role="alert">${error?.message || "The reply failed."}</p>`;
  }
  if (message.stats.finish_reason === "length") return html`<p class="note">The length limit or the end of the context was reached.</p>`;
  return NOTES[message.status] ? html`<p class=${`note ${message.status}`}>${NOTES[message.status]}</p>` : null;
}

async function inspect(message) {
  if (state.inspected === message.id) return set({ inspected: null });
  await trace(message.id);
  set({ inspected: message.id });
}

async function watchSparsity(message) {
  await trace(message.id);
  set({ subject: message.id, panel: "sparsity" });
}

function ReplyActions({ message, compared, inspected, card }) {
  const generated = message.stats.seed !== undefined;
  const toggleCompare = () => (compared ? hideComparison(message.id) : showComparison(message.id));
  return html`<div class="actions">
    <${Branches} message=${message} />
    <${IconButton} name="copy" label="Copy reply" onClick=${() => copy(message.content, "Reply")} />
    <${IconButton} name="again" label="Regenerate" onClick=${() => regenerate(message.id)} />
    <${IconButton} name="go" label="Continue" onClick=${() => proceed(message.id)} />
    <${IconButton} name="edit" label="Edit reply" onClick=${() => set({ editing: message.id })} />
    ${generated && html`<${IconButton} name="tokens" label="Show tokens" aria-pressed=${inspected ? "true" : "false"} onClick=${() => inspect(message)} />`}
    ${generated && card?.sparse && html`<${IconButton} name="grid" label="Show sparsity" onClick=${() => watchSparsity(message)} />`}
    ${generated && card?.modes.includes("dense") && html`<${IconButton} name="scales" label="Compare with dense" aria-pressed=${compared ? "true" : "false"} onClick=${toggleCompare} />`}
    <${IconButton} name="bin" label="Delete from here" onClick=${() => removeMessage(message.id)} />
  </div>`;
}

function Reply({ message, live, comparing, comparison, compared, inspected, rows, card }) {
  if (compared) {
    return html`<${Comparison} message=${message} live=${comparing} result=${comparison} />
      <${ReplyActions} message=${message} compared=${true} card=${card} />`;
  }
  if (live) return html`<${GrowingProse} live=${live} key="growing" /><${Progress} live=${live} />`;
  return html`${inspected ? html`<${Tokens} rows=${rows || []} />` : html`<${Prose} text=${message.content} />`}
    <${Note} message=${message} />
    <div class="reply-foot">
      <${Figures} stats=${message.stats} />
      <${ReplyActions} message=${message} inspected=${inspected} card=${card} />
    </div>`;
}

export function MessageView(props) {
  const { message, editing } = props;
  if (editing) return html`<article class=${`message ${message.role}`} id=${`message-${message.id}`}><${Editor} message=${message} /></article>`;
  if (message.role === "user") {
    return html`<article class="message user" id=${`message-${message.id}`} aria-label="You">
      <div class="bubble">${message.content}</div>
      <div class="actions">
        <${Branches} message=${message} />
        <${IconButton} name="copy" label="Copy message" onClick=${() => copy(message.content, "Message")} />
        <${IconButton} name="edit" label="Edit message" onClick=${() => set({ editing: message.id })} />
        <${IconButton} name="bin" label="Delete from here" onClick=${() => removeMessage(message.id)} />
      </div>
    </article>`;
  }
  return html`<article class=${`message assistant${props.isLast ? " last" : ""}`} id=${`message-${message.id}`} aria-label="Reply"><${Reply} ...${props} /></article>`;
}
