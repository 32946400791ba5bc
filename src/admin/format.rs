//! The two ways in which a page of metrics is written, which one a scraper is given, and whether it
//! is compressed.

use std::io::Write as _;

use flate2::{Compression, write::GzEncoder};
use hyper::{
    HeaderMap,
    header::{ACCEPT, ACCEPT_ENCODING, HeaderName},
};

/// How a page is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    /// OpenMetrics 1.0, as prometheus-client writes it.
    OpenMetrics,
    /// The older text format 0.0.4, for old scrapers and for people.
    Plain,
}

const OPEN_METRICS: &str = "application/openmetrics-text";

impl Format {
    /// What a scraper that sends these headers is given: OpenMetrics if it says that it takes it,
    /// and wants nothing better (RFC 9110 §12.5.1).
    pub(super) fn wanted(headers: &HeaderMap) -> Self {
        let (mut open_metrics, mut plain) = (0, 0);
        for range in elements(headers, &ACCEPT) {
            let mut parts = range.split(';').map(str::trim);
            let kind = parts.next().unwrap_or_default();
            let (mut weight, mut version) = (1000, "1.0.0");
            for (name, value) in parts.filter_map(|part| part.split_once('=')) {
                match name.trim().to_ascii_lowercase().as_str() {
                    "q" => weight = thousandths(value.trim()),
                    "version" => version = value.trim().trim_matches('"'),
                    _ => {}
                }
            }
            if kind.eq_ignore_ascii_case(OPEN_METRICS) && version == "1.0.0" {
                open_metrics = open_metrics.max(weight);
            } else if kind.eq_ignore_ascii_case("text/plain") {
                plain = plain.max(weight);
            }
        }
        if open_metrics > 0 && open_metrics >= plain { Self::OpenMetrics } else { Self::Plain }
    }

    /// What it is called.
    pub(super) fn content_type(self) -> &'static str {
        match self {
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Self::Plain => "text/plain; version=0.0.4; charset=utf-8",
        }
    }

    /// The page, given as OpenMetrics, written this way.
    pub(super) fn write(self, page: String) -> String {
        match self {
            Self::OpenMetrics => page,
            Self::Plain => plain(&page),
        }
    }
}

/// Whether a scraper takes the page compressed (RFC 9110 §12.5.3); one that says nothing of it gets
/// it as it is.
pub(super) fn takes_gzip(headers: &HeaderMap) -> bool {
    let (mut gzip, mut any) = (None, None);
    for element in elements(headers, &ACCEPT_ENCODING) {
        let mut parts = element.split(';').map(str::trim);
        let coding = parts.next().unwrap_or_default();
        let mut named = parts.filter_map(|part| part.split_once('='));
        let weight = named.rfind(|(name, _)| name.trim().eq_ignore_ascii_case("q"));
        let weight = weight.map_or(1000, |(_, value)| thousandths(value.trim()));
        if coding.eq_ignore_ascii_case("gzip") || coding.eq_ignore_ascii_case("x-gzip") {
            gzip = Some(weight);
        } else if coding == "*" {
            any = Some(weight);
        }
    }
    gzip.or(any).is_some_and(|weight| weight > 0)
}

/// The page compressed. Its rows are so much alike that more effort saves little.
pub(super) fn compressed(page: &str) -> Option<Vec<u8>> {
    let mut encoder = GzEncoder::new(Vec::with_capacity(page.len() / 8), Compression::fast());
    encoder.write_all(page.as_bytes()).ok()?;
    encoder.finish().ok()
}

/// The elements of a list that may be in several headers.
fn elements<'h>(headers: &'h HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'h str> {
    let values = headers.get_all(name).into_iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(','))
}

/// A weight of RFC 9110 §12.4.2 in thousandths; what is none counts as zero.
fn thousandths(weight: &str) -> u16 {
    let weight = weight.parse::<f32>().unwrap_or(0.0);
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "it is in 0..=1000"
    )]
    let weight = (weight.clamp(0.0, 1.0) * 1000.0) as u16;
    weight
}

