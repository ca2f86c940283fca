// Numbers for people.

export const percent = (share) => {
  const value = 100 * share;
  return `${value < 9.95 && value > 0 ? value.toFixed(1) : Math.round(value)}\u00a0%`;
};

export function bytes(n) {
  const units = ["B", "kB", "MB", "GB", "TB"];
  let i = 0;
  while (n >= 999.5 && i < units.length - 1) {
    n /= 1000;
    i += 1;
  }
  return `${n < 9.95 && i > 0 ? n.toFixed(1) : Math.round(n)}\u00a0${units[i]}`;
}

export const integer = (n) => Math.round(n).toLocaleString("en-US");
export const rate = (n) => (n >= 100 ? Math.round(n) : n.toFixed(1));
export const seconds = (ms) => (ms < 1000 ? `${Math.round(ms)} ms` : `${(ms / 1000).toFixed(1)} s`);

export function when(time) {
  const date = new Date(1000 * time);
  const days = (new Date().setHours(0, 0, 0, 0) - new Date(date).setHours(0, 0, 0, 0)) / 86_400_000;
  if (days <= 0) return "Today";
  if (days <= 1) return "Yesterday";
  if (days <= 7) return "Last 7 days";
  if (days <= 30) return "Last 30 days";
  return "Earlier";
}

// Time of the predictor in a token's time; null where there is none, or nothing was timed yet.
export function predictorShare({ timings, sparsity }) {
  if (!sparsity?.predictor_ms || !timings?.predicted_ms) return null;
  const ms = sparsity.predictor_ms / Math.max(sparsity.tokens, 1);
  return Math.min(ms / (timings.predicted_ms / Math.max(timings.predicted_n, 1)), 1);
}

// What a reply cost, from its counters. Every figure says where it comes from.
export function figures(stats) {
  const { timings, sparsity } = stats || {};
  const found = [];
  if (sparsity && sparsity.rows_dense) {
    const tokens = Math.max(sparsity.tokens, 1);
    found.push({
      id: "rows",
      text: `${percent(sparsity.rows / sparsity.rows_dense)} of FFN rows computed`,
      source: "measured",
      why: `${integer(sparsity.rows)} rows counted while they were computed, of ${integer(sparsity.rows_dense)}`,
    });
    found.push({
      id: "bytes",
      text: `${bytes(sparsity.bytes_read / tokens)}/token instead of ${bytes(sparsity.bytes_dense / tokens)}`,
      source: "derived",
      why: "FFN and predictor bytes are counted; the other weights and the dense figure follow from tensor sizes",
    });
    const share = predictorShare(stats);
    if (share !== null) {
      const ms = (sparsity.predictor_ms / tokens).toFixed(2);
      found.push({ id: "predictor", text: `predictor ${percent(share)} of the time`, source: "measured", why: `${ms} ms per token` });
    }
  }
  return [...found, ...speed(stats)];
}

function speed(stats) {
  const { timings, ttft_ms } = stats || {};
  const found = [];
  if (timings && timings.predicted_n > 1) {
    found.push({
      id: "speed",
      text: `${rate(timings.predicted_per_second)} tok/s`,
      source: "measured",
      why: `${integer(timings.predicted_n)} tokens in ${seconds(timings.predicted_ms)}`,
    });
  }
  if (ttft_ms != null) {
    found.push({
      id: "ttft",
      text: `first token ${seconds(ttft_ms)}`,
      source: "measured",
      why: timings
        ? `from sending to the first token; ${integer(timings.prompt_n)} prompt tokens read, ${integer(timings.cache_n)} reused`
        : "from sending to the first token",
    });
  }
  return found;
}
