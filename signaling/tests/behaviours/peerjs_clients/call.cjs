// Plays peers with the real client: node call.cjs PORT_A PORT_B
// Exits with 0 when everything was as PeerJS's own server has it, and says on stderr what was not.
'use strict';
const assert = require('node:assert');
const [portA, portB] = process.argv.slice(2).map(Number);

// What a browser has.
const wrtc = require('@roamhq/wrtc');
const { WebSocket: Socket } = require('ws');
for (const name of ['RTCPeerConnection', 'RTCSessionDescription', 'RTCIceCandidate', 'MediaStream']) {
  globalThis[name] = wrtc[name];
}
globalThis.location = { protocol: 'http:', hostname: '127.0.0.1' };
globalThis.WebSocket = class extends Socket {
  constructor(url) {
    super(url);
    this.on('error', () => {}); // a page hears of it as a close
  }
};
const { Peer } = require('peerjs');

const fail = (why) => {
  process.stderr.write(`${why && why.stack ? why.stack : why}\n`);
  process.exit(1);
};
setTimeout(() => fail('never ends'), 60_000).unref();
process.on('unhandledRejection', fail);

const options = (port, more) => ({ host: '127.0.0.1', port, path: '/', config: { iceServers: [] }, ...more });
const event = (emitter, name) =>
  new Promise((resolve, reject) => {
    emitter.once(name, resolve);
    if (name !== 'error') emitter.once('error', (e) => reject(new Error(`${name}: ${e.type} ${e.message}`)));
  });

async function talk(from, to) {
  const arrived = event(to, 'connection');
  const out = from.connect(to.id, { metadata: { hello: 'é😀' } });
  const back = await arrived;
  assert.deepStrictEqual(back.metadata, { hello: 'é😀' });
  await Promise.all([event(out, 'open'), event(back, 'open')]);
  const heard = event(back, 'data');
  out.send({ n: 1 });
  assert.deepStrictEqual(await heard, { n: 1 });
  const answer = event(out, 'data');
  back.send('two');
  assert.strictEqual(await answer, 'two');
}

async function main() {
  const alice = new Peer('alice', options(portA));
  assert.strictEqual(await event(alice, 'open'), 'alice');
  const bob = new Peer(options(portB)); // asks for an id
  assert.match(await event(bob, 'open'), /^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/);
  await talk(bob, alice);
  await talk(alice, bob);

  // an id is taken on every replica, but only under its key
  assert.strictEqual((await event(new Peer('alice', options(portB)), 'error')).type, 'unavailable-id');
  const other = new Peer('alice', options(portB, { key: 'other' }));
  await event(other, 'open');

  // one who is not there, in time and never
  const early = alice.connect('carol');
  const carol = new Peer('carol', options(portB));
  const met = event(carol, 'connection');
  await Promise.all([event(early, 'open'), met]);
  alice.connect('nobody');
  const error = await event(alice, 'error');
  assert.strictEqual(error.type, 'peer-unavailable');
  assert.match(error.message, /nobody/);

  // a lost connection is no lost id, and what was sent meanwhile arrives
  const gone = event(carol, 'disconnected');
  carol.disconnect();
  await gone;
  const late = alice.connect('carol');
  const again = event(carol, 'connection');
  carol._options.port = portA; // comes back to the other replica
  carol.reconnect();
  assert.strictEqual(await event(carol, 'open'), 'carol');
  await Promise.all([event(late, 'open'), again]);

  for (const peer of [alice, bob, carol, other]) peer.destroy();
  process.exit(0);
}

main().catch(fail);
