import { test } from 'node:test';
import assert from 'node:assert/strict';
import { Session } from '../session.js';
import { keep, take } from '../seat.js';

function storage() {
  const items = new Map();
  return {
    getItem: (key) => items.get(key) ?? null,
    setItem: (key, text) => items.set(key, text),
    removeItem: (key) => items.delete(key),
  };
}

/** A session that does what it is told, and what it wants. */
function begin(options = {}) {
  const session = new Session({ urls: ['ws://a/v1/connect'], room: 'r', random: () => 0.5, ...options });
  const wanted = [];
  const act = (method, ...args) => {
    session[method](...args, 1000);
    for (let action; (action = session.poll()); ) wanted.push(action);
    return wanted;
  };
  act('start');
  act('opened', 1);
  return { session, act, sent: () => wanted.filter(({ kind }) => kind === 'send').map(({ frame }) => frame), told: () => wanted.filter(({ kind }) => kind === 'event') };
}

const ADA = { id: 'm-1', name: 'Ada', polite: true };
const JOINED = {
  type: 'joined', session: 'me', resume: 'token', epoch: 1, seq: 10, members: [ADA],
  iceServers: [{ urls: 'turn:h' }], expires: 2e9, limits: { messagesPerSecond: 100 },
};

function reloaded() {
  const before = begin();
  before.act('received', 1, JOINED);
  before.act('signal', 'x', 'm-1');
  const [{ id }] = before.sent().slice(-1);
  const place = storage();
  keep('ws://a', 'r', before.session.seat, { storage: place });
  return { used: id, after: begin({ seat: take('ws://a', 'r', { storage: place }) }), place };
}

test('a reload resumes, is told who is there, and uses no number twice', () => {
  const { used, after } = reloaded();
  const [{ type, resume, epoch, seq, id }] = after.sent();
  assert.deepEqual({ type, resume, epoch, seq }, { type: 'resume', resume: 'token', epoch: 1, seq: 10 });
  assert.ok(Number(id) > Number(used));
  after.act('received', 1, { type: 'resumed', session: 'me', epoch: 1, seq: 10, members: [ADA] });
  const [joined] = after.told();
  assert.deepEqual([joined.type, joined.detail.session, joined.detail.seated, joined.detail.members], ['joined', 'me', true, [ADA]]);
  assert.deepEqual(after.session.iceServers, [{ urls: 'turn:h' }]);
  after.act('received', 1, { type: 'signal', epoch: 1, seq: 12, from: 'm-1', data: 'missed' });
  assert.equal(after.told().at(-1).detail.data, 'missed');
});

test('a seat that is gone is taken anew', () => {
  const { after } = reloaded();
  after.act('received', 1, { type: 'error', code: 'unknown_session', message: 'gone' });
  assert.equal(after.sent().at(-1).type, 'join');
  after.act('received', 1, { ...JOINED, session: 'me-2' });
  const [joined] = after.told();
  assert.deepEqual([joined.type, joined.detail.session, joined.detail.seated, joined.detail.again], ['joined', 'me-2', undefined, false]);
});

test('a reload after the log was lost takes the roster as it is', () => {
  const { after } = reloaded();
  after.act('received', 1, { type: 'resync', session: 'me', epoch: 2, seq: 3, members: [] });
  const [joined] = after.told();
  assert.deepEqual([joined.type, joined.detail.members, after.session.seq], ['joined', [], 3]);
});

test('a seat is taken once, in its own room, and not when it is old', () => {
  const { place } = reloaded();
  assert.equal(take('ws://a', 'r', { storage: place }), undefined);
  keep('ws://a', 'r', { id: 'me' }, { storage: place, now: () => 0 });
  assert.equal(take('ws://a', 'other', { storage: place, now: () => 1 }), undefined);
  assert.equal(take('ws://a', 'r', { storage: place, now: () => 60_000 }), undefined);
  assert.equal(take('ws://a', 'r', { storage: undefined }), undefined);
});

test('there is no seat before one has joined, nor after one has left', () => {
  const { session, act } = begin();
  assert.equal(session.seat, undefined);
  act('received', 1, JOINED);
  assert.equal(session.seat.resume, 'token');
  act('leave');
  assert.equal(session.seat, undefined);
});

test('what a poll says of the place in the log is where a resume goes on', () => {
  const { act, sent } = begin();
  act('received', 1, JOINED);
  act('received', 1, { type: 'position', epoch: 1, seq: 40 });
  act('nudge');
  act('closed', 1, 1006);
  act('nudge');
  act('opened', 2);
  assert.equal(sent().at(-1).seq, 40);
});
