const QUIET_MS = 15_000;
const PONG_MS = 10_000;

/** Whether the other end of a connection is still there: a ping when it is quiet, and then any word in time. */
export class Pulse {
  #heard = 0;
  #pongBy;

  heard(now) {
    this.#heard = now;
    this.#pongBy = undefined;
  }

  pinged(now) {
    this.#pongBy = now + PONG_MS;
  }

  get isWaiting() {
    return this.#pongBy !== undefined;
  }

  get dueAt() {
    return this.#pongBy ?? this.#heard + QUIET_MS;
  }
}
