//! What a backend may do with rooms, from any replica.

use crate::{
    auth::guarded,
    support::{token::token, *},
};
use serde_json::{Value, json};

const ALL: [&str; 5] = ["rooms:list", "rooms:read", "members:kick", "messages:send", "rooms:close"];

async fn ask(replica: &Replica, method: &str, path: &str, token: &str, body: &str) -> (u16, Value) {
    let bearer = format!("Bearer {token}");
    let headers = [("authorization", bearer.as_str()), ("content-type", "application/json")];
    let response = plain::ask(replica.address, method, path, &headers, body).await;
    let status = response.status;
    let body = response.body().await;
    (status, serde_json::from_str(&body).unwrap_or(Value::Null))
}

async fn member(replica: &Replica, sub: &str, room: &str) -> Client {
    let token = token(json!({"sub": sub}));
    let mut client = Client::connect_at(replica.address, &format!("/v1/connect?access_token={token}")).await;
    client.join(room).await;
    client
}

on_each_store! {
    async fn rooms_are_seen_and_acted_on_from_any_replica(backend: Backend) {
        let (a, b) = (guarded(&backend).await, guarded(&backend).await);
        let admin = token(json!({"sub": "backend", "api": ALL}));
        let mut alice = member(&a, "alice", "team 1").await;
        let mut bob = member(&a, "bob", "team 1").await;
        let _other = member(&a, "carol", "other").await;
        alice.expect("member-joined").await;
        let (status, list) = ask(&b, "GET", "/api/v1/rooms", &admin, "").await;
        let mut rooms = list["rooms"].as_array().unwrap().clone();
        rooms.sort_by_key(|room| room["room"].to_string());
        let expected = json!([{"room": "other", "members": 1}, {"room": "team 1", "members": 2}]);
        assert_eq!((status, json!(rooms), &list["next"]), (200, expected, &Value::Null));
        let (_, room) = ask(&b, "GET", "/api/v1/rooms/team%201", &admin, "").await;
        assert_eq!(room["members"][1], json!({"id": bob.id(), "user": "bob"}));
        // to all, to one, and not twice
        let path = "/api/v1/rooms/team%201/messages";
        for (body, status) in [
            (json!({"data": "all", "id": "1"}), 202),
            (json!({"data": "all", "id": "1"}), 202),
            (json!({"data": "one", "to": bob.id()}), 202),
            (json!({"data": "none", "to": "m-none"}), 404),
            (json!({"dada": 1}), 400),
        ] {
            assert_eq!(ask(&b, "POST", path, &admin, &body.to_string()).await.0, status, "{body}");
        }
        let told = bob.expect("signal").await;
        assert_eq!((told["from"].as_str(), told["data"].as_str()), (Some("server"), Some("all")));
        assert_eq!(bob.expect("signal").await["data"], "one");
        assert_eq!(alice.expect("signal").await["data"], "all");
        let path = format!("/api/v1/rooms/team%201/members/{}", bob.id());
        assert_eq!(ask(&b, "DELETE", &path, &admin, "").await.0, 204);
        assert_eq!(ask(&b, "DELETE", &path, &admin, "").await.0, 404);
        assert_eq!(alice.expect("member-left").await["reason"], "kicked");
        assert_eq!(bob.closed().await, Some(4004));
        assert_eq!(ask(&b, "DELETE", "/api/v1/rooms/team%201", &admin, "").await.0, 204);
        assert_eq!(alice.closed().await, Some(4004));
        let (status, answer) = ask(&b, "GET", "/api/v1/rooms/team%201", &admin, "").await;
        assert_eq!((status, answer["error"]["code"].as_str()), (404, Some("no_such_room")));
        assert_eq!(ask(&b, "DELETE", "/api/v1/rooms/team%201", &admin, "").await.0, 404);
    }
}

#[tokio::test]
async fn each_request_takes_its_own_permission_in_the_rooms_of_the_token() {
    let backend = Backend::memory();
    let replica = guarded(&backend).await;
    let alice = member(&replica, "alice", "r").await;
    let requests = [
        ("rooms:list", "GET", "/api/v1/rooms".to_owned()),
        ("rooms:read", "GET", "/api/v1/rooms/r".to_owned()),
        ("messages:send", "POST", "/api/v1/rooms/r/messages".to_owned()),
        ("members:kick", "DELETE", format!("/api/v1/rooms/r/members/{}", alice.id())),
        ("rooms:close", "DELETE", "/api/v1/rooms/r".to_owned()),
    ];
    for (needed, method, path) in &requests {
        let rest: Vec<&str> = ALL.into_iter().filter(|permission| permission != needed).collect();
        let body = r#"{"data":1}"#;
        let without = ask(&replica, method, path, &token(json!({"api": rest})), body).await;
        assert_eq!((without.0, without.1["error"]["code"].as_str()), (403, Some("forbidden")), "{path}");
        let elsewhere = token(json!({"api": ALL, "rooms": ["s"]}));
        let (status, answer) = ask(&replica, method, path, &elsewhere, body).await;
        if *needed == "rooms:list" {
            assert_eq!(answer["rooms"], json!([]));
        } else {
            // of a room that is not there it is told no less
            let absent = path.replace("rooms/r", "rooms/none");
            assert_eq!((status, &answer), (403, &ask(&replica, method, &absent, &elsewhere, body).await.1));
        }
        assert_eq!(plain::ask(replica.address, method, path, &[], body).await.status, 401);
    }
    let open = backend.replica().await;
    let (status, answer) = ask(&open, "GET", "/api/v1/rooms", "any", "").await;
    assert_eq!((status, answer["error"]["code"].as_str()), (404, Some("off")));
}
