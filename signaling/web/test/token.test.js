import { test } from 'node:test';
import assert from 'node:assert/strict';
import { Session, CLOSE } from '../session.js';
import { drive } from '../link.js';
import { Requests } from '../requests.js';
import { Way, forgetWays } from '../way.js';
import { Server } from './server.js';

const URL_ = 'ws://calls.example/v1/connect';
const jwt = (n) => `header.claims-${n}.signature`;
const JOINED = { type: 'joined', room: 'r', session: 'me', resume: 'me~s~r', epoch: 1, seq: 0, members: [], iceServers: [], expires: 0 };

/** Makes WebSockets whose far end is in the test's hands. */
function sockets() {
  const made = [];
  class Socket extends EventTarget {
    readyState = 0;
    sent = [];
    constructor(url, protocols) {
      super();
      this.protocols = protocols;
      made.push(this);
      queueMicrotask(() => {
        this.readyState = 1;
        this.dispatchEvent(new Event('open'));
      });
    }
    say(frame) {
      this.dispatchEvent(new MessageEvent('message', { data: JSON.stringify(frame) }));
    }
    send(text) {
      this.sent.push(JSON.parse(text));
    }
    close(code = 1000) {
      this.readyState = 3;
      this.dispatchEvent(Object.assign(new Event('close'), { code, reason: '' }));
    }
  }
  return { Socket, made };
}

