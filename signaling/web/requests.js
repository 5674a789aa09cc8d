/**
 * A signaling connection made of plain requests, for networks that break WebSockets; it looks like a WebSocket
 * to its user. What is sent is posted, and the answers are the response. What the room says comes by a stream of
 * events, or, where a proxy keeps streams back, by long polling. Each request may come to any replica.
 */

const FIRST_EVENT_MS = 4000;
// Three of the server's heartbeats.
const SILENCE_MS = 45_000;
const POST_MS = 15_000;
const POLL_MS = 40_000;
const EXPIRED = 4005;
const UNAUTHORIZED = 4401;

export class Requests extends EventTarget {
  /** As of a WebSocket. */
  readyState = 0;
  /** @type {'stream' | 'poll'} */
  kind;

  #base;
  #fetch;
  #firstEventMs;
  #abort = new AbortController();
  #bearer;
  #session;
  #after = '0.0';
  #queue = [];
  #posting = false;

  /**
   * @param {string} url the WebSocket's: `wss://calls.example.com/v1/connect`
   * @param {{kind?: 'stream' | 'poll', token?: string, fetch?: typeof fetch, firstEventMs?: number}} [options]
   */
  constructor(url, { kind = 'stream', token, fetch: ask = (...args) => globalThis.fetch(...args), firstEventMs = FIRST_EVENT_MS } = {}) {
    super();
    this.kind = kind;
    this.#bearer = token;
    this.#fetch = ask;
    this.#firstEventMs = firstEventMs;
    this.#base = new URL(url.replace(/^ws/, 'http'));
    this.#begin();
  }

