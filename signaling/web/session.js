/**
 * The client's side of signaling protocol v1, without any IO.
 *
 * Give it what happened (`opened`, `received`, `closed`, `timeout`) with the time, then take what it wants
 * from `poll()` until that is empty, and call `timeout` at `nextTimeout()`. Sockets, timers and WebRTC are
 * the caller's; so all of joining, resuming, resending and refreshing is tested without a network.
 *
 * Rules it keeps:
 * - a frame of the room at or below the last seen seq of its epoch is dropped: nothing is delivered twice;
 * - a signal stays in the outbox, under one id, until the server answered that id: nothing sent is lost with
 *   a connection, and the server's deduplication makes the resend harmless;
 * - the place in the log moves also by what is not for us (`position`), where a connection tells it;
 * - a planned move (`goaway`) opens the new connection before it lets go of the old one.
 */

import { backoff } from './backoff.js';
import { refreshDelay } from './ice.js';
import { Pace } from './pace.js';

/**
 * Close codes of the protocol, and of RFC 6455 section 7.4.1 where it has one. No server sends UNAUTHORIZED: it
 * stands for a request that was answered by HTTP's 401.
 */
export const CLOSE = Object.freeze({
  NORMAL: 1000, RESTART: 1012, SUPERSEDED: 4001, SLOW: 4002, KICKED: 4004, EXPIRED: 4005, PROTOCOL: 4008, UNAUTHORIZED: 4401,
});

const ATTEMPT_MS = 10_000;
const QUIET_MS = 15_000;
const PONG_MS = 10_000;
const ANSWER_MS = 10_000;
const OUTBOX_MAX = 2048;
const AGAIN_MS = 1000;
const utf8 = new TextEncoder();

// Reasons that pass by themselves; every other error is an answer.
const PASSING = new Set(['store_unavailable', 'rate_limited', 'degraded']);

export class Session {
  /** @type {'idle' | 'connecting' | 'live' | 'lost' | 'ended'} */
  phase = 'idle';
  /** This member's id, once joined. */
  id;
  epoch = 0;
  seq = 0;
  /** Other members by id: `{id, name?, meta?, polite}`. */
  members = new Map();
  iceServers = [];
  /** Unix seconds. */
  expires = 0;
  limits = {};
  /** Since when (unix seconds) the server has been without its store, or undefined. */
  degradedSince;
  /** How often the session was resumed, joined anew, and told to resync. */
  counts = { resumed: 0, rejoined: 0, resync: 0, duplicates: 0 };
  /** The URL of the connection in use. */
  url;
  /** The name of the server behind it, where it tells one. */
  replica;

  #urls;
  #turn = 0;
  #join;
  #random;
  #unixNow;
  #actions = [];
  #resume;
  #everJoined = false;
  #conns = 0;
  #active;
  #pending; // {conn, url, deadline, awaiting: 'join' | 'resume' | undefined, goaway?}
  #attempt = 0;
  #retryAt;
  #giveUpAt;
  #giveUpMs;
  #refusal; // [code, message] of the last attempt that got an answer
  #lastHeard = 0;
  #pingAt;
  #outbox = []; // {id, frame, conn} in the order of sending
  #nextId = 1;
  #pace = new Pace();
  #paceAt;
  #iceAt;
  #iceWaiting; // {id, deadline}
  #renews;
  #renewing = false;

