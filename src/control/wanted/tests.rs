//! Tests: the three layers, and what becomes of them.

use super::super::discovery::tests::{addresses, fails};
use super::super::{now, publish, wall_clock};
use super::*;
use crate::config::Address;
use crate::config::sample::{self, config};

fn build(config: &Config, before: Option<&Wanted>, discovery: &Discovery, identities: &mut Identities) -> Wanted {
    Wanted::build(Arc::new(config.clone()), before, discovery, identities, wall_clock())
}

fn fresh(config: &Config) -> Wanted {
    build(config, None, &Discovery::default(), &mut Identities::new(1))
}

fn only(config: config::Pool) -> Config {
    Config { pools: vec![Arc::new(config)], ..sample::config() }
}

fn rotation(wanted: &Wanted, now: Instant) -> Vec<(String, u32)> {
    let snapshot = publish::build(wanted, 100, None, now);
    snapshot.pools()[0].rotation.iter().map(|member| (member.backend.config.name.clone(), member.weight)).collect()
}

fn names_of(wanted: &Wanted, now: Instant) -> Vec<String> {
    rotation(wanted, now).into_iter().map(|(name, _)| name).collect()
}

fn tell(wanted: &mut Wanted, at: usize, now: Instant) -> Change {
    let pool = &mut wanted.pools[0];
    pool.backends[at].tell(&pool.config, now, wall_clock())
}

#[test]
fn each_state_comes_of_its_layer_and_only_up_takes_clients() {
    let mut wanted = fresh(&config());
    let now = now();
    type Edit = fn(&mut Backend);
    let cases: [(Edit, State, bool); 9] = [
        (|_| {}, State::Up, true),
        (|b| b.observed.up = Some(true), State::Up, true),
        (|b| b.observed.up = Some(false), State::Down, false),
        (|b| b.observed.ejected = Some(super::super::now()), State::Ejected, false),
        (|b| b.operator.state = Some(OperatorState::Drain), State::Drain, false),
        (|b| b.operator.state = Some(OperatorState::Maint), State::Maint, false),
        (|b| b.operator.state = Some(OperatorState::Ready), State::Up, true),
        (|b| b.operator.weight = Some(0), State::Up, false),
        (|b| b.place = Place::Unresolved("no such name".into()), State::Unresolved, false),
    ];
    let fresh = (wanted.pools[0].backends[0].place.clone(), wanted.pools[0].backends[0].observed.clone());
    for (edit, state, in_rotation) in cases {
        let pool = &mut wanted.pools[0];
        edit(&mut pool.backends[0]);
        assert_eq!(pool.backends[0].state(&pool.config), state);
        assert!(!pool.backends[0].why(&pool.config).is_empty());
        assert_eq!(names_of(&wanted, now).contains(&"a".to_owned()), in_rotation, "{state:?}");
        let backend = &mut wanted.pools[0].backends[0];
        (backend.place, backend.observed, backend.operator) =
            (fresh.0.clone(), fresh.1.clone(), api::Override::default());
    }
}

#[test]
fn before_the_first_check_a_backend_is_what_the_file_says() {
    let mut pool = sample::pool();
    pool.health.initial_up = false;
    let mut wanted = fresh(&only(pool.clone()));
    assert_eq!(names_of(&wanted, now()), [""; 0]);
    wanted.pools[0].backends[1].observed.up = Some(true);
    assert_eq!(names_of(&wanted, now()), ["b"]);
    pool.health.kind = Check::None;
    let wanted = fresh(&only(pool));
    assert_eq!(names_of(&wanted, now()), ["a", "b"], "without checks there is nothing to wait for");
}

