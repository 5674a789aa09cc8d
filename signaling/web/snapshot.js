/** Snapshots and files: taken, sent with progress, shown. */

import { $, bytes, element } from './dom.js';

// What an <img> draws without ever running it; everything else is only offered for saving.
const PICTURES = new Set(['image/png', 'image/jpeg', 'image/webp', 'image/gif']);

/** The picture that a video shows now. */
export async function picture(video) {
  const { videoWidth: width, videoHeight: height } = video;
  if (!width) throw new Error('There is no picture to take yet.');
  const canvas = element('canvas', { width, height });
  canvas.getContext('2d').drawImage(video, 0, 0);
  const blob = await new Promise((resolve) => canvas.toBlob(resolve, 'image/jpeg', 0.92));
  return { blob, width, height };
}

// Others decide how much arrives here, so what is kept has an end.
const KEPT = 60;

export class Gallery {
  /** `{from, name, size, type, mine}`, oldest first. */
  files = [];
  #bars = new Map();

  constructor() {
    const dialog = $('#photo-dialog');
    dialog.addEventListener('click', (event) => event.target === dialog && dialog.close());
  }

  /** Shows how far a transfer is; `fraction` 1 takes the bar away. */
  progress(key, title, fraction) {
    let bar = this.#bars.get(key);
    if (!bar) {
      const progress = element('progress', { max: 1, value: 0, 'aria-label': title });
      bar = { progress, node: element('div', { className: 'transfer' }, element('span', { textContent: title }), progress) };
      this.#bars.set(key, bar);
      $('#transfers').append(bar.node);
    }
    bar.progress.value = fraction;
    if (fraction >= 1) this.done(key);
  }

  done(key) {
    this.#bars.get(key)?.node.remove();
    this.#bars.delete(key);
  }

  /** @param {{blob: Blob, name: string, from: string, by: string, mine: boolean}} file */
  add({ blob, name, from, by, mine }) {
    const type = blob.type;
    this.files.push({ from, name, size: blob.size, type, mine });
    $('#gallery-empty').hidden = true;
    this.#forget();
    const caption = `${mine ? 'You' : by} · ${new Date().toLocaleTimeString([], { hour: '2-digit', minute: '2-digit' })} · ${bytes(blob.size)}`;
    if (!PICTURES.has(type)) {
      const url = URL.createObjectURL(new Blob([blob], { type: 'application/octet-stream' }));
      $('#gallery').prepend(element('li', { className: 'file' }, element('a', { className: 'button', href: url, download: name, textContent: `Save ${name}` }), element('small', { textContent: caption })));
      return;
    }
    const url = URL.createObjectURL(blob);
    const image = element('img', { src: url, alt: `Snapshot by ${mine ? 'you' : by}` });
    const open = element('button', { type: 'button', className: 'thumb', 'aria-label': `Show large: ${caption}`, onclick: () => this.#open(url, name, caption) }, image);
    $('#gallery').prepend(element('li', {}, open, element('small', { textContent: caption })));
  }

  #forget() {
    const list = $('#gallery');
    if (this.files.length > KEPT) this.files.shift();
    if (list.children.length < KEPT) return;
    for (const node of list.lastChild.querySelectorAll('img, a')) URL.revokeObjectURL(node.src ?? node.href);
    list.lastChild.remove();
  }

  #open(url, name, caption) {
    $('#photo-large').src = url;
    $('#photo-large').alt = caption;
    $('#photo-caption').textContent = caption;
    Object.assign($('#photo-save'), { href: url, download: name });
    $('#photo-dialog').showModal();
  }
}
