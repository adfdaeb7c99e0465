use super::*;
use proptest::prelude::*;
use world::{World, owed, result};

#[path = "state/world.rs"]
mod world;

/// The largest window that is tried. Packet ids cycle through one number more than the window has.
const WINDOW_MAX: usize = 7;

#[derive(Clone, Debug)]
enum Step {
    Commit(Kind),
    Connect,
    Lost,
    Fetch,
    Write,
    Ack(usize, Outcome),
    HoldOver,
    Changed,
    Skip,
    Retry,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => prop::sample::select(&Kind::ALL[..]).prop_map(Step::Commit),
        2 => Just(Step::Connect),
        1 => Just(Step::Lost),
        8 => Just(Step::Fetch),
        8 => Just(Step::Write),
        3 => Just(Step::Ack(0, Outcome::Success)),
        4 => (0usize..8).prop_map(|place| Step::Ack(place, Outcome::Success)),
        1 => (0usize..8).prop_map(|place| Step::Ack(place, Outcome::Later)),
        1 => (0usize..8).prop_map(|place| Step::Ack(place, Outcome::Never)),
        2 => Just(Step::HoldOver),
        1 => Just(Step::Changed),
        1 => Just(Step::Skip),
        1 => Just(Step::Retry),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    /// The checks on every action are in `World::carry_out`.
    #[test]
    fn nothing_is_skipped_doubled_or_forgotten(
        window in 1usize..=WINDOW_MAX,
        steps in prop::collection::vec(step(), 0..300),
    ) {
        let mut world = World::new(window);
        for step in steps {
            match step {
                Step::Commit(kind) => world.commit_one(kind),
                Step::Connect => world.connect(),
                Step::Lost => world.send(Event::Lost),
                Step::Fetch => world.answer_fetch(),
                Step::Write => world.write_one(),
                Step::Ack(place, outcome) => world.acknowledge(place, outcome),
                Step::HoldOver => world.hold_over(),
                Step::Changed => world.send(Event::Changed(Side::Topic("alarm/x".into()))),
                Step::Skip => world.skip(),
                Step::Retry => world.retry_dead(),
            }
        }
        world.settle();
        prop_assert_eq!(&world.outbox, &BTreeSet::new());
        let committed: u64 = world.next_seq.iter().map(|next| next - 1).sum();
        prop_assert_eq!(world.removed.len() + world.dead.len(), usize::try_from(committed).unwrap());
        prop_assert_eq!(world.machine.phase(), Phase::Live);
        prop_assert_eq!(world.machine.unacknowledged(), 0);
        // `last` follows the last result.
        let last = world.seen.iter().rposition(|w| *w == What::Side(Side::Last));
        let result = world.seen.iter().rposition(|w| matches!(w, What::Owed(o) if o.kind == Kind::Result));
        prop_assert!(result.is_none() || last > result);
        // What was given up arrives when it is owed again.
        world.retry_dead();
        world.settle();
        prop_assert_eq!(world.removed.len(), usize::try_from(committed).unwrap());
    }
}

fn live(window: usize) -> World {
    let mut world = World::new(window);
    world.settle();
    assert_eq!(world.machine.phase(), Phase::Live);
    world.seen.clear();
    world
}

/// The answers to reads that find nothing.
fn nothing(machine: &mut Machine, kinds: &[Kind]) -> Vec<Action> {
    let none = |kind| Event::Fetched { kind, places: vec![], next: 0, end: true };
    kinds.iter().flat_map(|kind| machine.handle(none(*kind))).collect()
}

