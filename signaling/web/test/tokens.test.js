import { test } from 'node:test';
import assert from 'node:assert/strict';
import { Tokens, claims } from '../tokens.js';

const part = (value) => Buffer.from(JSON.stringify(value)).toString('base64url');
const jwt = (said) => `${part({ alg: 'HS256' })}.${part(said)}.c2lnbmF0dXJl`;

function storage() {
  const items = new Map();
  return { items, getItem: (key) => items.get(key) ?? null, setItem: (key, text) => items.set(key, text), removeItem: (key) => items.delete(key) };
}

/** A server that answers so, and what it was asked. */
function server(status, ...texts) {
  const asked = [];
  const fetch = async (url) => {
    asked.push(new URL(url, 'http://a'));
    return { status, text: async () => texts[Math.min(asked.length, texts.length) - 1] ?? '' };
  };
  return { asked, fetch };
}

test('reads what a token says of itself, and takes everything else for none', () => {
  assert.deepEqual(claims(jwt({ sub: 'Zoë/7', exp: 5 })), { sub: 'Zoë/7', exp: 5 });
  for (const bad of ['', 'x', 'a.b.c', `a.${part(7)}.c`, 'a.e30', undefined]) assert.ok(!claims(bad)?.sub, bad);
});

test('without any there is none to show', async () => {
  const tokens = new Tokens('r', { storage: storage(), ...server(204) });
  assert.equal(await tokens.find(), 'none');
  assert.equal(tokens.option, undefined);
  assert.deepEqual(tokens.about, { source: 'none', user: null, expires: null });
});

test('a server that gives them is asked for each, by the same guest', async () => {
  const place = storage();
  const { asked, fetch } = server(200, jwt({ sub: 'g', exp: 1 }), jwt({ sub: 'g', exp: 2 }), jwt({ sub: 'g', exp: 3 }));
  const tokens = new Tokens('a room', { storage: place, fetch });
  assert.equal(await tokens.find(), 'server');
  assert.equal(claims(await tokens.option()).exp, 2);
  assert.equal(claims(await tokens.option()).exp, 3);
  assert.deepEqual(tokens.about, { source: 'server', user: 'g', expires: 3 });
  await new Tokens('a room', { storage: place, fetch }).find();
  const users = new Set(asked.map(({ searchParams }) => searchParams.get('user')));
  assert.equal(users.size, 1);
  assert.match([...users][0], /^[0-9a-f]{12}$/);
  assert.ok(asked.every(({ pathname, searchParams }) => pathname === '/token' && searchParams.get('room') === 'a room'));
});

test('where storage is forbidden a guest stays the same as long as the page', async () => {
  const { asked, fetch } = server(200, jwt({ sub: 'g' }));
  const tokens = new Tokens('r', { storage: undefined, fetch });
  await tokens.find();
  await tokens.option();
  assert.equal(asked[0].href, asked[1].href);
});

test('a server that gives none any more is an error that says so', async () => {
  const tokens = new Tokens('r', { storage: storage(), ...server(200, jwt({ sub: 'g' })) });
  await tokens.find();
  const late = new Tokens('r', { storage: storage(), ...server(503) });
  late.source = 'server';
  await assert.rejects(late.option(), /503/);
});

test('one of a link is kept for the tab, out of the address, and not asked for', async () => {
  const place = storage();
  const { asked, fetch } = server(401);
  const tokens = new Tokens('r', { storage: place, fetch });
  assert.equal(await tokens.find(), 'missing');
  assert.equal(tokens.option, undefined);
  const given = jwt({ sub: 'ada', exp: 7 });
  assert.equal(tokens.take(`#token=${given}&x=1`), '#x=1');
  assert.equal(tokens.take('#x=1'), '#x=1');
  assert.equal(tokens.take(''), '');
  assert.equal(await tokens.find(), 'given');
  assert.equal(tokens.option, given);
  assert.deepEqual(tokens.about, { source: 'given', user: 'ada', expires: 7 });
  const reloaded = new Tokens('r', { storage: place, fetch });
  assert.equal(await reloaded.find(), 'given');
  assert.equal(reloaded.option, given);
  const elsewhere = new Tokens('other', { storage: place, fetch });
  assert.equal(await elsewhere.find(), 'missing');
  assert.equal(asked.length, 2);
  reloaded.forget();
  assert.equal(await reloaded.find(), 'missing');
  assert.ok(![...place.items.values()].includes(given));
});

test('a server that does not answer leaves it to the call to say so', async () => {
  const fetch = async () => { throw new TypeError('no network'); };
  const tokens = new Tokens('r', { storage: storage(), fetch });
  assert.equal(await tokens.find(), 'none');
});
