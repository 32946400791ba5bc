//! Who gets a place and who loses one, one by one and beside a model.

use proptest::prelude::*;
use tokio::time::{advance, timeout};

use super::*;

const ADA: Option<IpAddr> = Some(IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1)));
const BOB: Option<IpAddr> = Some(IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 2)));

fn limits(places: usize, share: usize) -> PeerLimits {
    PeerLimits { places, share }
}

/// A peer that goes as soon as it is told to; true at the end if it was.
fn polite(permit: PeerPermit) -> tokio::task::JoinHandle<()> {
    tokio::spawn(async move { permit.evicted().await })
}

async fn is_told(permit: &PeerPermit) -> bool {
    timeout(Duration::ZERO, permit.evicted()).await.is_ok()
}

#[test]
fn a_share_is_a_part_of_the_places_and_at_least_one() {
    assert_eq!(PeerLimits::new(1024, 25), limits(1024, 256));
    assert_eq!(PeerLimits::new(3, 25), limits(3, 1));
    assert_eq!(PeerLimits::new(0, 100), limits(1, 1));
}

#[tokio::test(start_paused = true)]
async fn a_full_table_lets_the_longest_awaited_go_and_the_newcomer_in() {
    let table = PeerTable::default();
    let oldest = polite(table.admit(ADA, limits(2, 9)).await);
    let second = table.admit(BOB, limits(2, 9)).await;
    let third = table.admit(BOB, limits(2, 9)).await;
    oldest.await.unwrap();
    assert_eq!(table.evictions(), 1);
    // Nobody came meanwhile for whom anybody would have to go.
    assert!(!is_told(&second).await && !is_told(&third).await);
}

#[tokio::test(start_paused = true)]
async fn who_came_a_step_further_goes_after_those_that_did_not() {
    let table = PeerTable::default();
    let first = table.admit(ADA, limits(2, 9)).await;
    let second = polite(table.admit(ADA, limits(2, 9)).await);
    first.heard();
    let _third = table.admit(BOB, limits(2, 9)).await;
    second.await.unwrap();
    assert!(!is_told(&first).await);
}

