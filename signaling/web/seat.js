/**
 * A seat in a room, kept for the moment of a reload in the tab's own storage. It is there only while no page
 * uses it, so that a tab that is duplicated gets no copy.
 */

const AGE_MS = 30_000;
const key = (url, room) => `rtc.seat.${url}.${room}`;

export function keep(url, room, seat, { storage = globalThis.sessionStorage, now = Date.now } = {}) {
  attempt(() => storage.setItem(key(url, room), JSON.stringify({ ...seat, at: now() })));
}

/** The seat, once. */
export function take(url, room, { storage = globalThis.sessionStorage, now = Date.now } = {}) {
  return attempt(() => {
    const text = storage.getItem(key(url, room));
    storage.removeItem(key(url, room));
    const { at, ...seat } = JSON.parse(text) ?? {};
    // by then the server has given it away
    return now() - at < AGE_MS ? seat : undefined;
  });
}

// Storage throws where a person has switched it off.
function attempt(use) {
  try {
    return use() ?? undefined;
  } catch {
    return undefined;
  }
}
