/** The page: start, join, call, over. The call itself is client.js. */

import { join } from './client.js';
import { describePair } from './stats.js';
import { Chat } from './chat.js';
import { $, $$, notice } from './dom.js';
import { Grid } from './grid.js';
import { openMedia } from './media.js';
import * as memory from './memory.js';
import { Panel } from './panel.js';
import { Gallery, picture } from './snapshot.js';
import { Tokens, claims } from './tokens.js';
import { suggestRoom, tidyRoom } from './words.js';
import { automation } from './automation.js';

const POLL_MS = 1000;
const parameters = new URLSearchParams(location.search);
const room = roomOf(location.pathname);

const page = {
  state: 'start',
  room,
  name: parameters.get('name') ?? memory.recallName() ?? '',
  error: null,
  troubles: [],
  call: undefined,
  media: undefined,
  stats: {},
  names: new Map(),
  grid: new Grid($('#grid')),
  panel: new Panel(),
  tokens: new Tokens(room),
  gallery: new Gallery(),
  chat: new Chat((text) => say(text)),
  say,
  takeSnapshot,
};
window.rtc = automation(page);

function roomOf(path) {
  try {
    return decodeURIComponent(/^\/r\/([^/]+)\/?$/.exec(path)?.[1] ?? '');
  } catch {
    return '';
  }
}

// ---- views ----

function show(view) {
  page.state = view;
  document.body.dataset.view = view;
  for (const id of ['start', 'token', 'prejoin', 'call', 'over']) $(`#${id}`).hidden = id !== view;
  document.title = view === 'start' ? 'Start a call' : `${room} · call`;
}

function startPage() {
  const input = $('#room-name');
  input.value = suggestRoom();
  $('#start-name').value = page.name;
  $('#shuffle').addEventListener('click', () => {
    input.value = suggestRoom();
    input.focus();
  });
  $('#start-form').addEventListener('submit', (event) => {
    event.preventDefault();
    const name = tidyRoom(input.value);
    if (!name) {
      input.setCustomValidity('Use at least one letter or digit.');
      input.reportValidity();
      input.addEventListener('input', () => input.setCustomValidity(''), { once: true });
      return;
    }
    memory.rememberName($('#start-name').value.trim());
    memory.enter(name);
    location.assign(`/r/${encodeURIComponent(name)}${location.search}`);
  });
  show('start');
}

// Rooms of an application are entered with its tokens; who has none is told, and asked.
async function admit(then) {
  if ((await page.tokens.find()) !== 'missing') {
    then();
    return;
  }
  show('token');
  const input = $('#token-text');
  $('#token-form').onsubmit = (event) => {
    event.preventDefault();
    if (!claims(input.value.trim())) {
      input.setCustomValidity('This is no token: three parts of letters and digits, with dots between them.');
      input.reportValidity();
      input.addEventListener('input', () => input.setCustomValidity(''), { once: true });
      return;
    }
    page.tokens.give(input.value);
    input.value = '';
    then();
  };
  input.focus();
}

// A link alone must not switch a camera on towards strangers, so it shows this first. Who comes from the start
// page, or reloads a call, has already said that they want in; a browser driven by WebDriver has nobody to ask.
async function prejoin() {
  show('prejoin');
  $('#prejoin-name').value = page.name;
  const preview = $('#preview');
  await open();
  preview.srcObject = page.media.stream;
  preview.classList.toggle('mirror', !page.media.drawn);
  $('#preview-note').textContent = page.media.notice ?? '';
  $('#preview-note').hidden = !page.media.notice;
  updateToggles();
  if (matchMedia('(min-width: 700px)').matches) $('#prejoin-name').focus();
}

async function open() {
  page.media ??= await openMedia(() => page.name);
  updateToggles();
}

