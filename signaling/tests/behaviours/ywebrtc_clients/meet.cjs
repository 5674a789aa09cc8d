// Signals with the real client: node meet.cjs PORT_A PORT_B
// Exits with 0 when everything was as y-webrtc's own server has it, and says on stderr what was not.
'use strict';
const assert = require('node:assert');
const { fork } = require('node:child_process');
globalThis.WebSocket = require('ws').WebSocket;
const { SignalingConn, WebrtcProvider } = require('y-webrtc');
const Y = require('yjs');
const [urlA, urlB] = process.argv.slice(2).map((port) => `ws://127.0.0.1:${port}/y-webrtc`);

const fail = (why) => {
  process.stderr.write(`${why && why.stack ? why.stack : why}\n`);
  process.exit(1);
};
setTimeout(() => fail('never ends'), 60_000).unref();
process.on('unhandledRejection', fail);

// A document that is shared through one replica, until its text is the expected one.
function share(url, expected) {
  const doc = new Y.Doc();
  const peerOpts = { wrtc: require('@roamhq/wrtc'), config: { iceServers: [] } };
  new WebrtcProvider('a topic', doc, { signaling: [url], peerOpts, password: 'secret' });
  const text = doc.getText('text');
  const done = new Promise((resolve) => text.observe(() => text.toString() === expected && resolve()));
  return { text, done };
}

// Two documents in two processes, each at its own replica, become one over a data channel.
async function documents() {
  const other = fork(__filename, [...process.argv.slice(2), 'other']);
  const { text, done } = share(urlA, 'hello world');
  text.insert(0, 'hello');
  await done;
  other.kill();
}

async function other() {
  const { text, done } = share(urlB, 'hello');
  await done;
  text.insert(5, ' world');
}

async function main() {
  // The connection of y-webrtc alone: it subscribes to the topics of its rooms when it connects.
  const connect = (url) => {
    const connection = new SignalingConn(url);
    connection.heard = [];
    connection.on('message', (m) => connection.heard.push(m));
    return new Promise((resolve) => connection.on('connect', () => resolve(connection)));
  };
  const next = async (connection) => {
    while (connection.heard.length === 0) await new Promise((resolve) => setTimeout(resolve, 5));
    return connection.heard.shift();
  };
  const [a, b] = [await connect(urlA), await connect(urlB)];
  for (const connection of [a, b]) {
    connection.send({ type: 'subscribe', topics: ['t', 'u'] });
    connection.send({ type: 'ping' });
    assert.deepStrictEqual(await next(connection), { type: 'pong' });
  }
  const data = { from: 'a', text: 'é😀', n: null };
  a.send({ type: 'publish', topic: 't', data });
  for (const connection of [a, b]) {
    assert.deepStrictEqual(await next(connection), { type: 'publish', topic: 't', data, clients: 2 });
  }
  b.send({ type: 'unsubscribe', topics: ['t'] });
  b.send({ type: 'ping' });
  assert.deepStrictEqual(await next(b), { type: 'pong' });
  b.send({ type: 'publish', topic: 't', data });
  assert.deepStrictEqual(await next(a), { type: 'publish', topic: 't', data, clients: 1 });
  a.send({ type: 'publish', topic: 'u', data });
  assert.deepStrictEqual(await next(b), { type: 'publish', topic: 'u', data, clients: 2 });
  await documents();
  process.exit(0);
}

(process.argv[4] === 'other' ? other() : main()).catch(fail);
