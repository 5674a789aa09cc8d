/** What the browser and the tab remember, where they are allowed to; else it is asked again. */

const NAME = 'rtc.name';
const entered = (room) => `rtc.entered.${room}`;

export function recallName() {
  return attempt(() => localStorage.getItem(NAME));
}

export function rememberName(name) {
  attempt(() => localStorage.setItem(NAME, name));
}

/** In this tab, somebody chose to be in this room. */
export function enter(room) {
  attempt(() => sessionStorage.setItem(entered(room), '1'));
}

export function leave(room) {
  attempt(() => sessionStorage.removeItem(entered(room)));
}

export function wasEntered(room) {
  return attempt(() => sessionStorage.getItem(entered(room))) === '1';
}

// Storage throws where a person has switched it off.
function attempt(use) {
  try {
    return use();
  } catch {
    return null;
  }
}
