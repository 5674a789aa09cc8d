// The browser client with tokens that are soon over, at a server that asks for them: URL SECRET
import { createHmac } from 'node:crypto';
import { createRequire } from 'node:module';
import { Session } from '../../../web/session.js';
import { drive } from '../../../web/link.js';

const [url, secret] = process.argv.slice(2);
const { WebSocket } = createRequire(import.meta.url)('ws');
const TOKENS = 2;

const part = (value) => Buffer.from(JSON.stringify(value)).toString('base64url');
function jwt(sub, seconds, more = {}) {
  const text = `${part({ alg: 'HS256' })}.${part({ sub, exp: Math.floor(Date.now() / 1000) + seconds, rooms: ['r'], ...more })}`;
  return `${text}.${createHmac('sha256', secret).update(text).digest('base64url')}`;
}

const everybody = [];
async function until(what, is) {
  for (const end = Date.now() + 15_000; !is(); ) {
    if (Date.now() > end) throw new Error(`no ${what}: ${JSON.stringify(everybody.map(({ events }) => events))}`);
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}

function enter(token, transport) {
  const events = [];
  const session = new Session({ urls: [`${url.replace('http', 'ws')}/v1/connect`], room: 'r', renews: typeof token === 'function' });
  const link = drive(session, (type, detail) => events.push([type, detail]), { transport, token, WebSocket });
  const one = { session, link, events, of: (type) => events.filter(([is]) => is === type).map(([, detail]) => detail) };
  everybody.push(one);
  return one;
}

const ended = async (one, code) => until(code, () => one.of('ended').some((end) => end.code === code));

// beyond the life of many a token, each way of signaling
const going = {};
for (const transport of ['websocket', 'stream', 'poll']) {
  const one = { asked: 0 };
  Object.assign(one, enter(() => jwt(transport, 4, { n: one.asked++ }), transport));
  await until(`${transport} in`, () => one.session.phase === 'live');
  one.id = one.session.id;
  going[transport] = one;
}
const { websocket, stream, poll } = going;
for (const one of Object.values(going)) {
  await until('another token after that', () => one.asked > TOKENS);
  one.link.tell('signal', { from: one.id }, undefined);
}
for (const one of Object.values(going)) {
  await until('the words of the others', () => one.of('signal').length === 2);
  if (one.session.id !== one.id || one.of('rejoined').length || one.of('member-left').length) throw new Error('a seat was lost');
  if (one.session.unanswered) throw new Error('a signal was not answered');
}
if (websocket.of('lost').length || websocket.session.counts.resumed) throw new Error('the connection did not go on');
if (websocket.session.members.get(stream.id).user !== 'stream') throw new Error('nobody says who the others are');

// a text cannot be renewed; one by another issuer is never let in
await ended(enter(jwt('brief', 1), 'websocket'), 'expired');
await ended(enter(`${jwt('nobody', 60).slice(0, -9)}AAAAAAAAA`, 'stream'), 'unauthorized');

// and who is removed stays out
const admin = jwt('admin', 60, { api: ['members:kick'] });
for (const one of [websocket, stream, poll]) {
  const answer = await fetch(`${url}/api/v1/rooms/r/members/${one.id}`, { method: 'DELETE', headers: { authorization: `Bearer ${admin}` } });
  if (answer.status !== 204) throw new Error(`not removed: ${answer.status} ${await answer.text()}`);
  await ended(one, 'kicked');
}
process.exit(0);
