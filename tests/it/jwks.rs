//! A server of key sets, well-behaved or not, that counts how often it is asked.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::TcpListener,
    sync::watch,
    task::JoinHandle,
};
use tokio_rustls::TlsAcceptor;

use crate::client::soon;

/// What the server does when it is asked.
#[derive(Clone, Debug)]
pub enum Answer {
    /// The status line, headers, and the body.
    Whole(&'static str, String),
    /// The head of an answer, and then a body that never ends.
    Endless,
    /// A body that is announced and breaks off.
    BrokenOff,
    /// Nothing, for as long as it is waited for.
    Silence,
    /// Something that is no HTTP.
    Noise,
    /// The connection is closed.
    Nothing,
}

impl Answer {
    /// What a good server says.
    pub fn ok(body: impl Into<String>) -> Self {
        Self::Whole("200 OK", body.into())
    }
}

pub struct Server {
    pub address: SocketAddr,
    answer: Arc<Mutex<Answer>>,
    asked: watch::Receiver<usize>,
    task: JoinHandle<()>,
}

impl Server {
    pub async fn new(answer: Answer) -> Self {
        Self::with(answer, None).await
    }

    /// A server that speaks TLS, if it is given what it takes.
    pub async fn with(answer: Answer, tls: Option<TlsAcceptor>) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let answer = Arc::new(Mutex::new(answer));
        let (counted, asked) = watch::channel(0);
        let answers = Arc::clone(&answer);
        let task = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (answers, counted, tls) = (Arc::clone(&answers), counted.clone(), tls.clone());
                tokio::spawn(async move {
                    match tls {
                        None => serve(stream, &answers, &counted).await,
                        Some(tls) => match tls.accept(stream).await {
                            Ok(stream) => serve(stream, &answers, &counted).await,
                            Err(_) => counted.send_modify(|count| *count += 1),
                        },
                    }
                });
            }
        });
        Self { address, answer, asked, task }
    }

    pub fn url(&self) -> String {
        format!("http://{}/keys/jwks.json?of=tests", self.address)
    }

    /// What it does from now on.
    pub fn set(&self, answer: Answer) {
        *self.answer.lock().unwrap() = answer;
    }

    /// How often it was asked so far.
    pub fn asked(&self) -> usize {
        *self.asked.borrow()
    }

    /// Waits until it was asked so often.
    pub async fn asked_times(&self, times: usize) {
        let mut asked = self.asked.clone();
        soon("a question", asked.wait_for(|asked| *asked >= times)).await.unwrap();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    answer: &Mutex<Answer>,
    counted: &watch::Sender<usize>,
) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        if stream.read_buf(&mut head).await.unwrap_or(0) == 0 {
            return;
        }
    }
    let head = String::from_utf8(head).unwrap();
    assert!(head.starts_with("GET /keys/jwks.json?of=tests HTTP/1.1\r\n"), "{head}");
    let answer = answer.lock().unwrap().clone();
    counted.send_modify(|count| *count += 1);
    let text = match &answer {
        Answer::Whole(status, body) => {
            let len = body.len();
            format!("HTTP/1.1 {status}\r\nContent-Length: {len}\r\n\r\n{body}")
        }
        Answer::Endless => "HTTP/1.1 200 OK\r\n\r\n{\"keys\": [".to_owned(),
        Answer::BrokenOff => "HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{\"keys\": [".to_owned(),
        Answer::Noise => "SSH-2.0-OpenSSH_9.9\r\n".to_owned(),
        Answer::Silence | Answer::Nothing => String::new(),
    };
    let _ = stream.write_all(text.as_bytes()).await;
    match answer {
        Answer::Endless => while stream.write_all(&[b' '; 4096]).await.is_ok() {},
        Answer::Silence => {
            let _ = stream.read_to_end(&mut Vec::new()).await;
        }
        _ => {}
    }
    let _ = stream.shutdown().await;
}
