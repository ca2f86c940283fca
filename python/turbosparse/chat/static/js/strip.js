// Layers by tokens: how much of each layer woke for each token. A canvas, redrawn when rows come.

import { html, useEffect, useRef, useState } from "/static/vendor/preact.js";
import { percent } from "./format.js";
import { LAYERS, TEXT, paced } from "./live.js";

const GAP = 1;

function colours(canvas) {
  const { color: hot, borderTopColor: cold } = getComputedStyle(canvas); // resolved, as a canvas wants them
  return { hot, cold };
}

// Largest share shown at full colour: what 98 of 100 cells stay below, so that one outlier does not blacken the rest.
function scale(rows) {
  const sample = rows.slice(-400).flatMap((row) => row[LAYERS] || []);
  sample.sort((a, b) => a - b);
  return Math.max(sample[Math.floor(0.98 * sample.length)] || 1, 1);
}

function draw(canvas, rows) {
  const ratio = devicePixelRatio || 1;
  const { clientWidth: width, clientHeight: height } = canvas;
  if (!width || !rows.length) return { first: 0, step: 1 };
  canvas.width = width * ratio;
  canvas.height = height * ratio;
  const layers = rows.find((row) => row[LAYERS])?.[LAYERS].length || 1;
  const step = Math.max(Math.min(Math.floor(width / rows.length), 10), 3);
  const first = Math.max(rows.length - Math.floor(width / step), 0);
  const context = canvas.getContext("2d");
  context.scale(ratio, ratio);
  const peak = scale(rows), cell = height / layers;
  const { hot, cold } = colours(canvas);
  for (let i = first; i < rows.length; i += 1) {
    const shares = rows[i][LAYERS] || [];
    for (let layer = 0; layer < shares.length; layer += 1) {
      context.globalAlpha = 1;
      context.fillStyle = cold;
      const box = [(i - first) * step, layer * cell, step - GAP, Math.max(cell - GAP, 1)];
      context.fillRect(...box);
      context.globalAlpha = Math.min(shares[layer] / peak, 1) ** 0.8;
      context.fillStyle = hot;
      context.fillRect(...box);
    }
  }
  return { first, step, peak };
}

export function Strip({ rows, live }) {
  const canvas = useRef(null);
  const place = useRef({ first: 0, step: 1 });
  const [at, setAt] = useState(null);
  useEffect(() => {
    const ask = paced(() => (place.current = draw(canvas.current, live ? live.rows : rows)), 120);
    const leave = live?.watch(ask);
    const observer = new ResizeObserver(ask);
    observer.observe(canvas.current);
    const media = matchMedia("(prefers-color-scheme: dark)");
    media.addEventListener("change", ask);
    ask();
    return () => {
      leave?.();
      ask.stop();
      observer.disconnect();
      media.removeEventListener("change", ask);
    };
  }, [rows, live, document.documentElement.dataset.theme]);
  const point = (event) => {
    const { left, top, height } = canvas.current.getBoundingClientRect();
    const all = live ? live.rows : rows;
    const row = all[place.current.first + Math.floor((event.clientX - left) / place.current.step)];
    const shares = row?.[LAYERS];
    if (!shares) return setAt(null);
    const layer = Math.min(Math.max(Math.floor(((event.clientY - top) / height) * shares.length), 0), shares.length - 1);
    setAt(`layer ${layer}, token "${row[TEXT].trim() || row[TEXT]}": ${percent(shares[layer] / 1000)} active`);
  };
  return html`<figure class="strip">
    <canvas ref=${canvas} onMouseMove=${point} onMouseLeave=${() => setAt(null)} role="img" aria-label="Active share of each layer, token by token"></canvas>
    <figcaption>${at || "layers down, tokens to the right; the stronger, the more neurons awake"}<span class="source measured">measured</span></figcaption>
  </figure>`;
}
