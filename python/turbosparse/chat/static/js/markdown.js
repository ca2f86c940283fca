// Model output to DOM. Two walls: raw HTML is shown as text and images as their description, and
// what marked makes of the rest goes through DOMPurify. Links are buttons: nothing is opened or
// loaded unless the reader asks for it.

import { Marked } from "/static/vendor/marked.js";
import DOMPurify from "/static/vendor/purify.js";

const escapes = { "&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;", "'": "&#39;" };
const escape = (text) => text.replace(/[&<>"']/g, (c) => escapes[c]);
const isSafe = (href) => /^(https?:|mailto:)/i.test(href);

const renderer = {
  html: ({ text }) => escape(text),
  image: ({ href, text }) => `<span class="image-note" title="${escape(href)}">image: ${escape(text || href)}</span>`,
  link({ href, tokens }) {
    const label = this.parser.parseInline(tokens);
    if (!isSafe(href)) return `<span class="dead-link">${label}</span>`;
    return `<button type="button" class="link" data-href="${escape(href)}" title="${escape(href)}">${label}</button>`;
  },
  code({ text, lang }) {
    const name = (lang || "").split(/\s/)[0];
    const head = `<div class="code-head"><span>${escape(name || "text")}</span><button type="button" class="copy-code" data-copy="code">Copy</button></div>`;
    return `<div class="code">${head}<pre tabindex="0"><code data-lang="${escape(name)}">${escape(text)}</code></pre></div>`;
  },
  table(token) {
    const cell = (c, tag, align) => `<${tag}${align ? ` class="align-${align}"` : ""}>${this.parser.parseInline(c.tokens)}</${tag}>`;
    const row = (cells, tag) => `<tr>${cells.map((c, i) => cell(c, tag, token.align[i])).join("")}</tr>`;
    return `<div class="table" tabindex="0"><table><thead>${row(token.header, "th")}</thead><tbody>${token.rows.map((r) => row(r, "td")).join("")}</tbody></table></div>`;
  },
  checkbox: ({ checked }) => (checked ? "☑ " : "☐ "),
};

const math = (level, name, start, rule) => ({
  name,
  level,
  start: (src) => src.search(start),
  tokenizer(src) {
    const match = rule.exec(src);
    if (!match) return undefined;
    const tex = match.slice(1).find((group) => group !== undefined);
    return { type: name, raw: match[0], tex: tex.trim(), display: level === "block" || /^(\$\$|\\\[)/.test(match[0]) };
  },
  renderer: ({ tex, display }) =>
    `<${display ? "div" : "span"} class="math" data-tex="${escape(tex)}"${display ? ' data-display="1"' : ""}>${escape(tex)}</${display ? "div" : "span"}>`,
});

const marked = new Marked({
  gfm: true,
  renderer,
  extensions: [
    math("block", "mathBlock", /\$\$|\\\[/, /^(?:\$\$([\s\S]+?)\$\$|\\\[([\s\S]+?)\\\])[^\S\n]*(?:\n|$)/),
    math("inline", "mathInline", /\$|\\\(|\\\[/, /^(?:\$\$([^$]+?)\$\$|\$(?![\s\d]+\s)(\S|\S[^$\n]*?\S)\$(?!\d)|\\\(([\s\S]+?)\\\)|\\\[([\s\S]+?)\\\])/),
  ],
});

const TAGS =
  "p br hr h1 h2 h3 h4 h5 h6 ul ol li blockquote pre code em strong del table thead tbody tr th td div span button".split(" ");
const CLEAN = {
  ALLOWED_TAGS: TAGS,
  ALLOWED_ATTR: ["class", "title", "type", "start", "tabindex"],
  ALLOW_DATA_ATTR: true,
  RETURN_DOM_FRAGMENT: true,
};

const fragment = (tokens) => DOMPurify.sanitize(marked.parser(tokens), CLEAN);

// --- what is drawn after the text stands: colours of code, and formulas --------

let highlighting, katex;

async function colour(code) {
  highlighting ||= import("/static/vendor/highlight.js");
  const hljs = (await highlighting).default;
  const language = code.dataset.lang.toLowerCase();
  if (!hljs.getLanguage(language) || code.textContent.length > 100_000) return;
  const { value } = hljs.highlight(code.textContent, { language, ignoreIllegals: true });
  code.replaceChildren(DOMPurify.sanitize(value, { ALLOWED_TAGS: ["span"], ALLOWED_ATTR: ["class"], RETURN_DOM_FRAGMENT: true }));
}

async function formula(element) {
  if (!katex) {
    const sheet = Object.assign(document.createElement("link"), { rel: "stylesheet", href: "/static/vendor/katex/katex.css" });
    document.head.append(sheet);
    katex = import("/static/vendor/katex/katex.js");
  }
  const { default: k } = await katex;
  k.render(element.dataset.tex, element, {
    displayMode: element.dataset.display === "1",
    throwOnError: false,
    trust: false,
    strict: "ignore",
    maxSize: 20,
    maxExpand: 300,
  });
}

function finish(root) {
  for (const code of root.querySelectorAll("code[data-lang]")) if (code.dataset.lang) colour(code);
  for (const element of root.querySelectorAll(".math[data-tex]")) formula(element);
}

// Whole text at once.
export function renderInto(element, text) {
  const clean = fragment(marked.lexer(text));
  finish(clean);
  element.replaceChildren(clean);
}

// A text that grows: blocks that are over are drawn once, only the last one is drawn again.
export class Growing {
  constructor(element) {
    this.closed = 0; // characters of `text` that are drawn for good
    this.text = "";
    this.tail = document.createElement("div");
    this.tail.className = "tail";
    element.replaceChildren(this.tail);
    this.element = element;
  }

  set(text) {
    if (!text.startsWith(this.text.slice(0, this.closed))) this.reset();
    this.text = text;
    const tokens = marked.lexer(text.slice(this.closed));
    const last = tokens.findLastIndex((token) => token.type !== "space");
    const over = tokens.slice(0, Math.max(last, 0));
    if (over.length) this.close(over);
    this.drawTail(tokens.slice(Math.max(last, 0)));
  }

  close(tokens) {
    const clean = fragment(tokens);
    finish(clean);
    this.tail.before(clean);
    this.closed += tokens.reduce((sum, token) => sum + token.raw.length, 0);
    this.code = null;
  }

  drawTail(tokens) {
    const [token] = tokens;
    if (token?.type === "code" && this.code?.isConnected && token.text.startsWith(this.code.textContent)) {
      this.code.append(token.text.slice(this.code.textContent.length)); // a program grows: append, do not redraw
      this.code.normalize();
      return;
    }
    this.tail.replaceChildren(fragment(tokens));
    this.code = token?.type === "code" ? this.tail.querySelector("code[data-lang]") : null;
  }

  end() {
    finish(this.tail);
    this.tail.replaceWith(...this.tail.childNodes);
  }

  reset() {
    this.closed = 0;
    this.element.replaceChildren(this.tail);
  }
}
