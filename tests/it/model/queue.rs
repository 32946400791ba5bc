//! What waits for one client, as exactly as that can be known from the outside.
//!
//! A client *keeps up* as long as it reads now and then: all that is sent to it is on its way at
//! once. It is *stuck* when it was sent a message larger than all that the kernel can hold and does
//! not read. From then on nothing can leave before it reads, so what waits is known to the byte:
//!
//! ```text
//!   sent: on its way │ the large one, half written │ waiting: what can be replaced, expire, be dropped
//!   ─────────────────┴─── its place in the queue ──┴───────────────────────────────────────────────
//! ```

use std::collections::VecDeque;

/// `limits.queue_messages` and `limits.queue_bytes`: met by a client that has stopped reading.
const LONGEST_QUEUE: usize = 12;
const LARGEST_QUEUE: usize = 1024 * 1024;

/// `websocket.send_buffer`: small enough that a client can be stuck, large enough that one that
/// reads now and then never is.
const SEND_BUFFER: usize = 64 * 1024;

/// Bytes of which the kernel takes some and not all: more than it holds for one client.
pub const MORE_THAN_FITS: usize = 384 * 1024;

/// `limits.slow_client`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Policy {
    #[default]
    Disconnect,
    DropNewest,
    DropOldest,
}

/// The settings of a gateway whose queues are like this one.
pub fn settings(policy: Policy) -> Vec<String> {
    let slow_client = match policy {
        Policy::Disconnect => "disconnect",
        Policy::DropNewest => "drop-newest",
        Policy::DropOldest => "drop-oldest",
    };
    vec![
        format!("limits.slow_client={slow_client}"),
        // The model has no clock.
        "limits.slow_client_grace=0s".to_owned(),
        format!("limits.queue_messages={LONGEST_QUEUE}"),
        format!("limits.queue_bytes={LARGEST_QUEUE}B"),
        format!("websocket.send_buffer={SEND_BUFFER}B"),
        // Nobody is sent or closed anything but when the test says so.
        "websocket.ping_interval=0s".to_owned(),
        "websocket.heartbeat_timeout=0s".to_owned(),
    ]
}

/// A message as a client reads it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Said {
    pub binary: bool,
    pub data: Vec<u8>,
}

impl Said {
    pub fn text(text: &str) -> Self {
        Self { binary: false, data: text.into() }
    }

    /// Bytes of its frame (RFC 6455 §5.2), from a server.
    fn framed(&self) -> usize {
        let head = match self.data.len() {
            ..126 => 2,
            126..65_536 => 4,
            _ => 10,
        };
        head + self.data.len()
    }
}

/// On which terms a message waits.
#[derive(Clone, Debug, Default)]
pub struct Terms {
    /// In milliseconds.
    pub ttl: Option<u64>,
    pub when_behind: WhenBehind,
}

#[derive(Clone, Debug, Default)]
pub enum WhenBehind {
    #[default]
    Queue,
    Drop,
    Conflate(String),
}

/// What becomes of a message for one client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It replaced so many earlier ones.
    Queued(u64),
    Behind,
    Full,
    /// The client is to be closed for it.
    TooSlow,
}

/// Messages that were queued or not, and what became of them then, as far as that is certain.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Losses {
    pub newest: u64,
    pub oldest: u64,
    pub behind: u64,
    pub replaced: u64,
    pub expired: u64,
}

#[derive(Default)]
pub struct Queue {
    sent: Vec<Said>,
    /// The bytes of the large one, if the client is stuck.
    stuck: Option<usize>,
    waiting: VecDeque<Waiting>,
}

struct Waiting {
    said: Said,
    key: Option<String>,
    /// In milliseconds of the shards' clock.
    until: Option<u64>,
}

impl Queue {
    /// A message is sent at `now`.
    pub fn offer(
        &mut self,
        said: &Said,
        terms: &Terms,
        (now, policy, losses): (u64, Policy, &mut Losses),
    ) -> Fate {
        let Some(stuck) = self.stuck else {
            if said.data.len() >= MORE_THAN_FITS {
                self.stuck = Some(said.framed());
            }
            self.sent.push(said.clone());
            return Fate::Queued(0);
        };
        self.expire(now, losses);
        let key = match &terms.when_behind {
            WhenBehind::Queue => None,
            WhenBehind::Drop => {
                losses.behind += 1;
                return Fate::Behind;
            }
            WhenBehind::Conflate(key) => Some(key.clone()),
        };
        // Who is refused replaces nothing.
        let is_other = |waiting: &Waiting| key.is_none() || waiting.key != key;
        let makes_room = policy == Policy::DropOldest && stuck + said.framed() <= LARGEST_QUEUE;
        if !makes_room && !self.has_room_beside(said, is_other) {
            losses.newest += 1;
            return if policy == Policy::Disconnect { Fate::TooSlow } else { Fate::Full };
        }
        let before = self.waiting.len();
        self.waiting.retain(is_other);
        let replaced = (before - self.waiting.len()) as u64;
        losses.replaced += replaced;
        while !self.has_room_beside(said, |_| true) {
            self.waiting.pop_front();
            losses.oldest += 1;
        }
        let until = terms.ttl.map(|ttl| now + ttl);
        self.waiting.push_back(Waiting { said: said.clone(), key, until });
        Fate::Queued(replaced)
    }

    fn has_room_beside(&self, said: &Said, which: impl Fn(&Waiting) -> bool) -> bool {
        let framed = self.waiting.iter().filter(|it| which(it)).map(|it| it.said.framed());
        let (entries, bytes) =
            framed.fold((1, self.stuck.unwrap_or_default()), |(n, sum), it| (n + 1, sum + it));
        entries < LONGEST_QUEUE && bytes + said.framed() <= LARGEST_QUEUE
    }

    /// What is worth nothing any more is dropped.
    pub fn expire(&mut self, now: u64, losses: &mut Losses) {
        let before = self.waiting.len();
        self.waiting.retain(|waiting| waiting.until.is_none_or(|until| until > now));
        losses.expired += (before - self.waiting.len()) as u64;
    }

    /// All that waits unsent is dropped.
    pub fn discard(&mut self) {
        self.waiting.clear();
    }

    /// The client reads everything.
    pub fn read(&mut self) -> Vec<Said> {
        self.stuck = None;
        let mut read = std::mem::take(&mut self.sent);
        read.extend(self.waiting.drain(..).map(|waiting| waiting.said));
        read
    }

    pub fn is_stuck(&self) -> bool {
        self.stuck.is_some()
    }

    /// What a client has not read that keeps up.
    pub fn sent(&self) -> &[Said] {
        &self.sent
    }

    /// Messages of which not all is on its way.
    pub fn waiting(&self, now: u64) -> usize {
        let waiting = self.waiting.iter().filter(|it| it.until.is_none_or(|until| until > now));
        usize::from(self.is_stuck()) + waiting.count()
    }
}
