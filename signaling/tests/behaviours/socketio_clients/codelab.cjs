// Plays the codelab with real clients: node codelab.cjs URL_A URL_B VERSION_A VERSION_B TRANSPORTS
// Exits with 0 when everything was as the codelab expects it, and says on stderr what was not.
'use strict';
const assert = require('node:assert');
const [urlA, urlB, versionA, versionB, transports] = process.argv.slice(2);
const library = { 2: require('sio2'), 4: require('sio4') };

const open = [];
const logged = []; // what `log` said, each time an array
function connect(version, url) {
  const socket = library[version](url, { transports: transports.split(','), forceNew: true, reconnection: false });
  socket.seen = [];
  const names = ['created', 'empty', 'joined', 'join', 'ready', 'full', 'message', 'ipaddr', 'log'];
  for (const name of names) socket.on(name, (...args) => socket.seen.push([name, ...args]));
  for (const name of ['connect_error', 'error']) socket.on(name, (e) => fail(`${name}: ${e && e.message}`));
  open.push(socket);
  return until(`connected by ${version}`, () => socket.connected).then(() => socket);
}

function fail(why) {
  process.stderr.write(`${why}\n${JSON.stringify(open.map((s) => s.seen))}\n`);
  process.exit(1);
}

async function until(what, is) {
  const end = Date.now() + 20_000;
  while (!is()) {
    if (Date.now() > end) fail(`never: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
}

// The next event that is no `log`.
async function next(socket, ...expected) {
  await until(expected[0], () => socket.seen.some(([name]) => name !== 'log'));
  const at = socket.seen.findIndex(([name]) => name !== 'log');
  const taken = socket.seen.splice(0, at + 1);
  const [event] = taken.splice(-1);
  logged.push(...taken.map(([, words]) => words));
  assert.deepStrictEqual(event, expected);
}

// Asks for something that is answered after whatever may be under way.
async function nothing(socket) {
  socket.emit('ipaddr');
  await next(socket, 'ipaddr', '127.0.0.1');
}

async function main() {
  const a = await connect(versionA, urlA);
  const b = await connect(versionB, urlB);
  const third = await connect(versionA, urlB);
  const elsewhere = await connect(versionB, urlA);

  a.emit('create or join', 'foo');
  await next(a, 'created', 'foo', a.id);
  await next(a, 'empty', 'foo');
  elsewhere.emit('create or join', 'bar');
  await next(elsewhere, 'created', 'bar', elsewhere.id);
  await next(elsewhere, 'empty', 'bar');
  b.emit('create or join', 'foo');
  await next(b, 'joined', 'foo', b.id);
  await next(b, 'ready');
  await next(a, 'join', 'foo');
  await next(a, 'ready');
  third.emit('create or join', 'foo');
  await next(third, 'full', 'foo');

  if (transports === 'polling,websocket') {
    for (const s of [a, b]) await until('an upgrade', () => s.io.engine.transport.name === 'websocket');
  }
  const offer = { type: 'offer', sdp: 'v=0\r\no=- 😀 é\u2028' };
  a.emit('message', offer);
  await next(b, 'message', offer);
  for (let n = 0; n < 50; n += 1) b.emit('message', { candidate: n });
  for (let n = 0; n < 50; n += 1) await next(a, 'message', { candidate: n });
  a.emit('message', 'got user media');
  await next(b, 'message', 'got user media');
  for (const s of [a, b, third, elsewhere]) await nothing(s);
  assert.ok(a.id !== b.id);
  assert.ok(logged.some(([first, second]) => first === 'Message from server:' && second === 'Client said: '));

  // `bye` gives a place up, and the next one is the second again
  elsewhere.emit('bye');
  elsewhere.emit('create or join', 'bar');
  await next(elsewhere, 'created', 'bar', elsewhere.id);
  await next(elsewhere, 'empty', 'bar');

  // a place that is given up can be taken
  b.disconnect();
  let joined = false;
  third.on('joined', () => { joined = true; });
  while (!joined) {
    third.emit('create or join', 'foo');
    await until('an answer', () => third.seen.some(([name]) => name === 'full' || name === 'joined'));
    third.seen = [];
  }
  await next(a, 'join', 'foo');
  await next(a, 'ready');
  for (const s of open) s.disconnect();
}

main().catch((error) => fail(error.stack));
