/**
 * Puts a numbered stream back in order and drops what came twice.
 *
 * Negotiation with a peer travels on two paths, the data channel and the signaling server, and a message
 * that was not confirmed on the first is sent again on the second. The receiver sees duplicates and
 * overtaking; RTCPeerConnection must see neither.
 */
export class Ordered {
  #next = 0;
  #early = new Map();
  #gapSince;
  #patienceMs;

  /** @param {{patienceMs?: number}} [options] how long to wait for a missing number before skipping it */
  constructor({ patienceMs = 3000 } = {}) {
    this.#patienceMs = patienceMs;
  }

  /**
   * Takes message `n` (from 0) and returns all that is now deliverable, in order.
   * @template T
   * @param {number} n
   * @param {T} message
   * @param {number} now ms
   * @returns {T[]}
   */
  accept(n, message, now) {
    if (!Number.isSafeInteger(n) || n < this.#next || this.#early.has(n)) return [];
    // Bounded: a peer that numbers wildly must not make us hold its messages for ever.
    if (n !== this.#next && this.#early.size >= 256) return [];
    this.#early.set(n, message);
    return this.#drain(now);
  }

  /** When `timeout` should be called, in ms, or undefined. */
  nextTimeout() {
    return this.#gapSince === undefined ? undefined : this.#gapSince + this.#patienceMs;
  }

  /** Gives a gap up when its time has passed, and returns what waited behind it. */
  timeout(now) {
    const due = this.nextTimeout();
    if (due === undefined || now < due) return [];
    this.#next = Math.min(...this.#early.keys());
    return this.#drain(now);
  }

  #drain(now) {
    const ready = [];
    while (this.#early.has(this.#next)) {
      ready.push(this.#early.get(this.#next));
      this.#early.delete(this.#next);
      this.#next += 1;
    }
    if (this.#early.size === 0) this.#gapSince = undefined;
    else if (ready.length > 0 || this.#gapSince === undefined) this.#gapSince = now;
    return ready;
  }
}
