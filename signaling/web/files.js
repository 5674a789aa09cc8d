import { Receiver, Sender } from './transfer.js';

/** The files of one connection: both directions over one data channel. */
export class Files {
  #sender;

  /**
   * @param {RTCDataChannel} channel
   * @param {(type: 'progress' | 'file', detail: object) => void} tell
   */
  constructor(channel, tell) {
    channel.binaryType = 'arraybuffer';
    this.#sender = new Sender(channel);
    const receiver = new Receiver();
    channel.addEventListener('message', ({ data }) => {
      const message = typeof data === 'string' ? parse(data) : undefined;
      if (message?.type === 'received' || message?.type === 'refused') {
        this.#sender.answered(message);
        return;
      }
      if (typeof data === 'string' && !message) return;
      const { answer, progress, file } = message ? receiver.text(message) : receiver.binary(data);
      if (answer) channel.send(JSON.stringify(answer));
      if (progress) tell('progress', progress);
      if (file) tell('file', file);
    });
  }

  /** Resolves when the other side has all of it. */
  send(blob, options) {
    return this.#sender.send(blob, options);
  }
}

function parse(text) {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}
