/** Gives a `Session` its sockets and its clock. */

/**
 * @param {import('./session.js').Session} session
 * @param {(type: string, detail: any) => void} onEvent
 * @param {{WebSocket?: typeof WebSocket, now?: () => number}} [environment]
 */
export function drive(session, onEvent, { WebSocket: Socket = globalThis.WebSocket, now = () => performance.now() } = {}) {
  const sockets = new Map();
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
    else if (action.kind === 'send') sockets.get(action.conn)?.send(JSON.stringify(action.frame));
    else close(action);
  };

  const connect = ({ conn, url }) => {
    let socket;
    try {
      socket = new Socket(url);
    } catch {
      queueMicrotask(() => step(() => session.closed(conn, 1006, now())));
      return;
    }
    sockets.set(conn, socket);
    socket.addEventListener('open', () => step(() => session.opened(conn, now())));
    socket.addEventListener('message', ({ data }) => {
      let frame;
      try {
        frame = JSON.parse(data);
      } catch {
        return;
      }
      step(() => session.received(conn, frame, now()));
    });
    socket.addEventListener('close', ({ code }) => {
      sockets.delete(conn);
      step(() => session.closed(conn, code, now()));
    });
  };

  const close = ({ conn, code }) => {
    const socket = sockets.get(conn);
    sockets.delete(conn);
    // Its last frames are of no interest any more, and its close was our own.
    if (socket && socket.readyState <= 1) socket.close(code === 1000 || code >= 3000 ? code : 1000);
  };

  step(() => session.start(now()));
  return {
    /** Runs one of the session's methods that take the time last. */
    tell: (method, ...args) => step(() => session[method](...args, now())),
  };
}
