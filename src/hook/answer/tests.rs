//! Answers of all kinds, with and without a token before them.

use std::time::{Duration, UNIX_EPOCH};

use super::*;

const NOW: u64 = 1_800_000_000;

fn name(text: &str) -> Name {
    Name::new(text, 99).unwrap()
}

fn bag(pairs: &[(&str, &str)]) -> Retouch {
    let set = pairs.iter().map(|(name_, value)| (name(name_), Box::from(*value))).collect();
    Retouch { set, ..Retouch::default() }
}

/// What a token gives: a bit of everything.
fn token() -> Change {
    Change {
        uid: Some(Some(name("ada"))),
        join: vec![name("staff"), name("all")],
        attributes: Some(bag(&[("lang", "en"), ("tier", "gold")])),
        expires: Some(Expiry::after(Duration::from_mins(1))),
        ..Change::default()
    }
}

fn limited(change: impl FnOnce(&mut Config)) -> Config {
    let mut config = Config::default();
    change(&mut config);
    config
}

fn read_with(answer: AdmitResponse, token: &Change, config: &Config) -> Result<Verdict, Nonsense> {
    let offers = ["chat.v2".to_owned(), "chat.v1".to_owned()];
    let now = UNIX_EPOCH + Duration::from_secs(NOW);
    Terms { config, token, offers: &offers, now }.read(answer)
}

fn allow(allow: Allow) -> AdmitResponse {
    AdmitResponse { verdict: Some(admit_response::Verdict::Allow(allow)) }
}

fn refuse(status: i32, body: &str) -> AdmitResponse {
    let refuse = Refuse { status, body: body.to_owned() };
    AdmitResponse { verdict: Some(admit_response::Verdict::Refuse(refuse)) }
}

fn texts(texts: &[&str]) -> Vec<String> {
    texts.iter().map(ToString::to_string).collect()
}

fn pairs(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect()
}

fn message(kind: v1::Kind, data: &'static [u8]) -> v1::Message {
    v1::Message { kind: kind.into(), data: data.into() }
}

/// What an answer gives a client without a token.
fn change_of(answer: Allow) -> Result<Change, Nonsense> {
    match read_with(allow(answer), &Change::default(), &Config::default())? {
        Verdict::Allow { change, .. } => Ok(*change),
        refused @ Verdict::Refuse { .. } => panic!("{refused:?}"),
    }
}

#[test]
fn an_empty_yes_leaves_all_as_the_token_says() {
    for token in [token(), Change::default()] {
        let mut expected = token.clone();
        expected.join.sort_unstable();
        let read = read_with(allow(Allow::default()), &token, &Config::default()).unwrap();
        assert_eq!(read, Verdict::Allow { change: Box::new(expected), subprotocol: None });
    }
}

#[test]
fn what_is_said_stands_over_the_token_or_beside_it() {
    let answer = Allow {
        uid: "eve".into(),
        groups: texts(&["guests", "all"]),
        attributes: pairs(&[("tier", "none"), ("via", "hook")]),
        subprotocol: "chat.v1".into(),
        expires_at: Some(Timestamp {
            seconds: i64::try_from(NOW).unwrap() + 5,
            nanos: 500_000_000,
        }),
        messages: vec![
            message(v1::Kind::Unspecified, b"one"),
            message(v1::Kind::Binary, b"\xff"),
            message(v1::Kind::Text, b""),
        ],
    };
    let expected = Change {
        uid: Some(Some(name("eve"))),
        leave: Vec::new(),
        join: vec![name("all"), name("guests"), name("staff")],
        attributes: Some(bag(&[("lang", "en"), ("tier", "none"), ("via", "hook")])),
        expires: Some(Some(Expiry {
            at: UNIX_EPOCH + Duration::from_millis(NOW * 1000 + 5500),
            after: Duration::from_millis(5500),
        })),
        messages: vec![
            Payload::new(Kind::Text, "one".into()),
            Payload::new(Kind::Binary, b"\xff".as_slice().into()),
            Payload::new(Kind::Text, "".into()),
        ],
    };
    let read = read_with(allow(answer), &token(), &Config::default()).unwrap();
    let subprotocol = Some("chat.v1".to_owned());
    assert_eq!(read, Verdict::Allow { change: Box::new(expected), subprotocol });
}

#[test]
fn messages_are_framed_as_configured_where_they_say_nothing() {
    let config = limited(|config| config.websocket.message_format = Kind::Binary);
    let answer =
        Allow { messages: vec![message(v1::Kind::Unspecified, b"\xff")], ..Allow::default() };
    let read = read_with(allow(answer), &Change::default(), &config).unwrap();
    let Verdict::Allow { change, .. } = read else { panic!("{read:?}") };
    assert_eq!(change.messages, [Payload::new(Kind::Binary, b"\xff".as_slice().into())]);
}