#[tokio::test(start_paused = true)]
async fn who_waits_for_us_and_who_has_proved_something_keeps_its_place() {
    let table = PeerTable::default();
    let proved = table.admit(ADA, limits(2, 1)).await;
    proved.prove();
    let waiting = table.admit(ADA, limits(2, 1)).await;
    let work = waiting.working();
    advance(LEAST_WAIT * 10).await;
    let newcomer = tokio::spawn({
        let table = table.clone();
        async move { table.admit(BOB, limits(2, 1)).await }
    });
    advance(LEAST_WAIT * 10).await;
    assert!(!newcomer.is_finished());
    assert!(!is_told(&proved).await && !is_told(&waiting).await);
    // Once its next bytes are waited for, for a while, it is like others.
    drop(work);
    let waiting = polite(waiting);
    advance(LONG_WAIT).await;
    let newcomer = newcomer.await.unwrap();
    waiting.await.unwrap();
    // And so is who has lost what it had proved.
    proved.unprove();
    newcomer.prove();
    let proved = polite(proved);
    let _fourth = table.admit(BOB, limits(2, 1)).await;
    proved.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn an_address_with_its_share_loses_its_own_oldest_though_there_is_room() {
    let table = PeerTable::default();
    let bobs = table.admit(BOB, limits(9, 2)).await;
    let first = table.admit(ADA, limits(9, 2)).await;
    let second = table.admit(ADA, limits(9, 2)).await;
    second.heard();
    advance(LEAST_WAIT + LONG_WAIT).await;
    let _third = table.admit(ADA, limits(9, 2)).await;
    assert!(is_told(&first).await);
    assert!(!is_told(&second).await && !is_told(&bobs).await);
    // Who has none is held to none.
    let mut others = Vec::new();
    for _ in 0..4 {
        advance(LEAST_WAIT).await;
        others.push(table.admit(None, limits(9, 2)).await);
    }
    assert_eq!(table.evictions(), 1);
}

#[tokio::test(start_paused = true)]
async fn nobody_is_evicted_before_it_was_waited_for_a_little() {
    let table = PeerTable::default();
    let first = polite(table.admit(ADA, limits(1, 1)).await);
    let began = Instant::now();
    let second = table.admit(BOB, limits(1, 1)).await;
    assert_eq!(began.elapsed(), LEAST_WAIT);
    first.await.unwrap();
    // Who has come a step further goes later, and after those that did not.
    second.heard();
    let began = Instant::now();
    let second = polite(second);
    let _third = table.admit(ADA, limits(1, 1)).await;
    assert_eq!(began.elapsed(), LONG_WAIT);
    second.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn an_address_with_more_than_its_share_makes_room_for_others_first() {
    let table = PeerTable::default();
    let bobs = table.admit(BOB, limits(3, 1)).await;
    let first = polite(table.admit(ADA, limits(3, 1)).await);
    let second = table.admit(ADA, limits(3, 1)).await;
    advance(LEAST_WAIT).await;
    let _newcomer = table.admit(BOB, limits(3, 1)).await;
    first.await.unwrap();
    assert!(!is_told(&bobs).await && !is_told(&second).await);
}

#[tokio::test(start_paused = true)]
async fn a_place_is_free_when_its_peer_is_gone_and_not_when_it_was_told_to_go() {
    let table = PeerTable::default();
    let slow = table.admit(ADA, limits(1, 1)).await;
    let newcomer = tokio::spawn({
        let table = table.clone();
        async move { table.admit(BOB, limits(1, 1)).await }
    });
    advance(LEAST_WAIT * 2).await;
    slow.evicted().await;
    tokio::task::yield_now().await;
    assert!(!newcomer.is_finished());
    // It is too late to prove anything.
    slow.prove();
    drop(slow);
    newcomer.await.unwrap();
    assert_eq!(table.evictions(), 1);
    assert!(table.try_admit(ADA, limits(1, 1)).is_some());
    assert_eq!(table.0.lock().addresses.len(), 0, "nobody is remembered for nothing");
    assert_eq!(table.0.lock().numbers.len(), 0);
}

/// What a model of a table does.
#[derive(Clone, Copy, Debug)]
enum Step {
    Enter(u8),
    Prove(usize),
    Unprove(usize),
    Heard(usize),
    Work(usize),
    Leave(usize),
    Wait(Duration),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0u8..4).prop_map(Step::Enter),
        1 => any::<usize>().prop_map(Step::Prove),
        1 => any::<usize>().prop_map(Step::Unprove),
        2 => any::<usize>().prop_map(Step::Heard),
        1 => any::<usize>().prop_map(Step::Work),
        2 => any::<usize>().prop_map(Step::Leave),
        2 => Just(Step::Wait(LEAST_WAIT / 2)),
        2 => Just(Step::Wait(LONG_WAIT / 2)),
    ]
}

/// One peer of the model: a list in the order in which they were last heard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Modelled {
    id: u64,
    address: u8,
    standing: char,
    ripens: Instant,
}

/// Who of some may be evicted first.
fn first(peers: &[Modelled], of: impl Fn(&Modelled) -> bool) -> Option<usize> {
    let some = (0..peers.len()).filter(|&at| peers[at].standing == 'a' && of(&peers[at]));
    some.min_by_key(|&at| (peers[at].ripens, peers[at].id))
}