/// OpenMetrics as the older format: there, a family is named as its rows are, there is no type
/// `info`, and neither units nor the end are said.
fn plain(page: &str) -> String {
    let mut text = String::with_capacity(page.len());
    let mut help = None;
    for line in page.lines() {
        if let Some(said) = line.strip_prefix("# HELP ") {
            // Written with the type, which says how the name goes on.
            help = said.split_once(' ');
        } else if let Some((name, kind)) =
            line.strip_prefix("# TYPE ").and_then(|said| said.split_once(' '))
        {
            let (end, kind) = match kind {
                "counter" => ("_total", kind),
                "info" => ("_info", "gauge"),
                "unknown" => ("", "untyped"),
                _ => ("", kind),
            };
            if let Some((_, said)) = help.take().filter(|(helped, _)| *helped == name) {
                text.extend(["# HELP ", name, end, " ", said, "\n"]);
            }
            text.extend(["# TYPE ", name, end, " ", kind, "\n"]);
        } else if !line.starts_with('#') {
            text.extend([line, "\n"]);
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(accept: &str) -> Format {
        Format::wanted(&HeaderMap::from_iter([(ACCEPT, accept.parse().unwrap())]))
    }

    #[test]
    fn who_takes_open_metrics_gets_it() {
        for accept in [
            "application/openmetrics-text",
            "application/openmetrics-text; version=1.0.0; charset=utf-8",
            // Prometheus 2 and 3.
            "application/openmetrics-text;version=1.0.0;q=0.5,application/openmetrics-text;\
             version=0.0.1;q=0.4,text/plain;version=0.0.4;q=0.3,*/*;q=0.2",
            "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;\
             encoding=delimited;q=0.6,application/openmetrics-text;version=1.0.0;\
             escaping=allow-utf-8;q=0.5,text/plain;version=0.0.4;q=0.3,*/*;q=0.2",
        ] {
            assert_eq!(wanted(accept), Format::OpenMetrics, "{accept}");
        }
    }

    #[test]
    fn everybody_else_gets_plain_text() {
        assert_eq!(Format::wanted(&HeaderMap::new()), Format::Plain);
        for accept in [
            "*/*",
            "text/html,*/*;q=0.8",
            "text/plain;version=0.0.4;q=1,*/*;q=0.1",
            "application/openmetrics-text;q=0",
            "application/openmetrics-text;version=9.0.0",
            "application/openmetrics-text;q=0.1, text/plain",
            "application/openmetrics-text;q=much",
            ",;=",
        ] {
            assert_eq!(wanted(accept), Format::Plain, "{accept}");
        }
    }

    #[test]
    fn the_page_is_compressed_for_who_takes_that() {
        let takes = |text: &str| {
            takes_gzip(&HeaderMap::from_iter([(ACCEPT_ENCODING, text.parse().unwrap())]))
        };
        for text in
            ["gzip", "deflate, GZIP", "br;q=1, gzip;q=0.1", "*", "x-gzip", "identity, *;q=0.5"]
        {
            assert!(takes(text), "{text}");
        }
        for text in
            ["", "identity", "br", "gzip;q=0", "gzip;q=0, *", "*;q=0", "gzip;q=much", "gzipped"]
        {
            assert!(!takes(text), "{text}");
        }
        assert!(!takes_gzip(&HeaderMap::new()));
    }

    #[test]
    fn plain_text_names_families_as_their_rows() {
        let page = "# HELP a_bytes One.\n# TYPE a_bytes counter\n# UNIT a_bytes bytes\n\
                    a_bytes_total{x=\"1\"} 2\n# HELP b Two.\n# TYPE b info\nb_info{v=\"1\"} 1\n\
                    # HELP c Three.\n# TYPE c gauge\nc 3\n# EOF\n";
        let expected = "# HELP a_bytes_total One.\n# TYPE a_bytes_total counter\n\
                        a_bytes_total{x=\"1\"} 2\n# HELP b_info Two.\n# TYPE b_info gauge\n\
                        b_info{v=\"1\"} 1\n# HELP c Three.\n# TYPE c gauge\nc 3\n";
        assert_eq!(plain(page), expected);
    }
}
