// Where one writes, with the context's fill and the stop button.

import { html, useEffect, useRef, useState } from "/static/vendor/preact.js";
import { integer } from "./format.js";
import { Icon } from "./icons.js";
import { useLive } from "./message.js";
import { proceed, regenerate, send, set, state, stop } from "./state.js";

const drafts = new Map(); // conversation -> text not sent yet

const here = () => state.current?.conversation.id ?? "new";

// Tokens of the context that the shown branch fills, from the engine's own counts.
function used(messages, live) {
  if (live?.timings) return live.timings.cache_n + live.timings.prompt_n + live.timings.predicted_n;
  const last = messages.findLast((message) => message.stats.timings);
  return last ? last.stats.n_prompt + last.stats.timings.predicted_n : 0;
}

function ContextMeter({ messages, live }) {
  useLive(live, 250);
  const { card } = state.model;
  if (!card) return null;
  const n = used(messages, live);
  const share = Math.min(n / card.n_ctx, 1);
  const text = `${integer(n)} of ${integer(card.n_ctx)} tokens of context used`;
  return html`<span class=${`context${share > 0.9 ? " full" : ""}`} role="meter" aria-label="Context used" aria-valuemin="0" aria-valuemax=${card.n_ctx} aria-valuenow=${n} aria-valuetext=${text} title=${`measured: ${text}`}>
    <svg viewBox="0 0 20 20" aria-hidden="true"><circle cx="10" cy="10" r="8" /><circle class="fill" cx="10" cy="10" r="8" pathLength="100" stroke-dasharray=${`${100 * share} 100`} /></svg>
    ${integer(n)} / ${integer(card.n_ctx)}
  </span>`;
}

export function Composer() {
  const field = useRef(null);
  const key = here();
  const text = drafts.get(key) || "";
  const [sending, setSending] = useState(false);
  const messages = state.current?.messages || [];
  const replying = messages.find((message) => state.live.has(message.id));
  const live = replying && state.live.get(replying.id);
  const last = messages.at(-1);
  const ready = state.model.state === "ready" && !state.model.task;
  const write = (value) => set(void drafts.set(here(), value) || {});
  useEffect(() => {
    field.current.style.height = "auto";
    field.current.style.height = `${Math.min(field.current.scrollHeight, 260)}px`;
  }, [text]);
  useEffect(() => {
    if (matchMedia("(pointer: fine)").matches) field.current.focus();
  }, [key]);
  const submit = async () => {
    if (!text.trim() || sending || replying || !ready) return;
    setSending(true);
    const given = text;
    write("");
    if (!(await send(given))) write(given);
    setSending(false);
  };
  const onKeyDown = (event) => {
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
      event.preventDefault();
      submit();
    }
    const mine = messages.findLast((message) => message.role === "user");
    if (event.key === "ArrowUp" && !text && mine) set({ editing: mine.id });
  };
  const canContinue = last?.role === "assistant" && ["stopped", "interrupted"].includes(last.status);
  return html`<div class="composer">
    ${!replying && canContinue && html`<button type="button" class="hint-button" onClick=${() => proceed(last.id)}><${Icon} name="go" /> Continue the reply</button>`}
    ${!replying && last?.role === "user" && html`<button type="button" class="hint-button" onClick=${() => regenerate(last.id)}><${Icon} name="again" /> Answer</button>`}
    <div class="composer-box">
      <textarea
        id="composer"
        ref=${field}
        rows="1"
        value=${text}
        placeholder=${ready ? "Write a message" : state.model.task ? "The model is being opened" : "Choose a model first"}
        aria-label="Message"
        onInput=${(event) => write(event.target.value)}
        onKeyDown=${onKeyDown}
      ></textarea>
      <div class="composer-foot">
        <${ContextMeter} messages=${messages} live=${live} />
        <span class="muted keys-hint">Enter sends, Shift Enter breaks the line</span>
        ${replying
          ? html`<button type="button" class="round" id="stop" aria-label="Stop" title="Stop (Esc)" onClick=${() => stop(replying.id)}><${Icon} name="stop" /></button>`
          : html`<button type="button" class="round primary" id="send" aria-label="Send" title="Send (Enter)" disabled=${!text.trim() || sending || !ready} onClick=${submit}><${Icon} name="send" /></button>`}
      </div>
    </div>
  </div>`;
}
