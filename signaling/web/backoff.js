/**
 * How long to wait before the next try: "full jitter", a uniform draw below a ceiling that doubles.
 * A fleet of clients that lost one server together so comes back spread out, not in a wave.
 *
 * @param {number} attempt how many tries failed before this one, from 0
 * @param {() => number} random uniform in [0, 1)
 * @param {{baseMs?: number, capMs?: number, floorMs?: number}} [options]
 * @returns {number} milliseconds
 */
export function backoff(attempt, random, { baseMs = 400, capMs = 10_000, floorMs = 50 } = {}) {
  const ceiling = Math.min(capMs, baseMs * 2 ** Math.min(attempt, 16));
  return Math.round(Math.max(floorMs, random() * ceiling));
}
