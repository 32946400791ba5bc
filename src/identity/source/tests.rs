//! What stays when no keys come, and what is told of it.

use super::*;

fn keys() -> Keys {
    let set = br#"{"keys": [{"kty": "OKP", "crv": "Ed25519",
        "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}"#;
    Keys::fetched(set).unwrap()
}

#[test]
fn old_keys_stay_on_failure_and_go_with_their_url() {
    let (source, keeper) = KeySource::new();
    let mut config = InForce::default();
    config.config.auth.jwks = "https://a.example/".to_owned();
    assert!(keeper.settle(&config).is_some());
    let take = |answer| keeper.held.send_modify(|held| held.take("https://a.example/", answer));
    assert!(source.held().keys_of("https://a.example/").is_none());
    take(Ok(keys()));
    take(Err("answered 500".to_owned()));
    let held = source.held();
    assert_eq!((held.attempts, held.trouble.as_deref()), (2, Some("answered 500")));
    assert!(held.keys_of("https://a.example/").is_some());
    assert!(held.keys_of("https://b.example/").is_none());
    config.config.auth.jwks = "https://b.example/".to_owned();
    assert!(keeper.settle(&config).is_some());
    let held = source.held();
    assert!(held.keys_of("https://b.example/").is_none(), "they are another's");
    assert_eq!((held.attempts, held.trouble), (2, None));
    config.config.auth.jwks = "/a/file".to_owned();
    assert_eq!(keeper.settle(&config), None);
}

#[tokio::test]
async fn a_question_is_due_after_the_refresh_or_sooner_if_somebody_waits() {
    let (source, keeper) = KeySource::new();
    let mut config = InForce::default();
    config.config.auth.jwks = "https://a.example/".to_owned();
    config.config.auth.jwks_timeout = Duration::from_millis(1);
    let auth = config.config.auth.clone();
    let due = |config: &InForce| keeper.settle(config).unwrap();
    assert!(due(&config) <= Instant::now(), "nothing was asked yet");
    keeper.held.send_modify(|held| held.take("", Ok(keys())));
    let asked = source.held().asked.unwrap();
    assert_eq!(due(&config), asked + auth.jwks_refresh);
    // Too soon for another question: who has an unknown key is told so at once.
    let seen = source.held();
    assert!(source.newer_than(&seen, &config).await.is_none());
    assert_eq!(due(&config), asked + auth.jwks_refresh);
    let long_ago = asked.checked_sub(auth.jwks_retry).unwrap();
    keeper.held.send_modify(|held| held.asked = Some(long_ago));
    // Nobody answers here, so it waits for as long as an answer may take.
    assert!(source.newer_than(&seen, &config).await.is_none());
    assert_eq!(due(&config), asked, "somebody waits");
    keeper.held.send_modify(|held| held.take("", Err("slow".to_owned())));
    assert!(source.newer_than(&seen, &config).await.is_some());
    let asked = source.held().asked.unwrap();
    assert_eq!(due(&config), asked + auth.jwks_retry, "after a failure");
}
