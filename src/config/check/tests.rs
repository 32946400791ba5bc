//! What is allowed, key by key.

use std::time::Duration;

use super::super::value::{Listen, Networks, Words};
use super::*;
use crate::config::Auth;

/// A list of the words in a text.
fn words(text: &str) -> Words {
    Words(text.split_ascii_whitespace().map(str::to_owned).collect())
}

fn keys(change: impl FnOnce(&mut Config)) -> Vec<&'static str> {
    let mut config = Config::default();
    change(&mut config);
    broken(&config).iter().map(|fault| fault.key).collect()
}

#[test]
fn the_defaults_are_allowed_and_need_no_warning() {
    assert_eq!(broken(&Config::default()), []);
    assert_eq!(warnings(&Config::default()), Vec::<String>::new());
}

#[test]
fn ranges_name_keys_and_every_number_has_one() {
    for range in RANGES {
        assert!(super::super::keys::is_key(range.key), "{}", range.key);
        assert!(range.min <= range.max);
    }
    for (key, value) in super::super::keys::flatten(&Config::default()) {
        let ranged = range_of(&key).is_some();
        assert!(!value.is_number() || ranged, "{key}");
    }
}

#[test]
fn values_outside_their_range_are_refused_all_at_once() {
    let faults = keys(|config| {
        config.shards = Auto::Set(0);
        config.limits.head = Size::kib(4);
        config.limits.headers = 1001;
        config.limits.handshake = Duration::ZERO;
        config.limits.queue_messages = 0;
        config.limits.names = 65536;
        config.websocket.send_buffer = Size(1);
        config.websocket.ping_interval = Duration::from_secs(86_401);
        config.drain.close_code = 1005;
    });
    assert_eq!(
        faults,
        [
            "shards",
            "websocket.ping_interval",
            "websocket.send_buffer",
            "limits.head",
            "limits.headers",
            "limits.handshake",
            "limits.queue_messages",
            "limits.names",
            "drain.close_code",
        ]
    );
}

#[test]
fn zero_turns_off_what_can_be_turned_off() {
    let faults = keys(|config| {
        config.websocket.heartbeat_timeout = Duration::ZERO;
        config.websocket.send_buffer = Size(0);
        config.limits.message_deadline = Duration::ZERO;
        config.drain.timeout = Duration::ZERO;
        config.admin.listen = Listen::default();
    });
    assert_eq!(faults, [""; 0]);
}

#[test]
fn what_is_allowed_is_said_in_the_units_of_the_file() {
    assert_eq!(range_of("limits.head").unwrap(), "a size from \"8 KiB\" to \"2 MiB\"");
    assert_eq!(
        range_of("websocket.ping_interval").unwrap(),
        "\"0s\" (off), or a duration from \"1ms\" to \"24h\""
    );
    assert_eq!(range_of("shards").unwrap(), "\"auto\" or a whole number from 1 to 1024");
}

#[test]
fn a_caller_that_reads_its_socket_now_and_then_has_time_to_answer_a_ping() {
    // Idle channels of grpc++ do it every 5 to 15 s.
    assert!(Config::default().grpc.keepalive_timeout >= Duration::from_secs(20));
}

#[test]
fn an_address_that_is_used_twice_is_named() {
    let mut config = Config::default();
    config.websocket.listen = Listen::of("127.0.0.1:32000");
    config.admin.listen = Listen::of("127.0.0.1:32000");
    let faults: Vec<_> = broken(&config).into_iter().map(|it| (it.key, it.allowed)).collect();
    let expected = "distinct addresses (127.0.0.1:32000 is used twice)".to_owned();
    assert_eq!(faults, [("admin.listen", expected)]);
}