  /**
   * @param {object} options
   * @param {string[]} options.urls where to connect; one after the other when one fails
   * @param {string} options.room
   * @param {string} [options.name]
   * @param {unknown} [options.meta]
   * @param {number} [options.max]
   * @param {object} [options.seat] what `seat` gave: goes on with that session, if it still can
   * @param {boolean} [options.renews] whether a `renew` action can bring a fresh token
   * @param {number} [options.joinTimeoutMs] after which a first join that found no server fails; 20 s
   * @param {() => number} [options.random]
   * @param {() => number} [options.unixNow] wall clock in ms, only for the life of credentials
   */
  constructor({ urls, room, name, meta, max, seat, renews = false, joinTimeoutMs = 20_000, random = Math.random, unixNow = Date.now }) {
    if (!urls?.length) throw new TypeError('at least one signaling URL is needed');
    if (!room) throw new TypeError('a room name is needed');
    this.#urls = [...urls];
    this.#join = { type: 'join', room, ...defined({ name, meta, max }) };
    this.#renews = renews;
    this.#giveUpMs = joinTimeoutMs;
    this.#random = random;
    this.#unixNow = unixNow;
    if (seat) this.#sitDown(seat);
  }

  get room() {
    return this.#join.room;
  }

  /** The number of the connection in use. */
  get connection() {
    return this.#active;
  }

