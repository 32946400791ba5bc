//! A stream whose peer has to take in time what is written to it.
//!
//! Who asks and never reads the answer holds a connection, and with it a place; who reads a byte now
//! and then does the same. So the time counts from the first byte that had to wait to the last.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::time::{Sleep, sleep};

use super::tapped::{Ear, Tapped};

/// Fails a write once what was written has not been taken for too long. A flush says that all was.
pub type Timely<S> = Tapped<S, Patience>;

/// How long is waited for the peer.
#[derive(Debug)]
pub struct Patience {
    time: Duration,
    /// Set while something waits.
    late: Option<Pin<Box<Sleep>>>,
}

impl Patience {
    /// What is written between two flushes has to be taken within `time`.
    pub fn of(time: Duration) -> Self {
        Self { time, late: None }
    }
}

impl Ear for Patience {
    fn waits(&mut self, context: &mut Context<'_>) -> Poll<io::Error> {
        let time = self.time;
        ready!(self.late.get_or_insert_with(|| Box::pin(sleep(time))).as_mut().poll(context));
        let text = format!("the peer has not taken an answer within {time:?} (limits.handshake)");
        Poll::Ready(io::Error::new(io::ErrorKind::TimedOut, text))
    }

    fn flushed(&mut self) {
        self.late = None;
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};

    use super::*;

    const TIME: Duration = Duration::from_secs(1);

    #[tokio::test]
    async fn who_reads_a_byte_now_and_then_is_late_as_well() {
        let (mut peer, io) = duplex(4);
        let mut timely = Timely::new(io, Patience::of(TIME));
        let reading = tokio::spawn(async move {
            loop {
                sleep(TIME / 20).await;
                if peer.read_u8().await.is_err() {
                    return;
                }
            }
        });
        let began = std::time::Instant::now();
        let late = timely.write_all(&[0; 100]).await.unwrap_err();
        assert_eq!(late.kind(), io::ErrorKind::TimedOut);
        assert!(late.to_string().contains("limits.handshake"), "{late}");
        assert!(began.elapsed() >= TIME);
        drop(timely);
        reading.await.unwrap();
    }

    #[tokio::test]
    async fn each_answer_has_its_own_time() {
        let (mut peer, io) = duplex(4);
        let mut timely = Timely::new(io, Patience::of(TIME));
        for _ in 0..3 {
            let writing = async {
                timely.write_all(&[7; 8]).await.unwrap();
                timely.flush().await.unwrap();
            };
            let reading = async {
                sleep(TIME / 2).await;
                let mut answer = [0; 8];
                peer.read_exact(&mut answer).await.unwrap();
            };
            tokio::join!(writing, reading);
        }
    }
}