#[test]
fn consumer_groups_have_names_that_differ_and_there_are_not_too_many() {
    let with = |groups: &[&str]| {
        let groups = groups.iter().map(ToString::to_string).collect();
        keys(|c| (c.events.groups, c.events.max_groups) = (Words(groups), 2))
    };
    assert_eq!(with(&["a", "b"]), [""; 0]);
    for wrong in [&["a", "b", "c"][..], &["a", "a"], &[""], &["a", &"x".repeat(257)]] {
        assert_eq!(with(wrong), ["events.groups"], "{wrong:?}");
    }
}

#[test]
fn addresses_names_and_origins_are_looked_at() {
    assert_eq!(keys(|c| c.websocket.listen = Listen::default()), ["websocket.listen"]);
    let shared = Listen::of("127.0.0.1:20820");
    assert_eq!(keys(|c| c.grpc.listen = shared), ["admin.listen"]);
    let twice = Listen::of("127.0.0.1:0, 127.0.0.1:0");
    assert_eq!(keys(|c| c.websocket.listen = twice), [""; 0]);
    let words = |text: &str| Words(vec![text.to_owned()]);
    for wrong in ["a b", "", "ä", "a,b"] {
        assert_eq!(keys(|c| c.websocket.subprotocols = words(wrong)), ["websocket.subprotocols"]);
    }
    let wrong = "example.com https://a/ * https:// ://a https://* https://*. https://*.:80 \
        https://*..a https://*a https://a.*.b https://*.*.a https://*.a:* *://a *.a";
    for wrong in wrong.split_ascii_whitespace() {
        assert_eq!(
            keys(|c| c.websocket.allowed_origins = words(wrong)),
            ["websocket.allowed_origins"]
        );
    }
    for right in ["http://a:8080", "https://*.example.com:8443", "null"] {
        assert_eq!(keys(|c| c.websocket.allowed_origins = words(right)), [""; 0]);
    }
}

#[test]
fn who_may_call_from_elsewhere_has_to_be_said() {
    let remote = |change: fn(&mut Config)| {
        keys(|config| {
            config.grpc.listen = Listen::of("0.0.0.0:1");
            change(config);
        })
    };
    assert_eq!(remote(|_| {}), ["grpc.listen"]);
    assert_eq!(remote(|c| c.grpc.unprotected = true), [""; 0]);
    assert_eq!(remote(|c| c.grpc.allow = Networks::of("10.0.0.0/8")), [""; 0]);
    assert_eq!(remote(|c| c.grpc.token_files = Words(vec!["/t".into()])), [""; 0]);
    assert_eq!(
        remote(|c| {
            c.grpc.client_ca = "/ca".into();
            c.grpc.certificate = "/c".into();
            c.grpc.key = "/k".into();
        }),
        [""; 0]
    );
    assert_eq!(keys(|c| c.grpc.listen = Listen::of("[::1]:1")), [""; 0]);
}

#[test]
fn keys_that_need_each_other_are_asked_for() {
    let listen = || Listen::of("127.0.0.1:1");
    assert_eq!(keys(|c| c.tls.listen = listen()), ["tls.certificate"]);
    assert_eq!(keys(|c| c.tls.certificate = "/c".into()), ["tls.key"]);
    assert_eq!(keys(|c| c.grpc.key = "/k".into()), ["grpc.certificate"]);
    assert_eq!(keys(|c| c.grpc.client_ca = "/ca".into()), ["grpc.client_ca"]);
    let proxies = Networks::of("10.0.0.0/8");
    assert_eq!(keys(|c| c.websocket.proxies = proxies), ["websocket.proxy_header"]);
    let header = ProxyHeader::Proxy;
    assert_eq!(keys(|c| c.websocket.proxy_header = header), ["websocket.proxies"]);
    let auth = |set: fn(&mut Auth)| keys(|c| set(&mut c.auth));
    assert_eq!(auth(|auth| auth.algorithms = words("ES256")), ["auth.key"]);
    assert_eq!(auth(|auth| auth.key = "/k".into()), ["auth.algorithms"]);
    assert_eq!(auth(|auth| auth.jwks = "/j".into()), ["auth.algorithms"]);
    assert_eq!(auth(|auth| auth.jwks_ca = "/ca".into()), ["auth.jwks_ca"]);
    let cookie = |c: &mut Config| {
        c.auth.algorithms = words("ES256");
        c.auth.key = "/k".into();
        c.auth.sources = words("cookie");
    };
    assert_eq!(keys(cookie), ["websocket.allowed_origins"]);
}

