import { test } from 'node:test';
import assert from 'node:assert/strict';
import { Session, CLOSE } from '../session.js';

const URLS = ['ws://a/v1/connect', 'ws://b/v1/connect'];
const MEMBER = { id: 'm-1', name: 'Ada', polite: true };

/** A session with the time, the connections and the server's part in the test's hands. */
class Bench {
  now = 1000;
  sent = [];
  events = [];
  connects = [];
  closes = [];

  constructor(options = {}) {
    this.session = new Session({ urls: URLS, room: 'r', name: 'Bo', random: () => 0.5, unixNow: () => this.now, ...options });
  }

  static live(options) {
    const bench = new Bench(options);
    bench.start();
    bench.open();
    bench.joined();
    return bench;
  }

  do(method, ...args) {
    this.session[method](...args, this.now);
    for (let action; (action = this.session.poll()); ) {
      if (action.kind === 'send') this.sent.push({ conn: action.conn, ...action.frame });
      else if (action.kind === 'event') this.events.push({ event: action.type, ...action.detail });
      else if (action.kind === 'connect') this.connects.push(action);
      else this.closes.push(action.conn);
    }
    return this;
  }

  start() {
    return this.do('start');
  }

  get conn() {
    return this.connects.at(-1).conn;
  }

  open() {
    return this.do('opened', this.conn);
  }

  from(frame, conn = this.conn) {
    return this.do('received', conn, frame);
  }

  joined(more = {}) {
    return this.from({
      type: 'joined', room: 'r', session: 'me', resume: 'token-1', epoch: 1, seq: 10, polite: true,
      members: [MEMBER], iceServers: [{ urls: 'turn:h?transport=udp', username: '9:me', credential: 's' }],
      expires: this.now / 1000 + 3600, limits: { messagesPerSecond: 1000 }, ...more,
    });
  }

  resumed(more = {}) {
    return this.from({ type: 'resumed', session: 'me', epoch: 1, seq: 10, members: [MEMBER], ...more });
  }

  signalFrom(n, epoch = 1) {
    return this.from({ type: 'signal', epoch, seq: n, from: 'm-1', data: n });
  }

  /** Lets time pass, timeout by timeout. */
  pass(ms) {
    const until = this.now + ms;
    for (let due; (due = this.session.nextTimeout()) !== undefined && due <= until; ) {
      this.now = Math.max(this.now, due);
      this.do('timeout');
    }
    this.now = until;
    return this;
  }

  delivered() {
    return this.events.filter(({ event }) => event === 'signal').map(({ data }) => data);
  }

  names() {
    return this.events.map(({ event }) => event);
  }

  lastSent() {
    return this.sent.at(-1);
  }
}

test('joins with name and room, and tells the roster', () => {
  const bench = Bench.live();
  assert.equal(bench.sent[0].type, 'join');
  assert.equal(bench.sent[0].room, 'r');
  assert.equal(bench.sent[0].name, 'Bo');
  assert.equal(bench.session.phase, 'live');
  assert.deepEqual([...bench.session.members.values()], [MEMBER]);
  assert.deepEqual(bench.names(), ['joined']);
});

test('delivers each frame of the room once, in order, whatever is repeated', () => {
  const bench = Bench.live();
  for (const n of [11, 11, 12, 10, 9, 13, 12]) bench.signalFrom(n);
  assert.deepEqual(bench.delivered(), [11, 12, 13]);
  assert.equal(bench.session.counts.duplicates, 4);
});

test('takes no notice of an earlier epoch, and begins a later one anew', () => {
  const bench = Bench.live();
  bench.signalFrom(20, 1).signalFrom(3, 2).signalFrom(21, 1).signalFrom(3, 2).signalFrom(4, 2);
  assert.deepEqual(bench.delivered(), [20, 3, 4]);
});

test('holes in the sequence are other members\' messages, not losses', () => {
  const bench = Bench.live();
  bench.signalFrom(11).signalFrom(40);
  assert.deepEqual(bench.delivered(), [11, 40]);
  assert.equal(bench.session.phase, 'live');
});

