import { refreshDelay } from './ice.js';

const ANSWER_MS = 10_000;
const AGAIN_MS = 15_000;

/** The ICE servers that the server gave, and when to ask for fresh ones. */
export class Credentials {
  iceServers = [];
  /** Unix seconds; 0 when there are none. */
  expires = 0;
  #refreshAt;
  #asked; // {id, deadline}

  /**
   * @param {{iceServers?: RTCIceServer[], expires?: number}} frame
   * @param {number} now ms
   * @param {number} unixNow ms
   * @param {() => number} random
   */
  take({ iceServers = [], expires = 0 }, now, unixNow, random) {
    Object.assign(this, { iceServers, expires });
    this.#asked = undefined;
    this.#refreshAt = expires ? now + refreshDelay(expires, unixNow, random) : undefined;
  }

  get dueAt() {
    return this.#asked?.deadline ?? this.#refreshAt;
  }

  asked(id, now) {
    this.#asked = { id, deadline: now + ANSWER_MS };
  }

  /** An answer that gives none; it may be to something else. */
  refused(id, now) {
    if (id === undefined || id !== this.#asked?.id) return;
    this.#asked = undefined;
    this.#refreshAt = now + AGAIN_MS;
  }

  /** Nobody answers any more. */
  lost() {
    this.#asked = undefined;
  }
}
