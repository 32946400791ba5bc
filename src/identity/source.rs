//! The keys that come from a URL: fetched by one task, for everybody.
//!
//! ```text
//!  jwks_refresh over ─┐                                   ┌─► Held: keys, which attempt
//!  no key fits ───────┤ keep: one question at a time ─────┤   (old keys stay on failure)
//!  other settings ────┘   jwks_retry apart, at least      └─► who waits for a newer attempt
//! ```
//!
//! So a flood of tokens with unknown keys, or with signatures that fit none, is one question per `auth.jwks_retry`, and a server that
//! hangs holds up nobody whose key is known.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::{Notify, watch},
    time::{Instant, sleep_until, timeout},
};

use super::fetch::{Question, fetch};
use crate::{
    access::Keys,
    config::{InForce, Live},
    hub::Hub,
    metrics::HandshakeStats,
};

/// Where keys are had from, and where they are asked for. Cheap to clone.
#[derive(Clone, Debug)]
pub struct KeySource {
    held: watch::Receiver<Held>,
    wanted: Arc<Wanted>,
}

/// What keeps a [`KeySource`] in keys, to be given to [`keep`].
#[derive(Debug)]
pub struct Keeper {
    held: watch::Sender<Held>,
    wanted: Arc<Wanted>,
}

/// Which attempt somebody waits for.
#[derive(Debug, Default)]
struct Wanted {
    attempt: AtomicU64,
    raised: Notify,
}

/// The keys there are.
#[derive(Clone, Debug, Default)]
pub(super) struct Held {
    /// Where they are from; empty if they are from nowhere.
    url: String,
    keys: Option<Keys>,
    /// How often keys were asked for so far, from wherever.
    attempts: u64,
    /// When it was last asked, in vain or not.
    asked: Option<Instant>,
    /// Why in vain, if it was.
    trouble: Option<String>,
}

impl Held {
    /// The keys from this URL, if there are any.
    pub(super) fn keys_of(&self, url: &str) -> Option<&Keys> {
        self.keys.as_ref().filter(|_| self.url == url)
    }
}

impl KeySource {
    /// A source, and what keeps it.
    pub fn new() -> (Self, Keeper) {
        let (sender, held) = watch::channel(Held::default());
        let wanted = Arc::<Wanted>::default();
        let keeper = Keeper { held: sender, wanted: Arc::clone(&wanted) };
        (Self { held, wanted }, keeper)
    }

    /// What there is now.
    pub(super) fn held(&self) -> Held {
        self.held.borrow().clone()
    }

    /// Waits for what another question gives, if it is time for one; none if it is not, or nothing
    /// came in time.
    pub(super) async fn newer_than(&self, seen: &Held, config: &InForce) -> Option<Held> {
        let auth = &config.auth;
        let url = auth.jwks_url()?;
        let mut held = self.held.clone();
        let is_newer = |held: &Held| held.url == url && held.attempts > seen.attempts;
        {
            let now = held.borrow();
            if is_newer(&now) {
                return Some(now.clone());
            }
            let lately = now.asked.is_some_and(|asked| asked.elapsed() < auth.jwks_retry);
            if now.url == url && lately {
                return None;
            }
        }
        self.wanted.attempt.fetch_max(seen.attempts + 1, Ordering::Relaxed);
        self.wanted.raised.notify_one();
        let newer = timeout(auth.jwks_timeout, held.wait_for(is_newer)).await;
        Some(newer.ok()?.ok()?.clone())
    }
}

/// Fetches keys for as long as the process lives: at once, and then whenever it is time.
pub async fn keep(keeper: Keeper, live: Live, hub: Hub) {
    let mut swaps = live.swaps();
    loop {
        let config = live.snapshot();
        let Some(due) = keeper.settle(&config) else {
            swaps.next().await;
            continue;
        };
        tokio::select! {
            () = sleep_until(due) => {}
            () = keeper.wanted.raised.notified() => continue,
            () = swaps.next() => continue,
        }
        // Other settings begin another question: the server may be another one, too.
        tokio::select! {
            () = keeper.ask(&config, hub.handshakes()) => {}
            () = swaps.next() => {}
        }
    }
}

impl Keeper {
    /// Lets go of keys that are from elsewhere than the settings say now; answers when the next
    /// question is due, none if there is nobody to ask.
    fn settle(&self, config: &InForce) -> Option<Instant> {
        let auth = &config.auth;
        let url = auth.jwks_url().unwrap_or_default();
        self.held.send_if_modified(|held| {
            let moved = held.url != url;
            if moved {
                let attempts = held.attempts;
                *held = Held { url: url.to_owned(), attempts, ..Held::default() };
            }
            moved
        });
        let held = self.held.borrow();
        let is_wanted = self.wanted.attempt.load(Ordering::Relaxed) > held.attempts;
        let wait = if is_wanted || held.trouble.is_some() {
            auth.jwks_retry.min(auth.jwks_refresh)
        } else {
            auth.jwks_refresh
        };
        (!url.is_empty()).then(|| after(held.asked, wait))
    }

    async fn ask(&self, config: &InForce, stats: &HandshakeStats) {
        let auth = &config.auth;
        let Some(url) = auth.jwks_url() else { return };
        let question = Question {
            url,
            tls: config.material.jwks_tls.as_ref(),
            timeout: auth.jwks_timeout,
            max_bytes: auth.jwks_max_bytes.bytes(),
        };
        let answer = fetch(question).await;
        match &answer {
            Ok(keys) => stats.keys.accept(keys.len()),
            Err(_) => stats.keys.failed.increment(),
        }
        self.held.send_modify(|held| held.take(url, answer.map_err(|error| error.to_string())));
    }
}

impl Held {
    /// Takes note of what was answered. A trouble is told once, and that it is over.
    fn take(&mut self, url: &str, answer: Result<Keys, String>) {
        self.attempts += 1;
        self.asked = Some(Instant::now());
        match answer {
            Ok(keys) => {
                if self.keys.is_none() || self.trouble.is_some() {
                    tracing::info!(
                        url,
                        keys = keys.len(),
                        "the keys for clients' tokens are there"
                    );
                }
                let before = self.keys.as_ref().map_or(0, Keys::left_out);
                if keys.left_out() > 0 && keys.left_out() != before {
                    tracing::warn!(
                        url,
                        keys = keys.len(),
                        left_out = keys.left_out(),
                        "more keys for clients' tokens than can be used: the first ones are"
                    );
                }
                self.keys = Some(keys);
                self.trouble = None;
            }
            Err(trouble) if self.trouble.as_ref() == Some(&trouble) => {}
            Err(trouble) => {
                let keys = self.keys.as_ref().map_or(0, Keys::len);
                tracing::warn!(
                    url,
                    keys,
                    "no new keys for clients' tokens: auth.jwks {trouble}; those that are there stay"
                );
                self.trouble = Some(trouble);
            }
        }
    }
}

/// So long after a moment; at once if there was none.
fn after(moment: Option<Instant>, wait: Duration) -> Instant {
    let now = Instant::now();
    moment.map_or(now, |moment| moment.checked_add(wait).unwrap_or(now + wait))
}

#[cfg(test)]
mod tests;
