/**
 * The way to a signaling server: a WebSocket, or plain requests where that does not get through. Both are tried,
 * the second a little later, and the first that opens is used. What worked at a server is remembered for a while.
 */

import { Requests } from './requests.js';

const HEAD_START_MS = 2500;
const REMEMBER_MS = 600_000;
const UNAUTHORIZED = 4401;
const worked = new Map(); // origin -> {kind, until}

/** @typedef {'auto' | 'websocket' | 'stream' | 'poll'} SignalingTransport */

/** Forgets what worked: for tests, and for a network that has changed. */
export function forgetWays() {
  worked.clear();
}

export class Way extends EventTarget {
  #tries = [];
  #later;
  #used;
  #heard = false;
  #origin;
  #make;
  #kinds;
  #closed = false;
  #why = [1006, ''];

  /**
   * @param {string} url
   * @param {object} options
   * @param {SignalingTransport} [options.transport]
   * @param {string} [options.token] shown to the server
   * @param {typeof WebSocket} [options.WebSocket]
   * @param {typeof fetch} [options.fetch]
   */
  constructor(url, { transport = 'auto', token, WebSocket: Socket = globalThis.WebSocket, fetch, now = Date.now } = {}) {
    super();
    this.#origin = new URL(url).host;
    // A WebSocket of a browser has no headers of its own, only the names of subprotocols.
    const protocols = token === undefined ? [] : [['rtc.v1', `rtc.bearer.${token}`]];
    this.#make = (kind) => (kind === 'websocket' ? new Socket(url, ...protocols) : new Requests(url, { kind, token, fetch }));
    const known = worked.get(this.#origin);
    if (transport !== 'auto') this.#kinds = [transport];
    else if (known && known.until > now()) this.#kinds = [known.kind];
    else this.#kinds = ['websocket', 'stream'];
    this.now = now;
    this.auto = transport === 'auto';
    // not before its user listens
    queueMicrotask(() => this.#next());
  }

  /** How frames travel, once open. */
  get kind() {
    return this.#used && (this.#used.kind ?? 'websocket');
  }

  send(text) {
    this.#used?.send(text);
  }

  close(code) {
    this.#closed = true;
    clearTimeout(this.#later);
    // Open, and nothing came of it: something on the way lets WebSockets begin and not talk.
    if (this.#used && !this.#heard) this.#avoid();
    for (const one of this.#tries.splice(0)) if (one.readyState <= 1) one.close(code);
  }

  #next() {
    clearTimeout(this.#later);
    const kind = this.#kinds.shift();
    if (this.#closed || kind === undefined) return;
    let one;
    try {
      one = this.#make(kind);
    } catch {
      this.#failed();
      return;
    }
    this.#tries.push(one);
    one.addEventListener('open', () => this.#opened(one));
    one.addEventListener('message', ({ data }) => one === this.#used && this.#message(data));
    one.addEventListener('close', ({ code, reason }) => this.#lost(one, code, reason));
    if (this.#kinds.length) this.#later = setTimeout(() => this.#next(), HEAD_START_MS);
  }

  #opened(one) {
    if (this.#used || this.#closed) return;
    this.#used = one;
    this.#kinds = [];
    clearTimeout(this.#later);
    for (const other of this.#tries.splice(0)) if (other !== one) other.close();
    this.#tries = [one];
    this.dispatchEvent(new Event('open'));
  }

  #message(data) {
    if (!this.#heard) {
      this.#heard = true;
      // A WebSocket needs no memory: it is tried first.
      if (this.kind === 'websocket') worked.delete(this.#origin);
    }
    if (this.auto && this.kind !== 'websocket') worked.set(this.#origin, { kind: this.kind, until: this.now() + REMEMBER_MS });
    this.dispatchEvent(new MessageEvent('message', { data }));
  }

  #lost(one, code, reason) {
    this.#tries = this.#tries.filter((other) => other !== one);
    if (this.#closed) return;
    if (one !== this.#used) {
      if (!this.#used) this.#failed(code, reason);
      return;
    }
    if (!this.#heard) this.#avoid();
    this.#end(code, reason);
  }

  // A browser does not tell of a WebSocket why it was refused, but of a request.
  #failed(code, reason) {
    if (code === UNAUTHORIZED) this.#why = [code, reason];
    if (this.#kinds.length) this.#next();
    else if (!this.#tries.length) this.#end(...this.#why);
  }

  #avoid() {
    if (!this.auto) return;
    if (this.kind === 'websocket') worked.set(this.#origin, { kind: 'stream', until: this.now() + REMEMBER_MS });
    else worked.delete(this.#origin);
  }

  #end(code, reason) {
    this.#closed = true;
    clearTimeout(this.#later);
    this.dispatchEvent(Object.assign(new Event('close'), { code, reason }));
  }
}
