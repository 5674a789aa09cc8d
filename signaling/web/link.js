/** Gives a `Session` its connections and its clock. */

import { Way } from './way.js';

/**
 * @param {import('./session.js').Session} session
 * @param {(type: string, detail: any) => void} onEvent
 * @param {{transport?: import('./way.js').SignalingTransport, token?: import('./client.d.ts').Token, WebSocket?: typeof WebSocket, fetch?: typeof fetch, now?: () => number}} [environment]
 */
export function drive(session, onEvent, { transport, token, WebSocket, fetch, now = () => performance.now() } = {}) {
  const ways = new Map();
  const awaited = new Set(); // connections that wait for their token
  let timer;
  let busy = false;

  const step = (what) => {
    what?.();
    // An event's handler may call back into the session; its actions join the queue being emptied.
    if (busy) return;
    busy = true;
    try {
      for (let action; (action = session.poll()); ) act(action);
    } finally {
      busy = false;
    }
    clearTimeout(timer);
    const due = session.nextTimeout();
    if (due !== undefined) timer = setTimeout(() => step(() => session.timeout(now())), Math.max(0, due - now()) + 1);
  };

  const act = (action) => {
    if (action.kind === 'event') onEvent(action.type, action.detail);
    else if (action.kind === 'connect') connect(action);
    else if (action.kind === 'renew') renew(action);
    else if (action.kind === 'send') ways.get(action.conn)?.send(JSON.stringify(action.frame));
    else close(action);
  };

  const connect = ({ conn, url }) => {
    if (token === undefined) {
      open(conn, url);
      return;
    }
    awaited.add(conn);
    const still = (then) => awaited.delete(conn) && then();
    obtain(token).then(
      (text) => still(() => open(conn, url, text)),
      (error) => still(() => step(() => session.tokenless(conn, error.message, now()))),
    );
  };

  const renew = ({ conn }) => {
    if (ways.get(conn)?.kind !== 'websocket') {
      // Each request has a token of its own; what is open goes on with the old one, so it is replaced.
      step(() => session.moveTo(session.url, now()));
      return;
    }
    const tell = (outcome) => conn === session.connection && step(() => session.renewed(outcome, now()));
    obtain(token).then((text) => tell({ token: text }), (error) => tell({ error: error.message }));
  };

  const open = (conn, url, text) => {
    const way = new Way(url, { transport, token: text, WebSocket, fetch });
    ways.set(conn, way);
    way.addEventListener('open', () => step(() => session.opened(conn, now())));
    way.addEventListener('message', ({ data }) => {
      let frame;
      try {
        frame = JSON.parse(data);
      } catch {
        return;
      }
      step(() => session.received(conn, frame, now()));
    });
    way.addEventListener('close', ({ code, reason }) => {
      ways.delete(conn);
      step(() => session.closed(conn, code, now(), reason));
    });
  };

  const close = ({ conn, code }) => {
    const way = ways.get(conn);
    ways.delete(conn);
    awaited.delete(conn);
    // Its last frames are of no interest any more, and its close was our own.
    way?.close(code === 1000 || code >= 3000 ? code : 1000);
  };

  step(() => session.start(now()));
  return {
    /** Runs one of the session's methods that take the time last. */
    tell: (method, ...args) => step(() => session[method](...args, now())),
    /** How frames travel now: 'websocket', 'stream' or 'poll'. */
    get transport() {
      return ways.get(session.connection)?.kind;
    },
  };
}

/** @param {import('./client.d.ts').Token} token */
async function obtain(token) {
  const text = typeof token === 'function' ? await token() : token;
  // RFC 7515, section 3.1; what is anything else could not be a subprotocol's name either.
  if (typeof text !== 'string' || !/^[\w-]+\.[\w-]+\.[\w-]+$/.test(text)) {
    throw new TypeError('What the option `token` gave is not a signed token (JWT).');
  }
  return text;
}
