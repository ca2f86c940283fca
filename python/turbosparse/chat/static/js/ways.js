// Ways to compute the neurons: a mode, and for the predictor how far its threshold is moved.

import { setSettings, settingsNow, state } from "./state.js";

export const BALANCED = -1; // in logits; lower: fewer active neurons are missed, more rows are computed
export const SHIFTS = [-4, 1, 0.1]; // least, most, step

export const WAYS = [
  { id: "dense", mode: "dense", name: "Dense", why: "Every neuron is computed. The yardstick." },
  { id: "exact", mode: "exact", name: "Exact", why: "Neurons that come out as zero are skipped; the result is the same as dense." },
  { id: "balanced", mode: "predicted", shift: BALANCED, name: "Balanced", why: "A cautious predictor picks the neurons: fewer are missed than in Fast, more are computed." },
  { id: "fast", mode: "predicted", shift: 0, name: "Fast", why: "The predictor picks the neurons at the file's own threshold; what it misses counts as zero." },
];

export const waysOf = (card) => WAYS.filter((way) => card.modes.includes(way.mode));

// Of a mode and a shift; a threshold of one's own is nearest to one of the two.
export function wayOf(mode, shift = 0) {
  if (mode !== "predicted") return WAYS.find((way) => way.mode === mode);
  return WAYS.find((way) => way.mode === mode && (shift < 0) === (way.shift < 0));
}

export function nameOf(mode, shift = 0) {
  const way = wayOf(mode, shift);
  if (!way) return mode;
  return (way.shift ?? 0) === shift || mode !== "predicted" ? way.name : `${way.name} (threshold ${signed(shift)})`;
}

export const signed = (value) => `${value > 0 ? "+" : ""}${Number(value.toFixed(2))}`.replace("-", "\u2212");

export const modeNow = () => settingsNow().mode || state.model.card?.default_mode;
export const shiftNow = () => settingsNow().threshold_shift || 0;
export const choose = (way) => setSettings({ mode: way.mode, threshold_shift: way.shift || 0 });
