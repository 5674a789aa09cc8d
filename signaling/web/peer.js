/**
 * The way to one other member: a RTCPeerConnection and what keeps it alive.
 *
 * - Perfect negotiation (W3C WebRTC, section 10.7), the polite side named by the server. The later member
 *   also starts, so that two who meet need one exchange, not a collision and its rollback.
 * - Negotiation travels over the data channel while that works, else through signaling; see `Ordered`.
 * - ICE is restarted when the path is lost. When that does not help, the connection is made anew, under a
 *   higher instance number, which tells the other side to do likewise.
 */

import { Files } from './files.js';
import { Lane } from './lane.js';
import { Ordered } from './ordered.js';
import { summarize } from './stats.js';
import { Timers } from './timers.js';

const CONNECT_MS = 12_000;
const FIRST_OFFER_MS = 5000;
const CANDIDATES_MS = 15;
const ROUTE_MS = 2500;

// Above every number this page has used, whichever Peer object used it, and above those before a reload.
let instances = Date.now();

/**
 * Events: `stream` {stream}, `state` {state}, `message` {message}, `open`, `progress`, `file`, `trouble` {code, message}.
 */
export class Peer extends EventTarget {
  /** The other member: `{id, name?, meta?, polite}`. */
  member;
  /** @type {'connecting' | 'connected' | 'interrupted' | 'closed'} */
  state = 'connecting';
  /** What the other member sends. */
  stream = new MediaStream();
  /** Counts for a panel and for tests. */
  counts = { iceRestarts: 0, recreated: 0, collisions: 0, signalsOverChannel: 0, signalsOverSignaling: 0 };

  #pc;
  #config;
  #local;
  #signal;
  #instance = 0;
  #remoteInstance; // the number of the other side's connection that ours talks to
  #highestRemote = 0;
  #makingOffer = false;
  #ignoreOffer = false;
  #settingAnswer = false;
  #holdOff = false;
  #inbox;
  #sent = 0;
  #lane;
  #candidates = [];
  #timers = new Timers();
  #control;
  #files;
  #queue = [];
  #previous;
  #gathering = { relay: 0, errors: [] };
  #restartsInARow = 0;

  /**
   * @param {object} options
   * @param {object} options.member
   * @param {RTCConfiguration} options.config
   * @param {MediaStream | null} options.localStream
   * @param {(data: unknown) => void} options.signal sends through signaling
   * @param {boolean} [options.begin] makes the first offer, though the other side would
   */
  constructor({ member, config, localStream, signal, begin = false }) {
    super();
    this.member = member;
    this.#config = config;
    this.#local = localStream;
    this.#signal = signal;
    this.#create(!member.polite && !begin);
  }

  get polite() {
    return this.member.polite === true;
  }

  /** The connection in use; it may be replaced by another. */
  get connection() {
    return this.#pc;
  }

  get channelOpen() {
    return this.#control?.readyState === 'open';
  }

  // ---- life ----

