//! What is logged of tokens: that one was refused and why, and nothing of what it was.

use std::net::SocketAddr;

use serde_json::json;

use super::{SECRET, bearer};
use crate::{
    mint::{Mint, by_secret, set},
    program::Program,
    raw::{CLOSE, Raw, frame, request},
};

#[tokio::test]
async fn no_token_is_logged_however_much_is() {
    let mut program = Program::new();
    std::fs::write(program.file("secret"), SECRET).unwrap();
    let mint = Mint::new("one");
    std::fs::write(program.file("jwks"), set(&[&mint])).unwrap();
    let file = program.config(&format!(
        "log.level = \"trace\"\nlog.format = \"json\"\n[auth]\n\
         algorithms = [\"HS256\", \"ES256\"]\nkey = {:?}\njwks = {:?}\n\
         sources = [\"header\", \"protocol\", \"query\", \"cookie\"]\n\
         [websocket]\nallowed_origins = [\"https://app.example\"]\n",
        program.file("secret"),
        program.file("jwks"),
    ));
    let status = program.serve(&["--config", &file]).await;
    let address: SocketAddr = status.listeners.websocket[0];
    let mut told = Vec::new();
    for (uid, exp) in [("zanzibar", 600), ("quagmire", -600)] {
        let exp = i64::try_from(crate::mint::now()).unwrap() + exp;
        let claims = json!({"sub": uid, "exp": exp});
        for token in [by_secret(SECRET, &claims), mint.token(&claims), mint.token(&claims) + "AA"] {
            let query = format!("?access_token={token}");
            for text in [
                request(&[&bearer(&token)]),
                request(&[&format!("Sec-WebSocket-Protocol: bearer, {token}")]),
                request(&[&format!("Cookie: access_token={token}")]),
                request(&[]).replace("?and=query", &query),
            ] {
                // A close frame behind it, so that a client that is let in goes again.
                let goodbye = frame(CLOSE, &1000u16.to_be_bytes());
                let mut raw = Raw::open(address).await;
                raw.send([text.as_bytes(), &goodbye].concat()).await;
                let said = raw.rest().await;
                assert!(!said.contains(&token), "{said}");
                told.push(said);
            }
        }
    }
    assert!(told.iter().any(|said| said.starts_with("HTTP/1.1 101 ")));
    assert!(told.iter().any(|said| said.contains("expired")));
    let log = program.settled_log();
    assert!(log.contains("the token was refused: expired"), "{log}");
    assert!(log.contains("client connected"), "the log is of the level that was asked for");
    for secret in ["eyJ", "zanzibar", "quagmire", SECRET] {
        let line = log.lines().find(|line| line.contains(secret));
        assert_eq!(line, None, "{secret} is in the log");
    }
}
