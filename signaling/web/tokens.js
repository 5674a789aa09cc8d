/**
 * The page's token, wherever there is one: in the link (`#token=…`), by this server where it was started for trying
 * out, or from the person, who has it of an application. It is kept in the tab alone, and shown to nobody but the server.
 */

/** What a token says of itself; undefined where that is nothing. The server alone checks it. */
export function claims(token) {
  try {
    const bytes = Uint8Array.from(atob(token.split('.')[1].replaceAll('-', '+').replaceAll('_', '/')), (c) => c.charCodeAt(0));
    const said = JSON.parse(new TextDecoder().decode(bytes));
    return said && typeof said === 'object' ? said : undefined;
  } catch {
    return undefined;
  }
}

export class Tokens {
  /** Where tokens come from: `none` needed, this `server`, `given` by the person, or `missing`. */
  source = 'none';
  /** The one that was shown last. */
  #shown;
  #guest;
  #room;
  #storage;
  #fetch;

  constructor(room, { storage = attempt(() => globalThis.sessionStorage), fetch = globalThis.fetch?.bind(globalThis) } = {}) {
    this.#room = room;
    this.#storage = storage;
    this.#fetch = fetch;
  }

  /** Takes the token out of a link's fragment; returns the fragment without it. */
  take(fragment) {
    const parameters = new URLSearchParams(fragment.replace(/^#/, ''));
    const token = parameters.get('token');
    if (token) this.give(token);
    parameters.delete('token');
    const rest = parameters.toString();
    return rest && `#${rest}`;
  }

  /** Uses this one from now on. */
  give(token) {
    this.#shown = token.trim();
    this.source = 'given';
    attempt(() => this.#storage.setItem(this.#key, this.#shown));
  }

  /** A given one is of no more use. */
  forget() {
    this.#shown = undefined;
    this.source = 'none';
    attempt(() => this.#storage.removeItem(this.#key));
  }

  /** Finds out where tokens come from. */
  async find() {
    const kept = this.source === 'given' ? this.#shown : attempt(() => this.#storage.getItem(this.#key));
    if (kept) {
      this.give(kept);
      return this.source;
    }
    try {
      const answer = await this.#ask();
      this.source = { 200: 'server', 401: 'missing' }[answer.status] ?? 'none';
    } catch {
      // a server that does not answer is told of when the call begins
      this.source = 'none';
    }
    return this.source;
  }

  /** For `join`. */
  get option() {
    if (this.source === 'given') return this.#shown;
    return this.source === 'server' ? () => this.#fresh() : undefined;
  }

  /** What is shown of it: `{source, user, expires}`; Unix seconds. Never the token. */
  get about() {
    const { sub, exp } = claims(this.#shown) ?? {};
    return { source: this.source, user: sub ?? null, expires: typeof exp === 'number' ? exp : null };
  }

  get #key() {
    return `rtc.token.${this.#room}`;
  }

  async #fresh() {
    const answer = await this.#ask();
    if (answer.status !== 200) throw new Error(`The server gave no token (${answer.status}).`);
    this.#shown = (await answer.text()).trim();
    return this.#shown;
  }

  // The same person each time: who resumes has to be who began.
  #ask() {
    const user = (this.#guest ??= attempt(() => this.#storage.getItem('rtc.guest')) || drawn());
    attempt(() => this.#storage.setItem('rtc.guest', user));
    const query = new URLSearchParams({ room: this.#room, user });
    return this.#fetch(`/token?${query}`, { cache: 'no-store' });
  }
}

function drawn() {
  return Array.from(crypto.getRandomValues(new Uint8Array(6)), (byte) => byte.toString(16).padStart(2, '0')).join('');
}

// Storage throws where a person has switched it off.
function attempt(use) {
  try {
    return use();
  } catch {
    return undefined;
  }
}
