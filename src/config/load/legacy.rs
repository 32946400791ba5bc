//! Recognises a settings file of version 1.x, an INI file, and says what its lines are now.
//!
//! ```text
//! [gateway]
//! gatewayServicePort = 20818  ; ──► websocket.listen = "0.0.0.0:20818"
//! ```

use std::net::IpAddr;

use ipnet::IpNet;
use serde_json::Value;

/// One line of such a file.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Setting {
    /// `section.key`, as it stands there.
    pub(super) key: String,
    /// What it is set to.
    pub(super) value: String,
    /// What to do about it.
    pub(super) now: String,
}

/// What is said of the file as a whole.
pub(super) const WHOLE: &str = "is a file of version 1.x; settings are TOML now: start from \
     config/gateway.toml and take over what follows (README, \"Coming from 1.x\")";

/// A file has seven settings; who repeats them is told of the first.
const MOST: usize = 20;

/// The settings, if it is a file of 1.x: one of its keys stands in its section. No section of these
/// names is one of ours.
pub(super) fn settings(text: &str) -> Option<Vec<Setting>> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut section = String::new();
    let mut found = Vec::new();
    for line in text.lines().map(str::trim) {
        if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.split(']').next()) {
            name.trim().clone_into(&mut section);
        } else if let Some((key, value)) = entry(line)
            && found.len() < MOST
            && let Some(now) = now(&section, key, value)
        {
            found.push(Setting { key: format!("{section}.{key}"), value: value.to_owned(), now });
        }
    }
    (!found.is_empty()).then_some(found)
}

/// Key and value of a line, without comment and quotes.
fn entry(line: &str) -> Option<(&str, &str)> {
    if line.starts_with([';', '#']) {
        return None;
    }
    let (key, value) = line.split_once('=')?;
    let comment = value.find([';', '#']).unwrap_or(value.len());
    let value = value.get(..comment).unwrap_or_default().trim();
    Some((key.trim(), value.trim_matches(['"', '\''])))
}

/// What a setting is now; none if 1.x had no such one.
fn now(section: &str, key: &str, value: &str) -> Option<String> {
    let name = format!("{section}.{key}").to_ascii_lowercase();
    let port = value.parse::<u16>().ok();
    Some(match name.as_str() {
        "gateway.gatewayserviceport" => match port {
            Some(port) => format!("now websocket.listen = \"0.0.0.0:{port}\""),
            None => "now websocket.listen, an address and a port".to_owned(),
        },
        "gateway.grpcserviceport" => match port {
            Some(port) => format!(
                "now grpc.listen = \"127.0.0.1:{port}\", or another address with grpc.allow or \
                 tokens (1.x listened on all)"
            ),
            None => "now grpc.listen, an address and a port".to_owned(),
        },
        // By word, or by the opcode of RFC 6455.
        "gateway.messageformat" => match value.to_ascii_lowercase().as_str() {
            "text" | "1" => "now websocket.message_format = \"text\"".to_owned(),
            "binary" | "2" => "now websocket.message_format = \"binary\"".to_owned(),
            _ => "now websocket.message_format, \"text\" or \"binary\"".to_owned(),
        },
        "gateway.heartbeattimeout" => match value.trim_end_matches('s').parse::<u32>() {
            Ok(seconds) => format!("now websocket.heartbeat_timeout = \"{seconds}s\""),
            Err(_) => "now websocket.heartbeat_timeout, such as \"180s\"".to_owned(),
        },
        "gateway.writebuffersize" => {
            "leave it out: limits.queue_bytes and limits.queue_messages bound what waits for a client"
                .to_owned()
        }
        "server.ip" => match networks(value) {
            Some(networks) => format!("now grpc.allow = {networks}"),
            None => "now grpc.allow, a list of addresses and prefixes".to_owned(),
        },
        "cluster.clustername" => "leave it out: it was never used".to_owned(),
        _ => return None,
    })
}

/// The addresses as a list of TOML; none if one is not an address.
fn networks(value: &str) -> Option<Value> {
    let words = value.split([',', ' ', '|']).map(str::trim).filter(|word| !word.is_empty());
    let is_network = |word: &str| word.parse::<IpAddr>().is_ok() || word.parse::<IpNet>().is_ok();
    let list: Option<Vec<Value>> =
        words.map(|word| is_network(word).then(|| Value::from(word))).collect();
    list.filter(|list| !list.is_empty()).map(Value::from)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn each_setting_of_1_x_has_its_successor() {
        for (section, line, now) in [
            ("gateway", "gatewayServicePort = 20818", "now websocket.listen = \"0.0.0.0:20818\""),
            ("gateway", "gatewayServicePort=many", "now websocket.listen, an address and a port"),
            ("gateway", "gRPCServicePort=20819 ; local", "now grpc.listen = \"127.0.0.1:20819\""),
            ("gateway", "messageFormat = \"binary\"", "now websocket.message_format = \"binary\""),
            ("gateway", "messageFormat = 1", "now websocket.message_format = \"text\""),
            ("gateway", "heartbeatTimeout = 180", "now websocket.heartbeat_timeout = \"180s\""),
            ("gateway", "writeBufferSize = 1024", "leave it out: limits.queue_bytes"),
            (
                "server",
                "ip = 10.0.0.1,10.1.0.0/16",
                "now grpc.allow = [\"10.0.0.1\",\"10.1.0.0/16\"]",
            ),
            ("server", "ip = *", "now grpc.allow, a list"),
            ("cluster", "clusterName = a", "leave it out: it was never used"),
        ] {
            let found = settings(&format!("; 1.x\n[{section}]\n{line}\n")).unwrap();
            assert_eq!(found.len(), 1, "{line}");
            assert!(found[0].now.starts_with(now), "{line}: {}", found[0].now);
        }
    }

    #[test]
    fn a_file_of_ours_is_none_of_1_x() {
        let shipped = concat!(env!("CARGO_MANIFEST_DIR"), "/config/gateway.toml");
        let shipped = std::fs::read_to_string(shipped).unwrap();
        for text in ["", "[gateway]\nport = 1\n", "[server]\n", "gatewayServicePort = 1", &shipped]
        {
            assert_eq!(settings(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read_without_a_panic(text in "[\\PC\n\\[\\]=;#\"]{0,200}") {
            if let Some(found) = settings(&format!("[gateway]\nmessageFormat=\n{text}")) {
                prop_assert!(found.len() <= MOST);
            }
        }
    }
}