test('an acknowledgement ahead of earlier messages does not hide them', () => {
  const bench = Bench.live();
  bench.do('signal', 'offer', 'm-1');
  bench.from({ type: 'ack', id: bench.lastSent().id, seq: 15 });
  bench.signalFrom(12);
  assert.deepEqual(bench.delivered(), [12]);
});

test('resumes on the next server with the token and the last epoch and seq', () => {
  const bench = Bench.live();
  bench.signalFrom(12);
  bench.do('closed', bench.conn, 1006);
  assert.equal(bench.session.phase, 'lost');
  bench.pass(1000);
  assert.equal(bench.connects.at(-1).url, URLS[1]);
  bench.open();
  const { type, resume, epoch, seq } = bench.lastSent();
  assert.deepEqual({ type, resume, epoch, seq }, { type: 'resume', resume: 'token-1', epoch: 1, seq: 12 });
  bench.resumed({ seq: 15 }).signalFrom(12).signalFrom(13).signalFrom(15);
  assert.deepEqual(bench.delivered(), [12, 13, 15]);
  assert.equal(bench.session.phase, 'live');
});

test('what was not answered is sent again under its own id, and nothing else is', () => {
  const bench = Bench.live();
  bench.do('signal', 'a', 'm-1').do('signal', 'b', 'm-1');
  const [a, b] = bench.sent.slice(-2);
  bench.from({ type: 'ack', id: a.id, seq: 11 });
  bench.do('closed', bench.conn, 1006);
  bench.do('signal', 'c', 'm-1');
  bench.pass(1000).open();
  const before = bench.sent.length;
  bench.resumed();
  const again = bench.sent.slice(before).map(({ id, data }) => ({ id, data }));
  assert.deepEqual(again.map(({ data }) => data), ['b', 'c']);
  assert.equal(again[0].id, b.id);
  for (const { id } of again) bench.from({ type: 'ack', id });
  assert.equal(bench.session.unanswered, 0);
});

test('members who came and went during the gap are told after the resume, once', () => {
  const bench = Bench.live();
  bench.do('closed', bench.conn, 1006).pass(1000).open();
  const cy = { id: 'm-2', name: 'Cy', polite: false };
  bench.resumed({ members: [cy] });
  bench.from({ type: 'member-left', epoch: 1, seq: 11, member: 'm-1', reason: 'left' });
  bench.from({ type: 'member-joined', epoch: 1, seq: 12, member: cy });
  const moves = bench.events.filter(({ event }) => event.startsWith('member-')).map(({ event, member }) => [event, member.id ?? member]);
  assert.deepEqual(moves, [['member-left', 'm-1'], ['member-joined', 'm-2']]);
});

test('resync takes the roster as it is, drops signals to those who left, keeps who is polite', () => {
  const bench = Bench.live({});
  bench.do('signal', 'x', 'm-1');
  bench.do('closed', bench.conn, 1006).pass(1000).open();
  const before = bench.sent.length;
  bench.from({ type: 'resync', session: 'me', epoch: 2, seq: 3, members: [{ id: 'm-2', polite: false }] });
  const { joined, left } = bench.events.find(({ event }) => event === 'resync');
  assert.deepEqual([joined.map(({ id }) => id), left], [['m-2'], ['m-1']]);
  assert.equal(bench.sent.length, before);
  assert.equal(bench.session.unanswered, 0);
  bench.signalFrom(3, 2).signalFrom(4, 2);
  assert.deepEqual(bench.delivered(), [4]);
  bench.from({ type: 'resync', session: 'me', epoch: 3, seq: 1, members: [{ id: 'm-2', polite: true }] });
  assert.equal(bench.session.members.get('m-2').polite, false);
});

test('a session that the server no longer knows is joined anew over the same connection', () => {
  const bench = Bench.live();
  bench.do('signal', 'lost with the session', 'm-1');
  bench.do('closed', bench.conn, 1006).pass(1000).open();
  bench.from({ type: 'error', id: bench.lastSent().id, code: 'unknown_session', message: 'gone' });
  assert.equal(bench.lastSent().type, 'join');
  assert.equal(bench.lastSent().conn, bench.conn);
  bench.joined({ session: 'me-2', resume: 'token-2' });
  assert.equal(bench.session.id, 'me-2');
  assert.equal(bench.session.unanswered, 0);
  assert.equal(bench.events.at(-1).again, true);
});

