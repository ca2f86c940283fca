import { html } from "/static/vendor/preact.js";

const PATHS = {
  plus: "M12 5v14M5 12h14",
  search: "M11 4a7 7 0 1 1 0 14a7 7 0 0 1 0-14zM16.2 16.2L21 21",
  send: "M12 19V5M6 11l6-6l6 6",
  stop: "M7 7h10v10H7z",
  copy: "M9 9h11v11H9zM5 15H4V4h11v1",
  check: "M5 12.5l4.5 4.5L19 7.5",
  edit: "M4 20h4L19 9l-4-4L4 16zM13 7l4 4",
  again: "M20 11a8 8 0 1 0-2.3 6M20 5v6h-6",
  go: "M5 12h13M13 6l6 6l-6 6",
  left: "M15 5l-7 7l7 7",
  right: "M9 5l7 7l-7 7",
  bin: "M4 7h16M9 7V4h6v3M6 7l1 13h10l1-13",
  pin: "M9 4h6l-1 6l4 3v2H6v-2l4-3zM12 15v6",
  folder: "M3 6h6l2 2h10v11H3z",
  more: "M5 12h.01M12 12h.01M19 12h.01",
  panel: "M4 5h16v14H4zM15 5v14",
  side: "M4 5h16v14H4zM9 5v14",
  gear: "M4 7h9M17 7h3M4 17h3M11 17h9M13 7a2 2 0 1 0 4 0a2 2 0 1 0-4 0M7 17a2 2 0 1 0 4 0a2 2 0 1 0-4 0",
  scales: "M12 4v16M8 20h8M5 7h14M5 7l-3 7h6zM19 7l-3 7h6z",
  grid: "M5 5h.01M12 5h.01M19 5h.01M5 12h.01M12 12h.01M19 12h.01M5 19h.01M12 19h.01M19 19h.01",
  tokens: "M4 6h7v5H4zM14 6h6v5h-6zM4 14h5v5H4zM12 14h8v5h-8z",
  down: "M6 9l6 6l6-6",
  close: "M6 6l12 12M18 6L6 18",
  moon: "M20 14a8 8 0 0 1-10-10a8 8 0 1 0 10 10z",
  sun: "M12 8a4 4 0 1 1 0 8a4 4 0 0 1 0-8zM12 2v2M12 20v2M2 12h2M20 12h2M5 5l1.5 1.5M17.5 17.5L19 19M5 19l1.5-1.5M17.5 6.5L19 5",
  screen: "M3 5h18v11H3zM9 20h6M12 16v4",
  file: "M6 3h8l4 4v14H6zM14 3v4h4",
  help: "M9 9a3 3 0 1 1 4.5 2.6c-1 .6-1.5 1.2-1.5 2.4M12 18h.01",
  out: "M12 4v11M7 10l5 5l5-5M5 20h14",
  into: "M12 16V5M7 10l5-5l5 5M5 20h14",
};

export const Icon = ({ name }) =>
  html`<svg class=${`icon icon-${name}`} viewBox="0 0 24 24" aria-hidden="true" focusable="false"><path d=${PATHS[name]} /></svg>`;

// A button that shows an icon and says its name to those who do not see it.
export const IconButton = ({ name, label, keys, ...rest }) =>
  html`<button type="button" class="icon-button" aria-label=${label} title=${keys ? `${label} (${keys})` : label} ...${rest}>
    <${Icon} name=${name} />
  </button>`;
