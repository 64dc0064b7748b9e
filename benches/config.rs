//! How long a file takes: what `evener check` and a reload pay, for a small file and for a large one.

use std::fmt::Write;
use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use evener::config::{diff, parse, print};

const SMALL: &str = include_str!("../conf/database.toml");

/// A thousand listeners, each with a pool of ten backends.
fn large() -> String {
    let mut text = String::new();
    for i in 0..1_000 {
        let backends: Vec<String> = (0..10).map(|j| format!("\"10.{}.{}.{j}:5432\"", i / 250, i % 250)).collect();
        let _ = writeln!(text, "[listener.l{i}]\nbind = \"127.0.0.1:{}\"\npool = \"p{i}\"", 10_000 + i);
        let _ = writeln!(text, "[pool.p{i}]\nbackends = [{}]", backends.join(", "));
    }
    text
}

fn config(c: &mut Criterion) {
    let large = large();
    let loaded = parse("large", large.as_bytes()).expect("it is valid");
    c.bench_function("config/parse/small", |b| b.iter(|| parse("small", black_box(SMALL.as_bytes()))));
    c.bench_function("config/parse/1000_pools", |b| b.iter(|| parse("large", black_box(large.as_bytes()))));
    c.bench_function("config/print/1000_pools", |b| b.iter(|| print(black_box(&loaded.config))));
    c.bench_function("config/diff/1000_pools", |b| b.iter(|| diff(black_box(&loaded.config), &loaded.config)));
}

criterion_group!(benches, config);
criterion_main!(benches);
