//! A pipe in a file's place: whoever opens one is held until somebody opens its other end, so the
//! gateway opens none, and a reload that meets one is refused.

use std::{
    io::Read as _,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use rustix::fs::{CWD, FileType, Mode, OFlags, mknodat};

use crate::{client::Client, issuer::Issuer, program::Program, site::until};

/// Puts a pipe in the place of whatever is there.
fn pipe(program: &Program, name: &str) -> PathBuf {
    let path = program.file(name);
    let _ = std::fs::remove_file(&path);
    mknodat(CWD, &path, FileType::Fifo, Mode::RWXU, 0).unwrap();
    path
}

/// The reading end of a pipe, whether anybody writes or not.
fn reader(path: &Path) -> std::fs::File {
    let flags = OFlags::NONBLOCK.bits().cast_signed();
    std::fs::OpenOptions::new().read(true).custom_flags(flags).open(path).unwrap()
}

async fn is_served(client: &mut Client) {
    client.say("ping").await;
    assert_eq!(client.next_text().await, "pong");
}

#[tokio::test]
async fn a_log_that_is_a_pipe_is_opened_once_somebody_reads_it() {
    let mut program = Program::new();
    let config = program.config("# nothing\n");
    let status = program.serve(&["--config", &config]).await;
    let mut client = Client::connect(status.listeners.websocket[0]).await;
    let log = pipe(&program, "pipe");
    program.config(&format!("log.file = {:?}\nlimits.names = 9\n", log.display().to_string()));
    let refused = program.run(&["--config", &config, "reload"]);
    refused.expect(1, &["nothing changed", "log.file", "nobody reads"]);
    assert_eq!(program.status().config.generation, 1);
    is_served(&mut client).await;

    let mut reader = reader(&log);
    program.run(&["--config", &config, "reload"]).expect(0, &["log.file: ", "limits.names: "]);
    let mut lines = String::new();
    let told = async || {
        // None are there for now: that is an error, and what was read before it is kept.
        let _ = reader.read_to_string(&mut lines);
        lines.contains("configuration reloaded")
    };
    until("the line of the reload", told).await;
    is_served(&mut client).await;

    let mut another = Program::new();
    let unread = pipe(&another, "pipe");
    let set = format!("log.file={}", unread.display());
    another.run(&["--set", &set, "serve"]).expect(1, &["log.file", "nobody reads"]);
    another.serve(&[]).await;
}

#[tokio::test]
async fn a_pipe_as_certificate_tokens_or_settings_refuses_the_reload() {
    let mut program = Program::new();
    let server = Issuer::new("authority").server();
    let file = |name: &str, text: &str| {
        std::fs::write(program.file(name), text).unwrap();
        format!("{:?}", program.file(name).display().to_string())
    };
    let (certificate, key) = (file("cert.pem", &server.certificate), file("key.pem", &server.key));
    let tokens = file("tokens", "a-token-0123456789\n");
    let toml = format!(
        "tls.listen = \"127.0.0.1:0\"\ntls.certificate = {certificate}\ntls.key = {key}\n\
         grpc.token_files = {tokens}\n"
    );
    let config = program.config(&toml);
    let status = program.serve(&["--config", &config]).await;
    let mut client = Client::connect(status.listeners.websocket[0]).await;
    for (name, words) in [
        ("cert.pem", ["tls.certificate", "is not a regular file"]),
        ("key.pem", ["tls.key", "is not a regular file"]),
        ("tokens", ["grpc.token_files", "is not a regular file"]),
        ("gateway.toml", ["gateway.toml", "is not a regular file"]),
    ] {
        let before = std::fs::read(program.file(name)).unwrap();
        pipe(&program, name);
        program
            .run(&["--config", &config, "reload"])
            .expect(1, &["nothing changed", words[0], words[1]]);
        is_served(&mut client).await;
        std::fs::remove_file(program.file(name)).unwrap();
        std::fs::write(program.file(name), before).unwrap();
        program.run(&["reload"]).expect(0, &[]);
    }
}
