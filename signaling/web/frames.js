/**
 * Watches the frames that a video element shows, and knows the longest time between two of them: what a
 * person would call a freeze.
 */
export class FrameWatch {
  /** Frames shown since the beginning. */
  frames = 0;
  #video;
  #last;
  #longest = 0;
  #running = true;

  /** @param {HTMLVideoElement} video */
  constructor(video) {
    this.#video = video;
    // A page in the background shows nothing; that is no freeze.
    document.addEventListener('visibilitychange', this.#onVisibility);
    this.#next();
  }

  /** In ms since `reset`, the gap that is still open included; null before the first frame. */
  get longestGapMs() {
    if (this.#last === undefined) return this.#longest || null;
    return Math.round(Math.max(this.#longest, performance.now() - this.#last));
  }

  reset() {
    this.#longest = 0;
    if (this.#last !== undefined) this.#last = performance.now();
  }

  stop() {
    this.#running = false;
    document.removeEventListener('visibilitychange', this.#onVisibility);
  }

  #next() {
    if (!this.#video.requestVideoFrameCallback) return;
    this.#video.requestVideoFrameCallback(() => {
      if (!this.#running) return;
      const now = performance.now();
      if (this.#last !== undefined) this.#longest = Math.max(this.#longest, now - this.#last);
      this.#last = now;
      this.frames += 1;
      this.#next();
    });
  }

  #onVisibility = () => {
    this.#last = undefined;
  };
}
