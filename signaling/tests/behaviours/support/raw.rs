//! A client of any dialect that is JSON in text frames.

use super::PATIENCE;
use futures::{SinkExt, StreamExt};
use serde_json::Value;
use std::net::SocketAddr;
use tokio::net::TcpStream;
use tokio_tungstenite::{
    MaybeTlsStream, WebSocketStream, connect_async,
    tungstenite::{Error, Message, http::StatusCode},
};

/// A connection.
pub struct Raw(WebSocketStream<MaybeTlsStream<TcpStream>>);

impl Raw {
    /// Connects to a path.
    pub async fn connect(address: SocketAddr, path: &str) -> Self {
        Self::try_connect(address, path).await.expect("refused")
    }

    /// Connects, or says with which status it was refused.
    pub async fn try_connect(address: SocketAddr, path: &str) -> Result<Self, StatusCode> {
        let connecting = connect_async(format!("ws://{address}{path}"));
        match tokio::time::timeout(PATIENCE, connecting).await.unwrap() {
            Ok((socket, _)) => Ok(Self(socket)),
            Err(Error::Http(response)) => Err(response.status()),
            Err(error) => panic!("{error}"),
        }
    }

    pub async fn send(&mut self, frame: Value) {
        self.say(&frame.to_string()).await;
    }

    /// Sends what need be no JSON.
    pub async fn say(&mut self, text: &str) {
        self.0.send(Message::text(text)).await.unwrap();
    }

    /// The next frame; the code of the close as an error.
    pub async fn next(&mut self) -> Result<Value, Option<u16>> {
        loop {
            let message = tokio::time::timeout(PATIENCE, self.0.next()).await;
            match message.expect("the server says nothing") {
                Some(Ok(Message::Text(text))) => return Ok(serde_json::from_str(&text).unwrap()),
                Some(Ok(Message::Close(frame))) => return Err(frame.map(|frame| frame.code.into())),
                Some(Ok(_)) => {}
                Some(Err(_)) | None => return Err(None),
            }
        }
    }

    /// The next frame, which must be this one.
    pub async fn expect(&mut self, frame: Value) {
        assert_eq!(self.next().await, Ok(frame));
    }

    /// Asserts that the connection ends without another word; its code.
    pub async fn closed(&mut self) -> Option<u16> {
        self.next().await.expect_err("a frame, and no end")
    }

    /// The connection breaks without a word.
    pub fn cut(self) {
        drop(self);
    }
}

/// The status and body of a GET.
pub async fn get(address: SocketAddr, path: &str) -> (u16, String) {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut socket = TcpStream::connect(address).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n");
    socket.write_all(request.as_bytes()).await.unwrap();
    let mut response = String::new();
    tokio::time::timeout(PATIENCE, socket.read_to_string(&mut response)).await.unwrap().unwrap();
    let (head, body) = response.split_once("\r\n\r\n").unwrap();
    (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
}

/// The head of the response to a GET with these headers.
pub async fn upgrade(address: SocketAddr, path: &str, headers: &[(&str, &str)]) -> String {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut socket = TcpStream::connect(address).await.unwrap();
    let lines: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    let request = format!("GET {path} HTTP/1.1\r\nhost: {address}\r\n{lines}\r\n");
    socket.write_all(request.as_bytes()).await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(tokio::time::timeout(PATIENCE, socket.read_u8()).await.unwrap().unwrap());
    }
    String::from_utf8(head).unwrap()
}
