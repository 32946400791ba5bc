//! What is written about the metrics is true: the table, the dashboard and the alerts name what the
//! page of a running gateway has.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use crate::{gateway::Gateway, scrape::Page};

fn shipped(file: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging").join(file);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The page of a gateway that has TLS and a consumer group, and has seen a client and a call.
async fn page() -> Page {
    let directory = tempfile::tempdir().unwrap();
    let made = rcgen::generate_simple_self_signed(["a.example".to_owned()]).unwrap();
    let file = |name: &str, text: String| {
        let path = directory.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let certificate = format!("tls.certificate={}", file("certificate.pem", made.cert.pem()));
    let key = format!("tls.key={}", file("key.pem", made.signing_key.serialize_pem()));
    let gateway = Gateway::with(&[&certificate, &key, "events.groups=all"]).await;
    let client = gateway.connect().await;
    gateway.send_message_to_client(client.id(), "hello").await;
    Page::of(&gateway).await
}

/// All words in `text` that begin as the metrics' names do.
fn metrics_in(text: &str) -> BTreeSet<String> {
    let is_part = |c: char| c.is_ascii_lowercase() || c == '_';
    let words = text.split(|c| !is_part(c));
    let named = words.filter(|word| {
        ["gateway_websocket_", "process_"].iter().any(|prefix| word.starts_with(prefix))
    });
    named.map(str::to_owned).collect()
}

#[tokio::test]
async fn the_table_names_what_the_page_has() {
    let table: BTreeMap<String, String> = shipped("grafana/README.md")
        .lines()
        .filter_map(|line| line.strip_prefix("| `"))
        .filter_map(|line| {
            let (name, rest) = line.split_once("` | ")?;
            Some((name.to_owned(), rest.split(' ').next()?.to_owned()))
        })
        .filter(|(name, _)| !metrics_in(name).is_empty())
        .collect();
    assert!(table.len() > 40, "{table:?}");
    assert_eq!(table, page().await.families);
}

#[tokio::test]
async fn each_cause_on_the_page_is_explained() {
    let page = page().await;
    let written = shipped("grafana/README.md");
    let causes = page.label_values_of("cause");
    assert!(causes.len() > 15, "{causes:?}");
    let unknown: Vec<_> =
        causes.iter().filter(|cause| !written.contains(&format!("`{cause}`"))).collect();
    assert_eq!(unknown, Vec::<&&str>::new());
}

#[tokio::test]
async fn each_metric_of_the_dashboard_and_of_the_alerts_is_on_the_page() {
    let page = page().await;
    let there = page.names();
    let dashboard: serde_json::Value =
        serde_json::from_str(&shipped("grafana/gateway-websocket.json")).unwrap();
    assert!(dashboard["panels"].as_array().unwrap().len() > 20);
    for (what, text, least) in [
        ("the dashboard", dashboard.to_string(), 30),
        ("the alerts", shipped("prometheus/alerts.yaml"), 12),
    ] {
        let named = metrics_in(&text);
        assert!(named.len() >= least, "{what} names {named:?}");
        let missing: Vec<_> = named.iter().filter(|name| !there.contains(name.as_str())).collect();
        assert_eq!(missing, Vec::<&String>::new(), "{what} names what isn't on the page");
    }
}

#[tokio::test]
async fn all_that_is_measured_of_events_tokens_and_the_hook_is_drawn() {
    let page = page().await;
    let drawn = metrics_in(&shipped("grafana/gateway-websocket.json"));
    let of = ["events_", "waiting_clients", "tokens_", "jwks_", "hook_"];
    let is_theirs = |name: &str| {
        let name = name.strip_prefix("gateway_websocket_").unwrap_or_default();
        of.iter().any(|beginning| name.starts_with(beginning))
    };
    let families: Vec<_> = page.families.keys().filter(|name| is_theirs(name)).collect();
    assert!(families.len() > 20, "{families:?}");
    let missing: Vec<_> = families
        .into_iter()
        .filter(|name| !drawn.contains(*name) && !drawn.contains(&format!("{name}_bucket")))
        .collect();
    assert_eq!(missing, Vec::<&String>::new(), "it is measured, and nobody sees it");
}

#[test]
fn each_panel_has_a_place_and_asks_for_the_instances_that_were_chosen() {
    let dashboard: serde_json::Value =
        serde_json::from_str(&shipped("grafana/gateway-websocket.json")).unwrap();
    let (mut ids, mut taken) = (BTreeSet::new(), BTreeSet::new());
    for panel in dashboard["panels"].as_array().unwrap() {
        assert!(ids.insert(panel["id"].as_u64().unwrap()), "{panel}");
        let place = &panel["gridPos"];
        let [x, y, w, h] = ["x", "y", "w", "h"].map(|name| place[name].as_u64().unwrap());
        assert!(x + w <= 24, "{panel}");
        for cell in (x..x + w).flat_map(|x| (y..y + h).map(move |y| (x, y))) {
            assert!(taken.insert(cell), "it stands upon another one: {panel}");
        }
        if panel["type"] == "row" {
            continue;
        }
        for target in panel["targets"].as_array().unwrap() {
            let expression = target["expr"].as_str().unwrap();
            let asked = metrics_in(expression).len();
            assert!(asked > 0, "{expression}");
            assert!(expression.contains(r#"instance=~"$instance""#), "{expression}");
        }
    }
    let variables = dashboard["templating"]["list"].as_array().unwrap().iter();
    let variables: Vec<_> = variables.map(|variable| variable["name"].as_str().unwrap()).collect();
    assert_eq!(variables, ["datasource", "job", "instance"]);
}

#[test]
fn each_alert_has_an_expression_a_severity_a_summary_and_a_description() {
    let alerts = shipped("prometheus/alerts.yaml");
    let rules: Vec<_> = alerts.split("\n      - alert: ").skip(1).collect();
    assert!(rules.len() > 10);
    let mut names = BTreeSet::new();
    for rule in rules {
        assert!(names.insert(rule.lines().next().unwrap()), "{rule}");
        for part in [
            "\n        expr: ",
            "\n          severity: ",
            "\n          summary: \"",
            "\n          description: \"",
        ] {
            assert_eq!(rule.matches(part).count(), 1, "{part:?} in {rule}");
        }
        assert!(!rule.contains('\t'), "{rule}");
    }
}

/// The parts of a text that stand between `open` and the next `close`.
fn between<'t>(text: &'t str, open: &'t str, close: &'t str) -> impl Iterator<Item = &'t str> {
    text.split(open).skip(1).filter_map(move |rest| Some(rest.split_once(close)?.0))
}

#[tokio::test]
async fn each_alert_asks_for_what_can_be_and_tells_of_what_it_asks_for() {
    let page = page().await;
    let known = page.label_values();
    let alerts = shipped("prometheus/alerts.yaml");
    let (mut values, mut told) = (0, 0);
    for rule in alerts.split("\n      - alert: ").skip(1) {
        let expression = between(rule, "expr: ", "\n        labels:").next().unwrap();
        let count = |what: char| expression.matches(what).count();
        assert_eq!((count('('), count('{')), (count(')'), count('}')), "{expression}");
        // Codes and methods of gRPC are on the page once there were any; `job` is Prometheus' own, as
        // `other` is a group's once somebody made one.
        for matcher in between(expression, "{", "}").flat_map(|matchers| matchers.split(',')) {
            let (label, value) = matcher.trim().split_once(['=', '!']).unwrap();
            let options = value.trim_matches(['=', '~', '"']).split('|');
            for option in options
                .filter(|option| !["code", "job", "method"].contains(&label) && *option != "other")
            {
                assert!(known.contains(option), "{option} is nowhere on the page: {expression}");
                values += 1;
            }
        }
        // What is summed has the labels that it is summed by, and no others.
        for label in between(rule, "{{ $labels.", " }}") {
            let mut groups = between(expression, "sum by (", ")").peekable();
            let has = |group: &str| group.split(", ").any(|it| it == label);
            let is_there = if groups.peek().is_some() {
                groups.any(has)
            } else {
                label == "instance" || page.text.contains(&format!("{label}=\""))
            };
            assert!(is_there, "{label} is told and not asked for: {rule}");
            told += 1;
        }
    }
    assert!(values > 10 && told > 20, "{values} values, {told} labels");
}