#[test]
fn an_override_of_the_weight_lasts_until_the_file_says_another_one() {
    let (mut identities, names) = (Identities::new(1), Discovery::default());
    let mut file = config();
    let mut first = build(&file, None, &names, &mut identities);
    first.pools[0].backends[0].operator =
        api::Override { state: Some(OperatorState::Drain), reason: Some("disk".into()), weight: Some(7) };
    first.pools[0].backends[0].observed.up = Some(false);
    first.pools[0].backends[0].observed.counts.failed.add(3);

    Arc::make_mut(&mut file.pools[0]).balance = config::Balance::Random;
    let second = build(&file, Some(&first), &names, &mut identities);
    let kept = &second.pools[0].backends[0];
    assert_eq!(
        kept.operator,
        api::Override { state: Some(OperatorState::Drain), reason: Some("disk".into()), weight: Some(7) }
    );
    assert_eq!((kept.observed.up, kept.observed.counts.failed.read()), (Some(false), 3));

    let pool = Arc::make_mut(&mut file.pools[0]);
    Arc::make_mut(&mut pool.backends[0]).weight = 50;
    let third = build(&file, Some(&second), &names, &mut identities);
    let kept = &third.pools[0].backends[0];
    assert_eq!(
        kept.operator,
        api::Override { state: Some(OperatorState::Drain), reason: Some("disk".into()), weight: None }
    );
    assert_eq!(kept.weight(), 50);
}

#[test]
fn a_backend_at_another_place_is_not_what_was_observed_at_the_first() {
    let (mut identities, names) = (Identities::new(1), Discovery::default());
    let mut file = config();
    let mut first = build(&file, None, &names, &mut identities);
    first.pools[0].backends[0].observed.up = Some(false);
    let pool = Arc::make_mut(&mut file.pools[0]);
    Arc::make_mut(&mut pool.backends[0]).address = Address::Ip("10.0.0.9:80".parse().expect("an address"));
    let second = build(&file, Some(&first), &names, &mut identities);
    assert_eq!(second.pools[0].backends[0].observed.up, None);
    assert_ne!(second.pools[0].backends[0].id(), first.pools[0].backends[0].id());
    assert_eq!(second.pools[0].backends[1].id(), first.pools[0].backends[1].id());
}

#[test]
fn a_host_name_is_a_backend_an_address_once_it_is_resolved_and_keeps_what_an_operator_said() {
    let (mut identities, mut names) = (Identities::new(1), Discovery::default());
    let mut pool = sample::pool();
    pool.backends.truncate(1);
    let host = Arc::make_mut(&mut pool.backends[0]);
    (host.name, host.address) = ("db".into(), Address::Host { name: "db".into(), port: 5432 });
    let file = only(pool);
    fails(&mut names, &file, "db", "no such name");
    let mut wanted = build(&file, None, &names, &mut identities);
    assert_eq!(wanted.pools[0].backends[0].state(&file.pools[0]), State::Unresolved);
    assert_eq!(wanted.pools[0].backends[0].why(&file.pools[0]), "no such name");
    wanted.pools[0].backends[0].operator.weight = Some(5);

    addresses(&mut names, &file, "db", &["10.0.0.1", "10.0.0.2"]);
    let wanted = build(&file, Some(&wanted), &names, &mut identities);
    assert_eq!(rotation(&wanted, now()), [("db@10.0.0.1".to_owned(), 5), ("db@10.0.0.2".to_owned(), 5)]);
    let mut wanted = wanted;
    assert_eq!(wanted.pools[0].named("db").count(), 2);
    assert_eq!(wanted.pools[0].named("db@10.0.0.2").count(), 1);
    assert_eq!(wanted.pools[0].named("db@10.0.0.3").count(), 0);

    let second = (wanted.pools[0].backends[1].id(), wanted.pools[0].backends[1].observed.counts.clone());
    addresses(&mut names, &file, "db", &["10.0.0.2"]);
    let wanted = build(&file, Some(&wanted), &names, &mut identities);
    let left = &wanted.pools[0].backends[0];
    assert_eq!((left.name.as_str(), left.id(), left.operator.weight), ("db", second.0, Some(5)), "the same, alone");
    assert!(Arc::ptr_eq(&left.observed.counts, &second.1));
}

