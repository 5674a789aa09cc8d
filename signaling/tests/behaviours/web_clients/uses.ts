// An application of the npm package, as TypeScript sees it. Never run.
import { connectUrl, describePair, join, JoinError, TransferError } from '@rtc-operator/client';
import type { Call, CallEvents, Credentials, JoinOptions, Member, Pair, Peer, Signaling, Summary } from '@rtc-operator/client';

const options: JoinOptions = {
  url: ['https://a.example.com', 'https://b.example.com'],
  room: 'standup',
  token: async () => 'a.b.c',
  name: 'Ada',
  meta: { hand: true },
  max: 5,
  localStream: null,
  relayOnly: false,
  transport: 'udp',
  signalingTransport: 'auto',
  keepSeat: true,
  joinTimeoutMs: 1000,
};

export async function use(): Promise<Record<string, Summary | null>> {
  let call: Call;
  try {
    call = await join(options);
  } catch (error) {
    if (error instanceof JoinError && error.code === 'full') console.log(error.max?.toFixed(), error.message);
    throw error;
  }
  const stop: () => void = call.on('stream', ({ member, stream }) => play(member, stream));
  call.on('chat', ({ member, text, at }) => console.log(member.name?.length, text.trim(), at.toFixed()));
  call.on('file', ({ blob, name }) => console.log(blob.size, name.length));
  call.on('ended', ({ code, message }) => console.log(code.length, message.length));
  const left: CallEvents['member-left']['reason'][] = ['left', 'lost', 'kicked', 'rejoined', 'ended'];
  stop();
  const sent: number = call.send({ any: left }, call.members[0]?.id);
  const outcomes = await call.sendFile(new Blob(['x']), { name: 'x', onProgress: (part) => console.log(part.toFixed(sent)) });
  for (const { member, error } of outcomes) if (error instanceof TransferError) console.log(member.id, error.code === 'refused');
  const peer: Peer | undefined = call.peer('m-1');
  const { phase }: Signaling = call.signaling;
  const { urls }: Credentials = await call.refreshCredentials();
  call.setRelayOnly(phase === 'live' && urls.length > 0);
  call.setTransport('any');
  call.setLocalStream(peer?.stream ?? null);
  call.restartIce();
  call.moveTo(connectUrl('https://c.example.com'));
  call.chat('hello').at.toFixed();
  const stats = await call.stats();
  const pair: Pair | null = stats['m-1']?.pair ?? null;
  console.log(describePair(pair), pair?.local.relayProtocol === 'tls', call.localStream, call.relayOnly, call.transport, call.room, call.credentials.expires);
  call.leave();

  // @ts-expect-error a room is needed
  await join({ url: 'https://a.example.com' });
  // @ts-expect-error there is no such event
  call.on('nothing', () => {});
  // @ts-expect-error nor such a field of one
  call.on('chat', ({ words }) => words);
  // @ts-expect-error an id is not for writing
  call.id = 'me';
  // @ts-expect-error there is no such transport
  call.setTransport('sctp');
  return stats;
}

function play(member: Member, stream: MediaStream): void {
  console.log(member.user, member.polite, stream.id);
}