test('a refusal that passes is tried again, later', () => {
  const bench = Bench.live();
  bench.do('closed', bench.conn, 1006).pass(1000).open();
  const tries = bench.connects.length;
  bench.from({ type: 'error', code: 'store_unavailable', message: 'the store is away' });
  assert.equal(bench.connects.length, tries);
  bench.pass(1000);
  assert.equal(bench.connects.length, tries + 1);
  bench.open();
  assert.equal(bench.lastSent().type, 'resume');
});

test('tries go on, at growing distances that stay below the cap', () => {
  const bench = Bench.live();
  bench.do('closed', bench.conn, 1006);
  const at = [];
  for (let n = 0; n < 12; n += 1) {
    const before = bench.connects.length;
    while (bench.connects.length === before) bench.pass(10);
    at.push(bench.now);
    bench.do('closed', bench.conn, 1006);
  }
  const gaps = at.slice(1).map((time, n) => time - at[n]);
  assert.ok(gaps[0] < gaps[3] && gaps[3] < gaps.at(-1), `${gaps}`);
  assert.ok(Math.max(...gaps) <= 10_100, `${gaps}`);
});

test('a first join without any server fails in time, with a reason', () => {
  const bench = new Bench({ joinTimeoutMs: 5000 });
  bench.start();
  for (let n = 0; n < 100 && bench.session.phase !== 'ended'; n += 1) bench.do('closed', bench.conn, 1006).pass(400);
  assert.equal(bench.events.at(-1).event, 'ended');
  assert.equal(bench.events.at(-1).code, 'unreachable');
  assert.equal(bench.session.nextTimeout(), undefined);
});

test('a first join that was always put off fails with the reason that it was given', () => {
  const bench = new Bench({ joinTimeoutMs: 5000 });
  bench.start();
  for (let n = 0; n < 20 && bench.session.phase !== 'ended'; n += 1) {
    bench.open().from({ type: 'error', code: 'store_unavailable', message: 'try again in a few seconds' }).pass(1500);
  }
  assert.equal(bench.events.at(-1).code, 'store_unavailable');
  assert.equal(bench.events.at(-1).message, 'try again in a few seconds');
});

test('a full room ends the join with the number it takes', () => {
  const bench = new Bench();
  bench.start().open().from({ type: 'full', room: 'r', max: 2 });
  assert.equal(bench.events.at(-1).code, 'full');
  assert.equal(bench.events.at(-1).max, 2);
});

test('goaway: opens the next connection after the delay, before it leaves the first', () => {
  const bench = Bench.live();
  const first = bench.conn;
  bench.from({ type: 'goaway', reconnectInMs: 700 });
  bench.pass(699);
  assert.equal(bench.conn, first);
  bench.pass(1);
  assert.notEqual(bench.conn, first);
  bench.open();
  bench.do('received', first, { type: 'signal', epoch: 1, seq: 11, from: 'm-1', data: 11 });
  assert.deepEqual(bench.closes, []);
  bench.resumed();
  assert.deepEqual(bench.closes, [first]);
  bench.signalFrom(11).signalFrom(12);
  assert.deepEqual(bench.delivered(), [11, 12]);
  assert.ok(!bench.names().includes('lost'));
});

test('goaway: an old connection closed as superseded by our own new one ends nothing', () => {
  const bench = Bench.live();
  const first = bench.conn;
  bench.from({ type: 'goaway', reconnectInMs: 0 }).pass(0).open();
  bench.do('closed', first, CLOSE.SUPERSEDED);
  assert.equal(bench.session.phase, 'live');
  bench.resumed();
  assert.equal(bench.session.phase, 'live');
  assert.ok(!bench.names().includes('lost'));
});

test('goaway: a new connection that took the session and broke is told as a loss, and replaced', () => {
  const bench = Bench.live();
  const first = bench.conn;
  bench.from({ type: 'goaway', reconnectInMs: 0 }).pass(0).open();
  const second = bench.conn;
  bench.do('closed', first, CLOSE.SUPERSEDED).do('closed', second, 1006);
  assert.equal(bench.session.phase, 'lost');
  assert.equal(bench.names().filter((name) => name === 'lost').length, 1);
  bench.pass(5000).open();
  assert.notEqual(bench.conn, second);
  bench.resumed();
  assert.equal(bench.session.phase, 'live');
});

