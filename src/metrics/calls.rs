//! What is counted of gRPC calls: by method, by status code, and how long they took.
//!
//! The methods are a table made at the start, so that no caller can add to it; what is called and
//! isn't there is counted as [`OTHER`].

use std::{collections::HashMap, time::Duration};

use super::{Shared, UnderWay};

/// The name of methods that don't exist.
pub const OTHER: &str = "other";

/// The names of the status codes, by their numbers.
pub const CODES: [&str; 17] = [
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
];

/// The number of `UNKNOWN`, which every code that is none is taken for.
const UNKNOWN: usize = 2;

/// Upper ends of the buckets, in microseconds: a call takes some hundred of them when all is well,
/// and seconds when nothing is.
const BOUNDS: [u64; 14] = [
    100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000,
    1_000_000, 5_000_000,
];

/// How long things took, in buckets. Lock-free; any thread may write.
#[derive(Debug, Default)]
pub struct Histogram {
    /// One for each of the bounds, and one for what took longer.
    buckets: [Shared; BOUNDS.len() + 1],
    nanoseconds: Shared,
}

/// One bucket: its upper end in seconds, which for the last is infinite, and how many fell into it
/// and into none before it.
pub type Bucket = (f64, u64);

impl Histogram {
    /// Counts something that took so long.
    pub fn observe(&self, took: Duration) {
        let micros = took.as_nanos().div_ceil(1000);
        let bucket = BOUNDS.iter().position(|bound| micros <= u128::from(*bound));
        self.buckets[bucket.unwrap_or(BOUNDS.len())].increment();
        self.nanoseconds.add(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX));
    }

    /// The buckets, from the fastest to the slowest.
    pub fn buckets(&self) -> [Bucket; BOUNDS.len() + 1] {
        std::array::from_fn(|at| {
            #[expect(clippy::cast_precision_loss, reason = "the bounds are far below 2^53")]
            let bound = BOUNDS.get(at).map_or(f64::INFINITY, |micros| *micros as f64 / 1e6);
            (bound, self.buckets[at].get())
        })
    }

    /// All times together, in seconds.
    pub fn seconds(&self) -> f64 {
        Duration::from_nanos(self.nanoseconds.get()).as_secs_f64()
    }
}

/// What is counted of one method.
#[derive(Debug)]
pub struct Method {
    /// `package.Service/Method`.
    pub name: String,
    /// Calls that ended, by the number of their status code.
    codes: [Shared; CODES.len()],
    /// Time until the answer began.
    pub duration: Histogram,
    /// Calls under way now.
    pub under_way: UnderWay,
}

impl Method {
    fn new(name: String) -> Self {
        Self {
            name,
            codes: Default::default(),
            duration: Histogram::default(),
            under_way: UnderWay::default(),
        }
    }

    /// Counts a call that ended with the status code of this number.
    pub fn end(&self, code: usize) {
        self.codes.get(code).unwrap_or(&self.codes[UNKNOWN]).increment();
    }

    /// Whether anybody has called it yet.
    pub fn is_called(&self) -> bool {
        self.under_way.get() > 0 || self.codes.iter().any(|code| code.get() > 0)
    }

    /// Calls that ended, by the names of their status codes.
    pub fn ended(&self) -> impl Iterator<Item = (&'static str, u64)> {
        CODES.into_iter().zip(self.codes.iter().map(Shared::get))
    }
}

/// What is counted of all methods.
#[derive(Debug)]
pub struct Calls {
    /// The last one is [`OTHER`].
    methods: Vec<Method>,
    by_path: HashMap<String, usize>,
}

impl Calls {
    /// Counts calls of these methods, given as `package.Service/Method`.
    pub fn new(names: impl IntoIterator<Item = String>) -> Self {
        let mut methods: Vec<_> = names.into_iter().map(Method::new).collect();
        let paths = methods.iter().enumerate();
        let by_path = paths.map(|(at, method)| (format!("/{}", method.name), at)).collect();
        methods.push(Method::new(OTHER.to_owned()));
        Self { methods, by_path }
    }

    /// Every method.
    pub fn methods(&self) -> &[Method] {
        &self.methods
    }

    /// The position among [`Calls::methods`] of what is called by this path.
    pub fn position(&self, path: &str) -> usize {
        self.by_path.get(path).copied().unwrap_or(self.methods.len() - 1)
    }

    /// The method at a position; beyond the last it is [`OTHER`].
    pub fn method(&self, position: usize) -> &Method {
        &self.methods[position.min(self.methods.len() - 1)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_falls_into_the_first_bucket_that_holds_it() {
        let histogram = Histogram::default();
        for nanos in [0, 100_000, 100_001, 5_000_000_000, 5_000_000_001] {
            histogram.observe(Duration::from_nanos(nanos));
        }
        let buckets = histogram.buckets();
        assert_eq!((buckets[0].1, buckets[1].1), (2, 1));
        assert_eq!((buckets[13], buckets[14]), ((5.0, 1), (f64::INFINITY, 1)));
        assert_eq!(buckets.iter().map(|(_, n)| n).sum::<u64>(), 5);
        assert!((histogram.seconds() - 10.000_200_002).abs() < 1e-9);
    }

    #[test]
    fn what_is_not_in_the_table_is_other() {
        let calls = Calls::new(["a.B/C".to_owned(), "a.D/E".to_owned()]);
        for (path, name) in
            [("/a.B/C", "a.B/C"), ("/a.D/E", "a.D/E"), ("/a.B/X", OTHER), ("", OTHER)]
        {
            assert_eq!(calls.method(calls.position(path)).name, name);
        }
        let other = calls.method(usize::MAX);
        assert_eq!(other.name, OTHER);
        assert!(!other.is_called());
        other.under_way.begin();
        assert!(other.is_called());
        other.end(12);
        other.under_way.end();
        assert!(other.is_called());
        other.end(99);
        let ended: Vec<_> = other.ended().filter(|(_, n)| *n > 0).collect();
        assert_eq!(ended, [("UNKNOWN", 1), ("UNIMPLEMENTED", 1)]);
    }
}
