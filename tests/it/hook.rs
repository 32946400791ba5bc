//! The connect hook: what the back end is told of who would like to connect, and what its word does.
//! What becomes of those on whom it has none is in `hook_faults.rs`.

#![expect(clippy::float_cmp, reason = "counts are whole numbers")]

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, SystemTime},
};

use gateway_websocket::{
    grpc::proto::v1::{Allow, Client as Described, DescribeClientsRequest, Kind, Message},
    shard::Clock,
};
use tonic::Status;

use crate::{
    backend::{BackEnd, allow, allow_as, always, refuse, waiting},
    client::{Client, soon},
    gateway::Gateway,
    issuer::Issuer,
    program::Program,
    raw::{PING, Raw, TEXT, frame, request},
    scrape::Page,
    site::Site,
    v1::text,
    v1_apply::after,
    v1_directory::directory,
};

async fn described(gateway: &Gateway, id: &str) -> Described {
    let request = DescribeClientsRequest { clients: vec![id.to_owned()] };
    let answer = directory(gateway).describe_clients(request).await.unwrap().into_inner();
    answer.clients.into_iter().next().expect("the client is connected")
}

/// Asks for an upgrade; answers the connection and the head of the answer.
pub async fn knock(gateway: &Gateway, lines: &[&str]) -> (Raw, String) {
    let mut raw = Raw::open(gateway.websocket()).await;
    raw.send(request(lines)).await;
    let head = raw.response().await;
    (raw, head)
}

/// The status that a request for an upgrade gets, and the text.
pub async fn turned_away(gateway: &Gateway) -> (String, String) {
    let (mut raw, head) = knock(gateway, &[]).await;
    let status = head.lines().next().unwrap_or_default();
    (status.trim_start_matches("HTTP/1.1 ").to_owned(), raw.rest().await)
}

