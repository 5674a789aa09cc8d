/**
 * Files over a data channel: cut, sent no faster than the channel drains, put together, checked.
 *
 * On the wire, in this order on one ordered channel: a text message `{type: "begin", transfer, name, mime,
 * size}`, binary messages of 4 bytes transfer number (big endian) and payload, a text message `{type: "end",
 * transfer}`. The receiver answers `{type: "received", transfer}` or `{type: "refused", transfer, reason}`.
 * Several transfers may interleave.
 */

// Every implementation takes 16 KiB messages whole (RFC 8831 section 6.6 leaves larger ones to negotiation).
export const MESSAGE_BYTES = 16 * 1024;
const HEADER_BYTES = 4;
const PAYLOAD_BYTES = MESSAGE_BYTES - HEADER_BYTES;
const HIGH_WATER = 1024 * 1024;
const LOW_WATER = 256 * 1024;

/** A reason with a stable code and a sentence. */
export class TransferError extends Error {
  constructor(code, message) {
    super(message);
    this.name = 'TransferError';
    this.code = code;
  }
}

/** Sends files over one channel. */
export class Sender {
  #channel;
  #next = 1;
  #waiting = new Map(); // transfer -> {resolve, reject}

  /** @param {RTCDataChannel} channel */
  constructor(channel) {
    this.#channel = channel;
    channel.bufferedAmountLowThreshold = LOW_WATER;
    channel.addEventListener('close', () => {
      for (const { reject } of this.#waiting.values()) reject(new TransferError('closed', 'The connection closed before the file had arrived.'));
      this.#waiting.clear();
    });
  }

  /**
   * Resolves when the other side has confirmed the whole file.
   * @param {Blob} blob
   * @param {{name?: string, meta?: unknown, onProgress?: (sent: number, total: number) => void}} [options]
   *   `sent` counts what has left this page's buffers
   */
  async send(blob, { name = 'file', meta, onProgress } = {}) {
    if (this.#channel.readyState !== 'open') throw new TransferError('not_open', 'There is no open connection to this person yet.');
    const transfer = this.#next++;
    const done = new Promise((resolve, reject) => this.#waiting.set(transfer, { resolve, reject }));
    // A refusal may come while chunks are still being sent; it is awaited only after them.
    done.catch(() => {});
    this.#text({ type: 'begin', transfer, name, mime: blob.type, size: blob.size, meta });
    for (let at = 0; at < blob.size && this.#waiting.has(transfer); at += PAYLOAD_BYTES) {
      const payload = await blob.slice(at, at + PAYLOAD_BYTES).arrayBuffer();
      await this.#room();
      if (this.#channel.readyState !== 'open') break;
      const message = new Uint8Array(HEADER_BYTES + payload.byteLength);
      new DataView(message.buffer).setUint32(0, transfer);
      message.set(new Uint8Array(payload), HEADER_BYTES);
      this.#channel.send(message);
      const sent = Math.min(blob.size, at + payload.byteLength);
      onProgress?.(Math.max(0, sent - this.#channel.bufferedAmount), blob.size);
    }
    if (this.#waiting.has(transfer)) this.#text({ type: 'end', transfer });
    await done;
    onProgress?.(blob.size, blob.size);
  }

  /** Takes the receiver's answers. */
  answered({ type, transfer, reason }) {
    const waiting = this.#waiting.get(transfer);
    if (!waiting) return;
    this.#waiting.delete(transfer);
    if (type === 'received') waiting.resolve();
    else waiting.reject(new TransferError('refused', reason ?? 'The other side refused the file.'));
  }

  #text(message) {
    if (this.#channel.readyState === 'open') this.#channel.send(JSON.stringify(message));
  }

  async #room() {
    if (this.#channel.bufferedAmount <= HIGH_WATER) return;
    await new Promise((resolve) => {
      const go = () => {
        this.#channel.removeEventListener('bufferedamountlow', go);
        this.#channel.removeEventListener('close', go);
        resolve();
      };
      this.#channel.addEventListener('bufferedamountlow', go);
      this.#channel.addEventListener('close', go);
    });
  }
}

/**
 * Puts files together. It holds no more than was announced, and no announced file above its limit.
 */
export class Receiver {
  #limitBytes;
  #open = new Map();

  constructor({ limitBytes = 64 * 1024 * 1024, concurrent = 8 } = {}) {
    this.#limitBytes = limitBytes;
    this.concurrent = concurrent;
  }

  /**
   * @param {any} message a parsed text message
   * @returns {{answer?: object, progress?: object, file?: object}}
   */
  text(message) {
    if (message.type === 'begin') return this.#begin(message);
    if (message.type === 'end') return this.#end(message.transfer);
    return {};
  }

  /** @param {ArrayBuffer} buffer */
  binary(buffer) {
    if (buffer.byteLength <= HEADER_BYTES) return {};
    const transfer = new DataView(buffer).getUint32(0);
    const file = this.#open.get(transfer);
    if (!file) return {};
    const payload = buffer.slice(HEADER_BYTES);
    file.received += payload.byteLength;
    if (file.received > file.size) return this.#refuse(transfer, 'More arrived than was announced.');
    file.parts.push(payload);
    return { progress: { transfer, name: file.name, meta: file.meta, received: file.received, total: file.size } };
  }

  #begin({ transfer, name, mime, size, meta }) {
    if (!Number.isSafeInteger(size) || size < 0) return this.#refuse(transfer, 'The size of the file is missing.');
    if (size > this.#limitBytes) return this.#refuse(transfer, `The file is larger than ${Math.floor(this.#limitBytes / 2 ** 20)} MiB.`);
    if (this.#open.size >= this.concurrent) return this.#refuse(transfer, 'Too many files at once; send it again in a moment.');
    const file = { name: String(name ?? 'file').slice(0, 200), mime: String(mime ?? ''), size, meta, received: 0, parts: [] };
    this.#open.set(transfer, file);
    return { progress: { transfer, name: file.name, meta, received: 0, total: size } };
  }

  #end(transfer) {
    const file = this.#open.get(transfer);
    if (!file) return {};
    if (file.received !== file.size) return this.#refuse(transfer, 'The file arrived incomplete.');
    this.#open.delete(transfer);
    const blob = new Blob(file.parts, { type: file.mime });
    return { answer: { type: 'received', transfer }, file: { transfer, name: file.name, meta: file.meta, blob } };
  }

  #refuse(transfer, reason) {
    this.#open.delete(transfer);
    return { answer: { type: 'refused', transfer, reason } };
  }
}
