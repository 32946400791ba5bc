//! What is done at once is bounded, however much there is to do: shards wait for the group meanwhile.

use super::*;

/// A group that has told its subscriber much more than is dealt with at once.
fn told() -> (Group, Key, Vec<Delivery>) {
    let mut group = group(|bounds| bounds.window = 65_536);
    let key = group.join(plain(65_536));
    for number in 0..10_000 {
        group.append(&Arc::new(event::message(client(number % 500), 1)));
    }
    let taken = group.take(key, Instant::now(), 65_536, usize::MAX);
    assert_eq!(taken.len(), 10_001);
    (group, key, taken)
}

#[test]
fn an_acknowledgement_of_much_is_settled_in_steps() {
    let (mut group, key, taken) = told();
    let mut progress = Acknowledgement::of(taken[10_000].cursor);
    let (mut steps, mut kept) = (0, group.kept());
    while !group.acknowledge(key, &mut progress).unwrap() {
        assert!(kept - group.kept() <= STEPS);
        // Shards and subscribers come in between.
        group.append(&Arc::new(event::message(client(7), 1)));
        (steps, kept) = (steps + 1, group.kept());
    }
    assert!(steps >= 10_001 / STEPS, "{steps}");
    assert_eq!(group.stats().unacknowledged, 0);
    assert_eq!((group.kept(), group.gone().len()), (steps, 10_000));
    let taken = group.take(key, Instant::now(), 65_536, usize::MAX);
    assert_eq!(taken.len(), steps);
}

#[test]
fn a_cursor_that_is_not_in_flight_is_looked_for_in_steps() {
    let (mut group, key, _) = told();
    group.append(&Arc::new(event::message(client(7), 1)));
    let mut progress = Acknowledgement::of(group.last());
    let mut steps = 1;
    while !group.acknowledge(key, &mut progress).unwrap() {
        steps += 1;
    }
    assert_eq!((steps, group.stats().unacknowledged), (3, 10_001));
}

#[test]
fn what_one_that_leaves_has_is_put_back_in_steps_and_goes_on_in_order() {
    let (mut group, key, taken) = told();
    let next = group.join(plain(65_536));
    let (mut steps, mut flying) = (0, group.stats().unacknowledged);
    while !group.leave(key) {
        let stats = group.stats();
        assert!(flying - stats.unacknowledged <= STEPS as u64);
        (steps, flying) = (steps + 1, stats.unacknowledged);
        // It is given nothing any more, and nobody else what is still put back.
        assert_eq!(take(&mut group, key), []);
        assert_eq!(take(&mut group, next), []);
        group.acknowledge_at_once(key, taken[0].cursor).unwrap();
        group.append(&Arc::new(event::message(client(7), 1)));
    }
    assert!(steps >= 10_001 / STEPS, "{steps}");
    assert_eq!(group.stats().subscribers, 1);
    let again = group.take(next, Instant::now(), 65_536, usize::MAX);
    let events = again.iter().filter(|it| matches!(it.what, Delivered::Event(_)));
    let events: Vec<u64> = events.map(|it| it.cursor).collect();
    assert_eq!(events.len(), 10_000 + steps);
    assert!(events.is_sorted());
}

#[test]
fn tighter_bounds_are_in_force_after_steps_whatever_comes_in_between() {
    let mut group = group(|_| {});
    for number in 0..10_000 {
        group.append(&Arc::new(event::message(client(number % 500), 1)));
        group.append(&Arc::new(event::opened(client(number))));
    }
    let tight = Bounds { messages: 100, changes: 100, ..*group.bounds() };
    let (mut steps, mut kept) = (0, group.kept());
    while !group.set_bounds(tight) {
        assert!(kept - group.kept() <= STEPS, "{} of {kept}", group.kept());
        for number in 0..1000 {
            group.append(&Arc::new(event::message(client(7), 1)));
            group.append(&Arc::new(event::opened(client(100_000 + number))));
        }
        assert!(group.kept() <= kept, "what comes in between makes room for itself");
        (steps, kept) = (steps + 1, group.kept());
    }
    assert!((10_000 / STEPS..1000).contains(&steps), "{steps}");
    assert_eq!((group.bounds(), group.kept()), (&tight, 200));
}

#[test]
fn one_more_or_less_asks_each_partition_once() {
    let mut group = group(|_| {});
    let mut keys: Vec<Key> = (0..20).map(|_| group.join(plain(10))).collect();
    for at in [3, 0, 11, 16] {
        group.leave_at_once(keys.remove(at));
    }
    keys.push(group.join(plain(10)));
    // As if all had come at once.
    for (place, partition) in (0..=u8::MAX).zip(&group.partitions) {
        let heaviest = keys.iter().max_by_key(|key| super::super::share::weight(**key, place));
        assert_eq!(partition.owner.as_ref(), heaviest);
    }
}