#[test]
fn offline_to_connecting_to_catching_up_to_live() {
    let mut world = World::new(3);
    world.commit();
    assert_eq!(world.machine.phase(), Phase::Offline);
    assert_eq!(world.machine.handle(Event::Due), [Action::Connect]);
    assert_eq!(world.machine.phase(), Phase::Connecting);
    let actions = world.machine.handle(Event::Connected { window: 3 });
    let status = Action::Publish(What::Side(Side::Status));
    let reads = Kind::ALL.map(|kind| Action::Fetch { kind, from: 0, count: 2 });
    assert_eq!((&actions[0], &actions[1..]), (&status, &reads[..]), "status goes first");
    assert_eq!(world.machine.phase(), Phase::CatchingUp);
    nothing(&mut world.machine, &[Kind::Part, Kind::Review]);
    let read = Event::Fetched { kind: Kind::Result, places: vec![1], next: 2, end: true };
    let actions = world.machine.handle(read);
    let [result, last] = [What::Owed(result(1)), What::Side(Side::Last)].map(Action::Publish);
    assert_eq!(actions, [result, last]);
    for pkid in 1..=3 {
        world.machine.handle(Event::Sent { pkid });
    }
    assert_eq!(
        world.machine.handle(Event::Acked { pkid: 2, outcome: Outcome::Success }),
        [Action::Remove(self::result(1))]
    );
    assert_eq!(world.machine.phase(), Phase::Live);
}

#[test]
fn failures_count_up_until_a_result_is_acknowledged() {
    let mut machine = Machine::default();
    for failures in 1..4 {
        machine.handle(Event::Due);
        assert_eq!(machine.handle(Event::Lost), [Action::Close, Action::RetryAfter { failures }]);
    }
    machine.handle(Event::Due);
    machine.handle(Event::Connected { window: 2 });
    machine.handle(Event::Sent { pkid: 1 });
    machine.handle(Event::Acked { pkid: 1, outcome: Outcome::Success });
    machine.handle(Event::Fetched { kind: Kind::Result, places: vec![1], next: 2, end: true });
    machine.handle(Event::Sent { pkid: 2 });
    machine.handle(Event::Acked { pkid: 2, outcome: Outcome::Success });
    assert_eq!(machine.handle(Event::Lost), [Action::Close, Action::RetryAfter { failures: 1 }]);
}

#[test]
fn after_a_disconnect_everything_unacknowledged_goes_again_in_order() {
    let mut world = live(7);
    for _ in 0..5 {
        world.commit();
        world.answer_fetch();
        world.write_one();
        world.answer_fetch();
    }
    world.acknowledge(0, Outcome::Success);
    world.send(Event::Lost);
    world.seen.clear();
    world.settle();
    let results: Vec<&What> = world.seen.iter().filter(|w| matches!(w, What::Owed(_))).collect();
    assert_eq!(results, [2, 3, 4, 5].map(|n| What::Owed(result(n))).iter().collect::<Vec<_>>());
}

#[test]
fn a_refused_message_is_sent_again_after_a_pause_and_before_the_next_of_its_kind() {
    for kind in Kind::ALL {
        let mut world = live(3);
        for _ in 0..2 {
            world.commit_one(kind);
            world.answer_fetch();
        }
        world.write_one();
        world.acknowledge(0, Outcome::Later);
        assert_eq!(world.machine.phase(), Phase::CatchingUp);
        assert!(world.holding.contains(&kind) && world.outbox.contains(&owed(kind, 1)));
        // Another kind goes on in the pause.
        let other = Kind::ALL[(kind as usize + 1) % Kind::ALL.len()];
        world.commit_one(other);
        for _ in 0..10 {
            world.answer_fetch();
            world.write_one();
            world.acknowledge(0, Outcome::Success);
        }
        assert!(world.removed.contains(&owed(other, 1)), "{other:?} waits for {kind:?}");
        world.commit_one(kind);
        world.settle();
        assert!(world.outbox.is_empty());
        let first_again = world.seen.iter().rposition(|w| *w == What::Owed(owed(kind, 1))).unwrap();
        let third = world.seen.iter().position(|w| *w == What::Owed(owed(kind, 3))).unwrap();
        assert!(first_again < third);
    }
}

#[test]
fn a_stop_publishes_status_waits_for_acknowledgements_and_leaves() {
    let mut world = live(3);
    world.commit();
    world.answer_fetch();
    world.write_one();
    world.send(Event::Stop);
    assert_eq!(world.machine.phase(), Phase::Stopping);
    world.commit();
    while world.machine.phase() != Phase::Stopped {
        world.write_one();
        world.acknowledge(0, Outcome::Success);
    }
    assert_eq!(world.seen, [What::Owed(result(1)), What::Side(Side::Last), What::Side(Side::Status)]);
    assert_eq!(world.outbox.iter().collect::<Vec<_>>(), [&result(2)], "kept for the next start");

    let mut machine = Machine::default();
    machine.handle(Event::Stop);
    assert_eq!(machine.phase(), Phase::Stopped);
    let mut machine = Machine::default();
    machine.handle(Event::Due);
    assert_eq!(machine.handle(Event::Stop), [Action::Close]);
}

