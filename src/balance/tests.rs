//! What holds for all algorithms, and measurements of each over many picks.

use proptest::prelude::*;

use super::*;

const KINDS: [Kind; 6] = [Kind::RoundRobin, Kind::LeastConn, Kind::LeastTime, Kind::Random, Kind::IpHash, Kind::First];

#[derive(Clone, Copy, Debug)]
struct Member {
    weight: u32,
    load: u32,
    cost: u64,
    identity: u64,
}

impl Candidate for Member {
    fn weight(&self) -> u32 {
        self.weight
    }
    fn load(&self) -> u32 {
        self.load
    }
    fn connect_cost_us(&self) -> u64 {
        self.cost
    }
    fn identity(&self) -> u64 {
        self.identity
    }
}

fn member(number: usize, weight: u32) -> Member {
    Member { weight, load: 0, cost: 500, identity: hash(format!("b{number} 10.0.0.{number}:80").as_bytes()) }
}

fn members(weights: &[u32]) -> Vec<Member> {
    weights.iter().enumerate().map(|(number, &weight)| member(number, weight)).collect()
}

/// Picks one after the other, each of a new client, with nothing held against anyone.
struct Chooser {
    picker: Picker,
    cursor: Cursor,
    rng: fastrand::Rng,
    client: u64,
}

impl Chooser {
    fn new(kind: Kind, members: &[Member]) -> Self {
        let picker = Picker::build(kind, members);
        Self { picker, cursor: Cursor::new(0), rng: fastrand::Rng::with_seed(7), client: 0 }
    }

    fn pick(&mut self, members: &[Member], usable: impl Fn(usize) -> bool) -> Option<usize> {
        self.client += 1;
        let client = hash(&self.client.to_le_bytes());
        self.picker.pick(members, client, &mut self.cursor, &mut self.rng, usable)
    }

    /// Opens a connection and leaves it open.
    fn open(&mut self, members: &mut [Member]) -> usize {
        let index = self.pick(members, |_| true).unwrap();
        members[index].load += 1;
        index
    }

    fn count(&mut self, members: &[Member], picks: usize, usable: impl Fn(usize) -> bool) -> Vec<usize> {
        let mut seen = vec![0; members.len()];
        (0..picks).for_each(|_| seen[self.pick(members, &usable).unwrap()] += 1);
        seen
    }
}

#[test]
fn nobody_in_rotation_means_no_choice() {
    for kind in KINDS {
        assert_eq!(Chooser::new(kind, &[]).pick(&[], |_| true), None, "{kind:?}");
    }
}

