import { test } from 'node:test';
import assert from 'node:assert/strict';
import { Ordered } from '../ordered.js';

test('gives in order what came out of order, and once what came twice', () => {
  const ordered = new Ordered();
  const out = [2, 0, 0, 1, 2, 4, 1, 3].flatMap((n) => ordered.accept(n, n, 0));
  assert.deepEqual(out, [0, 1, 2, 3, 4]);
});

test('gives a gap up after its patience, and what comes late no more', () => {
  const ordered = new Ordered({ patienceMs: 100 });
  assert.deepEqual(ordered.accept(1, 'b', 50), []);
  assert.equal(ordered.nextTimeout(), 150);
  assert.deepEqual(ordered.timeout(149), []);
  assert.deepEqual(ordered.timeout(150), ['b']);
  assert.deepEqual(ordered.accept(0, 'a', 151), []);
  assert.deepEqual(ordered.accept(2, 'c', 152), ['c']);
  assert.equal(ordered.nextTimeout(), undefined);
});

test('a second gap has patience of its own', () => {
  const ordered = new Ordered({ patienceMs: 100 });
  ordered.accept(1, 'b', 0);
  ordered.accept(3, 'd', 10);
  assert.deepEqual(ordered.accept(0, 'a', 90), ['a', 'b']);
  assert.equal(ordered.nextTimeout(), 190);
});

test('is not fooled into holding without bound, or by numbers that are none', () => {
  const ordered = new Ordered();
  for (let n = 1; n < 10_000; n += 1) ordered.accept(n, n, 0);
  assert.equal(ordered.accept(0, 0, 0).length, 257);
  for (const n of [NaN, -1, 1.5, '3', undefined, Infinity]) assert.deepEqual(ordered.accept(n, n, 0), []);
});
