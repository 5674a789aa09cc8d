//! Members on two replicas are in one room.

use crate::support::*;
use serde_json::json;

on_each_store! {
    async fn two_replicas_are_one_room(backend: Backend) {
        let (a, b) = (backend.replica().await, backend.replica().await);
        let mut one = a.connect().await;
        let joined = one.join_with(json!({"type": "join", "id": 1, "room": "r", "name": "Ada", "meta": {"k": [1]}})).await;
        assert_eq!((&joined["id"], &joined["polite"], &joined["members"]), (&json!(1), &json!(false), &json!([])));
        let mut two = b.connect().await;
        let joined = two.join("r").await;
        assert_eq!(joined["polite"], true);
        assert_eq!(joined["members"], json!([{"id": one.id(), "name": "Ada", "meta": {"k": [1]}, "polite": true}]));
        let came = one.expect("member-joined").await;
        assert_eq!(came["member"], json!({"id": two.id(), "polite": false}));

        two.send(json!({"type": "signal", "id": "x", "to": one.id(), "data": {"sdp": "v=0\r\n"}})).await;
        let ack = two.expect("ack").await;
        let signal = one.expect("signal").await;
        assert_eq!(signal["from"], two.id());
        assert_eq!(signal["to"], one.id());
        assert_eq!(signal["data"], json!({"sdp": "v=0\r\n"}));
        assert_eq!((&ack["id"], &ack["seq"]), (&json!("x"), &signal["seq"]));

        two.send(json!({"type": "leave", "id": 9})).await;
        assert_eq!(two.expect("ack").await["id"], 9);
        let left = one.expect("member-left").await;
        assert_eq!((&left["member"], &left["reason"]), (&json!(two.id()), &json!("left")));
        one.expect_nothing().await;
    }

    async fn every_member_sees_one_order(backend: Backend) {
        let (a, b) = (backend.replica().await, backend.replica().await);
        let mut clients = vec![a.join("r").await, b.join("r").await, a.join("r").await, b.join("r").await];
        for n in 0..20 {
            for client in &mut clients {
                client.signal(None, json!(n)).await;
            }
        }
        let mut seen = Vec::new();
        for client in &mut clients {
            let mut own = Vec::new();
            while own.len() < 60 {
                let frame = client.frame().await;
                if frame["type"] == "signal" {
                    own.push((frame["seq"].as_u64().unwrap(), frame["from"].clone(), frame["data"].clone()));
                }
            }
            assert!(own.is_sorted_by_key(|(seq, ..)| *seq));
            client.expect_nothing().await;
            seen.push(own);
        }
        // whoever saw an entry saw the same under its number
        let all: std::collections::BTreeMap<_, _> = seen.iter().flatten().map(|(s, f, d)| (*s, (f, d))).collect();
        assert_eq!(all.len(), 80);
        for (seq, from, data) in seen.iter().flatten() {
            assert_eq!(all[seq], (from, data));
        }
    }

    async fn nothing_goes_to_another_room_or_back_to_the_sender(backend: Backend) {
        let (a, b) = (backend.replica().await, backend.replica().await);
        let mut one = a.join("r").await;
        let mut two = b.join("r").await;
        let mut stranger = b.join("other").await;
        one.expect("member-joined").await;
        one.signal(None, json!(1)).await;
        two.expect("signal").await;
        one.expect_nothing().await;
        stranger.expect_nothing().await;
        one.send(json!({"type": "signal", "id": 5, "to": stranger.id(), "data": 1})).await;
        let error = one.expect("error").await;
        assert_eq!((&error["code"], &error["id"]), (&json!("no_such_member"), &json!(5)));
    }

    async fn full_is_decided_once_for_all_replicas(backend: Backend) {
        let (a, b) = (backend.replica().await, backend.replica().await);
        let mut joins = Vec::new();
        for n in 0..8 {
            let replica = if n % 2 == 0 { a.clone() } else { b.clone() };
            joins.push(tokio::spawn(async move {
                let mut client = replica.connect().await;
                client.send(json!({"type": "join", "room": "r", "max": 3})).await;
                let answer = client.frame().await;
                (client, answer)
            }));
        }
        let (mut inside, mut full) = (Vec::new(), 0);
        for join in joins {
            let (client, answer) = join.await.unwrap();
            if answer["type"] == "full" {
                assert_eq!((&answer["max"], &answer["room"]), (&json!(3), &json!("r")));
                full += 1;
            } else {
                inside.push(client);
            }
        }
        assert_eq!((inside.len(), full), (3, 5));
        // a place that is given up can be taken
        inside[0].send(json!({"type": "leave", "id": 1})).await;
        inside[0].until("ack").await;
        a.join("r").await;
    }

    async fn a_signal_that_comes_again_is_answered_and_not_delivered_again(backend: Backend) {
        let (a, b) = (backend.replica().await, backend.replica().await);
        let mut one = a.join("r").await;
        let mut two = b.join("r").await;
        one.expect("member-joined").await;
        let mut acks = Vec::new();
        for _ in 0..3 {
            one.send(json!({"type": "signal", "id": "same", "data": 1})).await;
            acks.push(one.expect("ack").await["seq"].clone());
        }
        one.send(json!({"type": "signal", "id": "other", "data": 2})).await;
        assert_eq!(two.expect("signal").await["data"], 1);
        assert_eq!(two.expect("signal").await["data"], 2);
        assert!(acks.iter().all(|seq| *seq == acks[0]));
    }

    async fn a_room_can_be_left_and_another_entered_on_one_connection(backend: Backend) {
        let a = backend.replica().await;
        let mut one = a.join("r").await;
        let mut two = a.join("s").await;
        one.send(json!({"type": "leave"})).await;
        one.join("s").await;
        two.expect("member-joined").await;
        two.signal(None, json!(1)).await;
        one.expect("signal").await;
    }
}