#[test]
fn a_picker_with_the_wrong_members_still_names_one_of_them() {
    for kind in KINDS {
        let mut chooser = Chooser::new(kind, &members(&[1; 20]));
        let fewer = members(&[1; 3]);
        (0..100).for_each(|_| assert!(chooser.pick(&fewer, |_| true).unwrap() < 3));
        let mut chooser = Chooser::new(kind, &[]);
        assert!(chooser.pick(&fewer, |index| index == 2).is_some(), "{kind:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn a_choice_is_usable_and_there_is_one_when_anybody_is(
        all in prop::collection::vec((1_u32..2000, 0_u32..50, 0_u64..3, any::<bool>()), 1..60),
        lone in any::<prop::sample::Index>(),
        start in any::<u32>(),
    ) {
        let members: Vec<Member> = all.iter().enumerate()
            .map(|(i, &(weight, load, cost, _))| Member { load, cost, ..member(i, weight) }).collect();
        let lone = lone.index(members.len());
        for kind in KINDS {
            let mut chooser = Chooser::new(kind, &members);
            chooser.cursor = Cursor::new(start);
            for _ in 0..20 {
                let choice = chooser.pick(&members, |i| all[i].3);
                prop_assert_eq!(choice.is_some(), all.iter().any(|member| member.3));
                prop_assert!(choice.is_none_or(|index| all[index].3));
                prop_assert_eq!(chooser.pick(&members, |i| i == lone), Some(lone), "{:?}", kind);
                prop_assert_eq!(chooser.pick(&members, |_| false), None);
            }
        }
    }
}

#[test]
fn round_robin_is_exact_over_a_cycle_from_any_start() {
    let members = members(&[5, 3, 2, 7]);
    for start in 0..20 {
        let mut chooser = Chooser::new(Kind::RoundRobin, &members);
        chooser.cursor = Cursor::new(start);
        assert_eq!(chooser.count(&members, 17, |_| true), [5, 3, 2, 7]);
    }
}

#[test]
fn round_robin_of_many_workers_adds_up_to_the_weights_before_any_has_finished_a_cycle() {
    let members = members(&[1; 100]);
    let mut seen = vec![0; 100];
    for worker in 0..50 {
        let mut chooser = Chooser::new(Kind::RoundRobin, &members);
        chooser.cursor = Cursor::new(worker);
        for (sum, more) in seen.iter_mut().zip(chooser.count(&members, 10, |_| true)) {
            *sum += more;
        }
    }
    // 500 picks over 100 members; had all workers started at the same one, 10 would have had 50 each.
    assert!(seen.iter().all(|picks| (3..=7).contains(picks)), "{seen:?}");
}

#[test]
fn round_robin_keeps_the_proportions_of_the_others_when_one_is_not_usable() {
    let members = members(&[4, 4, 2, 2]);
    let mut chooser = Chooser::new(Kind::RoundRobin, &members);
    let seen = chooser.count(&members, 800, |index| index != 1);
    for (index, expected) in [(0, 400_usize), (2, 200), (3, 200)] {
        assert!(seen[index].abs_diff(expected) <= 8, "{seen:?}");
    }
}

#[test]
fn round_robin_keeps_the_proportions_also_of_those_that_are_rare_in_the_sequence() {
    let members = members(&[65_535, 90, 10]);
    let seen = Chooser::new(Kind::RoundRobin, &members).count(&members, 20_000, |index| index != 0);
    assert!((17_500..18_500).contains(&seen[1]), "{seen:?}");
}

#[test]
fn members_that_change_after_every_pick_are_still_served_evenly() {
    let pool = members(&[1; 7]);
    let mut cursor = Cursor::new(0);
    let mut rng = fastrand::Rng::with_seed(3);
    for kind in [Kind::RoundRobin, Kind::LeastConn] {
        let mut seen = [0_usize; 7];
        for round in 0..7000 {
            // One of seven is away, another one every time.
            let present: Vec<Member> =
                pool.iter().copied().enumerate().filter(|&(i, _)| i != round % 7).map(|(_, m)| m).collect();
            let choice = Picker::build(kind, &present).pick(&present, 0, &mut cursor, &mut rng, |_| true).unwrap();
            seen[pool.iter().position(|member| member.identity == present[choice].identity).unwrap()] += 1;
        }
        assert!(seen.iter().all(|picks| (800..1200).contains(picks)), "{kind:?} {seen:?}");
    }
}

#[test]
fn least_conn_levels_connections_by_weight() {
    for (count, slack) in [(10, 1.0), (16, 1.0), (60, 4.0)] {
        let mut members: Vec<Member> = (0..count).map(|i| member(i, [10, 20, 40][i % 3])).collect();
        let mut chooser = Chooser::new(Kind::LeastConn, &members);
        let total: u32 = members.iter().map(|member| member.weight).sum();
        (0..total * 2).for_each(|_| _ = chooser.open(&mut members));
        for Member { weight, load, .. } in members {
            let unit = f64::from(weight) / 10.0;
            assert!((f64::from(load) - f64::from(weight) * 2.0).abs() <= slack * unit, "{count}: {load} for {weight}");
        }
    }
}

#[test]
fn least_conn_stays_level_while_connections_come_and_go() {
    for count in [8, 200] {
        let mut members = members(&vec![1; count]);
        let mut chooser = Chooser::new(Kind::LeastConn, &members);
        let mut open: Vec<usize> = (0..count * 20).map(|_| chooser.open(&mut members)).collect();
        let mut rng = fastrand::Rng::with_seed(5);
        for _ in 0..20_000 {
            let ended = open.swap_remove(rng.usize(..open.len()));
            members[ended].load -= 1;
            open.push(chooser.open(&mut members));
        }
        let (low, high) = members.iter().fold((u32::MAX, 0), |(l, h), m| (l.min(m.load), h.max(m.load)));
        assert!(low >= 14 && high <= 25, "{count}: {low} to {high}, 20 on average");
    }
}

#[test]
fn equals_take_turns_also_when_a_busy_one_stands_between_them() {
    let mut members = members(&[1; 5]);
    members[1].load = 3;
    members[2].load = 3;
    for kind in [Kind::LeastConn, Kind::LeastTime] {
        assert_eq!(Chooser::new(kind, &members).count(&members, 300, |_| true), [100, 0, 0, 100, 100]);
    }
}

#[test]
fn the_largest_loads_and_weights_do_not_overflow() {
    let huge = Member { weight: u32::MAX, load: u32::MAX, cost: u64::MAX, identity: 1 };
    let members = [huge, Member { load: u32::MAX - 1, identity: 2, ..huge }];
    for kind in [Kind::LeastConn, Kind::LeastTime, Kind::Random] {
        assert_eq!(Chooser::new(kind, &members).count(&members, 20, |_| true)[1], 20, "{kind:?}");
    }
}

#[test]
fn least_time_prefers_the_fast_until_they_are_busier_than_they_are_fast() {
    let mut members = members(&[1; 2]);
    members[0].cost = 1000;
    members[1].cost = 3000;
    let mut chooser = Chooser::new(Kind::LeastTime, &members);
    (0..400).for_each(|_| _ = chooser.open(&mut members));
    assert!(members[0].load.abs_diff(300) <= 1, "{members:?}");
}

#[test]
fn least_time_tries_the_unmeasured_first_but_with_one_client_at_a_time() {
    let mut members = members(&[1; 4]);
    members[2].cost = 0;
    let mut chooser = Chooser::new(Kind::LeastTime, &members);
    assert_eq!(chooser.open(&mut members), 2);
    (0..50).for_each(|_| assert_ne!(chooser.open(&mut members), 2, "its first connect has not ended"));
    members[2].cost = 400;
    assert_eq!(chooser.open(&mut members), 2);
}

#[test]
fn least_time_shares_like_least_conn_while_nothing_is_measured() {
    let mut members = members(&[1; 4]);
    members.iter_mut().for_each(|member| member.cost = 0);
    let mut chooser = Chooser::new(Kind::LeastTime, &members);
    (0..400).for_each(|_| _ = chooser.open(&mut members));
    assert!(members.iter().all(|member| member.load == 100), "{members:?}");
}

#[test]
fn random_follows_the_weights_of_the_idle_and_avoids_the_busy() {
    let mut members = members(&[1; 30]);
    members[3].weight = 10;
    let seen = Chooser::new(Kind::Random, &members).count(&members, 39_000, |_| true);
    assert!((9_000..11_500).contains(&seen[3]), "{seen:?}");
    members[3].load = 1000;
    assert_eq!(Chooser::new(Kind::Random, &members).count(&members, 1000, |_| true)[3], 0);
}

#[test]
fn first_fills_in_the_order_of_the_file() {
    let members = members(&[1, 100, 1]);
    let mut chooser = Chooser::new(Kind::First, &members);
    assert_eq!(chooser.pick(&members, |_| true), Some(0));
    assert_eq!(chooser.pick(&members, |index| index != 0), Some(1));
}

/// The identity that each of 30 000 clients goes to.
fn placement(members: &[Member], usable: impl Fn(&Member) -> bool) -> Vec<u64> {
    let mut chooser = Chooser::new(Kind::IpHash, members);
    let choice = |_| members[chooser.pick(members, |index| usable(&members[index])).unwrap()].identity;
    (0..30_000).map(choice).collect()
}

/// The share of clients that were not at `gone` and are elsewhere now.
fn moved(before: &[u64], after: &[u64], gone: u64) -> f64 {
    let stayed: Vec<_> = before.iter().zip(after).filter(|&(from, _)| *from != gone).collect();
    stayed.iter().filter(|(from, to)| from != to).count() as f64 / stayed.len() as f64
}

#[test]
fn a_member_that_leaves_moves_few_others_clients() {
    for (weights, limit) in [(vec![1; 10], 0.03), (vec![1; 100], 0.03), ((1..=40).collect::<Vec<_>>(), 0.05)] {
        let all = members(&weights);
        let before = placement(&all, |_| true);
        for gone in [0, weights.len() / 2, weights.len() - 1] {
            let mut rest = all.clone();
            let gone = rest.remove(gone).identity;
            let share = moved(&before, &placement(&rest, |_| true), gone);
            assert!(share <= limit, "{} members: {share}", weights.len());
        }
    }
}

#[test]
fn an_unusable_member_moves_its_own_clients_only_and_spreads_them() {
    let all = members(&[1; 10]);
    let before = placement(&all, |_| true);
    let after = placement(&all, |member| member.identity != all[4].identity);
    assert_eq!(moved(&before, &after, all[4].identity), 0.0);
    for taker in all.iter().filter(|member| member.identity != all[4].identity) {
        let taken = before.iter().zip(&after).filter(|&(from, to)| from != to && *to == taker.identity).count();
        assert!((200..500).contains(&taken), "a ninth of 3000: {taken}");
    }
}

#[test]
fn with_nearly_all_unusable_a_client_still_has_its_place() {
    let all = members(&[1; 400]);
    let alive = |member: &Member| member.identity == all[17].identity || member.identity == all[300].identity;
    let (first, second) = (placement(&all, alive), placement(&all, alive));
    assert_eq!(first, second);
    let share = first.iter().filter(|&&identity| identity == all[17].identity).count();
    assert!((14_000..16_000).contains(&share), "{share}");
}

#[test]
fn clients_are_shared_by_weight_and_do_not_depend_on_the_order_in_the_file() {
    let mut all = members(&[10, 20, 30, 40, 50, 25, 25]);
    let before = placement(&all, |_| true);
    for member in &all {
        let expected = 30_000.0 * f64::from(member.weight) / 200.0;
        let seen = before.iter().filter(|&&identity| identity == member.identity).count() as f64;
        assert!((seen / expected - 1.0).abs() < 0.07, "{seen} instead of {expected}");
    }
    all.reverse();
    all.swap(1, 4);
    assert_eq!(before, placement(&all, |_| true));
}

#[test]
fn hash_and_table_are_those_of_every_other_process() {
    // XXH3_64bits of nothing, from the reference implementation; then the table as it has been from the first version on.
    assert_eq!(hash(b""), 0x2D06_8005_38D3_94C2);
    let members = members(&[1; 5]);
    let mut chooser = Chooser::new(Kind::IpHash, &members);
    let choices: Vec<usize> = (0..12).filter_map(|_| chooser.pick(&members, |_| true)).collect();
    let message = "a change of the table sends every client elsewhere during an upgrade";
    assert_eq!(choices, [2, 4, 4, 0, 1, 2, 3, 1, 1, 3, 4, 1], "{message}");
}
