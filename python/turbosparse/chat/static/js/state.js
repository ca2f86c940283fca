// What the page knows, in one object, and everything that changes it.

import * as api from "./api.js";
import { LiveReply } from "./live.js";

export const state = {
  ready: false,
  locked: false, // no key, or a wrong one
  conversations: [],
  current: null, // {conversation, messages}
  model: { state: "empty", task: "", card: null, error: null, fraction: 0 },
  settings: {},
  presets: [],
  draft: {}, // settings of a conversation that does not exist yet
  draftPrompt: "",
  live: new Map(), // message id -> LiveReply; a comparison under its message's negative id
  comparisons: new Map(), // message id -> {content, stats}; null = asked for
  inspected: null, // message whose tokens are shown
  subject: null, // message whose sparsity the panel shows; null = the latest
  traces: new Map(), // message id -> rows
  editing: null, // message id
  dialog: null, // {name, ...}
  panel: null, // "sparsity" | "settings" | null
  sidebar: true,
  toasts: [],
  announcement: "", // for screen readers
  jump: null, // message to scroll to
};

const watchers = new Set();
let asked = false;

export function watch(watcher) {
  watchers.add(watcher);
  return () => watchers.delete(watcher);
}

export function set(change) {
  Object.assign(state, change);
  if (asked) return;
  asked = true;
  queueMicrotask(() => {
    asked = false;
    for (const watcher of watchers) watcher();
  });
}

// --- messages to the reader -----------------------------------------------------

let toastId = 0;

// It goes by itself, but not while one points at it.
export function toast(text, action) {
  const item = { id: ++toastId, text, action };
  set({ toasts: [...state.toasts, item].slice(-3) });
  const go = () => (document.querySelector(".toasts:hover, .toasts:focus-within") ? setTimeout(go, 1000) : dropToast(item.id));
  setTimeout(go, action ? 10_000 : 4000);
}

export const dropToast = (id) => set({ toasts: state.toasts.filter((item) => item.id !== id) });
export const announce = (announcement) => set({ announcement });

// Runs `action`; a failure becomes a sentence on the page.
export async function attempt(action) {
  try {
    return await action();
  } catch (error) {
    if (error.status === 401) set({ locked: true });
    else if (error.detail?.type === "ContextOverflowError") set({ dialog: { name: "overflow", error: error.detail } });
    else toast(error.status ? error.message : "The server cannot be reached. Is turbosparse still running?");
    return undefined;
  }
}

// --- beginning ------------------------------------------------------------------

