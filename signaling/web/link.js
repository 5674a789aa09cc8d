/** Gives a `Session` its connections and its clock. */

import { Way } from './way.js';

/**
 * @param {import('./session.js').Session} session
 * @param {(type: string, detail: any) => void} onEvent
 * @param {{transport?: import('./way.js').SignalingTransport, WebSocket?: typeof WebSocket, fetch?: typeof fetch, now?: () => number}} [environment]
 */
export function drive(session, onEvent, { transport, WebSocket, fetch, now = () => performance.now() } = {}) {
  const ways = new Map();
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
    else if (action.kind === 'send') ways.get(action.conn)?.send(JSON.stringify(action.frame));
    else close(action);
  };

  const connect = ({ conn, url }) => {
    const way = new Way(url, { transport, WebSocket, fetch });
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
    way.addEventListener('close', ({ code }) => {
      ways.delete(conn);
      step(() => session.closed(conn, code, now()));
    });
  };

  const close = ({ conn, code }) => {
    const way = ways.get(conn);
    ways.delete(conn);
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