#[tokio::test]
async fn who_is_allowed_gets_all_that_the_back_end_says_in_order() {
    let expires = SystemTime::now() + Duration::from_hours(1);
    let answer = Allow {
        uid: "ada".into(),
        groups: vec!["staff".into(), "lobby".into()],
        attributes: [("tier".to_owned(), "gold".to_owned())].into(),
        subprotocol: "chat.v1".into(),
        expires_at: Some(expires.into()),
        messages: vec![
            text("first"),
            Message { kind: Kind::Binary.into(), data: vec![0xff, 0].into() },
            text("last"),
        ],
    };
    let back_end = BackEnd::with(always(allow(answer))).await;
    let protocols = "websocket.subprotocols=chat.v2";
    let gateway = Gateway::with(&[&back_end.key(), protocols]).await;
    let offer = "Sec-WebSocket-Protocol: chat.v2, chat.v1";
    let (mut raw, head) = knock(&gateway, &[offer]).await;
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    // Its word counts more than the list.
    assert!(head.to_lowercase().contains("sec-websocket-protocol: chat.v1\r\n"), "{head}");
    let id = raw.data().await.text().to_owned();
    assert_eq!(id.len(), 36, "the id comes first: {id}");
    assert_eq!(raw.data().await.text(), "first");
    assert_eq!(raw.data().await.payload, [0xff, 0]);
    assert_eq!(raw.data().await.text(), "last");
    let client = described(&gateway, &id).await;
    assert_eq!((client.uid.as_str(), client.subprotocol.as_str()), ("ada", "chat.v1"));
    let mut groups = client.groups;
    groups.sort_unstable();
    assert_eq!(groups, ["lobby", "staff"]);
    assert_eq!(client.attributes, [("tier".to_owned(), "gold".to_owned())].into());
    assert_eq!(client.expires_at, Some(expires.into()));
    assert_eq!(gateway.count_online_group("lobby").await.count, 1);
    assert_eq!(Page::of(&gateway).await.get(r#"hook_verdicts_total{verdict="allowed"}"#), 1.0);
}

#[tokio::test]
async fn the_first_messages_leave_together_with_the_answer_and_before_anybody_elses() {
    let (voice, mut questions) = waiting();
    let back_end = BackEnd::with(voice).await;
    let gateway = Gateway::with(&[&back_end.key()]).await;
    let mut raw = Raw::open(gateway.websocket()).await;
    // What is said ahead is heard once the client is one.
    raw.send([request(&[]).into_bytes(), frame(TEXT, b"ping"), frame(PING, b"!")].concat()).await;
    let asked = questions.next().await;
    let messages = vec![text("welcome")];
    asked.answer(allow(Allow { messages, groups: vec!["lobby".into()], ..Allow::default() }));
    assert!(raw.response().await.starts_with("HTTP/1.1 101 "));
    assert_eq!(raw.data().await.text().len(), 36);
    assert_eq!(raw.data().await.text(), "welcome");
    assert_eq!(raw.data().await.text(), "pong");
    assert_eq!(gateway.send_message_to_group("lobby", "to all").await.arrive, 1);
    assert_eq!(raw.data().await.text(), "to all");
}

#[tokio::test]
async fn the_back_end_is_told_what_the_client_has_said() {
    let (voice, mut questions) = waiting();
    let back_end = BackEnd::with(voice).await;
    let gateway = Gateway::with(&[&back_end.key(), "hook.timeout=20s"]).await;
    let mut raw = Raw::open(gateway.websocket()).await;
    raw.send(request(&["Cookie: session=1", "X-App: a", "X-App: b", "Authorization: Basic eA=="]))
        .await;
    let asked = questions.next().await;
    let told = &asked.request;
    assert_eq!((told.path.as_str(), told.query.as_str()), ("/any/path", "and=query"));
    let peer = raw.stream().local_addr().unwrap();
    assert_eq!(told.peer_address, peer.to_string());
    let header = |name: &str| -> Vec<&str> {
        let headers = told.headers.iter().filter(|header| header.name == name);
        headers.map(|header| header.value.as_str()).collect()
    };
    assert_eq!(header("x-app"), ["a", "b"]);
    assert_eq!(header("cookie"), ["session=1"]);
    assert_eq!(header("authorization"), ["Basic eA=="]);
    assert_eq!(header("host"), ["gateway.example"]);
    assert_eq!(told.token, None);
    assert_eq!(asked.metadata.get("authorization"), None, "no token is set");
    let timeout = asked.metadata.get("grpc-timeout").unwrap().to_str().unwrap();
    let millis: u32 = timeout.strip_suffix('m').unwrap().parse().unwrap();
    assert!((1..=20_000).contains(&millis), "{timeout}");
    asked.answer(allow_as(""));
    assert!(raw.response().await.starts_with("HTTP/1.1 101 "));
    let id = raw.data().await.text().to_owned();
    assert_eq!(described(&gateway, &id).await.uid, "", "an empty yes gives nothing");
}

#[tokio::test]
async fn who_is_refused_is_told_in_the_back_ends_words() {
    let back_end = BackEnd::with(always(refuse(451, "not here"))).await;
    let gateway = Gateway::with(&[&back_end.key()]).await;
    let (mut raw, head) = knock(&gateway, &[]).await;
    assert!(head.starts_with("HTTP/1.1 451 "), "{head}");
    assert!(head.contains("\r\nContent-Type: text/plain; charset=utf-8\r\n"), "{head}");
    assert_eq!(raw.rest().await, "not here");
    let page = Page::of(&gateway).await;
    assert_eq!(page.get(r#"hook_verdicts_total{verdict="refused"}"#), 1.0);
    assert_eq!(page.get(r#"handshakes_failed_total{cause="hook"}"#), 1.0);
    assert_eq!(page.get("hook_call_duration_seconds_count"), 1.0);
    assert_eq!(gateway.hub().count_clients(), 0);
}

#[tokio::test]
async fn a_refusal_without_a_status_is_403() {
    let back_end = BackEnd::with(always(refuse(0, ""))).await;
    let gateway = Gateway::with(&[&back_end.key()]).await;
    assert_eq!(turned_away(&gateway).await, ("403 Forbidden".to_owned(), String::new()));
}

#[tokio::test]
async fn a_request_that_is_wrong_is_nobodys_to_judge() {
    let (voice, mut questions) = waiting();
    let back_end = BackEnd::with(voice).await;
    let gateway =
        Gateway::with(&[&back_end.key(), "websocket.allowed_origins=https://a.example"]).await;
    let (_raw, head) = knock(&gateway, &["Origin: https://evil.example"]).await;
    assert!(head.starts_with("HTTP/1.1 403 "), "{head}");
    assert!(questions.try_next().is_none(), "the back end is not asked");
}

#[tokio::test]
async fn a_client_lives_as_long_as_the_back_end_says() {
    let clock = Clock::paused();
    let expires_at = Some((SystemTime::now() + Duration::from_hours(1)).into());
    let back_end = BackEnd::with(always(allow(Allow { expires_at, ..Allow::default() }))).await;
    let gateway = Gateway::at(
        clock.clone(),
        &[&back_end.key(), "websocket.ping_interval=0s", "websocket.heartbeat_timeout=0s"],
    )
    .await;
    let mut client = gateway.connect().await;
    after(&gateway, &clock, Duration::from_mins(59)).await;
    client.say("ping").await;
    assert_eq!(client.next_text().await, "pong");
    after(&gateway, &clock, Duration::from_mins(2)).await;
    assert_eq!(client.read_to_close().await, 3000);
}

#[tokio::test]
async fn over_tls_the_back_end_is_the_one_that_the_authority_vouches_for() {
    let (ours, theirs) = (Issuer::new("ours"), Issuer::new("theirs"));
    let made = ours.server();
    let back_end =
        BackEnd::over_tls(server(&made.certificate, &made.key), always(allow_as("ada"))).await;
    let mut site = Site::new();
    let (ca, other) =
        (site.write("ca", &ours.certificate()), site.write("other", &theirs.certificate()));
    let port = back_end.address().port();
    let toml = |ca: &str, host: &str| {
        format!(
            "hook.address = \"https://{host}:{port}\"\nhook.ca = {ca}\nhook.timeout = \"1s\"\n\
             hook.breaker_failures = 0\n"
        )
    };
    site.start(&toml(&ca, "localhost")).await;
    let client = site.gateway().connect().await;
    assert_eq!(described(site.gateway(), client.id()).await.uid, "ada");
    site.reload(&toml(&ca, "127.0.0.1")).await;
    site.gateway().connect().await;
    // An address that its certificate is not for, and an authority that has not made it.
    for (ca, host) in [(&ca, "127.0.0.2"), (&other, "localhost")] {
        site.reload(&toml(ca, host)).await;
        let (status, body) = turned_away(site.gateway()).await;
        assert_eq!(status, "503 Service Unavailable");
        assert!(body.contains("(unreachable)"), "{body}");
    }
    site.reload(&toml(&ca, "localhost")).await;
    site.gateway().connect().await;
}

#[tokio::test]
async fn new_authorities_cost_nobody_who_is_being_asked_about_the_answer() {
    let (ours, theirs) = (Issuer::new("ours"), Issuer::new("theirs"));
    let made = ours.server();
    let (voice, mut questions) = waiting();
    let back_end = BackEnd::over_tls(server(&made.certificate, &made.key), voice).await;
    let mut site = Site::new();
    let ca = site.write("ca", &ours.certificate());
    site.start(&format!(
        "hook.address = \"https://{}\"\nhook.ca = {ca}\nhook.timeout = \"1h\"\n\
         limits.handshake = \"1h\"\nhook.max_waiting = 1\nhook.max_concurrent = 100\n",
        back_end.address()
    ))
    .await;
    let gateway = site.gateway();
    let mut asked = Vec::new();
    for turn in 0..6 {
        let mut raw = Raw::open(gateway.websocket()).await;
        raw.send(request(&[])).await;
        asked.push((raw, questions.next().await));
        assert_eq!(back_end.connections(), turn + 1, "asked by the authorities in force");
        let both = [ours.certificate(), theirs.certificate()].concat();
        site.write("ca", &if turn % 2 == 0 { both } else { ours.certificate() });
        site.reread().await;
    }
    // The connections on which they were asked about are none that would be used again.
    for (mut raw, asked) in asked {
        asked.answer(allow_as("ada"));
        let head = raw.response().await;
        assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    }
}

#[tokio::test]
async fn new_authorities_under_way_refuse_nobody() {
    let (ours, theirs) = (Issuer::new("ours"), Issuer::new("theirs"));
    let made = ours.server();
    let config = server(&made.certificate, &made.key);
    let back_end = BackEnd::over_tls(config, always(allow_as("ada"))).await;
    let mut site = Site::new();
    let ca = site.write("ca", &ours.certificate());
    site.start(&format!(
        "hook.address = \"https://{}\"\nhook.ca = {ca}\nhook.timeout = \"1h\"\n\
         limits.handshake = \"1h\"\n",
        back_end.address()
    ))
    .await;
    site.gateway().connect().await;
    let address = site.gateway().websocket();
    let over = Arc::new(AtomicBool::new(false));
    let mut comers = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let over = Arc::clone(&over);
        comers.spawn(async move {
            let mut came = 0;
            while !over.load(Ordering::SeqCst) {
                // Would panic if it were refused.
                Client::connect(address).await;
                came += 1;
            }
            came
        });
    }
    for turn in 0..20 {
        let both = [ours.certificate(), theirs.certificate()].concat();
        site.write("ca", &if turn % 2 == 0 { both } else { ours.certificate() });
        site.reread().await;
        site.gateway().connect().await;
    }
    over.store(true, Ordering::SeqCst);
    let came: Vec<u64> = soon("all who came", comers.join_all()).await;
    assert!(came.iter().all(|came| *came > 0), "{came:?}");
    assert!(back_end.connections() > 20, "one for each authority: {}", back_end.connections());
    let page = Page::of(site.gateway()).await;
    assert_eq!(page.sum("hook_failures_total"), 0.0);
}

/// What a server with this certificate works with.
pub fn server(certificate: &str, key: &str) -> Arc<rustls::ServerConfig> {
    use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let chain = CertificateDer::pem_slice_iter(certificate.as_bytes()).collect::<Result<_, _>>();
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain.unwrap(), key)
        .unwrap();
    config.alpn_protocols = vec![b"h2".to_vec()];
    config.into()
}

#[tokio::test]
async fn our_token_reaches_the_back_end_and_nobodys_secret_the_log() {
    const OURS: &str = "ours-0123456789abcdef";
    const THEIRS: &str = "theirs-0123456789abcdef";
    let (voice, mut questions) = waiting();
    let back_end = BackEnd::with(voice).await;
    let mut program = Program::new();
    let token = program.file("token");
    std::fs::write(&token, OURS).unwrap();
    let config = program.config(&format!(
        "hook.address = {}\nhook.token_file = {:?}\nlog.level = \"trace\"\nhook.timeout = \"20s\"\n\
         limits.handshake = \"30s\"\n",
        back_end.value(),
        token.display().to_string(),
    ));
    let status = program.serve(&["--config", &config]).await;
    let cookie = format!("Cookie: session={THEIRS}");
    let bearer = format!("Authorization: Bearer {THEIRS}");
    let said = [
        allow_as("ada"),
        refuse(401, "who are you?"),
        Err(Status::internal("out of order")),
        refuse(200, "nonsense"),
    ];
    for said in said {
        let mut raw = Raw::open(status.listeners.websocket[0]).await;
        raw.send(request(&[&cookie, &bearer])).await;
        let asked = questions.next().await;
        let brought = asked.metadata.get("authorization").unwrap().to_str().unwrap();
        assert_eq!(brought, format!("Bearer {OURS}"));
        let told: Vec<_> = asked.request.headers.iter().map(|it| it.value.clone()).collect();
        assert!(told.contains(&format!("Bearer {THEIRS}")), "{told:?}");
        asked.answer(said);
        raw.response().await;
    }
    let log = program.settled_log();
    for told in ["out of order", "refuse.status: 200 is neither"] {
        assert!(log.contains(told), "{log}");
    }
    assert!(log.contains("client connected"), "everything is told: {log}");
    for secret in [OURS, THEIRS] {
        assert!(!log.contains(secret), "{log}");
    }
    let printed = program.run(&["config", "--config", &config]);
    assert!(!format!("{}{}", printed.out, printed.err).contains(OURS));
}

#[tokio::test]
async fn who_hangs_up_is_not_asked_about_any_longer() {
    let (voice, mut questions) = waiting();
    let back_end = BackEnd::with(voice).await;
    let sets = [&back_end.key(), "hook.timeout=1h", "limits.handshake=1h", "hook.max_concurrent=1"];
    let gateway = Gateway::with(&sets).await;
    let mut gone = Raw::open(gateway.websocket()).await;
    gone.send(request(&[])).await;
    let asked = questions.next().await;
    drop(gone);
    asked.given_up().await;
    // Its turn is the next one's.
    let next = tokio::spawn({
        let address = gateway.websocket();
        async move { Client::connect(address).await }
    });
    questions.next().await.answer(allow_as("eve"));
    soon("the next client", next).await.unwrap();
}

/// A token with these claims, signed with a secret (HS256).
fn token(secret: &str, claims: &str) -> String {
    use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
    let head = URL_SAFE_NO_PAD.encode(r#"{"alg":"HS256","typ":"JWT"}"#);
    let signed = format!("{head}.{}", URL_SAFE_NO_PAD.encode(claims));
    let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, secret.as_bytes());
    format!("{signed}.{}", URL_SAFE_NO_PAD.encode(ring::hmac::sign(&key, signed.as_bytes())))
}

#[tokio::test]
async fn the_back_end_has_its_say_after_the_token_and_before_the_place() {
    const SECRET: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
    let (voice, mut questions) = waiting();
    let back_end = BackEnd::with(voice).await;
    let mut site = Site::new();
    let key = site.write("key", SECRET);
    let toml = format!(
        "hook.address = {}\nhook.timeout = \"1h\"\nlimits.handshake = \"1h\"\nauth.key = {key}\n\
         auth.algorithms = [\"HS256\"]\nauth.groups_claim = \"groups\"\n\
         auth.max_clients_per_uid = 1\n",
        back_end.value(),
    );
    site.start(&toml).await;
    let gateway = site.gateway();
    let claims = r#"{"sub":"ada","exp":4102444800,"groups":["staff"],"more":[1]}"#;
    let token = token(SECRET, claims);
    let offer = format!("Sec-WebSocket-Protocol: bearer, {token}, chat.v1");
    let knock = async || {
        let mut raw = Raw::open(gateway.websocket()).await;
        raw.send(request(&[&offer])).await;
        raw
    };
    // A token that is not believed is nobody's to judge.
    assert_eq!(turned_away(gateway).await.0, "401 Unauthorized");
    assert!(questions.try_next().is_none());

    // What the back end does not say is as the token says; the token itself is no sub-protocol.
    let mut raw = knock().await;
    let asked = questions.next().await;
    let told = asked.request.token.clone().expect("a token was verified");
    assert_eq!(
        (told.uid.as_str(), told.groups.as_slice()),
        ("ada", ["staff".to_owned()].as_slice())
    );
    let told_claims: serde_json::Value = serde_json::from_str(&told.claims).unwrap();
    assert_eq!(told_claims, serde_json::from_str::<serde_json::Value>(claims).unwrap());
    // To the second as it was signed, and `auth.leeway` more.
    let expires = told.expires_at.unwrap();
    assert_eq!((expires.seconds, expires.nanos), (4_102_444_830, 0));
    asked.answer(allow(Allow { groups: vec!["lobby".into()], ..Allow::default() }));
    let head = raw.response().await.to_lowercase();
    assert!(head.contains("sec-websocket-protocol: bearer\r\n"), "{head}");
    let id = raw.data().await.text().to_owned();
    let client = described(gateway, &id).await;
    let mut groups = client.groups;
    groups.sort_unstable();
    assert_eq!(
        (client.uid.as_str(), groups),
        ("ada", vec!["lobby".to_owned(), "staff".to_owned()])
    );

    // The uid under which it takes its place is the back end's.
    let mut second = knock().await;
    questions.next().await.answer(allow_as("ada"));
    assert!(second.response().await.starts_with("HTTP/1.1 429 "));
    let mut third = knock().await;
    let eve = Allow { uid: "eve".into(), subprotocol: "chat.v1".into(), ..Allow::default() };
    questions.next().await.answer(allow(eve));
    let head = third.response().await.to_lowercase();
    assert!(head.contains("sec-websocket-protocol: chat.v1\r\n"), "{head}");
    let id = third.data().await.text().to_owned();
    assert_eq!(described(gateway, &id).await.uid, "eve");

    // The token is not among the offers, so it can't be answered.
    let mut fourth = knock().await;
    let leak = Allow { uid: "bob".into(), subprotocol: token.clone(), ..Allow::default() };
    questions.next().await.answer(allow(leak));
    assert!(fourth.response().await.starts_with("HTTP/1.1 503 "));

    // Where the back end has no word and is not needed, the token's counts.
    site.reload(&format!("{toml}hook.fail = \"open\"\nauth.uid_claim = \"\"\n")).await;
    let mut fifth = knock().await;
    questions.next().await.answer(Err(Status::internal("out of order")));
    assert!(fifth.response().await.starts_with("HTTP/1.1 101 "));
    let id = fifth.data().await.text().to_owned();
    assert_eq!(described(gateway, &id).await.groups, ["staff"]);
}

#[tokio::test]
async fn who_finds_the_gateway_full_is_not_asked_about() {
    let (voice, mut questions) = waiting();
    let back_end = BackEnd::with(voice).await;
    let gateway = Gateway::with(&[&back_end.key(), "limits.max_clients=1"]).await;
    let mut first = Raw::open(gateway.websocket()).await;
    first.send(request(&[])).await;
    questions.next().await.answer(allow_as("ada"));
    assert!(first.response().await.starts_with("HTTP/1.1 101 "));
    assert_eq!(turned_away(&gateway).await.0, "503 Service Unavailable");
    assert!(questions.try_next().is_none());
}
