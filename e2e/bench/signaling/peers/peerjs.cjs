// PeerServer with its defaults, but for how many may connect: node peerjs.cjs PORT
const { PeerServer } = require("peer");

PeerServer({ port: Number(process.argv[2]), host: "127.0.0.1", path: "/", concurrent_limit: 100_000 });