#[test]
fn after_a_failure_one_message_at_a_time_until_a_result_is_acknowledged() {
    let mut world = World::new(5);
    for _ in 0..4 {
        world.commit();
    }
    world.connect();
    world.send(Event::Lost);
    world.connect();
    let flying = |world: &World| world.queued.len() + world.written.len();
    let answer = |world: &mut World| (0..Kind::ALL.len()).for_each(|_| world.answer_fetch());
    for what in [What::Side(Side::Status), What::Side(Side::Last), What::Owed(result(1))] {
        answer(&mut world);
        assert_eq!((flying(&world), world.queued.front()), (1, Some(&what)));
        world.write_one();
        world.acknowledge(0, Outcome::Success);
        answer(&mut world);
    }
    assert!(flying(&world) > 1, "the window is open");
}

#[test]
fn a_packet_id_for_nothing_ends_the_connection() {
    let mut world = live(3);
    let actions = world.machine.handle(Event::Sent { pkid: 9 });
    assert_eq!(actions, [Action::Close, Action::RetryAfter { failures: 1 }]);
}

#[test]
fn what_is_too_long_for_the_connection_leaves_the_window() {
    let mut world = live(1);
    world.send(Event::Changed(Side::Topic("alarm/x".into())));
    world.skip();
    assert_eq!(world.machine.unacknowledged(), 0);
    world.commit();
    world.settle();
    assert!(world.outbox.is_empty(), "the room is free again");
}

/// Works until nothing is left, with a broker that drops the connection on some messages.
fn run_against(world: &mut World, drops: impl Fn(Entry) -> bool, rounds: usize) {
    for _ in 0..rounds {
        world.connect();
        world.answer_fetch();
        world.write_one();
        match world.written.first() {
            Some((_, What::Owed(owed))) if drops(*owed) => world.send(Event::Lost),
            None if world.queued.is_empty() && world.fetched.is_empty() => world.hold_over(),
            _ => world.acknowledge(0, Outcome::Success),
        }
    }
}

#[test]
fn a_message_on_which_every_connection_drops_becomes_a_dead_letter_and_holds_up_nothing() {
    for kind in Kind::ALL {
        let mut world = World::new(5);
        for _ in 0..8 {
            Kind::ALL.iter().for_each(|kind| world.commit_one(*kind));
        }
        run_against(&mut world, |o| o == owed(kind, 3), 400);
        assert_eq!(world.dead.iter().collect::<Vec<_>>(), [&owed(kind, 3)]);
        assert!(world.outbox.is_empty(), "{:?}", world.outbox);
        assert_eq!(world.machine.phase(), Phase::Live);
    }
}

#[test]
fn an_outage_and_a_message_that_is_alone_convict_nothing() {
    // No result passes, for however long; then all do.
    let mut world = World::new(5);
    (0..8).for_each(|_| world.commit());
    run_against(&mut world, |_| true, 500);
    world.settle();
    assert!(world.dead.is_empty() && world.outbox.is_empty());
    // Alone, it is tried again and again.
    let mut world = World::new(5);
    world.commit();
    run_against(&mut world, |_| true, 1000);
    assert!(world.dead.is_empty() && world.outbox.contains(&result(1)));
    assert!(world.blamed[&result(1)] > 50, "{:?}", world.blamed);
    world.settle();
    assert!(world.outbox.is_empty());
}

