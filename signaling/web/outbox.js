import { Pace } from './pace.js';

const MAX = 2048;

/** Signals that the server has not answered yet, in the order of sending, and how fast they may go. */
export class Outbox {
  /** When the next one may go, while one waits for that. */
  dueAt;
  #entries = []; // {id, frame, conn}
  #pace = new Pace();

  get size() {
    return this.#entries.length;
  }

  get isFull() {
    return this.#entries.length >= MAX;
  }

  limit(messagesPerSecond, now) {
    this.#pace.limit(messagesPerSecond, now);
  }

  add(frame) {
    this.#entries.push({ id: frame.id, frame, conn: undefined });
  }

  answered(id) {
    const at = this.#entries.findIndex((entry) => entry.id === id);
    if (at >= 0) this.#entries.splice(at, 1);
  }

  /** What was sent under this id, or all that was sent, goes again. Returns how many that are. */
  again(id) {
    const sent = this.#entries.filter((entry) => entry.conn !== undefined && (id === undefined || entry.id === id));
    for (const entry of sent) entry.conn = undefined;
    return sent.length;
  }

  /** Forgets what was for others than these. */
  keepFor(members) {
    this.#entries = this.#entries.filter(({ frame }) => frame.to === undefined || members.has(frame.to));
  }

  clear() {
    this.#entries = [];
  }

  /** What is to be sent over this connection now. */
  *due(conn, now) {
    this.dueAt = undefined;
    for (const entry of this.#entries) {
      if (entry.conn === conn) continue;
      this.dueAt = this.#pace.take(now);
      if (this.dueAt !== undefined) return;
      entry.conn = conn;
      yield entry.frame;
    }
  }
}
