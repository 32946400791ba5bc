//! What families of metrics are written with: a name, a line of help, a unit, and rows of labels.
//!
//! prometheus-client does the writing; this keeps it to numbers and to labels that are words of the
//! program's own.

use std::fmt;

use prometheus_client::{
    collector::Collector,
    encoding::{
        DescriptorEncoder, EncodeCounterValue, EncodeGaugeValue, MetricEncoder, NoLabelSet,
    },
    metrics::MetricType,
    registry::Unit,
};

use crate::metrics::Histogram;

/// Bytes, as the end of a name.
pub(super) const BYTES: Option<&Unit> = Some(&Unit::Bytes);
/// Seconds, as the end of a name.
pub(super) const SECONDS: Option<&Unit> = Some(&Unit::Seconds);

/// Labels of one row.
pub(super) type Labels<'l> = &'l [(&'l str, &'l str)];

/// A page, or a part of one, that is being written.
pub(super) struct Sheet<'a>(DescriptorEncoder<'a>);

impl Sheet<'_> {
    /// A family of counters; `_total` is added to the name.
    pub(super) fn counters<'s>(
        &'s mut self,
        name: &'s str,
        unit: Option<&'s Unit>,
        help: &str,
    ) -> Result<Counters<'s>, fmt::Error> {
        self.0.encode_descriptor(name, help, unit, MetricType::Counter).map(Counters)
    }

    /// A counter without labels.
    pub(super) fn counter(
        &mut self,
        name: &str,
        unit: Option<&Unit>,
        help: &str,
        value: impl EncodeCounterValue + Copy,
    ) -> fmt::Result {
        self.counters(name, unit, help)?.row(&[], value)
    }

    /// A family of gauges.
    pub(super) fn gauges<'s>(
        &'s mut self,
        name: &'s str,
        unit: Option<&'s Unit>,
        help: &str,
    ) -> Result<Gauges<'s>, fmt::Error> {
        self.0.encode_descriptor(name, help, unit, MetricType::Gauge).map(Gauges)
    }

    /// A gauge without labels.
    pub(super) fn gauge(
        &mut self,
        name: &str,
        unit: Option<&Unit>,
        help: &str,
        value: impl EncodeGaugeValue + Copy,
    ) -> fmt::Result {
        self.gauges(name, unit, help)?.row(&[], value)
    }

    /// A family of histograms of seconds.
    pub(super) fn histograms<'s>(
        &'s mut self,
        name: &'s str,
        help: &str,
    ) -> Result<Histograms<'s>, fmt::Error> {
        self.0.encode_descriptor(name, help, SECONDS, MetricType::Histogram).map(Histograms)
    }

    /// What is told by labels alone; `_info` is added to the name.
    pub(super) fn info(&mut self, name: &str, help: &str, labels: Labels<'_>) -> fmt::Result {
        self.0.encode_descriptor(name, help, None, MetricType::Info)?.encode_info(&labels)
    }
}

/// The rows of a family of counters.
pub(super) struct Counters<'a>(MetricEncoder<'a>);

impl Counters<'_> {
    pub(super) fn row(
        &mut self,
        labels: Labels<'_>,
        value: impl EncodeCounterValue + Copy,
    ) -> fmt::Result {
        let none = None::<&prometheus_client::metrics::exemplar::Exemplar<NoLabelSet, f64>>;
        match labels {
            [] => self.0.encode_counter(&value, none),
            _ => self.0.encode_family(&labels)?.encode_counter(&value, none),
        }
    }
}

/// The rows of a family of gauges.
pub(super) struct Gauges<'a>(MetricEncoder<'a>);

impl Gauges<'_> {
    pub(super) fn row(
        &mut self,
        labels: Labels<'_>,
        value: impl EncodeGaugeValue + Copy,
    ) -> fmt::Result {
        match labels {
            [] => self.0.encode_gauge(&value),
            _ => self.0.encode_family(&labels)?.encode_gauge(&value),
        }
    }
}

/// The rows of a family of histograms.
pub(super) struct Histograms<'a>(MetricEncoder<'a>);

impl Histograms<'_> {
    pub(super) fn row(&mut self, labels: Labels<'_>, histogram: &Histogram) -> fmt::Result {
        let buckets = histogram.buckets();
        // Not counted apart, so that the count is always that of the last bucket.
        let (count, sum) = (buckets.iter().map(|(_, n)| n).sum(), histogram.seconds());
        let write = |encoder: &mut MetricEncoder<'_>| {
            encoder.encode_histogram::<NoLabelSet>(sum, count, &buckets, None)
        };
        match labels {
            [] => write(&mut self.0),
            _ => write(&mut self.0.encode_family(&labels)?),
        }
    }
}

/// A part of the page, as prometheus-client takes it.
pub(super) struct Part<F>(pub(super) F);

impl<F> fmt::Debug for Part<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Part")
    }
}

impl<F> Collector for Part<F>
where
    F: Fn(&mut Sheet<'_>) -> fmt::Result + Send + Sync + 'static,
{
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        (self.0)(&mut Sheet(encoder))
    }
}
