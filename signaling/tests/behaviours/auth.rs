//! Tokens: which are good, what they permit, and for how long.

use crate::support::{
    token::{SECRET, Signer, at, claims, token},
    *,
};
use futures::StreamExt;
use rtc_signaling::auth::{Policy, Rules, TokenError, Verifier};
use serde_json::{Value, json};
use std::{
    path::PathBuf,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio_tungstenite::tungstenite::{self, client::IntoClientRequest};

/// Keys on disk, and the verifier that follows them.
pub(crate) struct Keys {
    _dir: tempfile::TempDir,
    path: PathBuf,
    verifier: Arc<Verifier>,
}

impl Keys {
    pub(crate) fn new(content: &str, rules: Rules) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        std::fs::write(&path, content).unwrap();
        let verifier = Arc::new(Verifier::from_files(&path, rules).unwrap());
        Self { _dir: dir, path, verifier }
    }

    pub(crate) fn secret() -> Self {
        Self::new(SECRET, Rules { leeway: Duration::ZERO, ..Rules::default() })
    }

    pub(crate) fn policy(&self) -> Policy {
        Policy::Jwt(self.verifier.clone())
    }

    async fn judge(&self, token: &str) -> Result<(), TokenError> {
        self.verifier.verify(token).await.map(drop)
    }
}

/// A replica that asks for tokens by [`SECRET`].
pub(crate) async fn guarded(backend: &Backend) -> Replica {
    Replica::start(backend.builder().auth(Keys::secret().policy())).await
}

async fn connect(replica: &Replica, token: &str) -> Result<Client, u16> {
    let request = format!("ws://{}/v1/connect?access_token={token}", replica.address);
    try_connect(request.into_client_request().unwrap()).await
}

async fn try_connect(request: tungstenite::handshake::client::Request) -> Result<Client, u16> {
    match tokio::time::timeout(PATIENCE, tokio_tungstenite::connect_async(request)).await.unwrap() {
        Ok((socket, _)) => Ok(Client { socket, joined: Value::Null, epoch: 0, seq: 0 }),
        Err(tungstenite::Error::Http(response)) => Err(response.status().as_u16()),
        Err(error) => panic!("{error}"),
    }
}

async fn member(replica: &Replica, changes: Value, room: &str) -> Client {
    let mut client = connect(replica, &token(changes)).await.unwrap();
    client.join(room).await;
    client
}

#[tokio::test]
async fn each_algorithm_is_accepted_with_its_own_kind_of_key_and_no_other() {
    let secret = Signer::Secret("x".repeat(64));
    let kinds: [(Signer, &[&str]); 5] = [
        (secret, &["HS256", "HS384", "HS512"]),
        (Signer::rsa(), &["RS256", "RS384", "RS512", "PS256", "PS384", "PS512"]),
        (Signer::p256(), &["ES256"]),
        (Signer::p384(), &["ES384"]),
        (Signer::ed25519(), &["EdDSA"]),
    ];
    for (at, (signer, algorithms)) in kinds.iter().enumerate() {
        let mut files = vec![signer.file()];
        if let Signer::Pair(_) = signer {
            files.push(json!({"keys": [signer.jwk("k")]}).to_string());
        }
        for file in files {
            let keys = Keys::new(&file, Rules::default());
            for algorithm in *algorithms {
                assert_eq!(keys.judge(&signer.token(algorithm, &claims())).await, Ok(()), "{algorithm}");
            }
            for (other, algorithms) in
                kinds.iter().enumerate().filter(|(other, _)| *other != at).map(|(_, k)| k)
            {
                let refused = keys.judge(&other.token(algorithms[0], &claims())).await;
                assert_eq!(refused, Err(TokenError::Signature), "{algorithms:?}");
            }
        }
    }
}