async function enter() {
  show('call');
  status('Joining…', 'busy');
  await open();
  if (page.media.notice) notice(page.media.notice, { key: 'media', tone: 'warn' });
  page.error = null;
  page.grid.clear();
  const self = page.grid.add('self', `${page.name || 'You'}${page.name ? ' (you)' : ''}`, { self: true });
  self.show(page.media.stream);
  self.video.classList.toggle('mirror', !page.media.drawn);
  updateToggles();
  const waiting = setTimeout(() => status('The server is slow to answer…', 'warn'), 4000);
  try {
    const call = await join({
      url: location.origin,
      room,
      token: page.tokens.option,
      name: page.name || undefined,
      localStream: page.media.stream,
      relayOnly: $('#relay-only').checked,
      transport: $('#transport').value,
      signalingTransport: parameters.get('signaling') ?? undefined,
      keepSeat: true,
    });
    memory.enter(room);
    attach(call);
  } catch (error) {
    over(error.code, error.message);
  } finally {
    clearTimeout(waiting);
  }
}

const ENDINGS = {
  left: ['You left the call', 'Join again'],
  full: ['This room is full', 'Try again'],
  unreachable: ['The server does not answer', 'Try again'],
  store_unavailable: ['The server is not ready', 'Try again'],
  too_many_rooms: ['The server is full', 'Try again'],
  superseded: ['The call went on elsewhere', 'Join here'],
  kicked: ['You were removed from this room', 'Join again'],
  unauthorized: ['The token was not accepted', 'Use another one'],
  expired: ['The token has expired', 'Use another one'],
  forbidden: ['The token is for other rooms', 'Use another one'],
  no_token: ['There is no token to join with', 'Try again'],
};

function over(code, message) {
  const [title, again] = ENDINGS[code] ?? ['The call could not begin', 'Try again'];
  page.error = code === 'left' ? null : { code, message };
  if (code === 'left') memory.leave(room);
  if (['unauthorized', 'expired', 'forbidden'].includes(code)) page.tokens.forget();
  page.media?.stream.getTracks().forEach((track) => track.stop());
  page.media = undefined;
  page.grid.clear();
  $('#notices').replaceChildren();
  $('#over-title').textContent = title;
  $('#over-text').textContent = message;
  $('#again').textContent = again;
  show('over');
  $('#again').focus();
}

// ---- the call ----

function attach(call) {
  page.call = call;
  page.panel.attach(call);
  status('Connected', 'good');
  alone();
  call.on('rejoined', () => notice('The connection was away for too long, so you joined again as a new member.', { key: 'rejoined', seconds: 8 }));
  call.on('member-joined', ({ member }) => memberJoined(member));
  call.on('member-left', ({ member, reason }) => memberLeft(member, reason));
  call.on('stream', ({ member, stream }) => play(member, stream));
  call.on('peer-state', ({ member, state }) => peerState(member, state));
  call.on('channel-open', ({ member }) => call.send(deviceState(), member.id));
  call.on('message', ({ member, message }) => message?.type === 'devices' && devicesOf(member, message));
  call.on('chat', ({ member, text, at }) => said({ from: member.id, name: nameOf(member), text, at, mine: false }));
  call.on('file-progress', ({ member, transfer, name, received, total }) => page.gallery.progress(`${member.id}/${transfer}`, `${name} from ${nameOf(member)}`, total ? received / total : 1));
  call.on('file', ({ member, transfer, name, blob }) => {
    page.gallery.done(`${member.id}/${transfer}`);
    page.gallery.add({ blob, name, from: member.id, by: nameOf(member), mine: false });
    unread('photos');
  });
  call.on('trouble', ({ code, message }) => trouble(code, message));
  call.on('lost', () => status('Reconnecting…', 'warn'));
  call.on('retrying', ({ attempt }) => attempt > 2 && notice('The signaling server does not answer. What runs goes on; new people can only come in when it is back.', { key: 'signaling', tone: 'warn' }));
  call.on('resumed', back);
  call.on('resync', back);
  call.on('goaway', () => status('Moving to another server…', 'busy'));
  call.on('degraded', () => status('Connected, server degraded', 'warn'));
  call.on('recovered', back);
  call.on('error', ({ code, message }) => code !== 'no_such_member' && notice(message, { key: code, tone: 'warn', seconds: 10 }));
  call.on('ended', ({ code, message }) => over(code, message));
}

