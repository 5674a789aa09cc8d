/**
 * A call among the members of a room, over the signaling protocol v1:
 *
 *   import { join } from '/client.js';
 *   const call = await join({ url: location.origin, room: 'standup', localStream });
 *   call.on('stream', ({ member, stream }) => { video(member).srcObject = stream; });
 *
 * The rest, resuming on another replica, fresh TURN credentials, ICE restarts, is done underneath and told
 * by events. The parts: session.js (protocol, no IO), link.js (its connections), peer.js (one RTCPeerConnection),
 * transfer.js (files), stats.js, ice.js.
 */

import { Session } from './session.js';
import { drive } from './link.js';
import { Peer } from './peer.js';
import { keep, take } from './seat.js';
import { filterIceServers, offersRelay, turnUsername } from './ice.js';

export { describePair } from './stats.js';
export { TransferError } from './transfer.js';

const LINGER_MS = 20_000;

/** Why a call could not begin. `code` is stable, `message` says what to do. */
export class JoinError extends Error {
  constructor({ code, message, ...more }) {
    super(message);
    this.name = 'JoinError';
    Object.assign(this, { code }, more);
  }
}

/**
 * Joins a room.
 *
 * @param {import('./client.d.ts').JoinOptions} options
 * @returns {Promise<Call>} rejected with a JoinError when the room is full, or no server answers
 */
export function join(options) {
  return new Promise((resolve, reject) => {
    const call = new Call(options, (error) => (error ? reject(error) : resolve(call)));
  });
}

/** `https://calls.example.com` -> `wss://calls.example.com/v1/connect`; a URL with a path of its own stays. */
export function connectUrl(url) {
  const parsed = new URL(url, globalThis.location?.href);
  parsed.protocol = parsed.protocol.replace(/^http/, 'ws');
  parsed.hash = '';
  if (parsed.pathname === '/') parsed.pathname = '/v1/connect';
  return parsed.href;
}

export class Call {
  #session;
  #link;
  #peers = new Map();
  #lingering = new Map(); // id -> timer
  #target = new EventTarget();
  #localStream;
  #relayOnly;
  #transport;
  #settled;
  #ended;
  #iceWaiters = [];
  #stopListening;
  #keepSeat;
  #seatUrl;
  #seated = false;
  #roster = new Set();

  /** Use `join`. */
  constructor(options, settled) {
    const { url, localStream = null, relayOnly = false, transport = 'any', signalingTransport, token, keepSeat = false, ...rest } = options;
    const urls = [url].flat().map(connectUrl);
    this.#settled = settled;
    this.#localStream = localStream;
    this.#relayOnly = relayOnly;
    this.#transport = transport;
    this.#keepSeat = keepSeat;
    this.#seatUrl = urls[0];
    const seat = keepSeat ? take(urls[0], rest.room) : undefined;
    this.#session = new Session({ ...rest, urls, seat, renews: typeof token === 'function' });
    const { WebSocket, fetch, now } = options;
    this.#link = drive(this.#session, (type, detail) => this.#sessionEvent(type, detail), { transport: signalingTransport, token, WebSocket, fetch, now });
    this.#listen();
  }

  // ---- what is so ----

  /** This member's id. */
  get id() {
    return this.#session.id;
  }

  get room() {
    return this.#session.room;
  }

