//! What a pick costs by algorithm and number of members, and what the dearest table costs to build.

#![allow(missing_docs)] // criterion_group! writes public functions without any

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use evener::balance::{Candidate, Cursor, Kind, Picker, hash};

const KINDS: [Kind; 6] = [Kind::RoundRobin, Kind::LeastConn, Kind::LeastTime, Kind::Random, Kind::IpHash, Kind::First];

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

fn members(count: u32) -> Vec<Member> {
    let member = |number: u32| Member {
        weight: 1 + number % 3,
        load: number * 7 % 50,
        cost: 200 + u64::from(number * 13 % 400),
        identity: hash(&number.to_le_bytes()),
    };
    (0..count).map(member).collect()
}

fn pick(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("pick");
    for kind in KINDS {
        for count in [2, 50, 1000] {
            let members = members(count);
            let picker = Picker::build(kind, &members);
            let mut cursor = Cursor::new(1);
            let mut rng = fastrand::Rng::with_seed(1);
            let mut client = 0_u64;
            group.bench_function(BenchmarkId::new(format!("{kind:?}"), count), |bencher| {
                bencher.iter(|| {
                    client = client.wrapping_add(0x9E37_79B9_7F4A_7C15);
                    picker.pick(black_box(&members), client, &mut cursor, &mut rng, |_| true)
                });
            });
        }
    }
    group.finish();
}

fn build_maglev(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("build_maglev");
    for count in [10, 1000] {
        let members = members(count);
        group.bench_function(BenchmarkId::from_parameter(count), |bencher| {
            bencher.iter(|| Picker::build(Kind::IpHash, black_box(&members)));
        });
    }
    group.finish();
}

criterion_group!(benches, pick, build_maglev);
criterion_main!(benches);