#[tokio::test]
async fn a_token_never_chooses_how_it_is_checked() {
    let rsa = Signer::rsa();
    let keys = Keys::new(&rsa.file(), Rules::default());
    // the public key is public, so a MAC by it is anybody's
    for spelling in [rsa.file(), rsa.file().trim().to_owned(), format!("{}\n", rsa.file().trim())] {
        let forged = Signer::Secret(spelling).token("HS256", &claims());
        assert_eq!(keys.judge(&forged).await, Err(TokenError::Signature));
    }
    for none in ["none", "None", "NONE", ""] {
        let unsigned = rsa.token(none, &claims());
        assert_eq!(keys.judge(&unsigned).await, Err(TokenError::Malformed), "{none:?}");
    }
    let good = rsa.token("RS256", &claims());
    let stripped = format!("{}.", good.rsplit_once('.').unwrap().0);
    assert_eq!(keys.judge(&stripped).await, Err(TokenError::Signature));
    // a signature of one algorithm under the name of another
    let (head, rest) = good.split_once('.').unwrap();
    assert!(head.len() > 10);
    let other = rsa.token("PS256", &claims());
    let mixed = format!("{}.{rest}", other.split_once('.').unwrap().0);
    assert_eq!(keys.judge(&mixed).await, Err(TokenError::Signature));
    // what is declared critical is not understood here
    let critical = json!({"alg": "RS256", "crit": ["exp"], "exp": 1});
    assert_eq!(keys.judge(&rsa.token_with(&critical, &claims())).await, Err(TokenError::Malformed));
    // a key that the token brings itself
    let own = Signer::p256();
    let header = json!({"alg": "ES256", "jwk": own.jwk("k"), "jku": "http://127.0.0.1/keys"});
    assert_eq!(keys.judge(&own.token_with(&header, &claims())).await, Err(TokenError::Signature));
    for nonsense in ["", ".", "..", "a.b.c", "a.b.c.d", &"x".repeat(9000)] {
        assert_eq!(keys.judge(nonsense).await, Err(TokenError::Malformed), "{nonsense:.20}");
    }
}

#[tokio::test]
async fn issuer_audience_and_times_must_match() {
    let rules = Rules {
        issuer: Some("https://id.example".into()),
        audience: Some("calls".into()),
        leeway: Duration::from_secs(5),
    };
    let strict = Keys::new(SECRET, rules);
    let good = json!({"iss": "https://id.example", "aud": "calls", "nbf": at(-1)});
    let claims = |change| Err::<(), _>(TokenError::Claims(change));
    for (change, expected) in [
        (json!({}), Ok(())),
        (json!({"aud": ["others", "calls"]}), Ok(())),
        (json!({"exp": at(60) as f64 + 0.5}), Ok(())),
        (json!({"iss": "https://id.example.evil"}), Err(TokenError::Issuer)),
        (json!({"iss": null}), claims("`iss` is missing".into())),
        (json!({"aud": "call"}), Err(TokenError::Audience)),
        (json!({"aud": null}), claims("`aud` is missing".into())),
        (json!({"exp": null}), claims("`exp` is missing".into())),
        (json!({"exp": at(-7)}), Err(TokenError::Expired)),
        (json!({"exp": at(-2)}), Ok(())),
        (json!({"nbf": at(30)}), Err(TokenError::Early)),
        (json!({"nbf": at(2)}), Ok(())),
    ] {
        let mut all = good.as_object().unwrap().clone();
        all.extend(change.as_object().unwrap().clone());
        let token = token(json!(all));
        let judged = strict.judge(&token).await;
        match (&judged, &expected) {
            // the library words some of them its own way
            (Err(TokenError::Claims(_)), Err(TokenError::Claims(_))) => {}
            _ => assert_eq!(judged, expected, "{change}"),
        }
    }
    // a server that has no name is nobody's audience
    let plain = Keys::secret();
    assert_eq!(plain.judge(&token(json!({"aud": "calls"}))).await, Err(TokenError::Audience));
    assert!(matches!(plain.judge(&token(json!({"sub": null}))).await, Err(TokenError::Claims(_))));
}

