// Shortcuts; the list is what the help dialog shows.

import { compare, proceed, regenerate, select, set, startNew, state, stop, toast, togglePanel, toggleSidebar } from "./state.js";

const lastReply = () => state.current?.messages.findLast((message) => message.role === "assistant");

function turn(step) {
  const message = state.current?.messages.findLast((m) => m.siblings.length > 1);
  const next = message && message.siblings[message.siblings.indexOf(message.id) + step];
  if (next) select(next);
}

function focusSearch() {
  const field = document.querySelector("#search");
  if (field) return field.focus();
  toggleSidebar();
  requestAnimationFrame(() => document.querySelector("#search")?.focus());
}

async function copyLast() {
  const reply = lastReply();
  if (!reply) return;
  await navigator.clipboard.writeText(reply.content);
  toast("Reply copied");
}

function editLast() {
  const message = state.current?.messages.findLast((m) => m.role === "user");
  if (message) set({ editing: message.id });
}

export const SHORTCUTS = [
  ["Ctrl K", "Search conversations", focusSearch],
  ["Alt N", "New conversation", startNew],
  ["Esc", "Stop the reply", () => stop()],
  ["Alt R", "Regenerate the last reply", () => lastReply() && regenerate(lastReply().id)],
  ["Alt C", "Continue the last reply", () => lastReply() && proceed(lastReply().id)],
  ["Alt E", "Edit the last message", editLast],
  ["Alt ArrowLeft", "Earlier version", () => turn(-1)],
  ["Alt ArrowRight", "Later version", () => turn(1)],
  ["Alt Y", "Copy the last reply", copyLast],
  ["Alt D", "Compare the last reply with dense", () => lastReply() && compare(lastReply().id)],
  ["Alt S", "Sparsity at work", () => togglePanel("sparsity")],
  ["Alt P", "Prompt and sampling", () => togglePanel("settings")],
  ["Alt M", "Choose a model", () => set({ dialog: { name: "models" } })],
  ["Ctrl B", "Show or hide conversations", toggleSidebar],
  ["/", "Go to the message box", () => document.querySelector("#composer")?.focus()],
  ["?", "This list", () => set({ dialog: { name: "help" } })],
];

const pressed = (event) => {
  const key = event.key === "Escape" ? "Esc" : event.key.length === 1 ? event.key.toUpperCase() : event.key;
  return `${event.ctrlKey || event.metaKey ? "Ctrl " : ""}${event.altKey ? "Alt " : ""}${key}`;
};

export function listen() {
  addEventListener("keydown", (event) => {
    if (event.defaultPrevented || document.querySelector("dialog[open]")) return;
    const found = SHORTCUTS.find(([keys]) => keys === pressed(event));
    const plain = found && found[0].length === 1;
    if (!found || (plain && event.target.closest("input, textarea, select, [contenteditable]"))) return;
    event.preventDefault();
    found[2]();
  });
}