  #create(holdOff) {
    this.#instance = ++instances;
    this.#remoteInstance = undefined;
    this.#inbox = new Ordered();
    this.#sent = 0;
    this.#connect(holdOff);
  }

  #connect(holdOff) {
    this.#makingOffer = this.#ignoreOffer = this.#settingAnswer = false;
    this.#holdOff = holdOff;
    this.#candidates = [];
    this.#gathering = { relay: 0, errors: [] };
    this.#previous = undefined;
    this.stream = new MediaStream();

    const pc = new RTCPeerConnection({ bundlePolicy: 'max-bundle', ...this.#config });
    this.#pc = pc;
    const on = (type, handle) => pc.addEventListener(type, (event) => pc === this.#pc && handle(event));
    on('negotiationneeded', () => this.#negotiate());
    on('icecandidate', ({ candidate }) => this.#gathered(candidate));
    on('icecandidateerror', (event) => this.#gatherError(event));
    on('icegatheringstatechange', () => this.#gatheringChanged());
    on('track', ({ track }) => this.#gotTrack(track));
    on('connectionstatechange', () => this.#connectionChanged());
    on('iceconnectionstatechange', () => this.#iceChanged());
    this.#lane = new Lane({
      channel: () => (this.channelOpen && !['disconnected', 'failed'].includes(pc.iceConnectionState) ? this.#control : undefined),
      signal: this.#signal,
      counts: this.counts,
    });
    // Negotiated channels are there on both sides from the first offer on, without an open handshake.
    this.#openControl(pc.createDataChannel('control', { negotiated: true, id: 0 }));
    const files = pc.createDataChannel('files', { negotiated: true, id: 1 });
    this.#files = new Files(files, (type, detail) => pc === this.#pc && this.#emit(type, detail));
    for (const track of this.#local?.getTracks() ?? []) pc.addTrack(track, this.#local);
    this.#watch();
    if (holdOff) this.#timers.after('first-offer', FIRST_OFFER_MS, () => this.#goAhead());
  }

  #dispose() {
    this.#timers.cancelAll();
    this.#lane.close();
    const pc = this.#pc;
    this.#pc = undefined;
    pc?.close();
  }

  /** Begins again with a new connection, which the other side answers with a new one of its own. */
  recreate() {
    if (this.state === 'closed') return;
    this.counts.recreated += 1;
    this.#dispose();
    this.#setState('interrupted');
    this.#create(false);
  }

  close() {
    if (this.state === 'closed') return;
    this.#dispose();
    this.#setState('closed');
  }

  // ---- configuration ----

  /** Applies servers and policy; with `restart`, the media moves over to them. */
  configure(config, { restart = false } = {}) {
    this.#config = config;
    if (!this.#pc) return;
    try {
      this.#pc.setConfiguration({ bundlePolicy: 'max-bundle', ...config });
    } catch (error) {
      this.#trouble('configuration', `The browser refused the new ICE servers: ${error.message}`);
      return;
    }
    if (!restart) return;
    this.restart();
    this.#timers.after('route', ROUTE_MS, () => this.#checkRoute());
  }

  // A browser may keep a working pair over a restart though the new configuration would not allow it. Whoever
  // asked for the relay shall get it: then only a new connection helps.
  async #checkRoute() {
    const pc = this.#pc;
    const { pair } = summarize(await pc.getStats());
    if (pc !== this.#pc || !pair) return;
    const urls = this.#config.iceServers.flatMap((server) => server.urls);
    if (pair.relayed ? !pair.local.url || urls.includes(pair.local.url) : this.#config.iceTransportPolicy !== 'relay') return;
    this.recreate();
  }

  /** Gathers new candidates and looks for a new path; what works goes on meanwhile. */
  restart() {
    if (!this.#pc) return;
    this.counts.iceRestarts += 1;
    this.#gathering = { relay: 0, errors: [] };
    this.#goAhead();
    this.#pc.restartIce();
    this.#watch();
  }

  /** Sends these tracks from now on. */
  setLocalStream(stream) {
    this.#local = stream;
    if (!this.#pc) return;
    const tracks = new Map((stream?.getTracks() ?? []).map((track) => [track.kind, track]));
    for (const transceiver of this.#pc.getTransceivers()) {
      const kind = transceiver.receiver.track.kind;
      const track = tracks.get(kind) ?? null;
      if (transceiver.sender.track === track) {
        tracks.delete(kind);
      } else if (transceiver.sender.track) {
        transceiver.sender.replaceTrack(track);
        tracks.delete(kind);
      }
    }
    for (const track of tracks.values()) this.#pc.addTrack(track, stream);
  }

  // ---- negotiation ----

  #goAhead() {
    this.#timers.cancel('first-offer');
    if (!this.#holdOff) return;
    this.#holdOff = false;
    this.#negotiate();
  }

  // One offer at a time: an answer to the first would be taken for one to the second, and the two sides would look for
  // each other with credentials that the other has replaced. What is still wanted then, the browser asks for once it is stable.
  async #negotiate() {
    const pc = this.#pc;
    if (this.#holdOff || this.#makingOffer || pc.signalingState !== 'stable') return;
    try {
      this.#makingOffer = true;
      await pc.setLocalDescription();
      if (pc === this.#pc) this.#send({ description: pc.localDescription });
    } catch (error) {
      if (pc === this.#pc) this.#trouble('negotiation', `Could not make an offer: ${error.message}`);
    } finally {
      if (pc === this.#pc) this.#makingOffer = false;
    }
  }

  /** Takes what came through signaling. */
  receive(data) {
    if (this.state === 'closed' || !this.#isOurs(data)) return;
    const now = performance.now();
    for (const message of this.#inbox.accept(data.n, data, now)) this.#handle(message);
    const due = this.#inbox.nextTimeout();
    this.#timers.cancel('gap');
    if (due !== undefined) {
      const inbox = this.#inbox;
      this.#timers.after('gap', due - now + 1, () => {
        if (inbox !== this.#inbox) return;
        for (const message of inbox.timeout(performance.now())) this.#handle(message);
      });
    }
  }

  // Tells what belongs to the connection we have from what is meant for, or from, an earlier one.
  #isOurs(data) {
    if (!data || !Number.isSafeInteger(data.from) || !Number.isSafeInteger(data.n)) return false;
    if (data.from === this.#remoteInstance) return data.to === undefined || data.to === this.#instance;
    if (data.from < this.#highestRemote) return false;
    if (this.#remoteInstance !== undefined) {
      if (!data.description) return false;
      // The other side began again, and so do we, to meet it with a fresh connection.
      this.#dispose();
      this.counts.recreated += 1;
      this.#setState('interrupted');
      this.#create(true);
    } else if (data.to !== undefined && data.to !== this.#instance) {
      // A late word to the one that our new connection is replacing, or to the page before a reload.
      return false;
    }
    this.#remoteInstance = data.from;
    this.#highestRemote = data.from;
    return true;
  }

  #handle({ description, candidates }) {
    if (description) this.#gotDescription(description);
    for (const candidate of candidates ?? []) this.#gotCandidate(candidate);
  }

  async #gotDescription(description) {
    const ready = !this.#makingOffer && (this.#pc.signalingState === 'stable' || this.#settingAnswer);
    const collision = description.type === 'offer' && !ready;
    if (collision) this.counts.collisions += 1;
    this.#ignoreOffer = collision && !this.polite;
    if (this.#ignoreOffer) return;
    // A first offer that gives way is better forgotten with its connection, of which the other side knows nothing yet: Chromium
    // may gather no candidates after its rollback.
    if (collision && !this.#pc.currentRemoteDescription) {
      this.#dispose();
      this.#connect(true);
    }
    const pc = this.#pc;
    try {
      this.#settingAnswer = description.type === 'answer';
      await pc.setRemoteDescription(description);
      this.#settingAnswer = false;
      if (description.type === 'offer') {
        await pc.setLocalDescription();
        if (pc === this.#pc) this.#send({ description: pc.localDescription });
      }
      if (pc === this.#pc) this.#goAheadAfterFirstExchange();
    } catch (error) {
      if (pc !== this.#pc) return;
      this.#settingAnswer = false;
      // An answer that the connection no longer waits for; the next offer puts it right.
      if (error.name === 'InvalidStateError') return;
      this.#trouble('negotiation', `The description of ${this.member.name ?? 'a member'} was not understood: ${error.message}`);
    }
  }

  // The answer carried our tracks too; whatever it could not carry, negotiationneeded asks for by itself.
  #goAheadAfterFirstExchange() {
    this.#timers.cancel('first-offer');
    this.#holdOff = false;
  }

  async #gotCandidate(candidate) {
    const pc = this.#pc;
    try {
      await pc.addIceCandidate(candidate);
    } catch (error) {
      if (pc === this.#pc && !this.#ignoreOffer && error.name !== 'OperationError') {
        this.#trouble('candidate', `A candidate was not understood: ${error.message}`);
      }
    }
  }

  // Candidates come in bursts; one message for a burst spares the rate limit of a large room.
  #gathered(candidate) {
    if (!candidate?.candidate) return;
    if (candidate.type === 'relay') this.#gathering.relay += 1;
    this.#candidates.push(candidate.toJSON());
    this.#timers.after('candidates', CANDIDATES_MS, () => this.#sendCandidates());
  }

  #sendCandidates() {
    this.#timers.cancel('candidates');
    if (this.#candidates.length) this.#transmit({ candidates: this.#candidates.splice(0) });
  }

  #send(message) {
    this.#sendCandidates();
    this.#transmit(message);
  }

  #transmit(message) {
    this.#lane.send({ from: this.#instance, to: this.#remoteInstance, n: this.#sent++, ...message });
  }

  // ---- health ----

  #watch() {
    this.#timers.after('connect', CONNECT_MS, () => this.#notConnected());
  }

  #notConnected() {
    if (this.#pc.connectionState === 'connected' && this.#pc.iceConnectionState !== 'disconnected') return;
    this.#restartsInARow += 1;
    if (this.#restartsInARow % 2 === 0) this.recreate();
    else this.restart();
  }

  #connectionChanged() {
    const { connectionState } = this.#pc;
    if (connectionState === 'connected') {
      this.#restartsInARow = 0;
      this.#timers.cancel('connect');
      this.#timers.cancel('interrupted');
      this.#setState('connected');
    } else if (connectionState === 'failed') {
      this.#interrupted();
      this.restart();
    } else if (connectionState === 'disconnected') {
      this.#interrupted();
    }
  }

  #iceChanged() {
    const { iceConnectionState } = this.#pc;
    if (iceConnectionState === 'disconnected') {
      this.#interrupted();
      // Short gaps heal by themselves. The polite side waits longer, so that one of the two restarts.
      this.#timers.after('interrupted', this.polite ? 3500 : 2000, () => this.restart());
    } else if (iceConnectionState === 'connected' || iceConnectionState === 'completed') {
      this.#timers.cancel('interrupted');
      if (this.#pc.connectionState === 'connected') this.#setState('connected');
    }
  }

  #interrupted() {
    this.#setState('interrupted');
    this.#lane.fallBack();
  }

  #gatherError({ url, errorCode, errorText }) {
    this.#gathering.errors.push({ url, errorCode, errorText });
  }

  #gatheringChanged() {
    if (this.#pc.iceGatheringState !== 'complete') return;
    if (this.#config.iceTransportPolicy !== 'relay' || this.#gathering.relay > 0) return;
    // A restart may keep the relayed address it had, without an event for it.
    if (this.#pc.connectionState === 'connected' || / typ relay /.test(this.#pc.localDescription?.sdp)) return;
    const { url, errorCode, errorText } = this.#gathering.errors.at(-1) ?? {};
    const why = url ? ` (${url}: ${errorText || 'no answer'}, ${errorCode})` : '';
    this.#trouble('relay_unreachable', `No TURN server could be reached${why}. Try the other transport, or let the call go without the relay.`);
  }

  #setState(state) {
    if (this.state === state || this.state === 'closed') return;
    this.state = state;
    this.#emit('state', { state });
  }

  #trouble(code, message) {
    this.#emit('trouble', { code, message });
  }

  // ---- media and data ----

  #gotTrack(track) {
    for (const old of this.stream.getTracks()) if (old.kind === track.kind) this.stream.removeTrack(old);
    this.stream.addTrack(track);
    this.#emit('stream', { stream: this.stream });
  }

  #openControl(channel) {
    this.#control = channel;
    channel.addEventListener('open', () => {
      if (channel !== this.#control) return;
      for (const text of this.#queue.splice(0)) channel.send(text);
      this.#emit('open', {});
    });
    channel.addEventListener('message', ({ data }) => channel === this.#control && this.#gotText(data));
    channel.addEventListener('close', () => channel === this.#control && this.#lane.fallBack());
  }

  #gotText(text) {
    const message = parse(text);
    if (message?.type === 'signal') {
      // Confirmed however it is judged: a second copy would be judged the same.
      if (this.channelOpen) this.#control.send(JSON.stringify({ type: 'confirmed', n: message.data?.n }));
      this.receive(message.data);
    } else if (message?.type === 'confirmed') {
      this.#lane.confirmed(message.n);
    } else if (message?.type === 'app') {
      this.#emit('message', { message: message.message });
    }
  }

  /** Sends a JSON message over the data channel, now or when it opens; true if now. */
  send(message) {
    const text = JSON.stringify({ type: 'app', message });
    if (this.channelOpen) {
      this.#control.send(text);
      return true;
    }
    if (this.#queue.length < 256) this.#queue.push(text);
    return false;
  }

  /** Sends a file; resolves when the other side has all of it. */
  sendFile(blob, options) {
    return this.#files.send(blob, options);
  }

  /** @returns {Promise<import('./stats.js').Summary | null>} */
  async stats() {
    const pc = this.#pc;
    if (!pc) return null;
    const summary = summarize(await pc.getStats(), this.#previous);
    if (pc === this.#pc) this.#previous = summary;
    return summary;
  }

  // ---- small things ----

  #emit(type, detail) {
    this.dispatchEvent(new CustomEvent(type, { detail }));
  }
}

function parse(text) {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}