#[tokio::test]
async fn keys_on_disk_are_followed_and_a_bad_file_changes_nothing() {
    let (old, new) = (Signer::p256(), Signer::ed25519());
    let keys = Keys::new(&old.file(), Rules::default());
    let (by_old, by_new) = (old.token("ES256", &claims()), new.token("EdDSA", &claims()));
    assert_eq!(keys.judge(&by_new).await, Err(TokenError::Signature));
    std::fs::write(&keys.path, json!({"keys": [old.jwk("o"), new.jwk("n")]}).to_string()).unwrap();
    eventually("both are good", async || keys.judge(&by_new).await.is_ok()).await;
    assert_eq!(keys.judge(&by_old).await, Ok(()));
    std::fs::write(&keys.path, "-----BEGIN NONSENSE-----").unwrap();
    tokio::time::sleep(Duration::from_millis(700)).await;
    assert_eq!(keys.judge(&by_old).await, Ok(()));
    std::fs::write(&keys.path, new.file()).unwrap();
    eventually("the old one is not", async || keys.judge(&by_old).await.is_err()).await;
}

/// An issuer's web server.
struct Issuer {
    url: String,
    set: Arc<Mutex<Option<Value>>>,
    asked: Arc<AtomicUsize>,
}

impl Issuer {
    async fn start(set: Option<Value>) -> Self {
        let (set, asked) = (Arc::new(Mutex::new(set)), Arc::new(AtomicUsize::new(0)));
        let (said, counted) = (set.clone(), asked.clone());
        let answer = async move || {
            counted.fetch_add(1, Ordering::Relaxed);
            let set = said.lock().unwrap().clone();
            set.map(axum::Json).ok_or(axum::http::StatusCode::INTERNAL_SERVER_ERROR)
        };
        let router = axum::Router::new().route("/jwks", axum::routing::get(answer));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/jwks", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, router).await });
        Self { url, set, asked }
    }

    fn publish(&self, set: Option<Value>) {
        *self.set.lock().unwrap() = set;
    }
}

#[tokio::test]
async fn keys_of_a_url_rotate_and_stay_good_while_it_is_down() {
    let (old, new) = (Signer::p256(), Signer::rsa());
    let issuer = Issuer::start(None).await;
    let verifier = Arc::new(Verifier::from_url(&issuer.url, Rules::default()).unwrap());
    let judge = async |token: &str| verifier.verify(token).await.map(drop);
    let signed = |signer: &Signer, algorithm: &str, kid: &str| {
        signer.token_with(&json!({"alg": algorithm, "kid": kid}), &claims())
    };
    let (by_old, by_new) = (signed(&old, "ES256", "1"), signed(&new, "RS256", "2"));
    // nothing is known yet: no reason to turn anybody away for good, nor to be sent clients
    assert_eq!(judge(&by_old).await, Err(TokenError::Unavailable));
    assert!(verifier.ready().is_err());
    issuer.publish(Some(json!({"keys": [old.jwk("1")]})));
    eventually("its keys are read", async || verifier.ready().is_ok()).await;
    assert_eq!(judge(&by_old).await, Ok(()));
    // a new key is looked for when it is first met
    issuer.publish(Some(json!({"keys": [old.jwk("1"), new.jwk("2")]})));
    eventually("the new key is known", async || judge(&by_new).await.is_ok()).await;
    issuer.publish(None);
    assert_eq!((judge(&by_old).await, judge(&by_new).await), (Ok(()), Ok(())));
    // made-up keys do not have the issuer asked each time
    let before = issuer.asked.load(Ordering::Relaxed);
    for n in 0..50 {
        let made_up = signed(&old, "ES256", &format!("made-up-{n}"));
        assert_eq!(judge(&made_up).await, Err(TokenError::Signature));
    }
    assert!(issuer.asked.load(Ordering::Relaxed) <= before + 1);
    assert!(Verifier::from_url("file:///etc/passwd", Rules::default()).is_err());
}

