// Talking to the server: JSON, files, and streams of events. The key comes in the address's hash and
// stays in this tab.

const KEY = "turbosparse-key";

export class ApiError extends Error {
  constructor(status, error) {
    super(error.message || `the server answered ${status}`);
    this.status = status;
    this.detail = error;
  }
}

// The address carries the key, or a ticket that is worth the key once.
export async function takeKey() {
  const match = /[#&](token|ticket)=([^&]+)/.exec(location.hash);
  if (!match) return;
  history.replaceState(null, "", location.pathname);
  const word = decodeURIComponent(match[2]);
  sessionStorage.setItem(KEY, match[1] === "token" ? word : (await post("/ticket", { ticket: word })).token);
}

function headers(extra) {
  const key = sessionStorage.getItem(KEY);
  return key ? { ...extra, Authorization: `Bearer ${key}` } : extra;
}

async function ask(method, path, body, signal) {
  const isText = body !== undefined && !(body instanceof Blob);
  const response = await fetch(`/api/chat${path}`, {
    method,
    headers: headers(isText ? { "Content-Type": "application/json" } : {}),
    body: isText ? JSON.stringify(body) : body,
    signal,
  });
  if (!response.ok) throw new ApiError(response.status, await problem(response));
  return response;
}

async function problem(response) {
  try {
    const { error } = await response.json();
    return typeof error === "string" ? { message: error } : error || {};
  } catch {
    return {};
  }
}

async function json(method, path, body) {
  const response = await ask(method, path, body);
  return response.status === 204 ? null : response.json();
}

export const get = (path) => json("GET", path);
export const post = (path, body) => json("POST", path, body);
export const patch = (path, body) => json("PATCH", path, body);
export const put = (path, body) => json("PUT", path, body);
export const del = (path) => json("DELETE", path);

// Events of a stream, until it ends or `signal` is aborted.
export async function* events(path, signal) {
  const response = await ask("GET", path, undefined, signal);
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const parts = (rest + value).split("\n\n");
    rest = parts.pop();
    for (const part of parts) if (part.startsWith("data: ")) yield JSON.parse(part.slice(6));
  }
}

export async function download(path) {
  const response = await ask("GET", path);
  const name = /filename\*=UTF-8''([^;]+)/.exec(response.headers.get("content-disposition") || "");
  const link = document.createElement("a");
  link.href = URL.createObjectURL(await response.blob());
  link.download = name ? decodeURIComponent(name[1]) : "export";
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

export async function importFile(file) {
  return (await ask("POST", "/import", new Blob([file]))).json();
}
