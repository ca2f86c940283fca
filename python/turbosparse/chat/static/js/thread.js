// The shown branch. A long one is drawn in part: the end, or around what was searched for; more
// when the reader scrolls there.

import { Component, html, useEffect, useLayoutEffect, useRef, useState } from "/static/vendor/preact.js";
import { Icon } from "./icons.js";
import { MessageView } from "./message.js";
import { send, set, state } from "./state.js";

const STEP = 40; // messages drawn at first, and added at a time

// Draws again only when what it was given changed: a long thread is not looked at for every key press.
class Row extends Component {
  shouldComponentUpdate(next) {
    return Object.keys(next).some((name) => next[name] !== this.props[name]);
  }
  render({ message, ...rest }) {
    return html`<${MessageView} message=${message} ...${rest} />`;
  }
}

const EXAMPLES = ["Once upon a time there was a little fox who", "Explain why most neurons of a dReLU model stay silent.", "Write a short poem about a quiet library."];

function Empty() {
  const { card } = state.model;
  return html`<div class="empty">
    <img src="/static/icon.svg" alt="" width="44" height="44" />
    <h2>${card ? `Talk with ${card.name}` : "No model is loaded"}</h2>
    ${card
      ? html`<p>${card.sparse ? "Most of its neurons sleep through any one token. You can watch which ones wake." : card.note}</p>
          <ul class="examples">
            ${EXAMPLES.map((text) => html`<li key=${text}><button type="button" onClick=${() => send(text)}>${text}</button></li>`)}
          </ul>`
      : html`<p>Open a TurboSparse GGUF file, or drop one on this window.</p>
          <button type="button" class="primary" onClick=${() => set({ dialog: { name: "models" } })}>Choose a model</button>`}
  </div>`;
}

function useWindow(messages) {
  const [range, setRange] = useState(() => [Math.max(messages.length - STEP, 0), Infinity]);
  const { jump } = state;
  const at = jump ? messages.findIndex((message) => message.id === jump) : -1;
  let [start, end] = range;
  if (at >= 0 && (at < start || at >= end)) [start, end] = [Math.max(at - 10, 0), at + STEP];
  if (start >= messages.length) start = Math.max(messages.length - STEP, 0);
  useEffect(() => {
    if (start !== range[0] || end !== range[1]) setRange([start, end]);
  });
  return [start, Math.min(end, messages.length), setRange];
}

// A line that asks for more messages when it comes into sight.
function More({ onSeen }) {
  const line = useRef(null);
  useEffect(() => {
    const observer = new IntersectionObserver(([entry]) => entry.isIntersecting && onSeen(), { rootMargin: "600px" });
    observer.observe(line.current);
    return () => observer.disconnect();
  });
  return html`<div class="more-line" ref=${line}></div>`;
}

export function Thread() {
  const messages = state.current?.messages || [];
  const scroller = useRef(null);
  const sticky = useRef(true);
  const [atEnd, setAtEnd] = useState(true);
  const [start, end, setRange] = useWindow(messages);
  const toEnd = () => {
    if (sticky.current && scroller.current) scroller.current.scrollTop = scroller.current.scrollHeight;
  };
  const onScroll = () => {
    if (!scroller.current) return;
    const { scrollTop, scrollHeight, clientHeight } = scroller.current;
    sticky.current = end === messages.length && scrollHeight - scrollTop - clientHeight < 48;
    if (sticky.current !== atEnd) setAtEnd(sticky.current);
  };
  const latest = () => {
    sticky.current = true;
    setRange([Math.max(messages.length - STEP, 0), Infinity]);
    requestAnimationFrame(toEnd);
  };
  useLayoutEffect(toEnd, [messages.length]);
  useEffect(() => {
    const observer = new ResizeObserver(toEnd);
    observer.observe(scroller.current.firstElementChild);
    return () => observer.disconnect();
  }, []);
  useEffect(() => {
    const target = state.jump && document.getElementById(`message-${state.jump}`);
    if (!target) return;
    sticky.current = false;
    target.scrollIntoView({ block: "center" });
    target.classList.add("found");
    set({ jump: null });
  });
  const busy = messages.some((message) => state.live.has(message.id));
  return html`<div class="thread" ref=${scroller} onScroll=${onScroll} tabindex="-1">
    <div class="messages" role="log" aria-label="Messages" aria-live="off" aria-busy=${busy ? "true" : "false"}>
      ${!messages.length && html`<${Empty} />`}
      ${start > 0 && html`<${More} onSeen=${() => setRange([Math.max(start - STEP, 0), end === messages.length ? Infinity : end])} />`}
      ${messages.slice(start, end).map(
        (message) => html`<${Row}
          key=${message.id}
          message=${message}
          live=${state.live.get(message.id)}
          comparing=${state.live.get(-message.id)}
          comparison=${state.comparisons.get(message.id)}
          compared=${state.comparisons.has(message.id)}
          inspected=${state.inspected === message.id}
          rows=${state.inspected === message.id ? state.traces.get(message.id) : null}
          editing=${state.editing === message.id}
          card=${state.model.card}
          isLast=${message === messages.at(-1)}
        />`,
      )}
      ${end < messages.length && html`<${More} onSeen=${() => setRange([start, end + STEP])} />`}
    </div>
    ${!atEnd && html`<button type="button" class="to-end" aria-label="Go to the latest message" onClick=${latest}><${Icon} name="down" /></button>`}
  </div>`;
}
