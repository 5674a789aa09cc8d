import { test } from 'node:test';
import assert from 'node:assert/strict';
import { filterIceServers, offersRelay, refreshDelay, transportOf, turnUsername } from '../ice.js';

const SERVERS = [
  { urls: ['stun:h:3478'] },
  { urls: ['turn:h:3478?transport=udp', 'turn:h:3478?transport=tcp', 'turns:h:5349?transport=tcp'], username: '9:u', credential: 's' },
];

test('names the transport of a URI, the default of its scheme when it names none', () => {
  assert.equal(transportOf('turn:h:3478?transport=tcp'), 'tcp');
  assert.equal(transportOf('turn:h:3478'), 'udp');
  assert.equal(transportOf('turns:h'), 'tcp');
  assert.equal(transportOf('turns:h?transport=udp'), 'udp');
  assert.equal(transportOf('turn:[2001:db8::1]:3478?transport=UDP'), 'udp');
  assert.equal(transportOf('http://h'), undefined);
});

test('keeps only TURN over the chosen transport, with its credentials, and STUN', () => {
  assert.deepEqual(filterIceServers(SERVERS, 'any'), SERVERS);
  const tcp = filterIceServers(SERVERS, 'tcp');
  assert.deepEqual(tcp[1], { urls: ['turn:h:3478?transport=tcp', 'turns:h:5349?transport=tcp'], username: '9:u', credential: 's' });
  assert.deepEqual(tcp[0].urls, ['stun:h:3478']);
  assert.deepEqual(filterIceServers([{ urls: 'turn:h?transport=udp' }], 'tcp'), []);
  assert.equal(offersRelay(filterIceServers([{ urls: 'stun:h' }], 'udp')), false);
  assert.equal(offersRelay(tcp), true);
});

test('tells the user name and never the credential', () => {
  assert.equal(turnUsername(SERVERS), '9:u');
  assert.equal(turnUsername([{ urls: 'stun:h' }]), null);
});

test('asks for the next credentials in the last third of their life, and never in a loop', () => {
  const now = 1_700_000_000_000;
  for (const random of [0, 0.5, 0.999]) {
    const delay = refreshDelay(now / 1000 + 3600, now, () => random);
    assert.ok(delay >= 3_600_000 * 0.65 && delay <= 3_600_000 * 0.75, `${delay}`);
  }
  assert.equal(refreshDelay(now / 1000 - 10, now, Math.random), 60_000);
  assert.ok(refreshDelay(now / 1000 + 1, now, Math.random) >= 1000 * 0.65);
  assert.ok(refreshDelay(now / 1000 + 10 ** 9, now, Math.random) < 2 ** 31);
});
