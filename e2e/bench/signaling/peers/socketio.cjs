// Rooms on Socket.IO, as lean as they can be: node socketio.cjs PORT [REDIS_URL]
const { createServer } = require("node:http");
const { Server } = require("socket.io");

async function main(port, redisUrl) {
  const http = createServer();
  const io = new Server(http, { transports: ["websocket"], serveClient: false });
  if (redisUrl) {
    const { createClient } = require("redis");
    const { createAdapter } = require("@socket.io/redis-adapter");
    const publisher = createClient({ url: redisUrl });
    const subscriber = publisher.duplicate();
    await Promise.all([publisher.connect(), subscriber.connect()]);
    io.adapter(createAdapter(publisher, subscriber));
  }
  io.on("connection", (socket) => {
    let room;
    socket.on("join", async (name, answer) => {
      room = name;
      await socket.join(room);
      socket.to(room).emit("peer");
      answer();
    });
    socket.on("message", (message) => socket.to(room).emit("message", message));
    socket.on("leave", async (answer) => {
      await socket.leave(room);
      answer();
    });
  });
  http.listen(Number(port), "127.0.0.1");
}

main(...process.argv.slice(2));
