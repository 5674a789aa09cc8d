/** Makes a short summary of getStats(): which way the media takes, how fast, how well. */

/**
 * @typedef {object} Summary
 * @property {number} at ms, the reports' own clock
 * @property {Pair | null} pair the candidate pair in use
 * @property {number} bytesSent
 * @property {number} bytesReceived
 * @property {number | null} bitrateOut bits per second since the previous summary
 * @property {number | null} bitrateIn
 * @property {number} framesDecoded
 * @property {number} framesSent
 * @property {number | null} framesPerSecond of the video received
 * @property {number | null} width of the video received
 * @property {number | null} height
 * @property {number} packetsLost
 * @property {number} packetsReceived
 * @property {number | null} jitterMs
 *
 * @typedef {{local: Candidate, remote: Candidate, relayed: boolean, rttMs: number | null}} Pair
 * @typedef {{type: string, protocol: string, relayProtocol?: string, url?: string, address?: string, port?: number}} Candidate
 */

/**
 * @param {Map<string, any> | RTCStatsReport} reports
 * @param {Summary} [previous] of the same connection, for rates
 * @returns {Summary}
 */
export function summarize(reports, previous) {
  const all = [...reports.values()];
  const pair = selectedPair(reports, all);
  const video = all.filter(({ type, kind }) => type === 'inbound-rtp' && kind === 'video');
  const sentVideo = all.filter(({ type, kind }) => type === 'outbound-rtp' && kind === 'video');
  const inbound = all.filter(({ type }) => type === 'inbound-rtp');
  const at = pair?.timestamp ?? all[0]?.timestamp ?? 0;
  const bytesSent = pair?.bytesSent ?? 0;
  const bytesReceived = pair?.bytesReceived ?? 0;
  return {
    at,
    pair: pair && {
      local: candidate(reports.get(pair.localCandidateId)),
      remote: candidate(reports.get(pair.remoteCandidateId)),
      relayed: isRelayed(reports.get(pair.localCandidateId)),
      rttMs: pair.currentRoundTripTime === undefined ? null : pair.currentRoundTripTime * 1000,
    },
    bytesSent,
    bytesReceived,
    bitrateOut: rate(bytesSent, previous?.bytesSent, at, previous?.at),
    bitrateIn: rate(bytesReceived, previous?.bytesReceived, at, previous?.at),
    framesDecoded: sum(video, 'framesDecoded'),
    framesSent: sum(sentVideo, 'framesSent'),
    framesPerSecond: video.length ? Math.max(...video.map((report) => report.framesPerSecond ?? 0)) : null,
    width: video[0]?.frameWidth ?? null,
    height: video[0]?.frameHeight ?? null,
    packetsLost: sum(inbound, 'packetsLost'),
    packetsReceived: sum(inbound, 'packetsReceived'),
    jitterMs: inbound.length ? Math.max(...inbound.map(({ jitter }) => (jitter ?? 0) * 1000)) : null,
  };
}

/** The pair in a person's words: "relay over TCP", "direct, same network". */
export function describePair(pair) {
  if (!pair) return 'no path yet';
  const { local, remote, relayed } = pair;
  if (relayed) {
    const leg = { udp: 'UDP', tcp: 'TCP', tls: 'TLS' }[local.relayProtocol] ?? 'UDP';
    return `relayed, TURN over ${leg}`;
  }
  if (remote.type === 'relay') return 'relayed by the other side';
  const protocol = (local.protocol ?? 'udp').toUpperCase();
  if (local.type === 'host' && remote.type === 'host') return `direct, same network (${protocol})`;
  return `direct, through NAT (${protocol})`;
}

function selectedPair(reports, all) {
  const transport = all.find(({ type, selectedCandidatePairId }) => type === 'transport' && selectedCandidatePairId);
  if (transport) return reports.get(transport.selectedCandidatePairId) ?? null;
  // Firefox marks the pair itself.
  return all.find(({ type, selected, nominated, state }) => type === 'candidate-pair' && (selected || (nominated && state === 'succeeded'))) ?? null;
}

// A relayed address that a NAT behind the relay rewrote shows as peer reflexive, but keeps how TURN is reached.
function isRelayed(local) {
  return local?.candidateType === 'relay' || local?.relayProtocol !== undefined;
}

function candidate(report) {
  if (!report) return { type: 'unknown', protocol: 'unknown' };
  const { candidateType: type, protocol, relayProtocol, url, address, port } = report;
  return JSON.parse(JSON.stringify({ type, protocol, relayProtocol, url, address, port }));
}

function rate(bytes, bytesBefore, at, before) {
  // A new candidate pair counts from zero again.
  if (bytesBefore === undefined || !(at > before) || bytes < bytesBefore) return null;
  return ((bytes - bytesBefore) * 8000) / (at - before);
}

function sum(reports, field) {
  return reports.reduce((total, report) => total + (report[field] ?? 0), 0);
}