  /** The other members. */
  get members() {
    return [...this.#peers.values()].map(({ member }) => member);
  }

  get relayOnly() {
    return this.#relayOnly;
  }

  get transport() {
    return this.#transport;
  }

  get localStream() {
    return this.#localStream;
  }

  /** How the signaling connection is: `{phase, transport, url, epoch, seq, …}`. */
  get signaling() {
    const { phase, url, replica, epoch, seq, counts, unanswered, degradedSince } = this.#session;
    return { phase, transport: this.#link.transport, url, replica, epoch, seq, ...counts, unanswered, degradedSince };
  }

  /** The TURN credentials in use, without the secret: `{expires, username, urls}`. */
  get credentials() {
    const { expires, iceServers } = this.#session;
    return { expires, username: turnUsername(iceServers), urls: iceServers.flatMap(({ urls }) => urls) };
  }

  /** How the way to one member is: `{state, stream, connection, counts, channelOpen}`. */
  peer(id) {
    const peer = this.#peers.get(id);
    if (!peer) return undefined;
    const { member, state, stream, connection, counts, channelOpen } = peer;
    return { member, state, stream, connection, counts: { ...counts }, channelOpen };
  }

  // ---- events ----

  /**
   * Calls `handle` with the detail of every event of this type; returns a function that stops that.
   * See client.d.ts for the types.
   */
  on(type, handle) {
    const listener = ({ detail }) => handle(detail);
    this.#target.addEventListener(type, listener);
    return () => this.#target.removeEventListener(type, listener);
  }

  #emit(type, detail) {
    this.#target.dispatchEvent(new CustomEvent(type, { detail }));
  }

  // ---- what can be done ----

  /** Sends an application's JSON message to one member or to all, over the data channel. */
  send(message, to) {
    const peers = to === undefined ? [...this.#peers.values()] : [this.#peers.get(to)].filter(Boolean);
    return peers.map((peer) => peer.send(message)).filter(Boolean).length;
  }

  /** Says something to all; the `chat` event gives it to them, and to nobody else. */
  chat(text) {
    const message = { type: 'chat', text: String(text).slice(0, 4000), at: Date.now() };
    this.send(message);
    return message;
  }

  /**
   * Sends a file to one member or to all; resolves with the outcome for each: `{member, error?}`.
   * @param {Blob} blob
   * @param {{to?: string, name?: string, meta?: unknown, onProgress?: (fraction: number) => void}} [options]
   */
  async sendFile(blob, { to, name, meta, onProgress } = {}) {
    const peers = to === undefined ? [...this.#peers.values()] : [this.#peers.get(to)].filter(Boolean);
    const parts = new Map(peers.map((peer) => [peer, 0]));
    const tell = (peer, sent, total) => {
      parts.set(peer, total ? sent / total : 1);
      onProgress?.([...parts.values()].reduce((sum, part) => sum + part, 0) / parts.size);
    };
    return Promise.all(peers.map((peer) => peer
      .sendFile(blob, { name, meta, onProgress: (sent, total) => tell(peer, sent, total) })
      .then(() => ({ member: peer.member }), (error) => ({ member: peer.member, error }))));
  }

  /** Forces all media over TURN, or no longer; a running call moves over. */
  setRelayOnly(relayOnly) {
    if (relayOnly === this.#relayOnly) return;
    this.#relayOnly = relayOnly;
    this.#configure({ restart: true });
  }

  /** Reaches TURN over 'udp' or 'tcp' only, or 'any'; a running call moves over. */
  setTransport(transport) {
    if (transport === this.#transport) return;
    this.#transport = transport;
    this.#configure({ restart: true });
  }

  /** Sends other tracks from now on. */
  setLocalStream(stream) {
    this.#localStream = stream;
    for (const peer of this.#peers.values()) peer.setLocalStream(stream);
  }

  /** Looks for a better path to everyone now. */
  restartIce() {
    for (const peer of this.#peers.values()) peer.restart();
  }

  /** Fresh TURN credentials now; they come by themselves well before they expire. */
  refreshCredentials() {
    return new Promise((resolve) => {
      this.#iceWaiters.push(resolve);
      this.#link.tell('refreshIce');
    });
  }

  /** Continues the signaling session at another server, without a gap. */
  moveTo(url) {
    this.#link.tell('moveTo', connectUrl(url));
  }

  /** What a call is like now, per member: see stats.js. */
  async stats() {
    const entries = await Promise.all([...this.#peers].map(async ([id, peer]) => [id, await peer.stats()]));
    return Object.fromEntries(entries);
  }

  leave() {
    this.#link.tell('leave');
  }

  // ---- signaling ----

  #sessionEvent(type, detail) {
    switch (type) {
      case 'joined':
        return this.#joined(detail);
      case 'member-joined':
        return this.#add(detail.member);
      case 'member-left':
        return this.#remove(detail.member, detail.reason);
      case 'signal':
        return this.#signaled(detail);
      case 'resync':
        return this.#resync(detail);
      case 'ice':
        return this.#freshIce();
      case 'ended':
        return this.#end(detail);
      default:
        return this.#emit(type, detail);
    }
  }

  #joined({ members, again, seated = false, ...detail }) {
    this.#seated = seated;
    this.#roster = new Set(members.map(({ id }) => id));
    // In a new session we are new to everyone; the connections of the old one belong to a member who left.
    for (const id of [...this.#peers.keys()]) this.#remove(id, 'rejoined');
    this.#warnWithoutRelay();
    this.#settled?.();
    this.#settled = undefined;
    // After the promise's own handlers, so that whoever awaits join() misses no event.
    setTimeout(() => {
      if (this.#ended) return;
      this.#emit(again ? 'rejoined' : 'joined', { ...detail, members });
      for (const { id } of members) if (this.#session.members.has(id)) this.#add(this.#session.members.get(id));
    });
  }

  #add(member) {
    clearTimeout(this.#lingering.get(member.id));
    this.#lingering.delete(member.id);
    if (this.#peers.has(member.id)) return;
    const peer = new Peer({
      member,
      config: this.#config(),
      localStream: this.#localStream,
      // Those who were here know a connection of the page before, and would wait for a word of ours.
      begin: this.#seated && this.#roster.has(member.id),
      signal: (data) => this.#link.tell('signal', data, member.id),
    });
    this.#peers.set(member.id, peer);
    const forward = (type, as = type) => peer.addEventListener(type, ({ detail }) => this.#emit(as, { member, ...detail }));
    forward('stream');
    forward('state', 'peer-state');
    forward('open', 'channel-open');
    forward('progress', 'file-progress');
    forward('file');
    forward('trouble');
    peer.addEventListener('message', ({ detail }) => this.#message(member, detail.message));
    this.#emit('member-joined', { member });
    this.#emit('peer-state', { member, state: peer.state });
  }

  // Somebody may speak before the roster's turn to be gone through has come.
  #signaled({ from, data }) {
    if (this.#session.members.has(from)) this.#add(this.#session.members.get(from));
    this.#peers.get(from)?.receive(data);
  }

  #remove(id, reason) {
    clearTimeout(this.#lingering.get(id));
    this.#lingering.delete(id);
    const peer = this.#peers.get(id);
    if (!peer) return;
    this.#peers.delete(id);
    peer.close();
    this.#emit('member-left', { member: peer.member, reason });
  }

  // The roster after a gap counts. But whom we still hear is not gone because a server forgot them: their own
  // server may be about to tell. They get a moment.
  #resync({ members, joined, left }) {
    for (const id of left) {
      if (this.#peers.get(id)?.state !== 'connected') {
        this.#remove(id, 'left');
      } else if (!this.#lingering.has(id)) {
        this.#lingering.set(id, setTimeout(() => this.#remove(id, 'lost'), LINGER_MS));
      }
    }
    for (const member of joined) this.#add(member);
    // Signals of the gap may be gone; whoever was in the middle of negotiating starts over.
    for (const { id } of members) {
      const peer = this.#peers.get(id);
      if (peer && peer.state !== 'connected') peer.restart();
    }
    this.#emit('resync', { members });
  }

  #message(member, message) {
    if (message?.type === 'chat' && typeof message.text === 'string') {
      this.#emit('chat', { member, text: message.text.slice(0, 4000), at: Number(message.at) || Date.now() });
    } else {
      this.#emit('message', { member, message });
    }
  }

  #end(detail) {
    this.#ended = detail;
    this.#stopListening();
    for (const id of [...this.#peers.keys()]) this.#remove(id, 'ended');
    this.#settled?.(new JoinError(detail));
    this.#settled = undefined;
    this.#emit('ended', detail);
  }

  // ---- ICE ----

  #config() {
    return {
      iceServers: filterIceServers(this.#session.iceServers, this.#transport),
      iceTransportPolicy: this.#relayOnly ? 'relay' : 'all',
    };
  }

  #configure(options) {
    this.#warnWithoutRelay();
    for (const peer of this.#peers.values()) peer.configure(this.#config(), options);
    this.#emit('ice', this.credentials);
  }

  #freshIce() {
    for (const resolve of this.#iceWaiters.splice(0)) resolve(this.credentials);
    // A live allocation goes on with the credentials it was made with; the next gathering uses these.
    this.#configure({ restart: false });
  }

  #warnWithoutRelay() {
    if (!this.#relayOnly || offersRelay(this.#config().iceServers)) return;
    const over = this.#transport === 'any' ? '' : ` over ${this.#transport.toUpperCase()}`;
    setTimeout(() => this.#emit('trouble', {
      code: 'no_relay',
      message: `This server offers no TURN${over}, so a call that is forced over the relay cannot connect. Choose another transport, or let it go direct.`,
    }));
  }

  // ---- the page's own life ----

  #listen() {
    if (typeof globalThis.addEventListener !== 'function') {
      this.#stopListening = () => {};
      return;
    }
    const online = () => {
      this.#link.tell('nudge');
      for (const peer of this.#peers.values()) if (peer.state === 'interrupted') peer.restart();
    };
    const shown = () => document.visibilityState === 'visible' && this.#link.tell('nudge');
    // A page that goes to the back/forward cache may return, and then resumes; one that is closed has left.
    const hidden = ({ persisted }) => {
      if (persisted) return;
      const seat = this.#keepSeat ? this.#session.seat : undefined;
      // Who does not come back is missed when the server has waited long enough.
      if (seat) keep(this.#seatUrl, this.room, seat);
      else this.leave();
    };
    addEventListener('online', online);
    addEventListener('pagehide', hidden);
    document.addEventListener('visibilitychange', shown);
    this.#stopListening = () => {
      removeEventListener('online', online);
      removeEventListener('pagehide', hidden);
      document.removeEventListener('visibilitychange', shown);
    };
  }
}