test('a session continued elsewhere ends here and does not fight for itself', () => {
  const bench = Bench.live();
  bench.do('closed', bench.conn, CLOSE.SUPERSEDED);
  assert.equal(bench.events.at(-1).code, 'superseded');
  assert.equal(bench.session.nextTimeout(), undefined);
});

test('a connection that went silent is found by a ping, and replaced', () => {
  const bench = Bench.live();
  bench.pass(15_000);
  assert.equal(bench.lastSent().type, 'ping');
  bench.from({ type: 'pong' }).pass(15_000);
  assert.equal(bench.sent.filter(({ type }) => type === 'ping').length, 2);
  const first = bench.conn;
  bench.pass(10_000);
  assert.deepEqual(bench.closes, [first]);
  assert.ok(bench.names().includes('lost'));
  bench.pass(500);
  assert.notEqual(bench.conn, first);
});

test('an attempt that hangs is given up for the next server', () => {
  const bench = Bench.live();
  bench.do('closed', bench.conn, 1006).pass(400);
  const hanging = bench.conn;
  bench.pass(11_000);
  assert.ok(bench.closes.includes(hanging));
  assert.notEqual(bench.conn, hanging);
});

test('asks for fresh credentials before they expire, again when unanswered, and applies the answer', () => {
  const bench = Bench.live();
  const from = bench.now;
  let asked = () => bench.sent.filter(({ type }) => type === 'ice');
  while (asked().length === 0) {
    bench.pass(1000);
    if (bench.lastSent().type === 'ping') bench.from({ type: 'pong' });
  }
  assert.ok(bench.now - from > 1_800_000 && bench.now - from < 3_500_000, `${bench.now - from}`);
  bench.from({ type: 'pong' }).pass(10_000);
  assert.equal(asked().length, 2);
  bench.from({ type: 'ice', id: asked()[1].id, iceServers: [{ urls: 'turn:new' }], expires: bench.now / 1000 + 3600 });
  assert.deepEqual(bench.session.iceServers, [{ urls: 'turn:new' }]);
  assert.equal(bench.events.at(-1).event, 'ice');
});

test('credentials that ran out during a gap are renewed after the resume', () => {
  const bench = Bench.live();
  bench.do('closed', bench.conn, 1006);
  bench.now += 3_600_000;
  bench.do('timeout').open().resumed().pass(1);
  assert.equal(bench.lastSent().type, 'ice');
});

test('keeps below the rate that the server named, and sends all in order', () => {
  const bench = new Bench();
  bench.start().open().joined({ limits: { messagesPerSecond: 10 } });
  for (let n = 0; n < 40; n += 1) bench.do('signal', n, 'm-1');
  const count = () => bench.sent.filter(({ type }) => type === 'signal').length;
  assert.ok(count() <= 8, `${count()} at once`);
  bench.pass(1000);
  assert.ok(count() <= 17, `${count()} in a second`);
  bench.pass(5000);
  assert.deepEqual(bench.sent.filter(({ type }) => type === 'signal').map(({ data }) => data), [...Array(40).keys()]);
});

test('signals refused for their rate, which the server cannot name, are sent again under their ids', () => {
  const bench = Bench.live();
  bench.do('signal', 'x', 'm-1').do('signal', 'y', 'm-1');
  const [x, y] = bench.sent.slice(-2);
  bench.from({ type: 'ack', id: x.id, seq: 11 });
  bench.from({ type: 'error', code: 'rate_limited', message: 'slower' }).pass(1000);
  assert.equal(bench.lastSent().id, y.id);
  assert.equal(bench.sent.filter(({ data }) => data === 'x').length, 1);
});

test('a signal that only part of the room got is sent again until the store is back', () => {
  const bench = Bench.live();
  bench.do('signal', 'x', 'm-1');
  const { id } = bench.lastSent();
  bench.from({ type: 'degraded', since: 1 }).from({ type: 'error', id, code: 'degraded', message: 'wait' });
  const before = bench.sent.length;
  bench.from({ type: 'recovered' });
  assert.deepEqual(bench.sent.slice(before).map((frame) => frame.id), [id]);
});

