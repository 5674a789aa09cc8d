//! A client of protocol v1 by plain requests, each to the next of several replicas.

use super::{PATIENCE, Replica};
use serde_json::{Value, json};
use std::{fmt::Write as _, net::SocketAddr};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::TcpStream,
};

/// The head of a response, and its body as it comes.
pub struct Response {
    pub status: u16,
    pub head: String,
    reader: BufReader<TcpStream>,
}

/// Asks; HTTP/1.0, so that a body is as long as its connection.
pub async fn ask(
    address: SocketAddr,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &str,
) -> Response {
    let mut socket = TcpStream::connect(address).await.unwrap();
    let mut request =
        format!("{method} {path} HTTP/1.0\r\nhost: {address}\r\ncontent-length: {}\r\n", body.len());
    for (name, value) in headers {
        write!(request, "{name}: {value}\r\n").unwrap();
    }
    write!(request, "\r\n{body}").unwrap();
    socket.write_all(request.as_bytes()).await.unwrap();
    let mut reader = BufReader::new(socket);
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        let read = tokio::time::timeout(PATIENCE, reader.read_line(&mut head)).await;
        assert!(read.expect("no response").unwrap() > 0, "the connection ended: {head}");
    }
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    Response { status, head, reader }
}

impl Response {
    pub async fn body(mut self) -> String {
        let mut body = String::new();
        tokio::time::timeout(PATIENCE, self.reader.read_to_string(&mut body)).await.unwrap().unwrap();
        body
    }

    /// The body as an array of frames.
    pub async fn frames(self) -> Vec<Value> {
        let body = self.body().await;
        serde_json::from_str(&body).unwrap_or_else(|error| panic!("{error}: {body}"))
    }

    /// The next event of a stream: its id, and its data; `None` at its end. Comments are passed over.
    pub async fn event(&mut self) -> Option<(Option<String>, Value)> {
        let (mut id, mut data) = (None, Vec::new());
        loop {
            let mut line = String::new();
            let read = tokio::time::timeout(PATIENCE, self.reader.read_line(&mut line)).await;
            if read.expect("the stream says nothing").unwrap() == 0 {
                return None;
            }
            let line = line.trim_end_matches('\n');
            if let Some(value) = line.strip_prefix("id: ") {
                id = Some(value.to_owned());
            } else if let Some(value) = line.strip_prefix("data: ") {
                data.push(value.to_owned());
            } else if line.is_empty() && !data.is_empty() {
                return Some((id, serde_json::from_str(&data.join("\n")).unwrap()));
            }
        }
    }

    /// The next frame of a stream, which must be of this type.
    pub async fn expect(&mut self, kind: &str) -> Value {
        let (_, frame) = self.event().await.expect("the stream ended");
        assert_eq!(frame["type"], kind, "{frame}");
        frame
    }
}

/// A session that has no connection of its own.
pub struct Plain {
    replicas: Vec<SocketAddr>,
    turn: usize,
    /// The last `joined`.
    pub joined: Value,
    pub epoch: u64,
    pub seq: u64,
}

impl Plain {
    pub fn at(replicas: &[&Replica]) -> Self {
        let replicas = replicas.iter().map(|replica| replica.address).collect();
        Self { replicas, turn: 0, joined: Value::Null, epoch: 0, seq: 0 }
    }

    pub async fn join(replicas: &[&Replica], room: &str) -> Self {
        let mut client = Self::at(replicas);
        let answers = client.post(json!({"type": "join", "id": "j", "room": room})).await;
        assert_eq!((&answers[0]["type"], &answers[0]["id"]), (&json!("joined"), &json!("j")), "{answers:?}");
        client.joined = answers[0].clone();
        client.saw(&answers[0]);
        client
    }

    fn saw(&mut self, frame: &Value) {
        if let (Some(epoch), Some(seq)) = (frame["epoch"].as_u64(), frame["seq"].as_u64()) {
            (self.epoch, self.seq) = (epoch, seq);
        }
    }

    pub fn id(&self) -> String {
        self.joined["session"].as_str().unwrap().to_owned()
    }

    pub async fn ask(&mut self, method: &str, path: &str, body: &str) -> Response {
        self.turn += 1;
        let address = self.replicas[self.turn % self.replicas.len()];
        let token = self.joined["resume"].as_str().unwrap_or_default().replace('%', "%25");
        let after = format!("{}.{}", self.epoch, self.seq);
        let all = [("last-event-id", after.as_str()), ("rtc-session", token.as_str())];
        let headers = if token.is_empty() { &[][..] } else { &all[..] };
        ask(address, method, path, headers, body).await
    }

    /// Posts a frame or an array of them; what answers them.
    pub async fn post(&mut self, frames: Value) -> Vec<Value> {
        self.ask("POST", "/v1/messages", &frames.to_string()).await.frames().await
    }

    /// Polls; all that came but the position.
    pub async fn poll(&mut self) -> Vec<Value> {
        let response = self.ask("GET", "/v1/poll", "").await;
        assert_eq!(response.status, 200, "{}", response.head);
        let mut frames = response.frames().await;
        for frame in &frames {
            self.saw(frame);
        }
        if frames.last().is_some_and(|last| last["type"] == "position") {
            frames.pop();
        }
        let first = frames.remove(0);
        assert!(first["type"] == "resumed" || first["type"] == "resync", "{first}");
        if first["type"] == "resync" {
            frames.insert(0, first);
        }
        frames
    }

    /// Polls until so many frames came.
    pub async fn polled(&mut self, count: usize) -> Vec<Value> {
        let mut all = Vec::new();
        while all.len() < count {
            all.extend(self.poll().await);
        }
        assert_eq!(all.len(), count, "{all:?}");
        all
    }

    pub async fn stream(&mut self) -> Response {
        let response = self.ask("GET", "/v1/events", "").await;
        assert_eq!(response.status, 200, "{}", response.head);
        response
    }

    /// Takes the next frame of a stream.
    pub async fn next(&mut self, stream: &mut Response) -> Value {
        let (_, frame) = stream.event().await.expect("the stream ended");
        self.saw(&frame);
        frame
    }
}
