/** What `rtc-signaling` answers to plain requests, in one process and one room, for the client's tests. */
export class Server {
  log = []; // frames with seq
  posts = [];
  requests = [];
  /** What a test lets happen to requests by name: 'ok', 'refuse', 'hang', 'hold' (a proxy that keeps streams back). */
  events = 'ok';
  poll = 'ok';
  messages = 'ok';
  /** The one token that is good, if it asks for one. */
  token;
  /** A promise: posts are answered when it is fulfilled. */
  gate;
  #streams = new Set();
  #polls = new Set();

  say(frame) {
    this.log.push({ epoch: 1, seq: this.log.length + 1, ...frame });
    for (const stream of this.#streams) stream(this.log.at(-1));
    for (const poll of [...this.#polls]) poll();
  }

  /** Says something that is no part of the room's log. */
  tell(frame) {
    for (const stream of this.#streams) stream(frame);
  }

  close(code) {
    this.tell({ type: 'closed', code });
  }

  fetch = async (url, { method = 'GET', body, headers = {}, signal } = {}) => {
    const { pathname, searchParams } = new URL(url);
    const name = pathname.split('/').at(-1);
    this.requests.push({ name, headers, search: searchParams.toString() });
    if (this[name] === 'refuse') throw new TypeError('network');
    if (this[name] === 'hang') return aborted(signal);
    if (this.token && headers.authorization !== `Bearer ${this.token}`) return new Response('the token is not good\n', { status: 401, headers: { 'content-type': 'text/plain' } });
    if (method === 'POST') return this.#post(JSON.parse(body));
    const after = Number(headers['last-event-id'].split('.')[1]);
    if (headers['rtc-session'] !== encodeURIComponent('m~s~Zürich')) return json([{ type: 'error', code: 'unknown_session', message: 'gone' }], 404);
    return name === 'events' ? this.#stream(after, signal) : this.#wait(after, searchParams.get('wait') === '0', signal);
  };

  async #post(frames) {
    this.posts.push(frames);
    await this.gate;
    const answers = { ping: { type: 'pong' }, join: { type: 'joined', session: 'm', resume: 'm~s~Zürich', epoch: 1, seq: this.log.length, members: [] } };
    return json(frames.map(({ type, id }) => answers[type] ?? { type: 'ack', id }));
  }

  #stream(after, signal) {
    const stream = new ReadableStream({
      start: (controller) => {
        const write = (text) => this.events === 'ok' && controller.enqueue(new TextEncoder().encode(text));
        const tell = (frame) => {
          // pretty JSON, in two pieces: an event may have several lines, and come in parts
          const event = `id: 1.1\n${JSON.stringify(frame, null, 1).split('\n').map((line) => `data: ${line}\n`).join('')}\n`;
          write(event.slice(0, 9));
          write(event.slice(9));
          if (frame.type === 'closed') controller.close();
        };
        tell({ type: 'resumed', epoch: 1, seq: after });
        for (const frame of this.log.slice(after)) tell(frame);
        this.#streams.add(tell);
        signal.addEventListener('abort', () => {
          this.#streams.delete(tell);
          controller.error(signal.reason);
        });
      },
    });
    return new Response(stream, { headers: { 'content-type': 'text/event-stream' } });
  }

  #wait(after, now, signal) {
    const answer = () => json([{ type: 'resumed', epoch: 1, seq: after }, ...this.log.slice(after), { type: 'position', epoch: 1, seq: this.log.length }]);
    if (now || this.log.length > after) return answer();
    return new Promise((resolve, reject) => {
      const poll = () => {
        this.#polls.delete(poll);
        resolve(answer());
      };
      this.#polls.add(poll);
      signal.addEventListener('abort', () => reject(signal.reason));
    });
  }
}

function json(frames, status = 200) {
  return new Response(JSON.stringify(frames), { status, headers: { 'content-type': 'application/json' } });
}

function aborted(signal) {
  return new Promise((_, reject) => signal.addEventListener('abort', () => reject(signal.reason)));
}
