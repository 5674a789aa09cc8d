//! Rooms on socketioxide, as lean as they can be: bench-signaling-socketioxide PORT [REDIS_URL]

use axum::serve::ListenerExt;
use socketioxide::{
    SocketIo,
    adapter::Adapter,
    extract::{AckSender, Data, SocketRef},
    handler::ConnectHandler,
};
use socketioxide_redis::{RedisAdapter, RedisAdapterCtr, drivers::redis::redis_client::Client};
use std::convert::Infallible;

#[derive(Clone)]
struct Room(String);

/// Runs before a client is told that it is connected: with handlers that come later its first event would be lost.
async fn connecting<A: Adapter>(socket: SocketRef<A>) -> Result<(), Infallible> {
    socket.on("join", join::<A>);
    socket.on("message", message::<A>);
    socket.on("leave", leave::<A>);
    Ok(())
}

async fn connected<A: Adapter>(_: SocketRef<A>) {}

async fn join<A: Adapter>(socket: SocketRef<A>, Data(room): Data<String>, answer: AckSender<A>) {
    socket.join(room.clone());
    socket.to(room.clone()).emit("peer", &()).await.ok();
    socket.extensions.insert(Room(room));
    answer.send(&()).ok();
}

async fn message<A: Adapter>(socket: SocketRef<A>, Data(text): Data<String>) {
    if let Some(Room(room)) = socket.extensions.get::<Room>() {
        socket.to(room).emit("message", &text).await.ok();
    }
}

async fn leave<A: Adapter>(socket: SocketRef<A>, answer: AckSender<A>) {
    if let Some(Room(room)) = socket.extensions.remove::<Room>() {
        socket.leave(room);
    }
    answer.send(&()).ok();
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut words = std::env::args().skip(1);
    let port: u16 = words.next().ok_or("a port is needed")?.parse()?;
    let app = match words.next() {
        None => {
            let (layer, io) = SocketIo::new_layer();
            io.ns("/", connected.with(connecting));
            axum::Router::new().layer(layer)
        }
        Some(url) => {
            let client = Client::open(format!("{url}?protocol=resp3"))?;
            let adapter = RedisAdapterCtr::new_with_redis(&client).await?;
            let (layer, io) = SocketIo::builder().with_adapter::<RedisAdapter<_>>(adapter).build_layer();
            io.ns("/", connected.with(connecting)).await?;
            axum::Router::new().layer(layer)
        }
    };
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", port)).await?;
    let listener = listener.tap_io(|socket| drop(socket.set_nodelay(true)));
    axum::serve(listener, app).await?;
    Ok(())
}