async function until(what, is) {
  for (let n = 0; !is(); n += 1) {
    assert.ok(n < 2000, `waits in vain for ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 1));
  }
}

/** A session on such sockets; `token` is the application's option. */
function bench(t, token) {
  const { Socket, made } = sockets();
  const events = [];
  const session = new Session({ urls: [URL_], room: 'r', random: () => 0, renews: typeof token === 'function' });
  const link = drive(session, (type, detail) => events.push({ event: type, ...detail }), { transport: 'websocket', token, WebSocket: Socket });
  t.after(() => link.tell('leave'));
  const types = (socket) => socket.sent.map(({ type }) => type);
  const sends = (n, type) => until(type, () => made[n] && types(made[n]).includes(type));
  return { session, link, made, events, sends, types };
}

test.beforeEach(() => forgetWays());

test('a WebSocket shows the token as a subprotocol, and names none without', async (t) => {
  const guarded = bench(t, jwt(1));
  await guarded.sends(0, 'join');
  assert.deepEqual(guarded.made[0].protocols, ['rtc.v1', `rtc.bearer.${jwt(1)}`]);
  const open = bench(t, undefined);
  await open.sends(0, 'join');
  assert.equal(open.made[0].protocols, undefined);
});

test('a token that comes to its end is followed by a fresh one, on the same connection', async (t) => {
  let n = 0;
  const { made, events, sends, types } = bench(t, async () => jwt(++n));
  await sends(0, 'join');
  made[0].say(JOINED);
  made[0].say({ type: 'auth-expiring', expires: 9 });
  made[0].say({ type: 'auth-expiring', expires: 9 });
  await sends(0, 'auth');
  assert.equal(made[0].sent.at(-1).token, jwt(2));
  assert.equal(types(made[0]).filter((type) => type === 'auth').length, 1, 'one is on its way already');
  made[0].say({ type: 'auth', id: made[0].sent.at(-1).id, expires: 99 });
  made[0].say({ type: 'auth-expiring', expires: 99 });
  await until('another', () => types(made[0]).filter((type) => type === 'auth').length === 2);
  assert.deepEqual([made.length, events.map(({ event }) => event)], [1, ['joined']]);
});

test('a connection that ended with its token resumes with a fresh one', async (t) => {
  let n = 0;
  const { made, sends } = bench(t, () => jwt(++n));
  await sends(0, 'join');
  made[0].say(JOINED);
  made[0].close(CLOSE.EXPIRED);
  await sends(1, 'resume');
  assert.deepEqual(made[1].protocols, ['rtc.v1', `rtc.bearer.${jwt(2)}`]);
});

test('a token that is a text ends the call with it, and says so', async (t) => {
  const { made, events, sends, types } = bench(t, jwt(1));
  await sends(0, 'join');
  made[0].say(JOINED);
  made[0].say({ type: 'auth-expiring', expires: 9 });
  assert.ok(!types(made[0]).includes('auth'), 'there is no other token');
  made[0].close(CLOSE.EXPIRED);
  assert.deepEqual([events.at(-1).event, events.at(-1).code], ['ended', 'expired']);
});

test('who was removed does not come back', async (t) => {
  const { made, events, session, sends } = bench(t, () => jwt(1));
  await sends(0, 'join');
  made[0].say(JOINED);
  made[0].close(CLOSE.KICKED);
  assert.deepEqual([events.at(-1).event, events.at(-1).code, session.nextTimeout()], ['ended', 'kicked', undefined]);
});

test('who gives no token is told, and asked again', async (t) => {
  const answers = [() => { throw new Error('the issuer sleeps'); }, () => 'not a token', () => jwt(3)];
  const { made, events, sends } = bench(t, () => answers.shift()());
  await sends(0, 'join');
  assert.equal(made.length, 1);
  const [first, second] = events;
  assert.deepEqual([first.code, first.message, second.code], ['no_token', 'the issuer sleeps', 'no_token']);
});

test('a token that comes when its connection was given up opens nothing', async (t) => {
  let give;
  const { made, link, events } = bench(t, () => new Promise((resolve) => (give = resolve)));
  await new Promise(setImmediate);
  link.tell('leave');
  give(jwt(1));
  await new Promise(setImmediate);
  assert.equal(made.length, 0, JSON.stringify(events));
});

const closing = (way) => new Promise((resolve) => way.addEventListener('close', resolve, { once: true }));

test('requests show the token in a header, and tell why it was refused', async () => {
  const server = new Server();
  server.token = jwt(1);
  const good = new Requests(URL_, { fetch: server.fetch, token: jwt(1) });
  await new Promise((resolve) => good.addEventListener('open', resolve, { once: true }));
  good.close();
  const bad = new Requests(URL_, { fetch: server.fetch, token: jwt(2) });
  const { code, reason } = await closing(bad);
  assert.deepEqual([code, reason], [CLOSE.UNAUTHORIZED, 'the token is not good']);
});

test('requests that are refused in the middle of things are an expired token', async () => {
  const server = new Server();
  server.token = jwt(1);
  const requests = new Requests(URL_, { fetch: server.fetch, token: jwt(1) });
  await new Promise((resolve) => requests.addEventListener('open', resolve, { once: true }));
  server.token = jwt(2);
  requests.send('{"type":"join","id":"1","room":"r"}');
  assert.equal((await closing(requests)).code, CLOSE.EXPIRED);
});

test('a way that nothing opens tells why, where a request was told', async () => {
  const server = new Server();
  server.token = jwt(1);
  class Refused extends EventTarget {
    constructor() {
      super();
      queueMicrotask(() => this.dispatchEvent(Object.assign(new Event('close'), { code: 1006, reason: '' })));
    }
  }
  const { code, reason } = await closing(new Way(URL_, { WebSocket: Refused, fetch: server.fetch, token: jwt(2) }));
  assert.deepEqual([code, reason], [CLOSE.UNAUTHORIZED, 'the token is not good']);
});

test('a token that is not let in ends a first join, and not a call that may get a better one', () => {
  for (const [renews, before, phase] of [[true, false, 'ended'], [false, true, 'ended'], [true, true, 'lost']]) {
    const session = new Session({ urls: [URL_], room: 'r', random: () => 0, renews });
    const next = () => {
      let last;
      for (let action; (action = session.poll()); ) last = action.kind === 'connect' ? action.conn : last;
      return last;
    };
    session.start(0);
    let conn = next();
    if (before) {
      session.opened(conn, 0);
      session.received(conn, JOINED, 0);
      session.closed(conn, 1006, 0);
      session.timeout(1000);
      conn = next();
    }
    session.closed(conn, CLOSE.UNAUTHORIZED, 1000, 'it was signed by nobody');
    assert.equal(session.phase, phase, JSON.stringify({ renews, before }));
  }
});

test('a token of requests is followed by another connection, opened before the old one is let go', async () => {
  const server = new Server();
  server.token = jwt(1);
  const events = [];
  const session = new Session({ urls: [URL_], room: 'r', renews: true });
  const link = drive(session, (type) => events.push(type), { transport: 'stream', token: () => server.token, fetch: server.fetch });
  await until('the stream', () => events.includes('joined') && server.requests.some(({ name }) => name === 'events'));
  server.token = jwt(2);
  server.tell({ type: 'auth-expiring', expires: 9 });
  await until('resumed', () => events.includes('resumed'));
  assert.equal(server.requests.at(-1).headers.authorization, `Bearer ${jwt(2)}`);
  assert.ok(!events.includes('lost'));
  link.tell('leave');
});
