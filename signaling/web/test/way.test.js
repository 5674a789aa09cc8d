import { test } from 'node:test';
import assert from 'node:assert/strict';
import { Way, forgetWays } from '../way.js';
import { Server } from './server.js';

const URL_ = 'ws://calls.example/v1/connect';

/** WebSockets that do what a network does to them. */
function sockets(what) {
  const made = [];
  class Socket extends EventTarget {
    readyState = 0;
    sent = [];
    constructor() {
      super();
      made.push(this);
      const network = typeof what === 'function' ? what() : what;
      if (network === 'hang') return;
      queueMicrotask(() => (network === 'refuse' ? this.lose(1006) : this.open()));
    }
    open() {
      this.readyState = 1;
      this.dispatchEvent(new Event('open'));
    }
    lose(code) {
      this.readyState = 3;
      this.dispatchEvent(Object.assign(new Event('close'), { code }));
    }
    say(frame) {
      this.dispatchEvent(new MessageEvent('message', { data: JSON.stringify(frame) }));
    }
    send(text) {
      this.sent.push(text);
    }
    close() {
      this.lose(1000);
    }
  }
  return { Socket, made };
}

const once = (target, type) => new Promise((resolve) => target.addEventListener(type, resolve, { once: true }));

function way(network, options = {}) {
  const { Socket, made } = sockets(network);
  const server = new Server();
  const way = new Way(URL_, { WebSocket: Socket, fetch: server.fetch, ...options });
  return { way, made, server };
}

test.beforeEach(() => forgetWays());

test('a WebSocket that opens is used, and nothing else is tried', async () => {
  const { way: one, made, server } = way('open');
  await once(one, 'open');
  assert.equal(one.kind, 'websocket');
  assert.deepEqual([made.length, server.requests.length], [1, 0]);
  one.close();
});

test('a WebSocket that is refused gives way at once, and what worked is tried first the next time', async () => {
  const first = way('refuse');
  await once(first.way, 'open');
  assert.equal(first.way.kind, 'stream');
  first.way.send('{"type":"ping"}');
  await once(first.way, 'message');
  first.way.close();
  const second = way('open');
  await once(second.way, 'open');
  assert.deepEqual([second.way.kind, second.made.length], ['stream', 0]);
  second.way.close();
  // but not for ever
  const later = way('open', { now: () => Date.now() + 700_000 });
  await once(later.way, 'open');
  assert.equal(later.way.kind, 'websocket');
  later.way.close();
});

test('a WebSocket that hangs gets a head start, and then company', async (t) => {
  t.mock.timers.enable({ apis: ['setTimeout'] });
  const { way: one, made } = way('hang');
  await Promise.resolve();
  assert.equal(made.length, 1);
  const opened = once(one, 'open');
  t.mock.timers.tick(2500);
  await opened;
  assert.equal(one.kind, 'stream');
  assert.equal(made[0].readyState, 3, 'the one that lost is closed');
  one.close();
});

test('a WebSocket that opens and never says anything is not tried again for a while', async () => {
  for (const end of ['close', 'lose']) {
    forgetWays();
    const first = way('open');
    await once(first.way, 'open');
    if (end === 'close') first.way.close();
    else first.made[0].lose(1006);
    const second = way('open');
    await once(second.way, 'open');
    assert.equal(second.way.kind, 'stream', end);
    second.way.close();
  }
});

test('a WebSocket that worked and broke is the first choice again', async () => {
  const first = way('open');
  await once(first.way, 'open');
  first.made[0].say({ type: 'joined' });
  first.made[0].lose(1006);
  const second = way('open');
  await once(second.way, 'open');
  assert.equal(second.way.kind, 'websocket');
  second.way.close();
});

test('when nothing opens it says so once', async () => {
  const { way: one, server } = way('refuse');
  server.messages = 'refuse';
  let closes = 0;
  one.addEventListener('close', () => (closes += 1));
  await once(one, 'close');
  assert.equal(closes, 1);
});

test('a transport that was asked for is the only one that is tried', async () => {
  const one = way('refuse', { transport: 'websocket' });
  const { code } = await once(one.way, 'close');
  assert.deepEqual([code, one.server.requests.length], [1006, 0]);
  const two = way('open', { transport: 'poll' });
  await once(two.way, 'open');
  assert.deepEqual([two.way.kind, two.made.length], ['poll', 0]);
  two.way.close();
});