#[test]
fn a_refusal_has_a_status_of_http_and_a_short_text() {
    let read = |status, body: &str| {
        read_with(refuse(status, body), &Change::default(), &Config::default())
    };
    for (status, told) in [(0, 403), (400, 400), (401, 401), (599, 599)] {
        let body = "not today".to_owned();
        assert_eq!(read(status, "not today"), Ok(Verdict::Refuse { status: told, body }));
    }
    for status in [-1, 1, 101, 200, 302, 399, 600, 65_939, i32::MAX, i32::MIN] {
        assert_eq!(read(status, ""), Err(Nonsense::Status(status)));
    }
    let (fits, long) = ("x".repeat(MOST_BODY), "x".repeat(MOST_BODY + 1));
    assert!(read(403, &fits).is_ok());
    assert_eq!(read(403, &long), Err(Nonsense::LongBody(MOST_BODY + 1)));
}

#[test]
fn no_verdict_is_nonsense() {
    let empty = AdmitResponse { verdict: None };
    assert_eq!(read_with(empty, &Change::default(), &Config::default()), Err(Nonsense::NoVerdict));
}

#[test]
fn each_limit_is_kept_together_with_what_the_token_gives() {
    let config = limited(|config| {
        config.limits.groups_per_client = 3;
        config.limits.attributes = 3;
        config.limits.attribute_bytes.0 = 24;
        config.limits.names = 6;
        config.api.max_sends = 2;
    });
    let groups = |groups: &[&str]| Allow { groups: texts(groups), ..Allow::default() };
    let attributes = |them: &[(&str, &str)]| Allow { attributes: pairs(them), ..Allow::default() };
    let messages =
        |count| Allow { messages: vec![message(v1::Kind::Text, b"x"); count], ..Allow::default() };
    let too_many = |what, count, key, limit| Some(Nonsense::TooMany { what, count, key, limit });
    let per_client = "limits.groups_per_client";
    let long = Some(Nonsense::Name("allow.uid".to_owned(), Name::new("1234567", 6).unwrap_err()));
    let cases = [
        (groups(&["b"]), None),
        (groups(&["all", "staff", "b"]), None),
        (groups(&["b", "c"]), too_many("allow.groups", 4, per_client, 3)),
        (groups(&["b", "b", "b", "b"]), too_many("allow.groups", 4, per_client, 3)),
        (attributes(&[("lang", "de"), ("x", "y")]), None),
        (
            attributes(&[("x", ""), ("y", "")]),
            too_many("allow.attributes", 4, "limits.attributes", 3),
        ),
        (
            attributes(&[("x", "1234567890")]),
            Some(Nonsense::LargeAttributes { bytes: 25, limit: 24 }),
        ),
        (messages(2), None),
        (messages(3), too_many("allow.messages", 3, "api.max_sends", 2)),
        (Allow { uid: "123456".into(), ..Allow::default() }, None),
        (Allow { uid: "1234567".into(), ..Allow::default() }, long),
    ];
    for (answer, nonsense) in cases {
        let read = read_with(allow(answer.clone()), &token(), &config);
        assert_eq!(read.err(), nonsense, "{answer:?}");
    }
}

#[test]
fn what_makes_no_sense_is_named() {
    let at = |seconds, nanos| Allow {
        expires_at: Some(Timestamp { seconds, nanos }),
        ..Allow::default()
    };
    let says = |message: v1::Message| Allow { messages: vec![message], ..Allow::default() };
    let offer = |text: &str| Allow { subprotocol: text.into(), ..Allow::default() };
    let cases = [
        (at(i64::MAX, 0), "expires_at"),
        (at(0, -1), "expires_at"),
        (at(0, 1_000_000_000), "expires_at"),
        (says(message(v1::Kind::Text, b"\xff")), "messages[0].data"),
        (says(message(v1::Kind::Unspecified, b"\xff")), "messages[0].data"),
        (says(v1::Message { kind: 7, data: "x".into() }), "messages[0].kind"),
        (offer("chat.v3"), "subprotocol"),
        (offer("CHAT.V1"), "subprotocol"),
        (offer("chat.v1, chat.v2"), "subprotocol"),
        (Allow { groups: texts(&["a", ""]), ..Allow::default() }, "groups[1]"),
        (Allow { attributes: pairs(&[("", "x")]), ..Allow::default() }, "attributes"),
    ];
    for (answer, named) in cases {
        let said = change_of(answer.clone()).expect_err(named).to_string();
        assert!(said.contains(named), "{answer:?}: {said}");
    }
}

#[test]
fn what_has_expired_already_expires_now_and_is_told_as_it_was_said() {
    for seconds in [-1, 0, i64::try_from(NOW).unwrap()] {
        let said = Timestamp { seconds, nanos: 0 };
        let answer = Allow { expires_at: Some(said), ..Allow::default() };
        let expires = change_of(answer).unwrap().expires.unwrap().unwrap();
        assert_eq!((Timestamp::from(expires.at), expires.after), (said, Duration::ZERO));
    }
}