#[tokio::test]
async fn a_token_comes_by_header_subprotocol_or_query_and_nobody_enters_without() {
    let replica = guarded(&Backend::memory()).await;
    let url = format!("ws://{}/v1/connect", replica.address);
    let request = || url.as_str().into_client_request().unwrap();
    assert_eq!(try_connect(request()).await.err(), Some(401));
    assert_eq!(connect(&replica, "made.up.token").await.err(), Some(401));
    assert_eq!(connect(&replica, &token(json!({"exp": at(-60)}))).await.err(), Some(401));
    assert!(connect(&replica, &token(json!({}))).await.is_ok());
    let mut by_header = request();
    let value = format!("Bearer {}", token(json!({})));
    by_header.headers_mut().insert("authorization", value.parse().unwrap());
    assert!(try_connect(by_header).await.is_ok());
    // as a browser does it: the answer must name one of the protocols
    for (asked, answered) in [("rtc.v1, ", "rtc.v1"), ("", "rtc.bearer.")] {
        let mut by_protocol = request();
        let value = format!("{asked}rtc.bearer.{}", token(json!({})));
        by_protocol.headers_mut().insert("sec-websocket-protocol", value.parse().unwrap());
        let (_, response) = tokio_tungstenite::connect_async(by_protocol).await.unwrap();
        let chosen = response.headers()["sec-websocket-protocol"].to_str().unwrap().to_owned();
        assert!(chosen.starts_with(answered), "{chosen}");
    }
}

on_each_store! {
    async fn a_token_says_who_its_member_is_and_where_it_may_go(backend: Backend) {
        let (a, b) = (guarded(&backend).await, guarded(&backend).await);
        let mut alice = member(&a, json!({"rooms": ["team-*"], "name": "Alice", "max": 2}), "team-1").await;
        let mut bob = connect(&b, &token(json!({"sub": "bob", "rooms": ["team-1", "x"]}))).await.unwrap();
        bob.join_with(json!({"type": "join", "room": "team-1", "name": "Bobby", "meta": {"user": "root"}})).await;
        let seen = &bob.joined["members"][0];
        assert_eq!((seen["user"].as_str(), seen["name"].as_str()), (Some("alice"), Some("Alice")));
        let came = alice.expect("member-joined").await;
        assert_eq!((came["member"]["user"].as_str(), came["member"]["name"].as_str()), (Some("bob"), Some("Bobby")));
        // the same answer for a room that is there and one that is not
        let mut eve = connect(&a, &token(json!({"sub": "eve", "rooms": ["other"]}))).await.unwrap();
        let mut answers = Vec::new();
        for room in ["team-1", "team-2"] {
            eve.send(json!({"type": "join", "id": 1, "room": room})).await;
            answers.push(eve.expect("error").await);
        }
        assert_eq!(answers[0], answers[1]);
        assert_eq!(answers[0]["code"], "forbidden");
        // `max` of the token holds for the room that it began
        let mut carol = connect(&b, &token(json!({"sub": "carol"}))).await.unwrap();
        carol.send(json!({"type": "join", "room": "team-1"})).await;
        assert_eq!(carol.expect("full").await["max"], 2);
    }

    async fn a_session_is_resumed_by_its_own_subject_alone(backend: Backend) {
        let (a, b) = (guarded(&backend).await, guarded(&backend).await);
        let alice = member(&a, json!({}), "r").await;
        let resume = json!({"type": "resume", "resume": alice.token(), "epoch": alice.epoch, "seq": alice.seq});
        drop(alice);
        for (claims, code) in [(json!({"sub": "eve"}), "unknown_session"), (json!({"rooms": ["other"]}), "forbidden")] {
            let mut thief = connect(&b, &token(claims)).await.unwrap();
            thief.send(resume.clone()).await;
            assert_eq!(thief.expect("error").await["code"], code);
        }
        let mut again = connect(&b, &token(json!({"exp": at(50)}))).await.unwrap();
        again.send(resume).await;
        again.expect("resumed").await;
    }

    async fn a_token_for_one_connection_is_good_once_on_all_replicas(backend: Backend) {
        let (a, b) = (guarded(&backend).await, guarded(&backend).await);
        let once = token(json!({"jti": "t-1", "once": true}));
        assert!(connect(&a, &once).await.is_ok());
        assert_eq!(connect(&a, &once).await.err(), Some(401));
        assert_eq!(connect(&b, &once).await.err(), Some(401));
        // an id alone is only a name
        let many = token(json!({"jti": "t-2"}));
        assert!(connect(&a, &many).await.is_ok() && connect(&b, &many).await.is_ok());
    }
}

