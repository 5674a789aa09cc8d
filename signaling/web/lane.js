/**
 * How negotiation with a peer travels: over the data channel while that works, which spares the server and
 * goes on without it; over signaling otherwise, and again over signaling when the channel gives no answer.
 */

const CONFIRM_MS = 2000;

export class Lane {
  #channel;
  #signal;
  #counts;
  #unconfirmed = new Map(); // n -> {data, timer}

  /**
   * @param {object} options
   * @param {() => RTCDataChannel | undefined} options.channel the channel, if it can be trusted now
   * @param {(data: unknown) => void} options.signal sends through signaling
   * @param {{signalsOverChannel: number, signalsOverSignaling: number}} options.counts
   */
  constructor({ channel, signal, counts }) {
    this.#channel = channel;
    this.#signal = signal;
    this.#counts = counts;
  }

  /** @param {{n: number}} data `n` tells messages apart, for the confirmation */
  send(data) {
    const channel = this.#channel();
    if (!channel) {
      this.#overSignaling(data);
      return;
    }
    this.#counts.signalsOverChannel += 1;
    channel.send(JSON.stringify({ type: 'signal', data }));
    this.#unconfirmed.set(data.n, { data, timer: setTimeout(() => this.#again(data.n), CONFIRM_MS) });
  }

  /** The other side has it. */
  confirmed(n) {
    clearTimeout(this.#unconfirmed.get(n)?.timer);
    this.#unconfirmed.delete(n);
  }

  /** The channel cannot be trusted any more: sends again what it has not confirmed. */
  fallBack() {
    for (const n of [...this.#unconfirmed.keys()]) this.#again(n);
  }

  close() {
    for (const { timer } of this.#unconfirmed.values()) clearTimeout(timer);
    this.#unconfirmed.clear();
  }

  #again(n) {
    const { data } = this.#unconfirmed.get(n);
    this.confirmed(n);
    this.#overSignaling(data);
  }

  #overSignaling(data) {
    this.#counts.signalsOverSignaling += 1;
    this.#signal(data);
  }
}
