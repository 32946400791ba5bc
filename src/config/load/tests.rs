//! Layers, and the faults that are reported of them.

use std::fs;

use super::*;
use crate::config::value::{Auto, Listen, Size, Words};
use crate::config::{Messages, SlowClient};

type Env<'a> = &'a [(&'a str, &'a str)];

struct Case {
    directory: tempfile::TempDir,
    sets: Vec<String>,
}

impl Case {
    fn with_file(text: impl AsRef<[u8]>) -> Self {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("gateway.toml"), text).unwrap();
        Self { directory, sets: Vec::new() }
    }

    fn set(mut self, set: &str) -> Self {
        self.sets.push(set.to_owned());
        self
    }

    fn load(&self, env: Env) -> Result<Loaded, Vec<String>> {
        let file = self.directory.path().join("gateway.toml");
        let source = Source { file: Some(file.clone()), sets: self.sets.clone() };
        load(&source, env.iter().copied()).map_err(|faults| {
            let path = file.display().to_string();
            faults.lines().iter().map(|line| line.replace(&path, "FILE")).collect()
        })
    }

    fn faults(&self, env: Env) -> Vec<String> {
        self.load(env).unwrap_err()
    }
}

fn no_material(_: &Config, _: &BTreeMap<String, Origin>, _: &mut Vec<Fault>) -> Material {
    Material::default()
}

#[test]
fn without_a_file_everything_has_its_default() {
    let nowhere = Path::new("/nonexistent/gateway.toml");
    let none = std::iter::empty::<(String, String)>();
    let loaded = load_with(&Source::default(), none, nowhere, None, no_material).unwrap();
    assert_eq!(loaded.config, Config::default());
    assert!(loaded.file.is_none() && loaded.origins.is_empty() && loaded.warnings.is_empty());
}

#[test]
fn the_default_file_is_read_if_it_is_there() {
    let case = Case::with_file("shards = 3");
    let file = case.directory.path().join("gateway.toml");
    let none = std::iter::empty::<(String, String)>();
    let loaded = load_with(&Source::default(), none, &file, None, no_material).unwrap();
    assert_eq!(loaded.config.shards, Auto::Set(3));
    assert_eq!(loaded.file, Some(file));
}

#[test]
fn flags_are_over_the_environment_and_that_over_the_file() {
    let case = Case::with_file(
        "shards = 1\n[limits]\nnames = 1\nheaders = 1\ninbox = 1\n[websocket]\nmessages = 'echo'",
    );
    let case = case.set("limits.names=3").set("limits.names = 4");
    let env = [("GWS_LIMITS__NAMES", "2"), ("GWS_LIMITS__HEADERS", "2"), ("HOME", "/")];
    let loaded = case.load(&env).unwrap();
    assert_eq!(loaded.config.limits.names, 4);
    assert_eq!(loaded.config.limits.headers, 2);
    assert_eq!(loaded.config.limits.inbox, 1);
    assert_eq!(loaded.config.websocket.messages, Messages::Echo);
    let overridden: Vec<_> = loaded.overridden.iter().map(|it| it.key.as_str()).collect();
    assert_eq!(overridden, ["limits.headers", "limits.names"]);
    assert_eq!(loaded.origins["limits.names"], Origin::Flag);
    assert_eq!(
        loaded.origins["limits.headers"],
        Origin::Environment("GWS_LIMITS__HEADERS".to_owned())
    );
    assert!(matches!(loaded.origins["limits.inbox"], Origin::File(_)));
    assert!(!loaded.origins.contains_key("limits.head"));
}

#[test]
fn values_of_the_environment_and_of_flags_are_what_the_key_wants() {
    let case = Case::with_file("")
        .set("websocket.subprotocols=a, b")
        .set("limits.slow_client=drop-oldest")
        .set("limits.head=\"32 KiB\"")
        .set("limits.max_message=2MiB")
        .set("admin.listen=[]")
        .set("grpc.listen=[\"127.0.0.1:3\", \"[::1]:1\"]")
        .set("control.socket=/run/x.sock");
    let env = [
        ("GWS_LOG__FILE", "123"),
        ("GWS_WEBSOCKET__ALLOWED_ORIGINS", "[https://a, https://b]"),
        ("GWS_WEBSOCKET__LISTEN", "127.0.0.1:1, 127.0.0.1:2"),
        ("GWS_SHARDS", "auto"),
        ("GWS_LIMITS__HANDSHAKE", "5s"),
    ];
    let config = case.load(&env).unwrap().config;
    assert_eq!(config.log.file, Path::new("123"));
    assert_eq!(config.shards, Auto::Auto);
    let words = |list: &[&str]| Words(list.iter().map(ToString::to_string).collect());
    assert_eq!(config.websocket.allowed_origins, words(&["https://a", "https://b"]));
    assert_eq!(config.websocket.subprotocols, words(&["a", "b"]));
    assert_eq!(config.websocket.listen, Listen::of("127.0.0.1:1, 127.0.0.1:2"));
    assert_eq!(config.grpc.listen, Listen::of("127.0.0.1:3, [::1]:1"));
    assert_eq!(config.admin.listen, Listen::default());
    assert_eq!(config.limits.slow_client, SlowClient::DropOldest);
    assert_eq!(config.limits.head, Size::kib(32));
    assert_eq!(config.limits.max_message, Size::mib(2));
    assert_eq!(config.control.socket, Auto::Set("/run/x.sock".into()));
}

