import { Credentials } from './credentials.js';
import { Outbox } from './outbox.js';
import { Roster } from './roster.js';

const AGAIN_MS = 1000;
const LOG = new Set(['signal', 'member-joined', 'member-left']);
const utf8 = new TextEncoder();

/** Reasons of an error that pass by themselves; every other error is an answer. */
export const PASSING = new Set(['store_unavailable', 'too_many_rooms', 'rate_limited', 'degraded']);

/**
 * A place in a room, whichever connection carries it: what the room's frames mean, and what is said in it.
 */
export class Room {
  /** This member's id, once joined. */
  id;
  /** What shows that the place is ours. */
  resume;
  limits = {};
  degradedSince;
  counts = { resumed: 0, rejoined: 0, resync: 0, duplicates: 0 };
  roster = new Roster();
  credentials = new Credentials();
  outbox = new Outbox();
  /** Whether we have been told who is here. */
  isEntered = false;

  #line;
  #random;
  #unixNow;

  /**
   * @param {object} options
   * @param {object} options.line the session's: `connection()` (its number, or undefined), `send(frame)`, `id()`, `event(type, detail)`
   * @param {() => number} options.random
   * @param {() => number} options.unixNow ms
   */
  constructor({ line, random, unixNow }) {
    this.#line = line;
    this.#random = random;
    this.#unixNow = unixNow;
  }

  /** When something is to be done, while there is a connection. */
  get dueAt() {
    const times = [this.credentials.dueAt, this.outbox.dueAt].filter((at) => at !== undefined);
    return times.length ? Math.min(...times) : undefined;
  }

  timeout(now) {
    if (now >= this.credentials.dueAt) this.refreshIce(now);
    if (now >= this.outbox.dueAt) this.#flush(now);
  }

  /** Goes on with a place of before. */
  sitDown({ id, resume, epoch, seq, iceServers, expires, limits }) {
    Object.assign(this, { id, resume, limits });
    this.roster.moveTo({ epoch, seq });
    Object.assign(this.credentials, { iceServers, expires });
  }

  /** Nobody answers any more. */
  lost() {
    this.credentials.lost();
  }

  // ---- what the server says ----

  joined(frame, now) {
    const again = this.isEntered;
    if (again) this.counts.rejoined += 1;
    this.id = frame.session;
    this.resume = frame.resume;
    this.limits = frame.limits ?? {};
    // What waited was addressed to, and numbered in, a session that no longer is.
    this.outbox.clear();
    this.#enter(frame, frame, now, { polite: frame.polite === true, again });
  }

  resumed(frame, now) {
    this.counts.resumed += 1;
    if (!this.isEntered) return this.#seated(frame, now);
    // Our own seq stays: what was missed follows, and is numbered above it.
    if (frame.epoch !== this.roster.epoch) this.roster.moveTo(frame);
    const { joined, left } = this.roster.reconcile(frame.members, this.id);
    this.#line.event('resumed', {});
    for (const member of left) this.#line.event('member-left', { member, reason: 'left' });
    for (const member of joined) this.#line.event('member-joined', { member });
    return this.#resend(now);
  }

  /** A resume that was answered by `resync`. */
  resumedAnew(frame, now) {
    this.counts.resumed += 1;
    if (this.isEntered) this.#resync(frame, now);
    else this.#seated(frame, now);
  }

  // After a reload: the seat is ours, and everything about it is new to us.
  #seated(frame, now) {
    const polite = frame.members?.some(({ id }) => id !== this.id) ?? false;
    this.#enter(frame, this.credentials, now, { polite, again: false, seated: true });
  }

  #enter(frame, credentials, now, more) {
    this.isEntered = true;
    this.outbox.limit(this.limits.messagesPerSecond, now);
    this.roster.begin(frame, this.id);
    this.credentials.take(credentials, now, this.#unixNow(), this.#random);
    this.#line.event('joined', { session: this.id, members: [...this.roster.members.values()], ...more });
  }

  #resync(frame, now) {
    this.counts.resync += 1;
    this.roster.moveTo(frame);
    if (frame.session) this.id = frame.session;
    const { joined, left } = this.roster.reconcile(frame.members, this.id);
    this.#line.event('resync', { members: [...this.roster.members.values()], joined, left });
    this.#resend(now);
  }

  received(frame, now) {
    const { event } = this.#line;
    if (LOG.has(frame.type) && frame.seq !== undefined && frame.epoch !== undefined && !this.roster.advance(frame)) {
      this.counts.duplicates += 1;
      return;
    }
    switch (frame.type) {
      case 'signal':
        if (frame.from !== this.id) event('signal', { from: frame.from, data: frame.data });
        break;
      case 'member-joined':
        if (this.roster.add(frame.member, this.id)) event('member-joined', { member: frame.member });
        break;
      case 'member-left':
        if (this.roster.remove(frame.member)) event('member-left', { member: frame.member, reason: frame.reason });
        break;
      case 'ack':
        this.outbox.answered(frame.id);
        break;
      case 'error':
        this.#error(frame, now);
        break;
      case 'ice':
        this.credentials.take(frame, now, this.#unixNow(), this.#random);
        event('ice', {});
        break;
      case 'resync':
        this.#resync(frame, now);
        break;
      case 'position':
        this.roster.advance(frame);
        break;
      case 'degraded':
        this.degradedSince = frame.since;
        event('degraded', { since: frame.since });
        break;
      case 'recovered':
        this.degradedSince = undefined;
        this.#flush(now);
        event('recovered', {});
        break;
      default:
        break;
    }
  }

  #error({ id, code, message }, now) {
    this.credentials.refused(id, now);
    // What is refused for its rate is not read, so the answer names no id: it may have been any of them.
    if (PASSING.has(code) && (this.outbox.again(id) || id === undefined)) {
      this.outbox.dueAt = now + AGAIN_MS;
      return;
    }
    this.outbox.answered(id);
    this.#line.event('error', { code, message });
  }

  // ---- what we say ----

  signal(data, to, now) {
    const { event, id } = this.#line;
    if (this.outbox.isFull) {
      event('error', { code: 'outbox_full', message: 'Too much is waiting to be sent; the connection has been down for long.' });
      return;
    }
    const frame = { type: 'signal', id: id(), ...(to === undefined ? {} : { to }), data };
    // The server does not read a frame above its limit, so it could not say which one it was.
    if (utf8.encode(JSON.stringify(frame)).length > (this.limits.frameBytes ?? Infinity)) {
      event('error', { code: 'too_large', message: `A signal has at most ${this.limits.frameBytes} bytes; send large things over the data channel.` });
      return;
    }
    this.outbox.add(frame);
    this.#flush(now);
  }

  refreshIce(now) {
    const id = this.#line.id();
    this.credentials.asked(id, now);
    this.#line.send({ type: 'ice', id });
  }

  #resend(now) {
    this.outbox.keepFor(this.roster.members);
    this.#flush(now);
  }

  #flush(now) {
    const connection = this.#line.connection();
    if (connection === undefined) return;
    for (const frame of this.outbox.due(connection, now)) this.#line.send(frame);
  }
}