#[test]
fn a_change_is_told_once_and_only_coming_back_is_a_slow_start() {
    let mut pool = sample::pool();
    pool.slow_start = Duration::from_secs(10);
    pool.health.initial_up = false;
    let mut wanted = fresh(&only(pool));
    let start = now();
    wanted.pools[0].backends[0].observed.up = Some(true);
    assert_eq!(tell(&mut wanted, 0, start).state, Some((State::Down, State::Up)));
    assert_eq!(tell(&mut wanted, 0, start).state, None);
    assert_eq!(rotation(&wanted, start), [("a".to_owned(), 100)], "the first time at full weight");

    wanted.pools[0].backends[0].observed.up = Some(false);
    assert_eq!(tell(&mut wanted, 0, start).state, Some((State::Up, State::Down)));
    wanted.pools[0].backends[0].observed.up = Some(true);
    tell(&mut wanted, 0, start);
    assert_eq!(rotation(&wanted, start), [("a".to_owned(), publish::RISE_FROM_PERCENT)]);
    let (mut at, mut steps) = (start, 0);
    while let Some(next) = publish::next_rise(&mut wanted, at) {
        assert!(next > at);
        (at, steps) = (next, steps + 1);
    }
    assert_eq!((at - start, steps), (Duration::from_secs(10), publish::RISE_STEPS));
    assert_eq!(rotation(&wanted, at), [("a".to_owned(), 100)]);
}

#[test]
fn connections_end_only_when_the_checks_say_down_and_the_file_says_close() {
    let mut pool = sample::pool();
    pool.on_down = Some(OnDown::CloseAfter(Duration::from_secs(3)));
    let mut wanted = fresh(&only(pool));
    let at = now();
    let close = |wanted: &mut Wanted| tell(wanted, 0, at).close;
    wanted.pools[0].backends[0].observed.ejected = Some(at);
    assert_eq!(close(&mut wanted), None, "an ejection closes nothing");
    wanted.pools[0].backends[0].operator.state = Some(OperatorState::Maint);
    wanted.pools[0].backends[0].observed.up = Some(false);
    assert_eq!(close(&mut wanted), None, "in maintenance the checks do not matter");
    wanted.pools[0].backends[0].operator.state = None;
    assert_eq!(close(&mut wanted), Some(Duration::from_secs(3)));
    assert_eq!(close(&mut wanted), None, "once");
}

#[test]
fn a_listener_is_published_with_the_pools_that_names_lead_to() {
    let mut file = config();
    for name in ["z", "b"] {
        file.pools.push(Arc::new(config::Pool { name: name.into(), ..sample::pool() }));
    }
    let sni = [("a.example.com", "b"), ("c.example.com", "app"), ("*.example.com", "z")];
    let sni = sni.map(|(name, pool)| (name.to_owned(), pool.to_owned()));
    Arc::make_mut(&mut file.listeners[0]).sni = sni.into_iter().collect();
    let wanted = fresh(&file);
    let snapshot = publish::build(&wanted, 100, None, now());
    let listener = snapshot.listener(wanted.listeners[0].stats.id).expect("it is published");
    let cases = [
        (Some("a.example.com"), "b"),
        (Some("c.example.com"), "app"),
        (Some("x.example.com"), "z"),
        (Some("example.com"), "app"),
        (None, "app"),
    ];
    for (name, pool) in cases {
        assert_eq!(listener.pool_for(name).config.name, pool, "{name:?}");
    }
}

#[test]
fn an_unchanged_rotation_keeps_the_picker_and_the_generation_grows() {
    let mut wanted = fresh(&config());
    let first = publish::build(&wanted, 100, None, now());
    let second = publish::build(&wanted, 100, Some(&first), now());
    assert_eq!(second.generation, first.generation + 1);
    assert_eq!(second.pools()[0].rotation, first.pools()[0].rotation);
    let listener = wanted.listeners[0].stats.id;
    assert_eq!(second.listener(listener).map(|listener| listener.pool.id), Some(second.pools()[0].id));
    wanted.pools[0].backends[0].observed.up = Some(false);
    let third = publish::build(&wanted, 100, Some(&second), now());
    assert_ne!(third.pools()[0].rotation, first.pools()[0].rotation);
}
