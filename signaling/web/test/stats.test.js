import { test } from 'node:test';
import assert from 'node:assert/strict';
import { describePair, summarize } from '../stats.js';

const reports = (list) => new Map(list.map((report) => [report.id, report]));

function chromium({ at = 1000, bytesSent = 1000, bytesReceived = 2000, relayProtocol = 'tcp' } = {}) {
  return reports([
    { id: 'T', type: 'transport', timestamp: at, selectedCandidatePairId: 'P2' },
    { id: 'P1', type: 'candidate-pair', timestamp: at, state: 'succeeded', nominated: true, bytesSent: 1, bytesReceived: 1 },
    { id: 'P2', type: 'candidate-pair', timestamp: at, localCandidateId: 'L', remoteCandidateId: 'R', currentRoundTripTime: 0.012, bytesSent, bytesReceived },
    { id: 'L', type: 'local-candidate', candidateType: 'relay', protocol: 'udp', relayProtocol, url: 'turn:h:3478?transport=tcp' },
    { id: 'R', type: 'remote-candidate', candidateType: 'srflx', protocol: 'udp' },
    { id: 'IV', type: 'inbound-rtp', kind: 'video', framesDecoded: 30, framesPerSecond: 29, frameWidth: 640, frameHeight: 480, packetsLost: 1, packetsReceived: 90, jitter: 0.004 },
    { id: 'IA', type: 'inbound-rtp', kind: 'audio', packetsLost: 2, packetsReceived: 10, jitter: 0.001 },
  ]);
}

test('names the pair in use, not another that also succeeded', () => {
  const { pair } = summarize(chromium());
  assert.equal(pair.local.type, 'relay');
  assert.equal(pair.local.relayProtocol, 'tcp');
  assert.equal(pair.remote.type, 'srflx');
  assert.equal(pair.rttMs, 12);
});

test('a relayed address that a NAT rewrote still counts as relayed', () => {
  const list = chromium();
  list.get('L').candidateType = 'prflx';
  assert.equal(summarize(list).pair.relayed, true);
  delete list.get('L').relayProtocol;
  assert.equal(summarize(list).pair.relayed, false);
});

test('rates come from two summaries', () => {
  const first = summarize(chromium());
  assert.equal(first.bitrateIn, null);
  const second = summarize(chromium({ at: 3000, bytesSent: 26_000, bytesReceived: 52_000 }), first);
  assert.equal(second.bitrateOut, 100_000);
  assert.equal(second.bitrateIn, 200_000);
});

test('a new pair, which counts from zero, gives no negative rate', () => {
  const first = summarize(chromium({ bytesSent: 9000 }));
  assert.equal(summarize(chromium({ at: 2000, bytesSent: 100 }), first).bitrateOut, null);
});

test('frames and losses are added up', () => {
  const summary = summarize(chromium());
  assert.equal(summary.framesDecoded, 30);
  assert.equal(summary.packetsLost, 3);
  assert.equal(summary.jitterMs, 4);
  assert.deepEqual([summary.width, summary.height], [640, 480]);
});

test('reads Firefox, which marks the pair itself', () => {
  const { pair } = summarize(reports([
    { id: 'P', type: 'candidate-pair', timestamp: 1, selected: true, state: 'succeeded', localCandidateId: 'L', remoteCandidateId: 'R' },
    { id: 'L', type: 'local-candidate', candidateType: 'host', protocol: 'udp' },
    { id: 'R', type: 'remote-candidate', candidateType: 'host', protocol: 'udp' },
  ]));
  assert.equal(describePair(pair), 'direct, same network (UDP)');
  assert.equal(pair.rttMs, null);
});

test('before there is a path, says so', () => {
  const summary = summarize(reports([]));
  assert.equal(summary.pair, null);
  assert.equal(describePair(summary.pair), 'no path yet');
});

test('says in words how the relay is reached', () => {
  assert.equal(describePair(summarize(chromium()).pair), 'relayed, TURN over TCP');
  assert.equal(describePair(summarize(chromium({ relayProtocol: 'udp' })).pair), 'relayed, TURN over UDP');
});
