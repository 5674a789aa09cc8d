/**
 * `window.rtc`: what a test, or a curious person at the console, can ask of the page.
 *
 *   await rtc.snapshot()   the state of everything, as JSON; never a credential
 *   rtc.reset()            begins the measurement of the longest frame gap anew
 *   rtc.say(text)          a chat message
 *   await rtc.share()      takes a snapshot and sends it; the outcome per member
 *   rtc.call               the Call of client.js, once joined
 */
export function automation(page) {
  return {
    get call() {
      return page.call;
    },
    say: page.say,
    share: async () => (await page.takeSnapshot()).map(({ member, error }) => ({ member: member.id, error: error?.message ?? null })),
    reset() {
      for (const { id } of page.call?.members ?? []) page.grid.get(id)?.watch?.reset();
    },
    snapshot: () => snapshot(page),
  };
}

async function snapshot(page) {
  const { call } = page;
  const stats = call ? await call.stats() : {};
  const members = (call?.members ?? []).map((member) => describe(page, member, stats[member.id]));
  const gaps = members.map(({ maxFrameGapMs }) => maxFrameGapMs).filter((gap) => gap !== null);
  const credentials = call?.credentials;
  return {
    state: page.state,
    room: page.room,
    id: call?.id ?? null,
    name: page.name,
    error: page.error,
    troubles: page.troubles,
    signaling: call?.signaling ?? null,
    credentials: credentials ? { ...credentials, secondsLeft: Math.round(credentials.expires - Date.now() / 1000) } : null,
    token: page.tokens.about,
    relayOnly: call?.relayOnly ?? null,
    transport: call?.transport ?? null,
    members,
    maxFrameGapMs: gaps.length ? Math.max(...gaps) : null,
    messages: page.chat.messages,
    files: page.gallery.files,
    media: page.media ? { drawn: page.media.drawn, hasAudio: page.media.hasAudio } : null,
  };
}

function describe(page, member, summary) {
  const { state, channelOpen, counts } = page.call.peer(member.id);
  const watch = page.grid.get(member.id)?.watch;
  return {
    id: member.id,
    name: member.name ?? null,
    polite: member.polite === true,
    state,
    channelOpen,
    counts,
    ...summary,
    pair: summary?.pair ?? null,
    framesDecoded: summary?.framesDecoded ?? 0,
    framesShown: watch?.frames ?? 0,
    maxFrameGapMs: watch?.longestGapMs ?? null,
  };
}
