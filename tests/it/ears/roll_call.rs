//! A roll call names everybody once, whoever comes and goes meanwhile.

use futures_util::{StreamExt as _, stream};

use super::Listener;
use crate::{gateway::Gateway, raw::Raw};

/// Several clients, in the order of their slots as far as nobody has left.
async fn crowd(gateway: &Gateway, clients: usize) -> Vec<(Raw, String)> {
    let each = (0..clients).map(|_| Raw::welcomed(gateway.websocket()));
    stream::iter(each).buffer_unordered(50).collect().await
}

/// Asks the gateway who is there, and the listener.
async fn assert_same(gateway: &Gateway, listener: &Listener, clients: usize) {
    let mut there = gateway.get_all_online_client().await.client;
    there.sort_unstable();
    let present: Vec<_> = listener.notes().present.iter().map(ToString::to_string).collect();
    assert_eq!(there, present);
    assert_eq!(there.len(), clients);
}

#[tokio::test]
async fn three_thousand_are_named_while_some_come_and_some_go() {
    let listener = Listener::with_room(0);
    let gateway = listener.gateway(&[]).await;
    let mut clients = crowd(&gateway, 3000).await;
    assert_same(&gateway, &listener, 3000).await;

    // Nobody says anything and no call is made, and yet it goes on to its end.
    let begin = |steps| {
        listener.wake_after(|notes| {
            notes.present.clear();
            (notes.call, notes.steps) = (Some(0), steps);
        });
    };
    begin(usize::MAX);
    let ended = async {
        while listener.notes().call.is_some() {
            tokio::task::yield_now().await;
        }
    };
    crate::client::soon("the end of the roll call", ended).await;
    assert_same(&gateway, &listener, 3000).await;

    // Step by step; in between clients of each part go, and others get their places.
    begin(0);
    let parts = [['0', '1', '2'], ['3', '4', '5'], ['6', '7', '8'], ['9', 'a', 'b']];
    for (step, part) in (1..).zip(parts) {
        listener.wake_after(|notes| notes.steps = 1);
        listener.wait(&gateway, "a step", |notes| notes.steps == 0).await;
        let next = listener.notes().call;
        if next.is_none() {
            assert!(step > 2, "3000 are no more than {step} steps");
            break;
        }
        assert_eq!(next, Some(1024 * step));
        let go: Vec<_> = clients.extract_if(.., |(_, id)| id.ends_with(part)).collect();
        assert!(go.len() > 200, "{}", go.len());
        for (_, id) in &go {
            gateway.clonse_client(id.as_str()).await;
        }
        clients.extend(crowd(&gateway, go.len() / 2).await);
        drop(go);
    }
    assert_eq!(listener.notes().call, None, "some got places of those who left");
    assert_same(&gateway, &listener, clients.len()).await;
}