test('a signal refused for good is told and forgotten', () => {
  const bench = Bench.live();
  bench.do('signal', 'x', 'm-9');
  bench.from({ type: 'error', id: bench.lastSent().id, code: 'no_such_member', message: 'take ids from members' });
  assert.equal(bench.session.unanswered, 0);
  assert.equal(bench.events.at(-1).code, 'no_such_member');
});

test('a signal above the frame limit is refused here, counted in bytes of UTF-8', () => {
  const bench = new Bench();
  bench.start().open().joined({ limits: { frameBytes: 100 } });
  bench.do('signal', 'ü'.repeat(20), 'm-1');
  assert.equal(bench.session.unanswered, 1);
  bench.do('signal', 'ü'.repeat(40), 'm-1');
  assert.equal(bench.session.unanswered, 1);
  assert.equal(bench.events.at(-1).code, 'too_large');
});

test('degraded and recovered are told and remembered', () => {
  const bench = Bench.live();
  bench.from({ type: 'degraded', since: 17 });
  assert.equal(bench.session.degradedSince, 17);
  bench.from({ type: 'recovered' });
  assert.equal(bench.session.degradedSince, undefined);
  assert.deepEqual(bench.names().slice(-2), ['degraded', 'recovered']);
});

test('leaves: says so, closes, and does nothing more', () => {
  const bench = Bench.live();
  bench.do('leave');
  assert.equal(bench.lastSent().type, 'leave');
  assert.equal(bench.events.at(-1).code, 'left');
  assert.equal(bench.session.nextTimeout(), undefined);
  bench.signalFrom(30);
  assert.deepEqual(bench.delivered(), []);
});

test('whatever the order of losses, repeats and resumes: each signal once, each own signal sent until answered', () => {
  for (let seed = 1; seed <= 200; seed += 1) {
    const random = mulberry32(seed);
    const bench = Bench.live({ random });
    const log = []; // the room: what each seq holds
    const server = new Map(); // id -> data, deduplicated as the server does
    let answered = 0;
    const expected = [];
    const own = [];
    const takeSent = () => {
      for (const frame of bench.sent.splice(0)) {
        if (frame.type !== 'signal') continue;
        if (!server.has(frame.id)) server.set(frame.id, frame.data);
        // Half of the answers are lost with the connection.
        if (bench.session.phase === 'live' && random() < 0.5) {
          bench.from({ type: 'ack', id: frame.id });
          answered += 1;
        }
      }
    };
    const reconnect = () => {
      bench.do('closed', bench.conn, 1006);
      while (bench.session.phase !== 'live') {
        const before = bench.conn;
        while (bench.conn === before) bench.pass(50);
        if (random() < 0.3) {
          bench.do('closed', bench.conn, 1006);
          continue;
        }
        bench.open();
        const { seq } = bench.lastSent();
        bench.resumed({ seq: 10 + log.length });
        // It may repeat some of what was seen.
        for (let n = Math.max(11, seq - Math.floor(random() * 3)); n <= 10 + log.length; n += 1) bench.signalFrom(n);
      }
    };
    for (let n = 0; n < 60; n += 1) {
      const dice = random();
      if (dice < 0.4) {
        log.push(n);
        expected.push(10 + log.length);
        if (random() < 0.8) for (let k = bench.session.seq + 1; k <= 10 + log.length; k += 1) bench.signalFrom(k);
      } else if (dice < 0.8) {
        own.push(n);
        bench.do('signal', n, 'm-1');
      } else if (dice < 0.9) {
        reconnect();
      }
      takeSent();
    }
    reconnect();
    takeSent();
    assert.deepEqual(bench.delivered(), expected, `seed ${seed}`);
    assert.deepEqual([...server.values()], own, `seed ${seed}`);
    assert.equal(bench.session.unanswered, own.length - answered, `seed ${seed}`);
  }
});

function mulberry32(seed) {
  let a = seed;
  return () => {
    a = (a + 0x6d2b79f5) | 0;
    let t = Math.imul(a ^ (a >>> 15), 1 | a);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  };
}
