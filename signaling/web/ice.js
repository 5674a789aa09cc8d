/** What is said and chosen about ICE servers; no WebRTC call is made here. */

/**
 * @typedef {{urls: string | string[], username?: string, credential?: string}} IceServer
 * @typedef {'any' | 'udp' | 'tcp'} TurnTransport
 */

/** The transport between this client and the server that a STUN or TURN URI names (RFC 7065, section 3.1). */
export function transportOf(uri) {
  const [, scheme, , query] = /^(stuns?|turns?):([^?]+)(?:\?(.*))?$/i.exec(uri) ?? [];
  if (!scheme) return undefined;
  const named = new URLSearchParams(query ?? '').get('transport')?.toLowerCase();
  if (named) return named;
  return scheme.toLowerCase().endsWith('s') ? 'tcp' : 'udp';
}

/**
 * The servers to give to RTCPeerConnection when TURN shall be reached over one transport only.
 * STUN servers stay: they say nothing of how a relay is reached.
 *
 * @param {IceServer[]} servers
 * @param {TurnTransport} transport
 * @returns {IceServer[]}
 */
export function filterIceServers(servers, transport) {
  if (transport === 'any') return servers;
  return servers
    .map((server) => ({
      ...server,
      urls: [server.urls].flat().filter((uri) => !/^turns?:/i.test(uri) || transportOf(uri) === transport),
    }))
    .filter((server) => server.urls.length > 0);
}

/** True when at least one TURN server is among them. */
export function offersRelay(servers) {
  return servers.some((server) => [server.urls].flat().some((uri) => /^turns?:/i.test(uri)));
}

/** The user name of the first TURN server that has one, or null; never its credential. */
export function turnUsername(servers) {
  return servers.find((server) => server.username)?.username ?? null;
}

/**
 * When to ask for the next credentials: after three quarters of the life that is left, so that a slow
 * answer still comes in time, spread by a tenth so that clients of one room do not ask together.
 * A clock that disagrees with the server's makes the life look spent; then the question is asked at a
 * modest pace rather than in a loop.
 *
 * @param {number} expires unix seconds, from the server
 * @param {number} nowUnixMs this client's clock
 * @param {() => number} random
 * @returns {number} milliseconds from now
 */
export function refreshDelay(expires, nowUnixMs, random) {
  const left = expires * 1000 - nowUnixMs;
  if (left <= 0) return 60_000;
  const delay = left * (0.75 - 0.1 * random());
  // setTimeout holds 31 bits.
  return Math.round(Math.min(Math.max(delay, 1000), 2 ** 31 - 1));
}
