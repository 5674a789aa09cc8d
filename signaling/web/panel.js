/** How the call flows: per person the path in use and its quality, the credentials' life, the signaling. */

import { describePair } from './client.js';
import { $, bitrate, duration, element } from './dom.js';
import { Plot } from './plot.js';

const TYPES = { host: 'host', srflx: 'reflexive', prflx: 'reflexive', relay: 'relay' };

class PeerCard {
  constructor(member) {
    this.name = element('h2', { textContent: member.name || 'Guest' });
    this.state = element('span', { className: 'pill', 'data-tone': 'busy', textContent: 'connecting' });
    this.hops = element('ol', { className: 'hops' });
    this.words = element('p', { className: 'words', textContent: 'no path yet' });
    this.rtt = measure('Round trip', new Plot({ series: ['rtt'], label: 'Round-trip time over the last minute', floor: 5 }));
    this.rate = measure('In / out', new Plot({ series: ['in', 'out'], label: 'Bitrate in and out over the last minute', floor: 50_000 }));
    this.facts = element('p', { className: 'hint tight' });
    this.node = element('section', { className: 'box peer' }, element('header', {}, this.name, this.state), this.hops, this.words, element('div', { className: 'measures' }, this.rtt.node, this.rate.node), this.facts);
  }

  update({ state, counts }, summary) {
    const tone = { connected: 'good', interrupted: 'warn' }[state] ?? 'busy';
    this.state.dataset.tone = tone;
    this.state.textContent = state;
    const pair = summary?.pair ?? null;
    this.words.textContent = describePair(pair);
    this.hops.replaceChildren(...hops(pair));
    this.rtt.set(pair?.rttMs === null || !pair ? '–' : `${pair.rttMs < 10 ? pair.rttMs.toFixed(1) : Math.round(pair.rttMs)} ms`, [pair?.rttMs ?? null]);
    this.rate.set(`${bitrate(summary?.bitrateIn)} / ${bitrate(summary?.bitrateOut)}`, [summary?.bitrateIn ?? null, summary?.bitrateOut ?? null]);
    const facts = [];
    if (summary?.width) facts.push(`${summary.width}×${summary.height} at ${Math.round(summary.framesPerSecond ?? 0)} fps`);
    if (summary?.packetsReceived) facts.push(`${((100 * summary.packetsLost) / (summary.packetsLost + summary.packetsReceived)).toFixed(1)} % lost`);
    if (counts.iceRestarts) facts.push(`${counts.iceRestarts} ICE restart${counts.iceRestarts > 1 ? 's' : ''}`);
    if (counts.signalsOverChannel) facts.push(`${counts.signalsOverChannel} signal${counts.signalsOverChannel > 1 ? 's' : ''} over the data channel`);
    this.facts.textContent = facts.join(' · ');
  }
}

function measure(title, plot) {
  const value = element('strong', { textContent: '–' });
  const node = element('div', { className: 'measure' }, element('span', { className: 'title', textContent: title }), value, plot.node);
  return {
    node,
    set(text, sample) {
      value.textContent = text;
      plot.push(sample);
    },
  };
}

// You, the relays between, and them: as a chain, each leg with its transport.
function hops(pair) {
  const stop = (text, kind, title = '') => element('li', { className: `stop ${kind}`, textContent: text, title });
  const leg = (over) => element('li', { className: 'leg', textContent: over });
  if (!pair) return [stop('You', 'end'), leg('…'), stop('They', 'end')];
  const { local, remote, relayed } = pair;
  const chain = [stop('You', 'end', `local candidate: ${TYPES[local.type] ?? local.type}`)];
  if (relayed) chain.push(leg((local.relayProtocol ?? 'udp').toUpperCase()), stop('TURN', 'relay', local.url));
  // How the other side reaches its relay, only it knows.
  if (remote.type === 'relay') chain.push(leg('UDP'), stop('TURN', 'relay', 'their relay'), leg(''));
  else chain.push(leg((local.protocol ?? 'udp').toUpperCase()));
  chain.push(stop('They', 'end', `remote candidate: ${TYPES[remote.type] ?? remote.type}`));
  return chain;
}

export class Panel {
  #cards = new Map();
  #call;
  #life = 1;
  #expires = 0;

  /** @param {import('./client.js').Call} call */
  attach(call) {
    this.#call = call;
    this.#cards.clear();
    $('#peers').replaceChildren();
  }

  add(member) {
    const card = new PeerCard(member);
    this.#cards.set(member.id, card);
    $('#peers').append(card.node);
  }

  remove(id) {
    this.#cards.get(id)?.node.remove();
    this.#cards.delete(id);
  }

  /** @param {Record<string, import('./stats.js').Summary | null>} stats */
  update(stats, token) {
    for (const [id, card] of this.#cards) {
      const peer = this.#call.peer(id);
      if (peer) card.update(peer, stats[id]);
    }
    this.#credentials();
    this.#signaling();
    this.#token(token);
  }

  #credentials() {
    const { expires, username, urls } = this.#call.credentials;
    const left = expires - Date.now() / 1000;
    if (expires !== this.#expires) {
      this.#expires = expires;
      this.#life = Math.max(1, left);
    }
    $('#expiry').textContent = !expires ? 'no credentials' : left > 0 ? `${duration(left)} left` : 'expired';
    $('#expiry-bar').value = expires ? Math.max(0, Math.min(1, left / this.#life)) : 0;
    $('#turn-user').textContent = username ?? 'none';
    $('#turn-urls').replaceChildren(...lines(urls.length ? urls : ['none']));
  }

  #token({ source, user, expires }) {
    $('#token-box').hidden = source === 'none';
    if (source === 'none') return;
    const left = expires === null ? null : expires - Date.now() / 1000;
    const rows = [
      ['You are', user ?? '–'],
      ['Valid', left === null ? '–' : left > 0 ? `${duration(left)} more` : 'no longer'],
      ['Then', source === 'server' ? 'this server gives a fresh one' : 'the call ends; join with a fresh one'],
    ];
    $('#token-facts').replaceChildren(...rows.flatMap(([key, value]) => [element('dt', { textContent: key }), element('dd', { textContent: value })]));
  }

  #signaling() {
    const { phase, transport, url, replica, epoch, seq, resumed, rejoined, resync, degradedSince } = this.#call.signaling;
    const rows = [
      ['State', { live: degradedSince ? 'connected, store is down' : 'connected', lost: 'reconnecting', connecting: 'connecting', ended: 'ended' }[phase] ?? phase],
      ['Server', url ? new URL(url).host : '–'],
      ...(replica ? [['Replica', replica]] : []),
      ...(transport ? [['By', { websocket: 'WebSocket', stream: 'event stream', poll: 'polling' }[transport]]] : []),
      ['Position', `epoch ${epoch}, seq ${seq}`],
      ['Resumed', times(resumed) + (resync ? `, resync ${times(resync)}` : '') + (rejoined ? `, joined anew ${times(rejoined)}` : '')],
      ['You', this.#call.id ?? '–'],
    ];
    $('#signaling-facts').replaceChildren(...rows.flatMap(([key, value]) => [element('dt', { textContent: key }), element('dd', { textContent: value })]));
  }
}

function times(n) {
  return n === 0 ? 'never' : n === 1 ? 'once' : `${n} times`;
}

function lines(list) {
  return list.flatMap((text, n) => (n ? [element('br'), text] : [text]));
}