#[test]
fn what_says_how_tokens_are_found_is_checked_word_by_word() {
    let auth = |set: &dyn Fn(&mut Auth)| keys(|c| set(&mut c.auth));
    for wrong in ["none", "HS256 none", "es256", "RS512"] {
        let set = |auth: &mut Auth| {
            auth.algorithms = words(wrong);
            auth.key = "/k".into();
        };
        assert_eq!(auth(&set), ["auth.algorithms"], "{wrong}");
    }
    for wrong in ["", "body", "header header", "Header"] {
        assert_eq!(auth(&|auth| auth.sources = words(wrong)), ["auth.sources"], "{wrong}");
    }
    for wrong in ["", "a b", "a=b", "a;b"] {
        assert_eq!(auth(&|auth| auth.cookie = wrong.into()), ["auth.cookie"], "{wrong}");
    }
    for wrong in ["", "a b", "a=b", "a&b", "%61"] {
        let set = |auth: &mut Auth| auth.query_parameter = wrong.into();
        assert_eq!(auth(&set), ["auth.query_parameter"], "{wrong}");
    }
}

#[test]
fn tokens_that_are_remembered_are_mentioned() {
    let mut config = Config::default();
    config.websocket.keep_headers = words("User-Agent Authorization");
    assert_eq!(warnings(&config), Vec::<String>::new(), "they are no tokens of ours");
    config.auth.algorithms = words("ES256");
    let said = warnings(&config);
    assert!(said.len() == 1 && said[0].contains("\"authorization\""), "{said:?}");
}

#[test]
fn a_wait_and_an_answer_of_the_hook_have_to_fit_into_the_handshake() {
    let mut config = Config::default();
    config.hook.address = "http://127.0.0.1:9000".to_owned();
    config.limits.handshake = config.hook.timeout * 2 + Duration::from_millis(1);
    assert_eq!(warnings(&config), Vec::<String>::new());
    config.limits.handshake = config.hook.timeout * 2;
    let said = warnings(&config);
    assert!(said.len() == 1 && said[0].starts_with("twice hook.timeout (2s)"), "{said:?}");
}

#[test]
fn an_origin_that_no_browser_could_send_is_refused() {
    for (entry, is_good) in [
        ("https://example.com:443", true),
        ("https://*.example.com:8443", true),
        ("app://localhost", true),
        ("https://example.com:", false),
        ("https://example.com:65536", false),
        ("https://user@example.com", false),
        ("https://example.com?a", false),
        ("https://[::1", false),
    ] {
        let mut config = Config::default();
        config.websocket.allowed_origins = words(entry);
        let said: Vec<_> = broken(&config).iter().map(|broken| broken.key).collect();
        let expected: &[&str] = if is_good { &[] } else { &["websocket.allowed_origins"] };
        assert_eq!(said, expected, "{entry}");
    }
}

#[test]
fn what_is_probably_not_meant_is_mentioned() {
    let mut config = Config::default();
    config.websocket.heartbeat_timeout = Duration::from_secs(10);
    config.grpc.listen = Listen::of("0.0.0.0:1");
    config.grpc.unprotected = true;
    config.limits.max_clients = Auto::Set(u32::MAX as usize);
    config.limits.partial_bytes = Memory::Bytes(Size::mib(1));
    config.limits.max_message = Size::mib(2);
    assert_eq!(broken(&config), []);
    assert_eq!(warnings(&config).len(), 4);
}