function back() {
  status('Connected', 'good');
  $$('.notice[data-key="signaling"]').forEach((node) => node.remove());
}

function memberJoined(member) {
  page.names.set(member.id, member.name || 'Guest');
  page.grid.add(member.id, nameOf(member));
  page.panel.add(member);
  page.chat.note(`${nameOf(member)} is here`);
  alone();
}

function memberLeft(member, reason) {
  page.grid.remove(member.id);
  page.panel.remove(member.id);
  delete page.stats[member.id];
  if (reason !== 'rejoined' && reason !== 'ended') page.chat.note(`${nameOf(member)} ${reason === 'lost' ? 'lost the connection' : 'left'}`);
  alone();
}

async function play(member, stream) {
  const error = await page.grid.get(member.id)?.show(stream);
  // Some browsers let nothing sound before the first touch of a page.
  if (error?.name === 'NotAllowedError') {
    notice('The browser waits for a click before it plays sound.', { key: 'autoplay', action: { label: 'Play', run: () => $$('.tile:not(.self) video').forEach((video) => video.play()) } });
  }
}

function peerState(member, state) {
  const tile = page.grid.get(member.id);
  if (tile) tile.state = state;
  if (state === 'connected') $$('.notice[data-key="relay_unreachable"], .notice[data-key="no_relay"]').forEach((node) => node.remove());
}

function trouble(code, message) {
  page.troubles.push({ code, message, at: Date.now() });
  if (page.troubles.length > 50) page.troubles.shift();
  const action = (code === 'relay_unreachable' || code === 'no_relay') && page.call.relayOnly
    ? { label: 'Let it go direct', run: () => setRelayOnly(false) }
    : undefined;
  if (code !== 'negotiation' && code !== 'candidate') notice(message, { key: code, tone: 'error', action });
}

function status(text, tone) {
  $('#status').textContent = text;
  $('#status').dataset.tone = tone;
}

function alone() {
  $('#alone').hidden = (page.call?.members.length ?? 0) > 0;
}

function nameOf(member) {
  return page.names.get(member.id) ?? member.name ?? 'Guest';
}

async function poll() {
  if (page.call && page.state === 'call') {
    page.stats = await page.call.stats();
    page.panel.update(page.stats, page.tokens.about);
    for (const [id, summary] of Object.entries(page.stats)) {
      const tile = page.grid.get(id);
      if (!tile || !summary) continue;
      tile.path.hidden = !summary.pair;
      tile.path.textContent = summary.pair ? pathLabel(summary.pair) : '';
      tile.path.title = describePair(summary.pair);
    }
  }
  setTimeout(poll, POLL_MS);
}

function pathLabel(pair) {
  const kind = pair.relayed ? `relay ${(pair.local.relayProtocol ?? 'udp').toUpperCase()}` : pair.remote.type === 'relay' ? 'relay' : 'direct';
  return pair.rttMs === null ? kind : `${kind} · ${Math.max(1, Math.round(pair.rttMs))} ms`;
}

// ---- chat, snapshots ----

function say(text) {
  const { at } = page.call.chat(text);
  said({ from: page.call.id, name: page.name, text, at, mine: true });
  if (page.call.members.length === 0) page.chat.note('Nobody else is here yet, so nobody got this.');
}

function said(message) {
  page.chat.add(message);
  if (!message.mine) unread('chat');
}

async function takeSnapshot() {
  try {
    const { blob } = await picture(page.grid.get('self').video);
    document.body.classList.add('flash');
    setTimeout(() => document.body.classList.remove('flash'), 250);
    openPane('photos');
    return await share(blob, `snapshot-${new Date().toISOString().replace(/[:.]/g, '-')}.jpg`);
  } catch (error) {
    notice(`The snapshot failed: ${error.message}`, { key: 'snapshot', tone: 'error', seconds: 8 });
    return [];
  }
}