#[tokio::test]
async fn who_may_not_send_is_told_so_and_who_may_not_hear_is_told_nothing() {
    let backend = Backend::memory();
    let replica = guarded(&backend).await;
    let mut mute = member(&replica, json!({"sub": "mute", "publish": false}), "r").await;
    let mut deaf = member(&replica, json!({"sub": "deaf", "subscribe": false}), "r").await;
    let mut other = member(&replica, json!({"sub": "other"}), "r").await;
    mute.until("member-joined").await;
    mute.until("member-joined").await;
    deaf.expect("member-joined").await;
    mute.send(json!({"type": "signal", "id": 1, "data": 1})).await;
    assert_eq!(mute.expect("error").await["code"], "forbidden");
    deaf.signal(None, json!("from deaf")).await;
    assert_eq!(other.expect("signal").await["data"], "from deaf");
    other.signal(Some(&deaf.id()), json!("to deaf")).await;
    other.signal(None, json!("to all")).await;
    assert_eq!(mute.until("signal").await["data"], "from deaf");
    assert_eq!(mute.until("signal").await["data"], "to all");
    deaf.expect_nothing().await;
    // nor by what it missed
    let mut again = connect(&replica, &token(json!({"sub": "deaf", "subscribe": false}))).await.unwrap();
    let (epoch, seq) = (deaf.epoch, deaf.joined["seq"].as_u64().unwrap());
    again.send(json!({"type": "resume", "resume": deaf.token(), "epoch": epoch, "seq": seq})).await;
    again.expect("resumed").await;
    again.expect("member-joined").await;
    again.expect_nothing().await;
}

#[tokio::test]
async fn a_connection_ends_with_its_token_and_its_session_goes_on_with_a_fresh_one() {
    let backend = Backend::memory();
    let replica = guarded(&backend).await;
    let mut watching = member(&replica, json!({"sub": "watching"}), "r").await;
    let mut alice = member(&replica, json!({"exp": at(3)}), "r").await;
    watching.expect("member-joined").await;
    let told = alice.until("auth-expiring").await;
    assert!(told["expires"].as_i64().unwrap() <= at(3), "{told}");
    assert_eq!(alice.closed().await, Some(4005));
    let mut again = connect(&replica, &token(json!({}))).await.unwrap();
    again
        .send(json!({"type": "resume", "resume": alice.token(), "epoch": alice.epoch, "seq": alice.seq}))
        .await;
    again.expect("resumed").await;
    // nobody saw it go
    watching.expect_nothing().await;
}

#[tokio::test]
async fn a_fresh_token_keeps_a_connection_if_it_is_for_the_same_subject_and_room() {
    let backend = Backend::memory();
    let replica = guarded(&backend).await;
    let mut alice = member(&replica, json!({"exp": at(3)}), "r").await;
    for (claims, code) in [
        (json!({"sub": "eve"}), "unauthorized"),
        (json!({"exp": at(-9)}), "unauthorized"),
        (json!({"rooms": ["other"]}), "forbidden"),
    ] {
        alice.send(json!({"type": "auth", "id": 1, "token": token(claims)})).await;
        assert_eq!(alice.expect("error").await["code"], code);
    }
    let expires = at(40);
    let fresh = token(json!({"exp": expires, "publish": false}));
    alice.send(json!({"type": "auth", "id": 2, "token": fresh})).await;
    assert_eq!(alice.expect("auth").await, json!({"type": "auth", "id": 2, "expires": expires}));
    // beyond the end of the first
    let ended = tokio::time::timeout(Duration::from_secs(5), alice.socket.next()).await;
    assert!(ended.is_err(), "{ended:?}");
    alice.send(json!({"type": "signal", "data": 1})).await;
    assert_eq!(alice.expect("error").await["code"], "forbidden");
    // and one that ends sooner ends it sooner
    alice.send(json!({"type": "auth", "token": token(json!({"exp": at(2)}))})).await;
    alice.expect("auth").await;
    assert_eq!(alice.closed().await, Some(4005));
}

#[tokio::test]
async fn a_server_that_asks_for_no_token_takes_any() {
    let replica = Backend::memory().replica().await;
    let mut client = replica.join("r").await;
    client.send(json!({"type": "auth", "token": "anything"})).await;
    assert_eq!(client.expect("auth").await["expires"], 0);
}
