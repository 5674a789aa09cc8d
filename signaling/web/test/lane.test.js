import { test, mock } from 'node:test';
import assert from 'node:assert/strict';
import { Lane } from '../lane.js';

function bench() {
  mock.timers.enable({ apis: ['setTimeout'] });
  const bench = { open: true, overChannel: [], overSignaling: [], counts: { signalsOverChannel: 0, signalsOverSignaling: 0 } };
  const channel = { send: (text) => bench.overChannel.push(JSON.parse(text).data.n) };
  bench.lane = new Lane({
    channel: () => (bench.open ? channel : undefined),
    signal: ({ n }) => bench.overSignaling.push(n),
    counts: bench.counts,
  });
  return bench;
}

test.afterEach(() => mock.timers.reset());

test('takes the channel while it is open, and spares the server', () => {
  const { lane, overChannel, overSignaling } = bench();
  lane.send({ n: 0 });
  lane.confirmed(0);
  mock.timers.tick(60_000);
  assert.deepEqual([overChannel, overSignaling], [[0], []]);
});

test('without a channel, takes signaling', () => {
  const lanes = bench();
  lanes.open = false;
  lanes.lane.send({ n: 0 });
  assert.deepEqual([lanes.overChannel, lanes.overSignaling], [[], [0]]);
  assert.deepEqual(lanes.counts, { signalsOverChannel: 0, signalsOverSignaling: 1 });
});

test('what the channel does not confirm goes over signaling, once', () => {
  const { lane, overSignaling } = bench();
  lane.send({ n: 0 });
  lane.send({ n: 1 });
  lane.confirmed(0);
  mock.timers.tick(1999);
  assert.deepEqual(overSignaling, []);
  mock.timers.tick(60_000);
  lane.fallBack();
  assert.deepEqual(overSignaling, [1]);
});

test('a channel that breaks hands over at once, in order', () => {
  const { lane, overSignaling } = bench();
  for (const n of [0, 1, 2]) lane.send({ n });
  lane.confirmed(1);
  lane.fallBack();
  assert.deepEqual(overSignaling, [0, 2]);
});

test('once closed, sends nothing again', () => {
  const { lane, overSignaling } = bench();
  lane.send({ n: 0 });
  lane.close();
  mock.timers.tick(60_000);
  assert.deepEqual(overSignaling, []);
});