/// The topic is not allowed, and the broker says so by dropping the connection; or one alone does it.
#[test]
fn a_kind_on_which_every_connection_drops_convicts_nothing_and_holds_up_no_other() {
    for (kind, count) in Kind::ALL.into_iter().flat_map(|kind| [(kind, 1), (kind, 6)]) {
        let mut world = World::new(5);
        (0..count).for_each(|_| world.commit_one(kind));
        for _ in 0..20 {
            Kind::ALL.iter().filter(|k| **k != kind).for_each(|k| world.commit_one(*k));
            run_against(&mut world, |o| o.kind == kind, 60);
        }
        assert!(world.dead.is_empty(), "{:?}", world.dead);
        assert_eq!(world.outbox.len(), count, "all others have passed: {:?}", world.outbox);
        world.settle();
        assert!(world.outbox.is_empty());
    }
}

#[test]
fn two_poisons_of_two_kinds_hold_up_nothing() {
    let mut world = World::new(5);
    for _ in 0..8 {
        Kind::ALL.iter().for_each(|kind| world.commit_one(*kind));
    }
    let poisons = [result(1), owed(Kind::Review, 1)];
    run_against(&mut world, |o| poisons.contains(&o), 800);
    assert_eq!(world.dead, poisons.into());
    assert!(world.outbox.is_empty(), "{:?}", world.outbox);
}

#[test]
fn a_kind_on_which_connections_drop_waits_longer_and_longer() {
    let mut machine = Machine::default();
    let mut waits = vec![];
    for _ in 0..6 {
        machine.handle(Event::Due);
        let mut actions = machine.handle(Event::Connected { window: 8 });
        actions.extend(machine.handle(Event::HoldOver(Kind::Review)));
        waits.extend(actions.iter().find_map(|a| match a {
            Action::HoldFor { kind: Kind::Review, times, why: Hold::Dropped } => Some(*times),
            _ => None,
        }));
        machine.handle(Event::Sent { pkid: 1 });
        machine.handle(Event::Acked { pkid: 1, outcome: Outcome::Success });
        nothing(&mut machine, &[Kind::Result, Kind::Part]);
        // Read again where it was held back and no other is there.
        for _ in 0..2 {
            machine.handle(Event::Fetched { kind: Kind::Review, places: vec![7], next: 8, end: true });
        }
        assert_eq!(machine.unacknowledged(), 1, "it is on its way");
        machine.handle(Event::Lost);
    }
    assert_eq!(waits, [2, 3, 4, 5]);
}

#[test]
fn what_the_broker_calls_invalid_is_given_up_only_when_another_of_its_kind_passes() {
    // It calls everything invalid: a setting of the broker.
    let mut world = live(3);
    (0..5).for_each(|_| world.commit());
    for _ in 0..200 {
        world.answer_fetch();
        world.write_one();
        world.acknowledge(0, Outcome::Never);
        world.hold_over();
    }
    assert_eq!((world.outbox.len(), world.dead.len()), (5, 0));
    world.settle();
    assert!(world.outbox.is_empty());
    // One alone.
    let mut world = live(3);
    (0..5).for_each(|_| world.commit());
    for _ in 0..200 {
        world.answer_fetch();
        world.write_one();
        let bad = matches!(world.written.first(), Some((_, What::Owed(o))) if o.place == 2);
        world.acknowledge(0, if bad { Outcome::Never } else { Outcome::Success });
        world.hold_over();
    }
    assert_eq!((world.outbox.len(), world.dead), (0, [result(2)].into()));
}

#[test]
fn a_refused_message_that_is_not_owed_is_told_once() {
    let mut world = live(3);
    world.send(Event::Changed(Side::Last));
    world.write_one();
    let (pkid, _) = world.written[0].clone();
    let refused = world.machine.handle(Event::Acked { pkid, outcome: Outcome::Later });
    assert_eq!(refused, [Action::SideRefused(Side::Last)]);
}

#[test]
fn a_connection_that_ends_on_a_picture_blames_no_message() {
    let mut world = World::new(4);
    world.commit();
    world.settle();
    for _ in 0..5 {
        world.send(Event::Changed(Side::Image("image/x".into())));
        world.write_one();
        assert_eq!(world.seen.last(), Some(&What::Side(Side::Image("image/x".into()))));
        world.send(Event::Lost);
        world.commit();
        world.settle();
    }
    assert_eq!((world.removed.len(), world.dead.len(), world.blamed.len()), (6, 0, 0));
}