  /** What another `Session` needs to go on with this one, secrets included; undefined when there is nothing. */
  get seat() {
    if (this.phase === 'ended' || !this.#resume) return undefined;
    const { id, epoch, seq, iceServers, expires, limits } = this;
    return { id, resume: this.#resume, epoch, seq, iceServers, expires, limits, nextId: this.#nextId };
  }

  /** Signals that no answer has come for yet. */
  get unanswered() {
    return this.#outbox.length;
  }

  /** Makes the first attempt. */
  start(now) {
    if (this.phase !== 'idle') return;
    this.phase = 'connecting';
    this.#giveUpAt = now + this.#giveUpMs;
    this.#connect(now);
  }

  /** The next thing to do: `{kind: 'connect' | 'send' | 'renew' | 'close' | 'event', …}`, or undefined. */
  poll() {
    return this.#actions.shift();
  }

  nextTimeout() {
    if (this.phase === 'ended' || this.phase === 'idle') return undefined;
    const times = [
      this.#retryAt,
      this.#giveUpAt,
      this.#pending?.deadline,
      this.#active === undefined ? undefined : (this.#pingAt ?? this.#lastHeard + QUIET_MS),
      this.#active === undefined ? undefined : (this.#iceWaiting?.deadline ?? this.#iceAt),
      this.#active === undefined ? undefined : this.#paceAt,
    ].filter((at) => at !== undefined);
    return times.length ? Math.min(...times) : undefined;
  }

  timeout(now) {
    if (this.phase === 'ended' || this.phase === 'idle') return;
    if (reached(this.#giveUpAt, now)) {
      this.#end(...(this.#refusal ?? ['unreachable', 'The signaling server does not answer. Check the address and your network, then try again.']));
      return;
    }
    if (reached(this.#pending?.deadline, now)) {
      this.#drop(this.#pending.conn);
      this.#attemptFailed(now);
    }
    if (reached(this.#retryAt, now)) this.#connect(now);
    if (this.#active === undefined) return;
    this.#keepAlive(now);
    if (this.#active === undefined) return;
    if (this.#iceWaiting ? reached(this.#iceWaiting.deadline, now) : reached(this.#iceAt, now)) {
      this.refreshIce(now);
    }
    if (reached(this.#paceAt, now)) this.#flush(now);
  }

  opened(conn, now) {
    if (conn !== this.#pending?.conn) return;
    this.#pending.awaiting = this.#resume ? 'resume' : 'join';
    this.#send(conn, this.#resume
      ? { type: 'resume', id: this.#id(), resume: this.#resume, epoch: this.epoch, seq: this.seq }
      : { ...this.#join, id: this.#id() });
    this.#lastHeard = now;
  }

  /** `reason` is the server's word with UNAUTHORIZED. */
  closed(conn, code, now, reason) {
    if (conn === this.#pending?.conn) {
      if (code === CLOSE.UNAUTHORIZED) this.#turnedAway(reason, now);
      else this.#attemptFailed(now);
    } else if (conn === this.#active) {
      this.#active = undefined;
      if (code === CLOSE.KICKED) {
        this.#end('kicked', 'You were removed from this room.');
        return;
      }
      if (code === CLOSE.EXPIRED && !this.#renews) {
        this.#end('expired', 'The token of this call has expired. Join again with a fresh one.');
        return;
      }
      // With a successor under way, 4001 is its doing; otherwise somebody else holds our session now.
      if (code === CLOSE.SUPERSEDED && !this.#pending) {
        this.#end('superseded', 'This call was continued in another window. Reload to join again from here.');
        return;
      }
      this.#lost(now, code);
    }
  }

  /**
   * @param {number} conn
   * @param {any} frame a parsed frame of the server
   * @param {number} now ms
   */
  received(conn, frame, now) {
    if (!frame || typeof frame !== 'object') return;
    if (conn === this.#pending?.conn) this.#receivedPending(conn, frame, now);
    else if (conn === this.#active) this.#receivedActive(frame, now);
  }

  /** Sends `data` to one member, or to all others. */
  signal(data, to, now) {
    if (this.phase === 'ended') return;
    if (this.#outbox.length >= OUTBOX_MAX) {
      this.#event('error', { code: 'outbox_full', message: 'Too much is waiting to be sent; the connection has been down for long.' });
      return;
    }
    const id = this.#id();
    const frame = { type: 'signal', id, ...defined({ to }), data };
    // The server does not read a frame above its limit, so it could not say which one it was.
    if (utf8.encode(JSON.stringify(frame)).length > (this.limits.frameBytes ?? Infinity)) {
      this.#event('error', { code: 'too_large', message: `A signal has at most ${this.limits.frameBytes} bytes; send large things over the data channel.` });
      return;
    }
    this.#outbox.push({ id, frame, conn: undefined });
    this.#flush(now);
  }

  /** Asks for fresh credentials now. */
  refreshIce(now) {
    if (this.#active === undefined) return;
    const id = this.#id();
    this.#iceWaiting = { id, deadline: now + ANSWER_MS };
    this.#send(this.#active, { type: 'ice', id });
  }

  /** A fresh token for the connection in use, as `renew` asked for; or none, and why. */
  renewed({ token, error }) {
    this.#renewing = false;
    if (error) this.#event('error', { code: 'no_token', message: error });
    if (this.#active === undefined || !token) return;
    this.#send(this.#active, { type: 'auth', id: this.#id(), token });
  }

  /** There is no token to connect with, for now. */
  tokenless(conn, error, now) {
    if (conn !== this.#pending?.conn) return;
    this.#refusal = ['no_token', error];
    this.#event('error', { code: 'no_token', message: error });
    this.#attemptFailed(now);
  }

  /** Something (the network is back, the page is shown again) says that waiting longer is pointless. */
  nudge(now) {
    if (this.phase === 'ended' || this.phase === 'idle') return;
    if (this.#active === undefined) {
      if (!this.#pending) this.#connect(now);
    } else if (this.#pingAt === undefined) {
      this.#ping(now);
    }
  }

  /** Continues the session at another URL, before the connection in use is let go. */
  moveTo(url, now) {
    this.#urls = [url, ...this.#urls.filter((other) => other !== url)];
    this.#turn = 0;
    if (this.phase === 'ended' || this.phase === 'idle') return;
    if (this.#pending) this.#drop(this.#pending.conn);
    this.#connect(now);
  }

  leave() {
    if (this.phase === 'ended') return;
    if (this.#active !== undefined) this.#send(this.#active, { type: 'leave' });
    this.#end('left', 'You left the call.');
  }

  #sitDown({ id, resume, epoch, seq, iceServers, expires, limits, nextId }) {
    Object.assign(this, { id, epoch, seq, iceServers, expires, limits });
    this.#resume = resume;
    // The server remembers the numbers that were used.
    this.#nextId = nextId;
  }

  // ---- connections ----

  #connect(now) {
    this.#retryAt = undefined;
    const conn = ++this.#conns;
    const url = this.#urls[this.#turn++ % this.#urls.length];
    this.#pending = { conn, url, deadline: now + ATTEMPT_MS, awaiting: undefined };
    this.#actions.push({ kind: 'connect', conn, url });
  }

  #drop(conn, code = CLOSE.NORMAL) {
    this.#actions.push({ kind: 'close', conn, code });
    if (conn === this.#pending?.conn) this.#pending = undefined;
    if (conn === this.#active) this.#active = undefined;
  }

  #attemptFailed(now) {
    this.#pending = undefined;
    this.#retry(now);
  }

  // A fresh token may be let in again; one that was never good, or cannot be had anew, will not be.
  #turnedAway(reason, now) {
    const message = `The server does not accept the token: ${reason || 'it gave no reason.'}`;
    if (this.#active === undefined && !(this.#renews && this.#everJoined)) {
      this.#end('unauthorized', message);
      return;
    }
    this.#event('error', { code: 'unauthorized', message });
    this.#attemptFailed(now);
  }

  #retry(now, atLeastMs = 0) {
    const delay = Math.max(atLeastMs, backoff(this.#attempt, this.#random));
    this.#attempt += 1;
    this.#retryAt = now + delay;
    if (this.#active === undefined && this.phase !== 'connecting') {
      this.#event('retrying', { attempt: this.#attempt, inMs: delay });
    }
  }

  #lost(now, code) {
    this.phase = 'lost';
    this.#pingAt = undefined;
    this.#iceWaiting = undefined;
    this.#renewing = false;
    this.#event('lost', { code });
    if (this.#pending) return;
    this.#attempt = 0;
    this.#retry(now);
  }

  #adopt(frame, now) {
    const previous = this.#active;
    const { conn, url, goaway } = this.#pending;
    this.#active = conn;
    this.#pending = undefined;
    this.#attempt = 0;
    this.#retryAt = undefined;
    this.#giveUpAt = undefined;
    this.#pingAt = undefined;
    this.#renewing = false;
    this.#lastHeard = now;
    this.url = url;
    this.replica = frame.replica;
    this.phase = 'live';
    if (previous !== undefined) this.#actions.push({ kind: 'close', conn: previous, code: CLOSE.NORMAL });
    if (goaway !== undefined) this.#goaway(goaway, now);
  }

  #keepAlive(now) {
    if (this.#pingAt !== undefined) {
      if (now < this.#pingAt) return;
      const conn = this.#active;
      this.#drop(conn);
      this.#lost(now, 1006);
    } else if (now >= this.#lastHeard + QUIET_MS) {
      this.#ping(now);
    }
  }

  #ping(now) {
    this.#pingAt = now + PONG_MS;
    this.#send(this.#active, { type: 'ping' });
  }

  // ---- frames ----

  #receivedPending(conn, frame, now) {
    switch (frame.type) {
      case 'joined':
        return this.#joined(frame, now);
      case 'resumed':
        return this.#resumed(frame, now);
      case 'resync':
        this.counts.resumed += 1;
        this.#adopt(frame, now);
        return this.#everJoined ? this.#resync(frame, now) : this.#seated(frame, now);
      case 'full':
        return this.#end('full', `${frame.max} people are the most this room takes. Try again when someone has left, or use another room.`, { max: frame.max });
      case 'goaway':
        this.#pending.goaway = frame.reconnectInMs;
        return undefined;
      case 'error':
        return this.#refused(conn, frame, now);
      default:
        return undefined;
    }
  }

  #refused(conn, frame, now) {
    if (PASSING.has(frame.code)) {
      this.#refusal = [frame.code, frame.message];
      this.#drop(conn);
      this.#retry(now, AGAIN_MS);
    } else if (this.#pending.awaiting === 'resume') {
      // The session is gone: its time ran out, or its store lost it. Enter anew, over the same connection.
      this.#resume = undefined;
      this.#pending.awaiting = 'join';
      this.#pending.deadline = now + ATTEMPT_MS;
      this.#send(conn, { ...this.#join, id: this.#id() });
    } else {
      this.#end(frame.code ?? 'refused', frame.message ?? 'The server refused the join.');
    }
  }

  #joined(frame, now) {
    const again = this.#everJoined;
    this.#everJoined = true;
    this.#adopt(frame, now);
    if (again) this.counts.rejoined += 1;
    this.id = frame.session;
    this.#resume = frame.resume;
    this.epoch = frame.epoch;
    this.seq = frame.seq;
    this.limits = frame.limits ?? {};
    this.#pace.limit(this.limits.messagesPerSecond, now);
    this.members = roster(frame.members, this.id);
    // What waited was addressed to, and numbered in, a session that no longer is.
    this.#outbox = [];
    this.#ice(frame, now);
    this.#event('joined', { session: this.id, members: [...this.members.values()], polite: frame.polite === true, again });
  }

  #resumed(frame, now) {
    this.counts.resumed += 1;
    this.#adopt(frame, now);
    if (!this.#everJoined) return this.#seated(frame, now);
    // Our own seq stays: what was missed follows, and is numbered above it.
    if (frame.epoch !== this.epoch) {
      this.epoch = frame.epoch;
      this.seq = frame.seq;
    }
    const { joined, left } = this.#reconcile(frame.members);
    this.#event('resumed', {});
    for (const member of left) this.#event('member-left', { member, reason: 'left' });
    for (const member of joined) this.#event('member-joined', { member });
    this.#resend(now);
  }

  // After a reload: the seat is ours, and everything about it is new to us.
  #seated(frame, now) {
    this.#everJoined = true;
    this.epoch = frame.epoch;
    this.seq = frame.seq;
    this.#pace.limit(this.limits.messagesPerSecond, now);
    this.members = roster(frame.members, this.id);
    this.#ice(this, now);
    this.#event('joined', { session: this.id, members: [...this.members.values()], polite: this.members.size > 0, again: false, seated: true });
  }

  #resync(frame, now) {
    this.counts.resync += 1;
    this.epoch = frame.epoch;
    this.seq = frame.seq;
    if (frame.session) this.id = frame.session;
    const { joined, left } = this.#reconcile(frame.members);
    this.#event('resync', { members: [...this.members.values()], joined, left });
    this.#resend(now);
  }

  #receivedActive(frame, now) {
    this.#lastHeard = now;
    this.#pingAt = undefined;
    if (frame.seq !== undefined && frame.epoch !== undefined && inRoomLog(frame.type)) {
      if (!this.#isNew(frame)) {
        this.counts.duplicates += 1;
        return;
      }
    }
    switch (frame.type) {
      case 'signal':
        if (frame.from !== this.id) this.#event('signal', { from: frame.from, data: frame.data });
        break;
      case 'member-joined':
        this.#memberJoined(frame.member);
        break;
      case 'member-left':
        if (this.members.delete(frame.member)) this.#event('member-left', { member: frame.member, reason: frame.reason });
        break;
      case 'ack':
        this.#answered(frame.id);
        break;
      case 'error':
        this.#error(frame, now);
        break;
      case 'ice':
        this.#ice(frame, now);
        this.#event('ice', {});
        break;
      case 'auth-expiring':
        this.#renew();
        break;
      case 'resync':
        this.#resync(frame, now);
        break;
      case 'position':
        this.#isNew(frame);
        break;
      case 'goaway':
        this.#goaway(frame.reconnectInMs, now);
        break;
      case 'degraded':
        this.degradedSince = frame.since;
        this.#event('degraded', { since: frame.since });
        break;
      case 'recovered':
        this.degradedSince = undefined;
        this.#flush(now);
        this.#event('recovered', {});
        break;
      default:
        break;
    }
  }

  #isNew({ epoch, seq }) {
    if (epoch < this.epoch || (epoch === this.epoch && seq <= this.seq)) return false;
    this.epoch = epoch;
    this.seq = seq;
    return true;
  }

  #memberJoined(member) {
    if (!member?.id || member.id === this.id || this.members.has(member.id)) return;
    this.members.set(member.id, member);
    this.#event('member-joined', { member });
  }

  #reconcile(list) {
    const now = roster(list, this.id);
    const left = [...this.members.keys()].filter((id) => !now.has(id));
    const joined = [...now.values()].filter(({ id }) => !this.members.has(id));
    // Who is polite was settled when the two met; a later roster must not turn it round in mid-call.
    for (const [id, member] of now) if (this.members.has(id)) member.polite = this.members.get(id).polite;
    this.members = now;
    return { joined, left };
  }

  #goaway(reconnectInMs, now) {
    this.#event('goaway', { inMs: reconnectInMs });
    if (!this.#pending) this.#retryAt = now + Math.max(0, reconnectInMs ?? 0);
  }

  #ice(frame, now) {
    this.iceServers = frame.iceServers ?? [];
    this.expires = frame.expires ?? 0;
    this.#iceWaiting = undefined;
    this.#iceAt = this.expires ? now + refreshDelay(this.expires, this.#unixNow(), this.#random) : undefined;
  }

  // A connection that gets none in time is closed with EXPIRED, and the next one begins with a fresh token.
  #renew() {
    if (!this.#renews || this.#renewing) return;
    this.#renewing = true;
    this.#actions.push({ kind: 'renew', conn: this.#active });
  }

  #error(frame, now) {
    if (frame.id !== undefined && frame.id === this.#iceWaiting?.id) {
      this.#iceWaiting = undefined;
      this.#iceAt = now + 15_000;
    }
    if (PASSING.has(frame.code)) {
      // What is refused for its rate is not read, so the answer names no id: it may have been any of them.
      const again = this.#outbox.filter(({ id, conn }) => conn !== undefined && (frame.id === undefined || id === frame.id));
      for (const entry of again) entry.conn = undefined;
      if (again.length || frame.id === undefined) {
        this.#paceAt = now + AGAIN_MS;
        return;
      }
    }
    this.#answered(frame.id);
    this.#event('error', { code: frame.code, message: frame.message });
  }

  // ---- sending ----

  #answered(id) {
    const at = this.#outbox.findIndex((entry) => entry.id === id);
    if (at >= 0) this.#outbox.splice(at, 1);
  }

  #resend(now) {
    this.#outbox = this.#outbox.filter(({ frame }) => frame.to === undefined || this.members.has(frame.to));
    this.#flush(now);
  }

  #flush(now) {
    this.#paceAt = undefined;
    if (this.#active === undefined) return;
    for (const entry of this.#outbox) {
      if (entry.conn === this.#active) continue;
      this.#paceAt = this.#pace.take(now);
      if (this.#paceAt !== undefined) return;
      entry.conn = this.#active;
      this.#send(this.#active, entry.frame);
    }
  }

  #send(conn, frame) {
    this.#actions.push({ kind: 'send', conn, frame });
  }

  #id() {
    return String(this.#nextId++);
  }

  #event(type, detail) {
    this.#actions.push({ kind: 'event', type, detail });
  }

  #end(code, message, more = {}) {
    this.phase = 'ended';
    for (const conn of [this.#active, this.#pending?.conn]) if (conn !== undefined) this.#drop(conn);
    this.#event('ended', { code, message, ...more });
  }
}

function inRoomLog(type) {
  return type === 'signal' || type === 'member-joined' || type === 'member-left';
}

function reached(at, now) {
  return at !== undefined && now >= at;
}

function roster(list, self) {
  return new Map((list ?? []).filter(({ id }) => id !== self).map((member) => [member.id, { ...member }]));
}

function defined(object) {
  return Object.fromEntries(Object.entries(object).filter(([, value]) => value !== undefined));
}
