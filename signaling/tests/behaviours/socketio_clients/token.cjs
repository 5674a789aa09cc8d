// Shows tokens as clients of Socket.IO can: URL VERSION TRANSPORT GOOD EXPIRED
const [url, version, transport, good, expired] = process.argv.slice(2);
const io = require(`sio${version}`);

function attempt(options, wanted) {
  return new Promise((resolve, reject) => {
    const socket = io(url, { forceNew: true, reconnection: false, transports: [transport], ...options });
    const late = setTimeout(() => reject(new Error(`nothing came of ${JSON.stringify(options)}`)), 10_000);
    const done = (outcome) => {
      clearTimeout(late);
      if (outcome !== wanted) reject(new Error(`${outcome} rather than ${wanted}: ${Object.keys(options)}`));
      else resolve(socket);
      if (outcome !== 'in') socket.close();
    };
    socket.on('connect_error', () => done('refused'));
    socket.on('error', () => done('refused'));
    socket.on('connect', () => done('in'));
  });
}

/** Enters a room, and is told by the log when it may not. */
function enter(socket, room) {
  return new Promise((resolve) => {
    socket.on('created', () => resolve('created'));
    socket.on('log', (words) => {
      if (JSON.stringify(words).includes('does not let into')) resolve('forbidden');
    });
    socket.emit('create or join', room);
  });
}

async function main() {
  const query = { access_token: good };
  await attempt({ query: { access_token: expired } }, 'refused');
  if (version === '4') {
    await attempt({}, 'refused');
    await attempt({ auth: { token: expired } }, 'refused');
    (await attempt({ auth: { token: good } }, 'in')).close();
  } else {
    await attempt({}, 'refused');
  }
  const socket = await attempt({ query }, 'in');
  for (const [room, wanted] of [['bar', 'forbidden'], [`foo-${version}-${transport}`, 'created']]) {
    const came = await enter(socket, room);
    if (came !== wanted) throw new Error(`${room}: ${came}`);
  }
  socket.close();
}

// which it stays when nothing more happens
process.exitCode = 1;
main().then(() => process.exit(0), (error) => {
  console.error(error);
  process.exit(1);
});
