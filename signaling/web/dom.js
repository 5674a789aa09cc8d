/** Small helpers for the page. */

export const $ = (selector, within = document) => within.querySelector(selector);
export const $$ = (selector, within = document) => [...within.querySelectorAll(selector)];

/** An element with properties and children; text is never parsed as HTML. */
export function element(name, properties = {}, ...children) {
  const node = document.createElement(name);
  for (const [key, value] of Object.entries(properties)) {
    if (key.startsWith('aria-') || key.startsWith('data-') || key === 'role') node.setAttribute(key, value);
    else node[key] = value;
  }
  node.append(...children);
  return node;
}

/** An icon of the page's sprite. */
export function icon(name) {
  const svg = document.createElementNS('http://www.w3.org/2000/svg', 'svg');
  const use = document.createElementNS('http://www.w3.org/2000/svg', 'use');
  use.setAttribute('href', `#i-${name}`);
  svg.setAttribute('aria-hidden', 'true');
  svg.append(use);
  return svg;
}

/** Tells the person something; with the same `key`, in place of the last one. Returns a function that removes it. */
export function notice(text, { key = text, tone = 'info', action, seconds } = {}) {
  const region = $('#notices');
  $$('.notice', region).find((node) => node.dataset.key === key)?.remove();
  const node = element('div', { className: 'notice', 'data-tone': tone, 'data-key': key }, element('p', { textContent: text }));
  const remove = () => node.remove();
  if (action) node.append(element('button', { type: 'button', className: 'small', textContent: action.label, onclick: () => { remove(); action.run(); } }));
  const close = element('button', { type: 'button', className: 'icon-button plain', 'aria-label': 'Dismiss', onclick: remove });
  close.append(icon('close'));
  node.append(close);
  if (tone === 'error') node.setAttribute('role', 'alert');
  region.append(node);
  // What waits for a decision stays; what only informs goes.
  if (seconds) setTimeout(remove, seconds * 1000);
  return remove;
}

/** 1536 -> "1.5 kB". */
export function bytes(count) {
  const units = ['B', 'kB', 'MB', 'GB'];
  let value = count;
  let unit = 0;
  while (value >= 1000 && unit < units.length - 1) {
    value /= 1000;
    unit += 1;
  }
  return `${unit === 0 || value >= 100 ? Math.round(value) : value.toFixed(1)} ${units[unit]}`;
}

/** 1_250_000 -> "1.3 Mb/s". */
export function bitrate(perSecond) {
  if (perSecond === null || perSecond === undefined) return '–';
  return perSecond >= 1e6 ? `${(perSecond / 1e6).toFixed(1)} Mb/s` : `${Math.round(perSecond / 1e3)} kb/s`;
}

/** 3725 -> "1 h 02 min", 65 -> "1 min 05 s". */
export function duration(seconds) {
  const whole = Math.max(0, Math.floor(seconds));
  const two = (n) => String(n).padStart(2, '0');
  if (whole >= 3600) return `${Math.floor(whole / 3600)} h ${two(Math.floor((whole % 3600) / 60))} min`;
  if (whole >= 60) return `${Math.floor(whole / 60)} min ${two(whole % 60)} s`;
  return `${whole} s`;
}