export async function start() {
  await attempt(async () => {
    const found = await api.get("/start");
    const { conversations, settings, presets, model, version } = found;
    const sidebar = settings.sidebar ?? innerWidth > 800;
    set({ conversations, settings, presets, model, version, sidebar, draft: settings.defaults || {}, ready: true });
    if (model.task) followModel();
    const wanted = Number(/^#\/(\d+)/.exec(location.hash)?.[1]);
    if (conversations.some((each) => each.id === wanted)) await open(wanted);
  });
  set({ ready: true });
}

// --- conversations --------------------------------------------------------------

export async function refreshList() {
  const conversations = await attempt(() => api.get("/conversations"));
  if (conversations) set({ conversations });
}

export async function open(id, jump = null) {
  const current = await attempt(() => api.get(`/conversations/${id}`));
  if (!current) return;
  if (jump && !current.messages.some((message) => message.id === jump)) {
    current.messages = (await attempt(() => api.post(`/messages/${jump}/select`))) || current.messages; // another branch
  }
  history.replaceState(null, "", `#/${id}`);
  set({ current, inspected: null, subject: null, editing: null, jump });
  for (const message of current.messages) if (message.status === "streaming") attach(message);
}

export function startNew() {
  history.replaceState(null, "", location.pathname);
  set({ current: null, inspected: null, subject: null, editing: null, draft: state.settings.defaults || {}, draftPrompt: "" });
  document.querySelector("#composer")?.focus();
}

function setMessages(messages) {
  set({ current: { ...state.current, messages } });
  for (const message of messages) if (message.status === "streaming") attach(message);
}

export function replaceMessage(message) {
  if (state.current?.conversation.id !== message.conversation_id) return;
  set({ current: { ...state.current, messages: state.current.messages.map((m) => (m.id === message.id ? message : m)) } });
}

export async function change(id, values) {
  const conversation = await attempt(() => api.patch(`/conversations/${id}`, values));
  if (!conversation) return;
  if (state.current?.conversation.id === id) set({ current: { ...state.current, conversation } });
  await refreshList();
}

export async function remove(id) {
  const title = state.conversations.find((each) => each.id === id)?.title || "Conversation";
  if ((await attempt(() => api.del(`/conversations/${id}`))) === undefined) return;
  if (state.current?.conversation.id === id) startNew();
  await refreshList();
  toast(`"${title}" deleted`, {
    label: "Undo",
    run: async () => {
      await attempt(() => api.post(`/conversations/${id}/restore`));
      await refreshList();
      await open(id);
    },
  });
}

let saving = Promise.resolve(); // one after the other, so that the last change wins

function save(id, values) {
  saving = saving.then(() => attempt(() => api.patch(`/conversations/${id}`, values)));
  return saving;
}

// Settings of this conversation, or of the one to come.
export const settingsNow = () => state.current?.conversation.settings || state.draft;

// Shown at once: who moves a slider by keys must not wait for the server between two of them.
export async function setSettings(values) {
  const settings = { ...settingsNow(), ...values };
  if (!state.current) return set({ draft: settings });
  const { conversation } = state.current;
  set({ current: { ...state.current, conversation: { ...conversation, settings } } });
  await save(conversation.id, { settings });
}

export async function setPrompt(system_prompt) {
  if (!state.current) return set({ draftPrompt: system_prompt });
  const { conversation } = state.current;
  set({ current: { ...state.current, conversation: { ...conversation, system_prompt } } });
  await save(conversation.id, { system_prompt });
}

// --- replies --------------------------------------------------------------------

export function attach(message) {
  if (state.live.has(message.id)) return;
  const live = new LiveReply(`/messages/${message.id}`);
  state.live.set(message.id, live);
  announce("Reply started");
  live.ended.then((event) => {
    state.live.delete(message.id);
    if (!event) return set({});
    if (live.prefix || !live.rows.length) state.traces.delete(message.id);
    else state.traces.set(message.id, live.rows);
    replaceMessage(event.message);
    announce(event.message.status === "complete" ? "Reply finished" : `Reply ${event.message.status}`);
    refreshList();
  });
}

export async function send(content) {
  await saving; // what was set a moment ago holds for this reply
  let { current } = state;
  if (!current) {
    const body = { settings: state.draft, system_prompt: state.draftPrompt };
    const conversation = await attempt(() => api.post("/conversations", body));
    if (!conversation) return false;
    current = { conversation, messages: [] };
    history.replaceState(null, "", `#/${conversation.id}`);
    set({ current });
  }
  const parent_id = current.messages.at(-1)?.id ?? null;
  const sent = await attempt(() => api.post(`/conversations/${current.conversation.id}/messages`, { content, parent_id }));
  if (!sent) {
    if (!current.messages.length) await discard(current.conversation.id);
    return false;
  }
  set({ current: { conversation: sent.conversation, messages: [...current.messages, ...sent.messages] }, subject: null });
  attach(sent.messages[1]);
  refreshList();
  return true;
}

// A conversation that was made for a message that could not be sent.
async function discard(id) {
  await attempt(() => api.del(`/conversations/${id}`));
  history.replaceState(null, "", location.pathname);
  set({ current: null });
}

const replying = () => state.current?.messages.find((message) => state.live.has(message.id));

export async function stop(id = replying()?.id) {
  if (id !== undefined) await attempt(() => api.post(`/messages/${id}/stop`));
}

export async function regenerate(id) {
  await Promise.all([stop(), saving]);
  const reply = await attempt(() => api.post(`/messages/${id}/regenerate`));
  if (!reply) return;
  const at = state.current.messages.findIndex((message) => message.id === id);
  const end = state.current.messages[at].role === "user" ? at + 1 : at;
  setMessages([...state.current.messages.slice(0, end), reply]);
}

export async function proceed(id) {
  await saving;
  const reply = await attempt(() => api.post(`/messages/${id}/continue`));
  if (reply) setMessages(state.current.messages.map((message) => (message.id === id ? reply : message)));
}

export async function edit(id, content) {
  await Promise.all([stop(), saving]);
  const messages = await attempt(() => api.post(`/messages/${id}/edit`, { content }));
  if (!messages) return;
  set({ editing: null });
  setMessages(messages);
  refreshList();
}

export async function select(id) {
  const messages = await attempt(() => api.post(`/messages/${id}/select`));
  if (messages) setMessages(messages);
}

export async function removeMessage(id) {
  const conversation = state.current.conversation.id;
  const found = await attempt(() => api.del(`/messages/${id}`));
  if (!found) return;
  setMessages(found.messages);
  toast("Message deleted", {
    label: "Undo",
    run: async () => {
      await attempt(() => api.post(`/conversations/${conversation}/restore-messages`, { stamp: found.stamp }));
      await open(conversation);
    },
  });
}

// Rows of a finished reply, fetched once.
export async function trace(id) {
  if (!state.traces.has(id)) {
    const found = await attempt(() => api.get(`/messages/${id}/trace`));
    state.traces.set(id, found?.rows || []);
    set({});
  }
  return state.traces.get(id);
}

// --- compare with dense ---------------------------------------------------------

export async function compare(id, mode = "dense") {
  if ((await attempt(() => api.post(`/messages/${id}/comparison`, { mode }))) === undefined) return;
  const live = new LiveReply(`/messages/${id}/comparison`);
  state.live.set(-id, live);
  state.comparisons.set(id, null);
  set({});
  const event = await live.ended;
  state.live.delete(-id);
  state.comparisons.set(id, event?.comparison || null);
  set({});
}

export async function showComparison(id) {
  const found = await attempt(() => api.get(`/messages/${id}/comparison`));
  if (found?.comparison) set(void state.comparisons.set(id, found.comparison) || {});
  else await compare(id);
}

export async function hideComparison(id) {
  if (state.live.has(-id)) await attempt(() => api.del(`/messages/${id}/comparison`));
  state.comparisons.delete(id);
  set({});
}

// --- the model ------------------------------------------------------------------

export async function load(path, options) {
  const model = await attempt(() => api.post("/models/load", options ? { path, options } : { path }));
  if (!model) return;
  set({ model });
  await followModel();
}

// Opens a file that fits; of one that does not, the plan comes first.
export async function offer(path) {
  const plan = await api.post("/models/plan", { path }).catch(() => null); // none of a checkpoint; load says what is wrong
  if (plan && !plan.fits) set({ dialog: { name: "models", picked: path } });
  else await load(path);
}

export async function unload() {
  const model = await attempt(() => api.post("/models/unload"));
  if (model) set({ model });
}

export async function followModel() {
  do {
    await new Promise((resolve) => setTimeout(resolve, 250));
    const model = await attempt(() => api.get("/models/status"));
    if (!model) return;
    set({ model });
  } while (state.model.task);
  if (state.model.error) set({ dialog: { name: "models" } });
  else if (state.model.card) {
    toast(`${state.model.card.name} is ready`);
    if (state.dialog?.name === "models") set({ dialog: null });
  }
}

// --- settings of the application ------------------------------------------------

export async function remember(values) {
  set({ settings: { ...state.settings, ...values } });
  await attempt(() => api.put("/settings", values));
}

export function setTheme(theme) {
  document.documentElement.dataset.theme = theme;
  remember({ theme });
}

export function togglePanel(panel) {
  set({ panel: state.panel === panel ? null : panel });
}

export function toggleSidebar() {
  set({ sidebar: !state.sidebar });
  remember({ sidebar: state.sidebar });
}

export async function importFile(file) {
  const found = await attempt(() => api.importFile(file));
  if (!found) return;
  await refreshList();
  toast(`${found.conversations.length} conversation${found.conversations.length === 1 ? "" : "s"} imported`);
  if (found.conversations.length) await open(found.conversations[0]);
}
