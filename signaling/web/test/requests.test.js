import { test } from 'node:test';
import assert from 'node:assert/strict';
import { Requests } from '../requests.js';
import { Server } from './server.js';

const URL_ = 'wss://calls.example/v1/connect';
const JOIN = '{"type":"join","id":"1","room":"r"}';
const RESUME = JSON.stringify({ type: 'resume', id: '1', resume: 'm~s~Zürich', epoch: 1, seq: 0 });

/** Requests to a server, and what came of them. */
function bench(options = {}, server = new Server()) {
  const requests = new Requests(URL_, { fetch: server.fetch, ...options });
  const seen = [];
  let wake = () => {};
  const note = (what) => {
    seen.push(what);
    wake();
  };
  requests.addEventListener('open', () => note('open'));
  requests.addEventListener('message', ({ data }) => note(JSON.parse(data)));
  requests.addEventListener('close', ({ code }) => note(code));
  const until = async (is) => {
    while (!is(seen)) await new Promise((resolve) => (wake = resolve));
    return seen;
  };
  const types = () => seen.map((what) => what.type ?? what);
  return { requests, server, seen, until, types };
}

const has = (type, count = 1) => (seen) => seen.filter((what) => (what.type ?? what) === type).length >= count;

for (const kind of ['stream', 'poll']) {
  test(`${kind}: joins by a post, hears the room from then on, each frame once and in order`, async () => {
    const { requests, server, seen, until, types } = bench({ kind });
    await until(has('open'));
    server.say({ type: 'signal', data: 'before' });
    requests.send(JOIN);
    await until(has('joined'));
    for (let n = 0; n < 5; n += 1) {
      server.say({ type: 'signal', data: n });
      if (n % 2) await until(has('signal', n + 1));
    }
    await until(has('signal', 5));
    assert.deepEqual(seen.filter(({ type }) => type === 'signal').map(({ data }) => data), [0, 1, 2, 3, 4]);
    assert.ok(!types().includes('resumed'), 'the session has joined, and resumed nothing');
    assert.deepEqual(types().slice(0, 2), ['open', 'joined']);
    requests.close();
  });

  test(`${kind}: resumes from the place that the session names, and tells it so`, async () => {
    const server = new Server();
    server.say({ type: 'signal', data: 'missed' });
    const { requests, until, types } = bench({ kind }, server);
    await until(has('open'));
    requests.send(RESUME);
    await until(has('signal'));
    assert.deepEqual(types().slice(1, 3), ['resumed', 'signal']);
    requests.close();
  });

  test(`${kind}: a session that is gone is told to the session, which may join over the same connection`, async () => {
    const { requests, until } = bench({ kind });
    await until(has('open'));
    requests.send(RESUME.replace('~s~', '~forged~'));
    const seen = await until(has('error'));
    assert.equal(seen.at(-1).code, 'unknown_session');
    requests.send(JOIN);
    await until(has('joined'));
    requests.close();
  });
}

test('what is sent in one go is one post, and posts do not overtake each other', async () => {
  const { requests, server, until } = bench();
  await until(has('open'));
  requests.send(JOIN);
  await until(has('joined'));
  let open;
  server.gate = new Promise((resolve) => (open = resolve));
  for (let n = 0; n < 3; n += 1) requests.send(`{"type":"signal","id":"${n}","data":${n}}`);
  await Promise.resolve();
  requests.send('{"type":"signal","id":"3","data":3}');
  await new Promise(setImmediate);
  assert.equal(server.posts.length, 3, 'a post overtakes the one before');
  open();
  await until(has('ack', 4));
  assert.deepEqual(server.posts.slice(2).map((frames) => frames.map(({ data }) => data)), [[0, 1, 2], [3]]);
  requests.close();
});

test('a proxy that keeps streams back is polled through', async () => {
  const server = new Server();
  server.events = 'hold';
  const { requests, until, types } = bench({ firstEventMs: 30 }, server);
  await until(has('open'));
  requests.send(JOIN);
  await until(has('joined'));
  server.say({ type: 'signal', data: 1 });
  await until(has('signal'));
  assert.equal(requests.kind, 'poll');
  assert.ok(!types().includes(1006));
  requests.close();
});

test('a connection that the server closes has its code, and one that breaks has 1006', async () => {
  const first = bench();
  await first.until(has('open'));
  first.requests.send(RESUME);
  await first.until(has('resumed'));
  first.server.close(4001);
  await first.until(has(4001));

  const second = bench({ kind: 'poll' });
  await second.until(has('open'));
  second.requests.send(RESUME);
  await second.until(has('resumed'));
  second.server.poll = 'refuse';
  second.server.say({ type: 'signal', data: 1 });
  await second.until(has(1006));

  const third = bench();
  await third.until(has('open'));
  third.requests.send(RESUME);
  await third.until(has('resumed'));
  third.server.messages = 'refuse';
  third.requests.send('{"type":"signal","id":"9","data":9}');
  await third.until(has(1006));
});

test('without a server it never opens', async () => {
  const server = new Server();
  server.messages = 'refuse';
  const { until, types } = bench({}, server);
  await until(has(1006));
  assert.deepEqual(types(), [1006]);
});

test('the last word is said though the connection closes with it', async () => {
  const { requests, server, until } = bench();
  await until(has('open'));
  requests.send(JOIN);
  await until(has('joined'));
  requests.send('{"type":"leave"}');
  requests.close();
  assert.deepEqual(server.posts.at(-1), [{ type: 'leave' }]);
});