/// Says who has to go, by looking at everybody.
fn model_room(peers: &mut [Modelled], address: u8, limits: PeerLimits, now: Instant) -> bool {
    loop {
        let unproved = |peer: &&Modelled| peer.address == address && "aw".contains(peer.standing);
        // Address 0 is that of a listed proxy.
        if address == 0 || peers.iter().filter(unproved).count() < limits.share {
            break;
        }
        let own = first(peers, |peer| peer.address == address);
        match own {
            Some(own) if peers[own].ripens + LONG_WAIT <= now => peers[own].standing = 'l',
            _ => break,
        }
    }
    if peers.len() < limits.places {
        return true;
    }
    while peers.iter().filter(|peer| peer.standing == 'l').count() < peers.len() + 1 - limits.places
    {
        let unproved = |address: u8| {
            let of = |peer: &&Modelled| peer.address == address && "aw".contains(peer.standing);
            peers.iter().filter(of).count()
        };
        let most = (1u8..4).max_by_key(|address| (unproved(*address), *address)).unwrap();
        let is_over = unproved(most) > limits.share;
        let of_most = first(peers, |peer| is_over && peer.address == most);
        match of_most.or_else(|| first(peers, |_| true)) {
            Some(at) if peers[at].ripens <= now => peers[at].standing = 'l',
            _ => break,
        }
    }
    false
}

proptest! {
    #[test]
    fn the_table_does_what_a_look_at_everybody_would_do(
        steps in prop::collection::vec(step(), 0..120), places in 1usize..7, share in 1usize..4,
    ) {
        let (mut table, mut model, mut now) = (Table::default(), Vec::<Modelled>::new(), Instant::now());
        let limits = limits(places, share);
        for step in steps {
            // Who was picked, and taken out to be put at the end again.
            let pick = |model: &[Modelled], n: usize| (!model.is_empty()).then(|| n % model.len());
            let requeue = |model: &mut Vec<Modelled>, at: usize, standing, ripens| {
                let mut peer = model.remove(at);
                if peer.standing == 'l' {
                    model.insert(at, peer);
                    return;
                }
                peer = Modelled { standing, ripens, ..peer };
                model.push(peer);
            };
            match step {
                Step::Wait(time) => now += time,
                Step::Enter(who) => {
                    let address = (who > 0).then_some(Address::Four([10, 0, 0, who]));
                    let (_, room) = table.make_room(address, limits, now);
                    prop_assert_eq!(room.is_ok(), model_room(&mut model, who, limits, now));
                    if room.is_ok() {
                        let id = table.insert(address, Arc::default(), now);
                        model.push(Modelled { id, address: who, standing: 'a', ripens: now + LEAST_WAIT });
                    }
                }
                Step::Leave(n) => if let Some(at) = pick(&model, n) {
                    table.remove(model.remove(at).id);
                },
                Step::Prove(n) => if let Some(at) = pick(&model, n) {
                    table.change(model[at].id, Standing::Proved);
                    requeue(&mut model, at, 'p', now);
                },
                Step::Work(n) => if let Some(at) = pick(&model, n) {
                    table.change(model[at].id, Standing::Working);
                    requeue(&mut model, at, 'w', now);
                },
                Step::Unprove(n) | Step::Heard(n) => if let Some(at) = pick(&model, n) {
                    table.change(model[at].id, Standing::Awaited(now + LONG_WAIT));
                    requeue(&mut model, at, 'a', now + LONG_WAIT);
                },
            }
            prop_assert!(table.peers.len() <= places);
            prop_assert_eq!(table.peers.len(), model.len());
            let leaving = model.iter().filter(|peer| peer.standing == 'l').count();
            prop_assert_eq!(table.leaving, leaving);
            let mut awaited: Vec<_> = model.iter().filter(|peer| peer.standing == 'a').collect();
            awaited.sort_by_key(|peer| (peer.ripens, peer.id));
            let awaited: Vec<_> = awaited.iter().map(|peer| (peer.ripens, peer.id)).collect();
            prop_assert_eq!(table.awaited.iter().copied().collect::<Vec<_>>(), awaited);
            for peer in &model {
                let told = table.peers[&peer.id].standing == Standing::Leaving;
                prop_assert_eq!(told, peer.standing == 'l');
            }
            let unproved: usize = table.addresses.values().map(|known| known.unproved).sum();
            let counted = model.iter().filter(|peer| peer.address > 0 && "aw".contains(peer.standing));
            prop_assert_eq!(unproved, counted.count());
        }
    }
}