#[test]
fn all_faults_of_all_sources_are_listed_at_once() {
    let case = Case::with_file(
        "shards = 0\nlimit = 1\n[websocket]\nlisen = '0.0.0.0:1'\nheartbeat_timeout = 'abc'\n\
         ping_interval = 30\nmessages = 'eat'\n[limits]\nnames = 'long'\nhead = '1 KiB'\n\
         [drain]\nclose_code = 70000\n[log]\nlevel = 7\nfile = []\n",
    );
    let case = case.set("limits.inbox=0").set("limits.inbx=1").set("nonsense");
    let env = [("GWS_LIMITS__HEADERS", "many"), ("GWS_WEBSOCKET__WELCOM", "id")];
    assert_eq!(
        case.faults(&env),
        [
            "FILE: limit: unknown key, did you mean limits?",
            "FILE: websocket.lisen: unknown key, did you mean websocket.listen?",
            "environment: GWS_WEBSOCKET__WELCOM: unknown key, did you mean GWS_WEBSOCKET__WELCOME?",
            "--set: limits.inbx: unknown key, did you mean limits.inbox?",
            "--set: nonsense: expected section.key=value",
            "FILE: websocket.messages = \"eat\": expected \"auto\" or \"forward\" or \
             \"drop\" or \"echo\"",
            "FILE: websocket.heartbeat_timeout = \"abc\": expected a duration with its unit such \
             as \"180s\" (ms, s, m or h)",
            "FILE: websocket.ping_interval = 30: expected a duration with its unit such as \
             \"180s\" (ms, s, m or h)",
            "environment: GWS_LIMITS__HEADERS = \"many\": expected a whole number from 1 to 1000",
            "FILE: limits.names = \"long\": expected a whole number from 1 to 65535",
            "FILE: drain.close_code = 70000: expected 1000, 1001, 1012, 1013 or a code from 3000 to \
             4999",
            "FILE: log.level = 7: expected \"error\" or \"warn\" or \"info\" or \"debug\" or \"trace\"",
            "FILE: log.file = []: expected text",
            "FILE: shards = 0: expected \"auto\" or a whole number from 1 to 1024",
            "FILE: limits.head = \"1 KiB\": expected a size from \"8 KiB\" to \"2 MiB\"",
            "--set: limits.inbox = 0: expected a whole number from 1 to 1000000",
        ]
    );
}

#[test]
fn a_file_that_can_not_be_used_is_a_fault_that_names_it() {
    let missing = Source { file: Some("/nonexistent/x.toml".into()), sets: Vec::new() };
    let faults = load(&missing, [("GWS_SHARDS", "none")]).unwrap_err();
    let lines = faults.lines();
    assert!(lines[0].starts_with("/nonexistent/x.toml: can't be read: No such file"), "{lines:?}");
    assert_eq!(lines.len(), 2, "the environment is looked at all the same: {lines:?}");

    let directory = Source { file: Some("/".into()), sets: Vec::new() };
    assert!(
        load(&directory, [("", ""); 0])
            .unwrap_err()
            .to_string()
            .starts_with("/: is not a regular file")
    );

    assert_eq!(Case::with_file(b"a = 1\n\xff").faults(&[]), ["FILE: line 2 is not UTF-8"]);
    let syntax = Case::with_file("shards = 1\n[limits\n").faults(&[]);
    assert_eq!(syntax.len(), 1);
    assert!(syntax[0].starts_with("FILE: line 2, column 8: "), "{syntax:?}");
    let large = vec![b'#'; usize::try_from(MAX_FILE).unwrap() + 1];
    assert_eq!(Case::with_file(large).faults(&[]), ["FILE: is larger than 1048576 bytes"]);
}

