//! Calls that are made once, however often they are asked for: idempotency keys.
//!
//! ```text
//!   key, content ──► new ─────────► under way ──► answered ──► forgotten
//!                     │                 │             │     (window over, or too many)
//!                     └── a task ───────┴── repeats ──┴── get the same answer
//! ```
//!
//! The call runs in a task of its own, so a caller that hangs up neither stops it nor loses the
//! answer. What could not be done is not remembered: nothing of it was done.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use tokio::sync::watch;

use crate::{config::Api, hub::HubError, ids::Name, message::Receipt};

/// What became of a call.
type Answer = Result<Receipt, HubError>;

/// A call's content, as its SHA-256.
pub(super) type Content = [u8; 32];

/// Remembers calls by their keys. Cheap to clone.
#[derive(Clone, Default)]
pub(super) struct Once(Arc<Mutex<Memory>>);

#[derive(Default)]
struct Memory {
    calls: HashMap<Name, (Content, State)>,
    /// The keys of calls that were answered, oldest first, each once.
    answered: VecDeque<(Instant, Name)>,
}

enum State {
    UnderWay(watch::Receiver<Option<Answer>>),
    Answered(Receipt),
}

/// Why a call was not even tried.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Denied {
    /// The key was used for something else.
    #[error("already used for a call with other content")]
    OtherContent,
    /// All keys that may be remembered are those of calls under way.
    #[error(
        "too many calls with idempotency keys under way: api.idempotency_keys ({limit}) reached"
    )]
    Full {
        /// The limit.
        limit: usize,
    },
}

/// What is known of a key.
enum Known {
    /// Nothing: it is this caller's turn.
    Nothing(Turn),
    UnderWay(watch::Receiver<Option<Answer>>),
    Answered(Receipt),
}

/// A call that is to be made. Dropped without an answer, it leaves nothing behind.
struct Turn {
    once: Once,
    key: Name,
    tell: watch::Sender<Option<Answer>>,
    answered: bool,
}

impl Once {
    /// Does what is to be done, unless that was done under this key before; answers as then.
    pub(super) async fn send(
        &self,
        (key, content): (Name, Content),
        limits: &Api,
        sending: impl Future<Output = Answer> + Send + 'static,
    ) -> Result<Answer, Denied> {
        let mut answer = match self.enter(key, content, limits, Instant::now())? {
            Known::Answered(receipt) => return Ok(Ok(receipt)),
            Known::UnderWay(answer) => answer,
            Known::Nothing(turn) => {
                let answer = turn.tell.subscribe();
                tokio::spawn(async move { turn.end(sending.await, Instant::now()) });
                answer
            }
        };
        let told = answer.wait_for(Option::is_some).await;
        // A call ends without an answer only with the runtime.
        Ok(told.ok().and_then(|told| told.clone()).unwrap_or(Err(HubError::Stopped)))
    }

    fn enter(
        &self,
        key: Name,
        content: Content,
        limits: &Api,
        now: Instant,
    ) -> Result<Known, Denied> {
        let mut memory = self.memory();
        memory.forget_before(now.checked_sub(limits.idempotency_window));
        if let Some((known, state)) = memory.calls.get(&key) {
            return match state {
                _ if *known != content => Err(Denied::OtherContent),
                State::UnderWay(answer) => Ok(Known::UnderWay(answer.clone())),
                State::Answered(receipt) => Ok(Known::Answered(*receipt)),
            };
        }
        let limit = limits.idempotency_keys;
        while memory.calls.len() >= limit {
            if !memory.forget_oldest() {
                return Err(Denied::Full { limit });
            }
        }
        let (tell, answer) = watch::channel(None);
        memory.calls.insert(key.clone(), (content, State::UnderWay(answer)));
        Ok(Known::Nothing(Turn { once: self.clone(), key, tell, answered: false }))
    }

    fn memory(&self) -> MutexGuard<'_, Memory> {
        // No step under this lock can leave it half done.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Memory {
    /// Forgets what was answered before that time.
    fn forget_before(&mut self, time: Option<Instant>) {
        let Some(time) = time else { return };
        while self.answered.front().is_some_and(|(at, _)| *at <= time) {
            self.forget_oldest();
        }
    }

    /// Forgets the call that was answered first; false if there is none.
    fn forget_oldest(&mut self) -> bool {
        let oldest = self.answered.pop_front();
        oldest.map(|(_, key)| self.calls.remove(&key)).is_some()
    }
}