  /** @param {string} text a frame */
  send(text) {
    const frame = JSON.parse(text);
    if (frame.type === 'resume') {
      this.#session = frame.resume;
      this.#after = `${frame.epoch}.${frame.seq}`;
      this.#listen(true);
      return;
    }
    this.#queue.push(text);
    // what is sent in one go is posted in one go
    queueMicrotask(() => this.#flush());
  }

  close() {
    if (this.readyState >= 2) return;
    this.readyState = 3;
    // a last word, such as `leave`, outlives the page
    if (this.#queue.length && this.#session) this.#post(this.#queue.splice(0), { keepalive: true }).catch(() => {});
    this.#abort.abort();
  }

  async #begin() {
    try {
      const answers = await this.#post(['{"type":"ping"}']);
      if (answers[0]?.type !== 'pong') throw new TypeError('no signaling server');
    } catch (error) {
      this.#failed(error);
      return;
    }
    if (this.readyState !== 0) return;
    this.readyState = 1;
    this.dispatchEvent(new Event('open'));
  }

  // ---- what we say ----

  // One at a time, so that all comes in order.
  async #flush() {
    if (this.#posting || !this.#queue.length || this.readyState !== 1) return;
    this.#posting = true;
    const texts = this.#queue.splice(0);
    try {
      for (const frame of await this.#post(texts)) {
        if (this.readyState !== 1) return;
        if (frame.type === 'joined') {
          this.#session = frame.resume;
          this.#after = `${frame.epoch}.${frame.seq}`;
        }
        if (frame.type === 'closed') return this.#end(frame.code);
        this.#tell(frame);
        if (frame.type === 'joined') this.#listen(false);
      }
    } catch (error) {
      // Whether it arrived is not known. The session resumes, and says again what was not answered.
      this.#failed(error);
      return;
    } finally {
      this.#posting = false;
    }
    this.#flush();
  }

  async #post(texts, options = {}) {
    const signal = options.keepalive ? AbortSignal.timeout(POST_MS) : this.#until(POST_MS);
    const response = await this.#fetch(this.#at('messages'), {
      method: 'POST', body: `[${texts.join(',')}]`, headers: this.#headers(), signal, ...options,
    });
    return frames(response);
  }

  // ---- what we hear ----

  /** @param {boolean} told whether the session waits to be told that it goes on, or cannot */
  async #listen(told) {
    try {
      if (this.kind === 'stream' && (await this.#stream(told))) return;
      if (this.readyState === 1) await this.#poll(told);
    } catch (error) {
      this.#failed(error);
    }
  }

  /** Returns false when nothing of a stream gets through here. */
  async #stream(told) {
    const stop = new AbortController();
    const stopped = AbortSignal.any([this.#abort.signal, stop.signal]);
    let timer = setTimeout(() => stop.abort(), this.#firstEventMs);
    let begun = false;
    try {
      const response = await this.#fetch(this.#at('events'), { headers: this.#headers(true), signal: stopped });
      if (!response.ok || !response.headers.get('content-type')?.startsWith('text/event-stream')) {
        this.#refused(await frames(response), told);
        return true;
      }
      const heard = () => {
        begun = true;
        clearTimeout(timer);
        timer = setTimeout(() => stop.abort(), SILENCE_MS);
      };
      for await (const frame of events(response.body, heard)) {
        if (this.readyState !== 1) return true;
        if (frame.type === 'closed') return this.#end(frame.code);
        if (frame.type !== 'resumed' || told) this.#tell(frame);
      }
    } catch (error) {
      if (!begun && this.readyState === 1 && !(error instanceof TurnedAway)) {
        this.kind = 'poll';
        return false;
      }
      throw error;
    } finally {
      clearTimeout(timer);
    }
    if (!begun) {
      this.kind = 'poll';
      return false;
    }
    return this.#end(1006);
  }

  async #poll(told) {
    for (let first = told; this.readyState === 1; first = false) {
      const response = await this.#fetch(this.#at(first ? 'poll?wait=0' : 'poll'), { headers: this.#headers(true), signal: this.#until(POLL_MS) });
      const all = await frames(response);
      if (!response.ok) return this.#refused(all, first);
      for (const frame of all) {
        if (this.readyState !== 1) return true;
        if (frame.type === 'closed') return this.#end(frame.code);
        if (frame.type === 'position') this.#after = `${frame.epoch}.${frame.seq}`;
        if (frame.type !== 'resumed' || first) this.#tell(frame);
      }
    }
    return true;
  }

  // The session knows what to make of an answer to its resume; in the middle of things it begins again.
  #refused(all, told) {
    if (told) for (const frame of all) if (frame.type === 'error') this.#tell(frame);
    if (!told || !all.some(({ type }) => type === 'error')) this.#end(1006);
    return true;
  }

  // ---- small things ----

  #at(name) {
    return new URL(name, this.#base).href;
  }

  #headers(listening = false) {
    const headers = this.#bearer === undefined ? {} : { authorization: `Bearer ${this.#bearer}` };
    if (!this.#session) return headers;
    headers['rtc-session'] = encodeURIComponent(this.#session);
    if (listening) headers['last-event-id'] = this.#after;
    return headers;
  }

  #until(ms) {
    return AbortSignal.any([this.#abort.signal, AbortSignal.timeout(ms)]);
  }

  #tell(frame) {
    this.dispatchEvent(new MessageEvent('message', { data: JSON.stringify(frame) }));
  }

  // A token that was good to begin with has come to its end.
  #failed(error) {
    if (!(error instanceof TurnedAway)) this.#end(1006);
    else this.#end(this.readyState === 0 ? UNAUTHORIZED : EXPIRED, error.message);
  }

  #end(code, reason = '') {
    if (this.readyState >= 2) return true;
    this.readyState = 3;
    this.#abort.abort();
    this.dispatchEvent(Object.assign(new Event('close'), { code, reason }));
    return true;
  }
}

/** The token is missing or not good. */
class TurnedAway extends Error {}

/** What a response says, whatever its status; a proxy's own page says nothing. */
async function frames(response) {
  // A word of the session, such as that it is gone, has frames.
  if (response.status === 401 && !response.headers.get('content-type')?.startsWith('application/json')) {
    throw new TurnedAway((await response.text()).trim());
  }
  const all = await response.json();
  if (!Array.isArray(all)) throw new TypeError('no frames');
  return all;
}

/** The frames of an event stream (HTML, section 9.2.6). `heard` is called for all that comes, comments too. */
async function* events(body, heard) {
  let rest = '';
  let data = [];
  const decoder = new TextDecoder();
  const reader = body.getReader();
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    heard();
    const lines = (rest + decoder.decode(value, { stream: true })).split('\n');
    rest = lines.pop();
    for (const line of lines) {
      if (line.startsWith('data: ')) data.push(line.slice(6));
      if (line !== '' || !data.length) continue;
      const text = data.join('\n');
      data = [];
      yield JSON.parse(text);
    }
  }
}