#[test]
fn tables_and_values_may_not_stand_for_each_other() {
    assert_eq!(
        Case::with_file("websocket = 5\n[shards]\na = 1").faults(&[]),
        [
            "FILE: websocket = 5: expected a section: [websocket]",
            "FILE: shards = {\"a\":1}: expected \"auto\" or a whole number from 1 to 1024",
        ]
    );
    let deep = Case::with_file("[websocket.listen]\na = 1").faults(&[]);
    assert!(deep[0].contains("expected an address"), "{deep:?}");
}

#[test]
fn a_flag_can_not_smuggle_in_a_second_key() {
    let case = Case::with_file("").set("log.file=\"a\"\nx = 1");
    assert_eq!(case.load(&[]).unwrap().config.log.file, Path::new("\"a\"\nx = 1"));
}

#[test]
fn variables_that_kubernetes_sets_for_a_service_are_not_ours() {
    let env = [
        ("GWS_SERVICE_HOST", "10.0.0.1"),
        ("GWS_SERVICE_PORT_GRPC", "1"),
        ("GWS_PORT", "tcp://10.0.0.1:1"),
        ("GWS_ADMIN_PORT_1_TCP_ADDR", "10.0.0.1"),
    ];
    assert_eq!(Case::with_file("").load(&env).unwrap().config, Config::default());
}

#[test]
fn long_values_are_cut_in_faults() {
    let long = format!("log.level={}", "ä".repeat(500));
    let faults = Case::with_file("").set(&long).faults(&[]);
    assert!(faults[0].chars().count() < 200, "{faults:?}");
}

/// The shipped file is the manual: it says every key, with its default.
#[test]
fn the_shipped_file_holds_every_key_with_its_default() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/gateway.toml");
    let text = fs::read_to_string(&path).unwrap();
    let source = Source { file: Some(path), sets: Vec::new() };
    let loaded = load(&source, [("", ""); 0]).unwrap();
    assert_eq!(loaded.config, Config::default());
    for (key, _) in KEYS {
        assert!(loaded.origins.contains_key(*key), "{key} is missing");
    }

    // Each key has its prose right above it.
    let lines: Vec<&str> = text.lines().collect();
    for pair in lines.windows(2).filter(|pair| pair[1].contains(" = ")) {
        assert!(pair[1].starts_with('#') || pair[0].starts_with('#'), "{}", pair[1]);
    }
}

/// The faults of reading again what was read of `file` before, named by `--config` or not.
fn again(file: &Path, named: bool) -> Result<Loaded, String> {
    let source = Source { file: named.then(|| file.to_owned()), sets: Vec::new() };
    let none = std::iter::empty::<(String, String)>();
    let again = Some(Again { before: Some(file) });
    let loaded = load_with(&source, none, file, again, no_material);
    loaded.map_err(|faults| faults.to_string().replace(&file.display().to_string(), "FILE"))
}

#[test]
fn a_file_that_is_empty_or_gone_when_it_is_read_again_is_a_fault() {
    let case = Case::with_file("");
    let file = case.directory.path().join("gateway.toml");
    for named in [true, false] {
        for empty in ["", "\n", " \t\r\n\n"] {
            fs::write(&file, empty).unwrap();
            assert!(case.load(&[]).is_ok(), "at start it is not");
            let fault = again(&file, named).unwrap_err();
            assert!(fault.starts_with("FILE: is empty; "), "{fault}");
        }
        fs::remove_file(&file).unwrap();
        let fault = again(&file, named).unwrap_err();
        assert_eq!(fault, "FILE: is gone; what it said stays in force");
        // What is no regular file, a pipe for example, isn't even opened.
        fs::create_dir(&file).unwrap();
        assert_eq!(again(&file, named).unwrap_err(), "FILE: is not a regular file");
        fs::remove_dir(&file).unwrap();
        fs::write(&file, "# everything has its default\n").unwrap();
        assert_eq!(again(&file, named).unwrap().config, Config::default());
        fs::write(&file, "shards = 3").unwrap();
        assert_eq!(again(&file, named).unwrap().config.shards, Auto::Set(3));
    }
}

#[test]
fn without_a_file_before_none_is_needed_now() {
    let nowhere = Path::new("/nonexistent/gateway.toml");
    let none = std::iter::empty::<(String, String)>();
    let again = Some(Again { before: None });
    let loaded = load_with(&Source::default(), none, nowhere, again, no_material).unwrap();
    assert_eq!((loaded.config, loaded.file), (Config::default(), None));
}
