/** Timers by name, of which each runs once, and a later one takes the place of an earlier. */
export class Timers {
  #running = new Map();

  after(name, ms, run) {
    this.cancel(name);
    this.#running.set(name, setTimeout(() => {
      this.#running.delete(name);
      run();
    }, ms));
  }

  cancel(name) {
    clearTimeout(this.#running.get(name));
    this.#running.delete(name);
  }

  cancelAll() {
    for (const name of [...this.#running.keys()]) this.cancel(name);
  }
}
