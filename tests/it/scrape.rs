//! The page of metrics as a scraper reads it: rows of numbers by name and labels.

use std::collections::{BTreeMap, BTreeSet};

use crate::{gateway::Gateway, raw::ask};

/// A page, taken apart.
#[derive(Debug)]
pub struct Page {
    pub head: String,
    pub text: String,
    /// Name and labels, as they are written, and the value.
    rows: BTreeMap<String, f64>,
    /// The families, named as their rows are, and what type each has.
    pub families: BTreeMap<String, String>,
}

impl Page {
    /// Asks for the page as Prometheus does.
    pub async fn of(gateway: &Gateway) -> Self {
        Self::read(&request(gateway, "GET", "application/openmetrics-text;version=1.0.0").await)
    }

    pub fn read(answer: &str) -> Self {
        let (head, text) = answer.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 200 "), "{answer}");
        let mut page = Self {
            head: head.to_ascii_lowercase(),
            text: text.to_owned(),
            rows: BTreeMap::new(),
            families: BTreeMap::new(),
        };
        for line in text.lines() {
            if let Some(family) = line.strip_prefix("# TYPE ") {
                let (name, kind) = family.split_once(' ').unwrap();
                let end = match kind {
                    "counter" => "_total",
                    "info" => "_info",
                    _ => "",
                };
                let before = page.families.insert(format!("{name}{end}"), kind.to_owned());
                assert_eq!(before, None, "{name} is there twice");
            } else if !line.starts_with('#') {
                let (row, value) = line.rsplit_once(' ').unwrap();
                let before = page.rows.insert(row.to_owned(), value.parse().unwrap());
                assert_eq!(before, None, "{row} is there twice");
            }
        }
        page
    }

    /// The number of one row, given without the gateway's prefix: `connections{state="open"}`.
    #[track_caller]
    pub fn get(&self, row: &str) -> f64 {
        let row = format!("gateway_websocket_{row}");
        *self.rows.get(&row).unwrap_or_else(|| panic!("no {row} in\n{}", self.text))
    }

    /// The sum of all rows of a name, given without the gateway's prefix.
    pub fn sum(&self, name: &str) -> f64 {
        let name = format!("gateway_websocket_{name}");
        self.rows.iter().filter(|(row, _)| name_of(row) == name).map(|(_, value)| value).sum()
    }

    /// The names of all rows.
    pub fn names(&self) -> BTreeSet<&str> {
        self.rows.keys().map(|row| name_of(row)).collect()
    }

    /// The values of all labels of this name.
    pub fn label_values_of(&self, label: &str) -> BTreeSet<&str> {
        let begin = format!("{label}=\"");
        let labels = self.rows.keys().filter_map(|row| row.split_once(&begin));
        labels.filter_map(|(_, value)| value.split('"').next()).collect()
    }

    /// The values of all labels.
    pub fn label_values(&self) -> BTreeSet<&str> {
        let labels = self.rows.keys().filter_map(|row| row.split_once('{'));
        labels.flat_map(|(_, labels)| labels.split('"').skip(1).step_by(2)).collect()
    }
}

fn name_of(row: &str) -> &str {
    row.split('{').next().unwrap()
}

/// Asks for the page; answers everything that comes back.
pub async fn request(gateway: &Gateway, method: &str, accept: &str) -> String {
    let request = format!(
        "{method} /metrics HTTP/1.1\r\nHost: scraper\r\nAccept: {accept}\r\nConnection: close\r\n\r\n"
    );
    ask(gateway.admin(), &request).await
}