impl Turn {
    fn end(mut self, answer: Answer, now: Instant) {
        if let Ok(receipt) = &answer {
            let mut memory = self.once.memory();
            if let Some((_, state)) = memory.calls.get_mut(&self.key) {
                *state = State::Answered(*receipt);
            }
            memory.answered.push_back((now, self.key.clone()));
            self.answered = true;
        }
        self.tell.send_replace(Some(answer));
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        if !self.answered {
            self.once.memory().calls.remove(&self.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const ONE: Content = [1; 32];
    const TWO: Content = [2; 32];

    fn limits(idempotency_keys: usize) -> Api {
        let idempotency_window = Duration::from_mins(1);
        Api { idempotency_keys, idempotency_window, ..Api::default() }
    }

    fn key(text: &str) -> Name {
        Name::new(text, 64).unwrap()
    }

    #[expect(clippy::unnecessary_wraps, reason = "it stands where an answer does")]
    fn sent(number: usize) -> Answer {
        Ok(Receipt::all_queued(number))
    }

    /// Takes the turn of a key that is not known.
    fn turn(once: &Once, text: &str, limits: &Api, now: Instant) -> Turn {
        match once.enter(key(text), ONE, limits, now) {
            Ok(Known::Nothing(turn)) => turn,
            Ok(_) => panic!("{text} is known"),
            Err(denied) => panic!("{text}: {denied}"),
        }
    }

    fn is_known(once: &Once, text: &str) -> bool {
        once.memory().calls.contains_key(text)
    }

    #[test]
    fn an_answer_is_remembered_for_the_window_and_no_longer() {
        let (once, limits, start) = (Once::default(), limits(8), Instant::now());
        let after = |seconds| start + Duration::from_secs(seconds);
        turn(&once, "a", &limits, start).end(sent(3), after(10));
        turn(&once, "b", &limits, after(20)).end(sent(4), after(20));
        for (time, a, b) in [(69, true, true), (70, false, true), (79, false, true)] {
            let found = once.enter(key("b"), ONE, &limits, after(time));
            assert!(matches!(found, Ok(Known::Answered(receipt)) if receipt.queued == 4));
            assert_eq!((is_known(&once, "a"), is_known(&once, "b")), (a, b), "{time}");
        }
        assert!(matches!(once.enter(key("b"), TWO, &limits, after(79)), Err(Denied::OtherContent)));
        let again = turn(&once, "b", &limits, after(80));
        assert!(matches!(once.enter(key("b"), TWO, &limits, after(80)), Err(Denied::OtherContent)));
        drop(again);
        assert!(once.memory().calls.is_empty() && once.memory().answered.is_empty());
    }

    #[test]
    fn the_oldest_answers_make_room_and_calls_under_way_do_not() {
        let (once, limits, now) = (Once::default(), limits(2), Instant::now());
        let first = turn(&once, "first", &limits, now);
        turn(&once, "second", &limits, now).end(sent(1), now);
        let third = turn(&once, "third", &limits, now);
        assert!(!is_known(&once, "second"), "it was answered");
        let denied = once.enter(key("fourth"), ONE, &limits, now).err();
        assert_eq!(denied, Some(Denied::Full { limit: 2 }));
        assert!(denied.unwrap().to_string().contains("api.idempotency_keys"));
        first.end(sent(1), now);
        let fourth = turn(&once, "fourth", &limits, now);
        assert!(!is_known(&once, "first") && is_known(&once, "third"));
        drop((third, fourth));
        assert!(once.memory().calls.is_empty());
    }

    #[test]
    fn what_failed_is_not_remembered() {
        let (once, limits, now) = (Once::default(), limits(2), Instant::now());
        let failing = turn(&once, "a", &limits, now);
        let Ok(Known::UnderWay(answer)) = once.enter(key("a"), ONE, &limits, now) else { panic!() };
        failing.end(Err(HubError::Stopped), now);
        assert_eq!(*answer.borrow(), Some(Err(HubError::Stopped)), "who waited is told");
        turn(&once, "a", &limits, now).end(sent(1), now);
        assert_eq!(once.memory().answered.len(), 1);
    }

    #[tokio::test]
    async fn a_repeat_waits_for_the_first_which_goes_on_when_its_caller_is_gone() {
        let (once, limits) = (Once::default(), limits(2));
        let (go, gone) = tokio::sync::oneshot::channel::<()>();
        let first = {
            let once = once.clone();
            let limits = limits.clone();
            tokio::spawn(async move {
                let sending = async {
                    gone.await.unwrap();
                    sent(7)
                };
                once.send((key("a"), ONE), &limits, sending).await
            })
        };
        while !is_known(&once, "a") {
            tokio::task::yield_now().await;
        }
        first.abort();
        assert!(first.await.unwrap_err().is_cancelled());
        let never = async { unreachable!("it is done once") };
        let mut repeat = Box::pin(once.send((key("a"), ONE), &limits, never));
        let waits = std::future::poll_fn(|context| {
            std::task::Poll::Ready(repeat.as_mut().poll(context).is_pending())
        });
        assert!(waits.await);
        go.send(()).unwrap();
        assert_eq!(repeat.await, Ok(sent(7)));
        let never = async { unreachable!("it is done once") };
        assert_eq!(once.send((key("a"), ONE), &limits, never).await, Ok(sent(7)));
    }
}
