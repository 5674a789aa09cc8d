import { test } from 'node:test';
import assert from 'node:assert/strict';
import { MESSAGE_BYTES, Receiver, Sender } from '../transfer.js';

/** One end of a channel whose buffer drains only when the test lets it. */
class Channel extends EventTarget {
  readyState = 'open';
  bufferedAmount = 0;
  bufferedAmountLowThreshold = 0;
  highest = 0;
  out = [];

  send(data) {
    assert.equal(this.readyState, 'open');
    const size = typeof data === 'string' ? data.length : data.byteLength;
    assert.ok(size <= MESSAGE_BYTES);
    this.bufferedAmount += size;
    this.highest = Math.max(this.highest, this.bufferedAmount);
    this.out.push(data);
  }

  drain() {
    const before = this.bufferedAmount;
    this.bufferedAmount = 0;
    if (before > this.bufferedAmountLowThreshold) this.dispatchEvent(new Event('bufferedamountlow'));
    return this.out.splice(0);
  }

  close() {
    this.readyState = 'closed';
    this.dispatchEvent(new Event('close'));
  }
}

const tick = () => new Promise((resolve) => setImmediate(resolve));
const bytes = (length, seed = 7) => Uint8Array.from({ length }, (_, n) => (n * seed + (n >> 8)) & 255);

/** Moves everything across until the sending settles. */
async function pump(channel, sender, receiver, sending) {
  const seen = { files: [], progress: [] };
  let done = false;
  const settled = sending.finally(() => (done = true));
  settled.catch(() => {});
  for (let n = 0; n < 100_000 && !done; n += 1) {
    await tick();
    for (const data of channel.drain()) {
      const result = typeof data === 'string' ? receiver.text(JSON.parse(data)) : receiver.binary(data.buffer);
      if (result.progress) seen.progress.push(result.progress.received);
      if (result.file) seen.files.push(result.file);
      if (result.answer) sender.answered(result.answer);
    }
  }
  await settled;
  return seen;
}

for (const size of [0, 1, MESSAGE_BYTES - 4, MESSAGE_BYTES - 3, 5_000_000]) {
  test(`a file of ${size} bytes arrives whole, in messages every browser takes`, async () => {
    const channel = new Channel();
    const sender = new Sender(channel);
    const blob = new Blob([bytes(size)], { type: 'image/png' });
    const shares = [];
    const sending = sender.send(blob, { name: 'a.png', onProgress: (sent) => shares.push(sent) });
    const { files, progress } = await pump(channel, sender, new Receiver(), sending);
    assert.equal(files.length, 1);
    assert.equal(files[0].name, 'a.png');
    assert.equal(files[0].blob.type, 'image/png');
    assert.deepEqual(new Uint8Array(await files[0].blob.arrayBuffer()), bytes(size));
    assert.deepEqual(progress, [...progress].sort((a, b) => a - b));
    assert.equal(shares.at(-1), size);
  });
}

test('the channel\'s buffer stays bounded, however large the file', async () => {
  const channel = new Channel();
  const sender = new Sender(channel);
  const sending = sender.send(new Blob([bytes(8_000_000)]));
  for (let n = 0; n < 2000; n += 1) await tick();
  assert.ok(channel.highest <= 1024 * 1024 + MESSAGE_BYTES, `${channel.highest} buffered while nothing drained`);
  await pump(channel, sender, new Receiver(), sending);
  assert.ok(channel.highest <= 1024 * 1024 + MESSAGE_BYTES);
});

test('two files at once do not mix', async () => {
  const channel = new Channel();
  const sender = new Sender(channel);
  const sending = Promise.all([sender.send(new Blob([bytes(300_000, 3)])), sender.send(new Blob([bytes(200_000, 5)]))]);
  const { files } = await pump(channel, sender, new Receiver(), sending);
  const contents = await Promise.all(files.map(async ({ blob }) => new Uint8Array(await blob.arrayBuffer())));
  contents.sort((a, b) => b.length - a.length);
  assert.deepEqual(contents, [bytes(300_000, 3), bytes(200_000, 5)]);
});

test('a file above the limit is refused before it is sent whole, with a reason for the sender', async () => {
  const channel = new Channel();
  const sender = new Sender(channel);
  const sending = sender.send(new Blob([bytes(4_000_000)]));
  await assert.rejects(pump(channel, sender, new Receiver({ limitBytes: 2 ** 20 }), sending), /larger than 1 MiB/);
});

test('a receiver holds no more than was announced', () => {
  const receiver = new Receiver();
  receiver.text({ type: 'begin', transfer: 1, size: 10 });
  const message = new Uint8Array(4 + 11);
  message[3] = 1;
  assert.equal(receiver.binary(message.buffer).answer.type, 'refused');
  assert.deepEqual(receiver.binary(message.buffer), {});
});

test('a file cut short is refused', () => {
  const receiver = new Receiver();
  receiver.text({ type: 'begin', transfer: 1, size: 10 });
  assert.equal(receiver.text({ type: 'end', transfer: 1 }).answer.type, 'refused');
});

test('sizes that are none, and too many files at once, are refused', () => {
  const receiver = new Receiver({ concurrent: 2 });
  for (const size of [-1, 1.5, '7', null]) assert.equal(receiver.text({ type: 'begin', transfer: 9, size }).answer.type, 'refused');
  receiver.text({ type: 'begin', transfer: 1, size: 10 });
  receiver.text({ type: 'begin', transfer: 2, size: 10 });
  assert.equal(receiver.text({ type: 'begin', transfer: 3, size: 10 }).answer.type, 'refused');
});

test('a channel that closes in mid-file ends the sending with an error', async () => {
  const channel = new Channel();
  const sender = new Sender(channel);
  const sending = sender.send(new Blob([bytes(4_000_000)]));
  for (let n = 0; n < 500; n += 1) await tick();
  channel.close();
  await assert.rejects(sending, { code: 'closed' });
});