let shared = 0;
async function share(blob, name) {
  page.gallery.add({ blob, name, from: page.call.id, by: page.name, mine: true });
  if (page.call.members.length === 0) {
    notice('Nobody else is here yet, so it was not sent.', { key: 'share', seconds: 6 });
    return [];
  }
  const key = `own/${shared++}`;
  page.gallery.progress(key, `Sending ${name}`, 0);
  const outcomes = await page.call.sendFile(blob, { name, onProgress: (fraction) => fraction < 1 && page.gallery.progress(key, `Sending ${name}`, fraction) });
  page.gallery.done(key);
  for (const { member, error } of outcomes) {
    if (error) notice(`${nameOf(member)} did not get ${name}: ${error.message}`, { key: `${key}/${member.id}`, tone: 'warn', seconds: 10 });
  }
  return outcomes;
}

// ---- controls ----

function setRelayOnly(on) {
  $('#relay-only').checked = on;
  page.call?.setRelayOnly(on);
  reflect('relay', on ? '1' : null);
}

function toggle(kind) {
  const tracks = page.media?.stream.getTracks().filter((track) => track.kind === kind) ?? [];
  if (tracks.length === 0) {
    notice(kind === 'audio' ? 'There is no microphone to switch on.' : 'There is no camera to switch on.', { key: `no-${kind}`, seconds: 5 });
    return;
  }
  const on = !tracks[0].enabled;
  for (const track of tracks) track.enabled = on;
  updateToggles();
  page.call?.send(deviceState());
}

function isOn(kind) {
  return page.media?.stream.getTracks().some((track) => track.kind === kind && track.enabled) ?? false;
}

function deviceState() {
  return { type: 'devices', audio: isOn('audio'), video: isOn('video') };
}

function devicesOf(member, { audio, video }) {
  const tile = page.grid.get(member.id);
  if (!tile) return;
  tile.microphone = audio === true;
  tile.camera = video === true;
}

function updateToggles() {
  for (const button of $$('[data-toggle]')) {
    const kind = button.dataset.toggle;
    const on = isOn(kind);
    const name = kind === 'audio' ? 'mic' : 'cam';
    $('use', button).setAttribute('href', `#i-${name}${on ? '' : '-off'}`);
    button.setAttribute('aria-pressed', String(on));
    button.title = kind === 'audio' ? (on ? 'Mute (M)' : 'Unmute (M)') : (on ? 'Camera off (V)' : 'Camera on (V)');
    const label = $('.label', button);
    if (label && kind === 'audio') label.textContent = on ? 'Mute' : 'Unmute';
  }
  const self = page.grid.get('self');
  if (self) {
    self.microphone = isOn('audio');
    self.camera = isOn('video');
  }
}

let pane;
function openPane(name) {
  pane = name;
  $('#side').hidden = false;
  $('#call').dataset.side = 'open';
  for (const tab of $$('[role="tab"]')) {
    const selected = tab.dataset.pane === name;
    tab.setAttribute('aria-selected', String(selected));
    tab.tabIndex = selected ? 0 : -1;
    $(`#pane-${tab.dataset.pane}`).hidden = !selected;
  }
  $$(`[data-unread="${name}"]`).forEach((badge) => {
    badge.hidden = true;
    badge.textContent = '';
  });
  expanded();
}

function closePane() {
  pane = undefined;
  $('#side').hidden = true;
  delete $('#call').dataset.side;
  expanded();
}

function expanded() {
  $$('[data-open]').forEach((button) => button.setAttribute('aria-expanded', String(button.dataset.open === pane)));
}

function unread(name) {
  if (pane === name) return;
  for (const badge of $$(`[data-unread="${name}"]`)) {
    badge.hidden = false;
    badge.textContent = String(Number(badge.textContent || 0) + 1);
  }
}

async function copyLink() {
  const link = shareLink();
  try {
    await navigator.clipboard.writeText(link);
    notice('Link copied. Whoever opens it can join.', { key: 'copied', seconds: 4 });
  } catch {
    // Without https there is no clipboard; the link is then shown to be copied by hand.
    $('#invite-dialog').showModal();
  }
}

