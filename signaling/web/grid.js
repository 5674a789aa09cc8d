/** The tiles: one for each person, as large as the stage allows. */

import { element, icon } from './dom.js';
import { FrameWatch } from './frames.js';

const GAP = 12;

/**
 * How many columns make the largest tiles. On a stage that is upright tiles are square: wide ones would leave most
 * of it empty.
 * @returns {{columns: number, width: number, ratio: number}} width of a tile in px, and how much wider than high it is
 */
export function layout(count, width, height) {
  const ratio = height > width ? 1 : 16 / 9;
  let best = { columns: 1, width: 0, ratio };
  for (let columns = 1; columns <= count; columns += 1) {
    const rows = Math.ceil(count / columns);
    const fit = Math.min((width - GAP * (columns - 1)) / columns, ((height - GAP * (rows - 1)) / rows) * ratio);
    if (fit > best.width) best = { columns, width: Math.floor(fit), ratio };
  }
  return best;
}

/** One person's tile. */
class Tile {
  constructor(name, { self = false } = {}) {
    this.self = self;
    this.video = element('video', { autoplay: true, playsInline: true, muted: self });
    this.label = element('span', { className: 'name', textContent: name });
    this.mute = element('span', { className: 'muted', hidden: true, title: 'Microphone off' }, icon('mic-off'), element('span', { className: 'visually-hidden', textContent: 'microphone off' }));
    this.path = element('span', { className: 'path', hidden: true });
    this.cover = element('div', { className: 'cover', hidden: self }, element('span', { className: 'initial', textContent: initial(name), 'aria-hidden': 'true' }), element('span', { className: 'cover-text', textContent: 'Connecting…' }));
    this.node = element('figure', { className: self ? 'tile self' : 'tile', 'data-state': self ? 'connected' : 'connecting' }, this.video, this.cover, element('figcaption', {}, this.mute, this.label), this.path);
    if (!self) this.watch = new FrameWatch(this.video);
  }

  show(stream) {
    if (this.video.srcObject !== stream) this.video.srcObject = stream;
    return this.video.play().catch((error) => error);
  }

  set state(state) {
    this.node.dataset.state = state;
    this.#cover();
  }

  set camera(on) {
    this.node.dataset.camera = on ? 'on' : 'off';
    this.#cover();
  }

  set microphone(on) {
    this.mute.hidden = on;
  }

  #cover() {
    const { state, camera } = this.node.dataset;
    const text = { connecting: 'Connecting…', interrupted: 'Finding another way…' }[state] ?? (camera === 'off' ? 'Camera off' : '');
    this.cover.hidden = text === '';
    this.cover.lastChild.textContent = text;
  }
}

export class Grid {
  #node;
  #tiles = new Map();

  /** @param {HTMLElement} node */
  constructor(node) {
    this.#node = node;
    new ResizeObserver(() => this.#arrange()).observe(node);
  }

  get(id) {
    return this.#tiles.get(id);
  }

  add(id, name, options) {
    const tile = new Tile(name, options);
    this.#tiles.set(id, tile);
    this.#node.append(tile.node);
    this.#arrange();
    return tile;
  }

  remove(id) {
    const tile = this.#tiles.get(id);
    tile?.watch?.stop();
    tile?.node.remove();
    if (tile) tile.video.srcObject = null;
    this.#tiles.delete(id);
    this.#arrange();
  }

  clear() {
    for (const id of [...this.#tiles.keys()]) this.remove(id);
  }

  #arrange() {
    const others = [...this.#tiles.values()].filter(({ self }) => !self).length;
    // Two people: the other one large, oneself in the corner.
    this.#node.dataset.mode = others === 1 ? 'pair' : others === 0 ? 'alone' : 'many';
    const shown = others === 1 ? 1 : others + 1;
    const { columns, width, ratio } = layout(shown, this.#node.clientWidth, this.#node.clientHeight);
    this.#node.style.setProperty('--columns', columns);
    this.#node.style.setProperty('--tile', `${width}px`);
    this.#node.style.setProperty('--ratio', ratio);
  }
}

function initial(name) {
  return (name || 'G').trim().charAt(0).toUpperCase();
}
