/** Types of @rtc-operator/client. */

export type TurnTransport = 'any' | 'udp' | 'tcp';

/** A signed token (JWT), or what gets one: asked for each connection, and before a token comes to its end. */
export type Token = string | (() => string | Promise<string>);

export interface JoinOptions {
  /** Where the signaling server is: `https://calls.example.com`. Several are tried in turn. */
  url: string | string[];
  /** The room's name, 1 to 128 bytes. */
  room: string;
  /**
   * For a server that asks for one. With a function the call goes on for as long as that gives fresh ones; with a
   * string it ends with its token.
   */
  token?: Token;
  /** Shown to the others, at most 128 bytes. */
  name?: string;
  /** Anything that the others should know, at most 4 KiB of JSON. */
  meta?: unknown;
  /** The most members; counts from whoever comes first. */
  max?: number;
  /** What to send. Without it one sees and hears the others all the same. */
  localStream?: MediaStream | null;
  /** Sends all media over TURN. */
  relayOnly?: boolean;
  /** The transport between this browser and TURN. */
  transport?: TurnTransport;
  /**
   * How signaling travels: by a WebSocket, a stream of events, or polls. `auto`, the default, takes what gets
   * through, the WebSocket first.
   */
  signalingTransport?: SignalingTransport;
  /**
   * A reload of the page goes on with the same seat in the room, kept meanwhile in the tab's `sessionStorage`; the
   * others see nobody leave. A tab that is closed is then missed only after some 15 s. Without it, whoever leaves
   * the page leaves the room at once.
   */
  keepSeat?: boolean;
  /** How long to look for a server at first, in ms; 20000. Once joined, it is looked for without end. */
  joinTimeoutMs?: number;
}

export interface Member {
  id: string;
  name?: string;
  meta?: unknown;
  /** Who it is by its token (`sub`); no client can choose it. Absent where the server asks for no tokens. */
  user?: string;
  /** Whether we are the polite side towards this member. */
  polite: boolean;
}

export type PeerState = 'connecting' | 'connected' | 'interrupted' | 'closed';

export interface Candidate {
  type: 'host' | 'srflx' | 'prflx' | 'relay' | 'unknown';
  protocol: string;
  /** Between this browser and TURN, for a relay candidate. */
  relayProtocol?: 'udp' | 'tcp' | 'tls';
  url?: string;
  address?: string;
  port?: number;
}

export interface Pair {
  local: Candidate;
  remote: Candidate;
  /** Whether our side goes through TURN. */
  relayed: boolean;
  rttMs: number | null;
}

export interface Summary {
  /** ms, the browser's statistics clock. */
  at: number;
  pair: Pair | null;
  bytesSent: number;
  bytesReceived: number;
  /** bit/s since the summary before; null for the first. */
  bitrateOut: number | null;
  bitrateIn: number | null;
  framesDecoded: number;
  framesSent: number;
  framesPerSecond: number | null;
  width: number | null;
  height: number | null;
  packetsLost: number;
  packetsReceived: number;
  jitterMs: number | null;
}

export type SignalingTransport = 'auto' | 'websocket' | 'stream' | 'poll';

export interface Signaling {
  phase: 'idle' | 'connecting' | 'live' | 'lost' | 'ended';
  /** How frames travel now. */
  transport?: 'websocket' | 'stream' | 'poll';
  url?: string;
  /** A word for the replica behind the connection. */
  replica?: string;
  epoch: number;
  seq: number;
  resumed: number;
  rejoined: number;
  resync: number;
  /** Frames that came again and were dropped. */
  duplicates: number;
  /** Signals that the server has not answered yet. */
  unanswered: number;
  /** Unix seconds. */
  degradedSince?: number;
}

export interface Credentials {
  /** Unix seconds; 0 when there are none. */
  expires: number;
  username: string | null;
  urls: string[];
}

export interface Peer {
  member: Member;
  state: PeerState;
  stream: MediaStream;
  connection: RTCPeerConnection | undefined;
  counts: { iceRestarts: number; recreated: number; collisions: number; signalsOverChannel: number; signalsOverSignaling: number };
  channelOpen: boolean;
}

export interface Problem {
  code: string;
  message: string;
}

export interface CallEvents {
  joined: { session: string; polite: boolean; members: Member[] };
  /** The session was gone, and a new one begun; all members come again. */
  rejoined: { session: string; polite: boolean; members: Member[] };
  'member-joined': { member: Member };
  'member-left': { member: Member; reason: 'left' | 'lost' | 'kicked' | 'rejoined' | 'ended' };
  stream: { member: Member; stream: MediaStream };
  'peer-state': { member: Member; state: PeerState };
  'channel-open': { member: Member };
  chat: { member: Member; text: string; at: number };
  message: { member: Member; message: unknown };
  'file-progress': { member: Member; transfer: number; name: string; meta?: unknown; received: number; total: number };
  file: { member: Member; transfer: number; name: string; meta?: unknown; blob: Blob };
  /** Something in the media's way: `relay_unreachable`, `no_relay`, `negotiation`, `candidate`, `configuration`. */
  trouble: Problem & { member?: Member };
  ice: Credentials;
  lost: { code: number };
  retrying: { attempt: number; inMs: number };
  resumed: Record<string, never>;
  resync: { members: Member[] };
  goaway: { inMs: number };
  degraded: { since: number };
  recovered: Record<string, never>;
  error: Problem;
  /**
   * It is over: `left`, `full`, `superseded`, `kicked`, `unauthorized` (the token is not good), `expired` (and there
   * is no fresh one), `no_token` (there never was one), `unreachable`, or the server's reason.
   */
  ended: Problem;
}

export declare class Call {
  private constructor();
  readonly id: string;
  readonly room: string;
  readonly members: Member[];
  readonly relayOnly: boolean;
  readonly transport: TurnTransport;
  readonly localStream: MediaStream | null;
  readonly signaling: Signaling;
  readonly credentials: Credentials;
  peer(id: string): Peer | undefined;
  on<E extends keyof CallEvents>(type: E, handle: (detail: CallEvents[E]) => void): () => void;
  /** How many it went to at once; for the others it waits until their channel opens. */
  send(message: unknown, to?: string): number;
  chat(text: string): { type: 'chat'; text: string; at: number };
  sendFile(
    blob: Blob,
    options?: { to?: string; name?: string; meta?: unknown; onProgress?: (fraction: number) => void },
  ): Promise<Array<{ member: Member; error?: Error }>>;
  setRelayOnly(relayOnly: boolean): void;
  setTransport(transport: TurnTransport): void;
  setLocalStream(stream: MediaStream | null): void;
  restartIce(): void;
  refreshCredentials(): Promise<Credentials>;
  moveTo(url: string): void;
  stats(): Promise<Record<string, Summary | null>>;
  leave(): void;
}

export declare class JoinError extends Error {
  code: string;
  /** With code `full`: how many the room takes. */
  max?: number;
}

export declare class TransferError extends Error {
  code: 'not_open' | 'closed' | 'refused';
}

export declare function join(options: JoinOptions): Promise<Call>;
export declare function connectUrl(url: string): string;
export declare function describePair(pair: Pair | null): string;