function shareLink() {
  return `${location.origin}/r/${encodeURIComponent(room)}`;
}

function showCodes() {
  for (const node of $$('[data-link]')) node.textContent = shareLink();
  for (const image of $$('[data-qr]')) {
    image.addEventListener('load', () => (image.hidden = false));
    image.src = `/qr.svg?url=${encodeURIComponent(shareLink())}`;
  }
}

function wire() {
  for (const node of $$('[data-room]')) node.textContent = room;
  $('#prejoin-form').addEventListener('submit', (event) => {
    event.preventDefault();
    page.name = $('#prejoin-name').value.trim();
    memory.rememberName(page.name);
    enter();
  });
  $('#prejoin-name').addEventListener('input', ({ target }) => (page.name = target.value.trim()));
  $('#again').addEventListener('click', () => admit(enter));
  $('#leave').addEventListener('click', () => page.call?.leave());
  $('#copy-link').addEventListener('click', copyLink);
  $('#invite').addEventListener('click', () => $('#invite-dialog').showModal());
  $$('[data-copy]').forEach((button) => button.addEventListener('click', copyLink));
  $$('[data-toggle]').forEach((button) => button.addEventListener('click', () => toggle(button.dataset.toggle)));
  $$('[data-snap]').forEach((button) => button.addEventListener('click', takeSnapshot));
  $$('[data-open]').forEach((button) => button.addEventListener('click', () => (pane === button.dataset.open ? closePane() : openPane(button.dataset.open))));
  $('#side-close').addEventListener('click', closePane);
  $('#relay-only').addEventListener('change', ({ target }) => setRelayOnly(target.checked));
  $('#transport').addEventListener('change', ({ target }) => {
    page.call?.setTransport(target.value);
    reflect('transport', target.value === 'any' ? null : target.value);
  });
  $('#renew').addEventListener('click', () => page.call?.refreshCredentials());
  $('#file').addEventListener('change', ({ target }) => {
    for (const file of target.files) share(file, file.name);
    target.value = '';
  });
  $('#invite-dialog').addEventListener('click', ({ target }) => target === $('#invite-dialog') && target.close());
  wireTabs();
  wireKeys();
}

function wireTabs() {
  const tabs = $$('[role="tab"]');
  for (const [n, tab] of tabs.entries()) {
    tab.addEventListener('click', () => openPane(tab.dataset.pane));
    tab.addEventListener('keydown', ({ key }) => {
      const step = { ArrowRight: 1, ArrowLeft: -1 }[key];
      if (!step) return;
      const next = tabs[(n + step + tabs.length) % tabs.length];
      openPane(next.dataset.pane);
      next.focus();
    });
  }
}

function wireKeys() {
  document.addEventListener('keydown', (event) => {
    if (page.state !== 'call' || event.ctrlKey || event.metaKey || event.altKey || event.repeat) return;
    if (event.target.closest('input, select, textarea, dialog')) return;
    const run = { m: () => toggle('audio'), v: () => toggle('video'), s: takeSnapshot, c: () => openPane('chat') }[event.key.toLowerCase()];
    if (event.key === 'Escape' && pane) closePane();
    else run?.();
  });
}

// The address keeps the route, so that a reload or a shared link has the same.
function reflect(key, value) {
  const url = new URL(location.href);
  if (value === null) url.searchParams.delete(key);
  else url.searchParams.set(key, value);
  history.replaceState(history.state, '', url);
}

// ---- begin ----

if (!room) {
  startPage();
} else {
  wire();
  showCodes();
  $('#relay-only').checked = parameters.get('relay') === '1';
  $('#transport').value = ['udp', 'tcp'].includes(parameters.get('transport')) ? parameters.get('transport') : 'any';
  if (matchMedia('(min-width: 1100px)').matches) openPane('path');
  const rest = page.tokens.take(location.hash);
  if (rest !== location.hash) history.replaceState(history.state, '', location.pathname + location.search + rest);
  admit(memory.wasEntered(room) || navigator.webdriver ? enter : prejoin);
  poll();
}
