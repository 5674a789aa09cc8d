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
import { Pulse } from './pulse.js';
import { PASSING, Room } from './room.js';

/**
 * Close codes of the protocol, and of RFC 6455 section 7.4.1 where it has one. No server sends UNAUTHORIZED: it
 * stands for a request that was answered by HTTP's 401.
 */
export const CLOSE = Object.freeze({
  NORMAL: 1000, RESTART: 1012, SUPERSEDED: 4001, SLOW: 4002, KICKED: 4004, EXPIRED: 4005, PROTOCOL: 4008, UNAUTHORIZED: 4401,
});

const ATTEMPT_MS = 10_000;
const AGAIN_MS = 1000;

export class Session {
  /** @type {'idle' | 'connecting' | 'live' | 'lost' | 'ended'} */
  phase = 'idle';
  /** The URL of the connection in use. */
  url;
  /** The name of the server behind it, where it tells one. */
  replica;

  #urls;
  #turn = 0;
  #join;
  #random;
  #actions = [];
  #conns = 0;
  #active;
  #pending; // {conn, url, deadline, awaiting: 'join' | 'resume' | undefined, goaway?}
  #attempt = 0;
  #retryAt;
  #giveUpAt;
  #giveUpMs;
  #refusal; // [code, message] of the last attempt that got an answer
  #nextId = 1;
  #room;
  #pulse = new Pulse();
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
    this.#room = new Room({ line: this.#line(), random, unixNow });
    if (!seat) return;
    this.#room.sitDown(seat);
    // The server remembers the numbers that were used.
    this.#nextId = seat.nextId;
  }

  get room() {
    return this.#join.room;
  }

  /** This member's id, once joined. */
  get id() {
    return this.#room.id;
  }

  /** Other members by id: `{id, name?, meta?, user?, polite}`. */
  get members() {
    return this.#room.roster.members;
  }

  get epoch() {
    return this.#room.roster.epoch;
  }

  get seq() {
    return this.#room.roster.seq;
  }

  get iceServers() {
    return this.#room.credentials.iceServers;
  }

  /** Of the ICE servers, in Unix seconds. */
  get expires() {
    return this.#room.credentials.expires;
  }

  get limits() {
    return this.#room.limits;
  }

  /** Since when (unix seconds) the server has been without its store, or undefined. */
  get degradedSince() {
    return this.#room.degradedSince;
  }

  /** How often the session was resumed, joined anew, and told to resync; and frames that came twice. */
  get counts() {
    return this.#room.counts;
  }

  /** The number of the connection in use. */
  get connection() {
    return this.#active;
  }

  /** What another `Session` needs to go on with this one, secrets included; undefined when there is nothing. */
  get seat() {
    const { resume } = this.#room;
    if (this.phase === 'ended' || !resume) return undefined;
    const { id, epoch, seq, iceServers, expires, limits } = this;
    return { id, resume, epoch, seq, iceServers, expires, limits, nextId: this.#nextId };
  }

  /** Signals that no answer has come for yet. */
  get unanswered() {
    return this.#room.outbox.size;
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
      ...(this.#active === undefined ? [] : [this.#pulse.dueAt, this.#room.dueAt]),
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
    if (reached(this.#pulse.dueAt, now)) this.#keepAlive(now);
    if (this.#active !== undefined) this.#room.timeout(now);
  }

  opened(conn, now) {
    if (conn !== this.#pending?.conn) return;
    const { resume } = this.#room;
    this.#pending.awaiting = resume ? 'resume' : 'join';
    this.#send(conn, resume
      ? { type: 'resume', id: this.#id(), resume, epoch: this.epoch, seq: this.seq }
      : { ...this.#join, id: this.#id() });
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
      if (code === CLOSE.SUPERSEDED && this.#pending) {
        // its successor's doing, which has the session and is about to say so
        this.#room.lost();
        return;
      }
      if (code === CLOSE.SUPERSEDED) {
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
    if (this.phase !== 'ended') this.#room.signal(data, to, now);
  }

  /** Asks for fresh credentials now. */
  refreshIce(now) {
    if (this.#active !== undefined) this.#room.refreshIce(now);
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
    } else if (!this.#pulse.isWaiting) {
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
    if (this.#active === undefined && !(this.#renews && this.#room.isEntered)) {
      this.#end('unauthorized', message);
      return;
    }
    this.#event('error', { code: 'unauthorized', message });
    this.#attemptFailed(now);
  }

  #retry(now, atLeastMs = 0) {
    if (this.#active === undefined && this.phase === 'live') {
      this.phase = 'lost';
      this.#event('lost', { code: CLOSE.SUPERSEDED });
    }
    const delay = Math.max(atLeastMs, backoff(this.#attempt, this.#random));
    this.#attempt += 1;
    this.#retryAt = now + delay;
    if (this.#active === undefined && this.phase !== 'connecting') {
      this.#event('retrying', { attempt: this.#attempt, inMs: delay });
    }
  }

  #lost(now, code) {
    this.phase = 'lost';
    this.#room.lost();
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
    this.#pulse.heard(now);
    this.#renewing = false;
    this.url = url;
    this.replica = frame.replica;
    this.phase = 'live';
    if (previous !== undefined) this.#actions.push({ kind: 'close', conn: previous, code: CLOSE.NORMAL });
    if (goaway !== undefined) this.#goaway(goaway, now);
  }

  #keepAlive(now) {
    if (!this.#pulse.isWaiting) {
      this.#ping(now);
      return;
    }
    this.#drop(this.#active);
    this.#lost(now, 1006);
  }

  #ping(now) {
    this.#pulse.pinged(now);
    this.#send(this.#active, { type: 'ping' });
  }

  // ---- frames ----

  #receivedPending(conn, frame, now) {
    switch (frame.type) {
      case 'joined':
        this.#adopt(frame, now);
        return this.#room.joined(frame, now);
      case 'resumed':
        this.#adopt(frame, now);
        return this.#room.resumed(frame, now);
      case 'resync':
        this.#adopt(frame, now);
        return this.#room.resumedAnew(frame, now);
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
      this.#room.resume = undefined;
      this.#pending.awaiting = 'join';
      this.#pending.deadline = now + ATTEMPT_MS;
      this.#send(conn, { ...this.#join, id: this.#id() });
    } else {
      this.#end(frame.code ?? 'refused', frame.message ?? 'The server refused the join.');
    }
  }

  #receivedActive(frame, now) {
    this.#pulse.heard(now);
    if (frame.type === 'goaway') this.#goaway(frame.reconnectInMs, now);
    else if (frame.type === 'auth-expiring') this.#renew();
    else this.#room.received(frame, now);
  }

  #goaway(reconnectInMs, now) {
    this.#event('goaway', { inMs: reconnectInMs });
    if (!this.#pending) this.#retryAt = now + Math.max(0, reconnectInMs ?? 0);
  }

  // A connection that gets none in time is closed with EXPIRED, and the next one begins with a fresh token.
  #renew() {
    if (!this.#renews || this.#renewing) return;
    this.#renewing = true;
    this.#actions.push({ kind: 'renew', conn: this.#active });
  }

  // ---- sending ----

  /** What the room has of us: whatever connection there is. */
  #line() {
    return {
      connection: () => this.#active,
      send: (frame) => this.#send(this.#active, frame),
      id: () => this.#id(),
      event: (type, detail) => this.#event(type, detail),
    };
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

function reached(at, now) {
  return at !== undefined && now >= at;
}

function defined(object) {
  return Object.fromEntries(Object.entries(object).filter(([, value]) => value !== undefined));
}
