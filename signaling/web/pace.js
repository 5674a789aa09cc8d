/** How often a server may be told things, kept a little below its own limit. */
export class Pace {
  #rate = Infinity;
  #tokens = Infinity;
  #at = 0;

  limit(messagesPerSecond, now) {
    const rate = messagesPerSecond > 0 ? Math.max(1, messagesPerSecond * 0.8) : Infinity;
    if (rate === this.#rate) return;
    this.#rate = rate;
    this.#tokens = rate;
    this.#at = now;
  }

  /** Takes a token, or says when there will be one. */
  take(now) {
    if (this.#rate === Infinity) return undefined;
    this.#tokens = Math.min(this.#rate, this.#tokens + ((now - this.#at) * this.#rate) / 1000);
    this.#at = now;
    if (this.#tokens >= 1) {
      this.#tokens -= 1;
      return undefined;
    }
    return now + Math.ceil(((1 - this.#tokens) * 1000) / this.#rate);
  }
}
