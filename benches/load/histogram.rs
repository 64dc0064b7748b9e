//! Latencies, counted in buckets.

use std::time::Duration;

/// Latencies in buckets of 1/64 of their power of two: within 1.6 %.
pub struct Histogram {
    buckets: Vec<u64>,
    pub count: u64,
    pub longest: Duration,
}

const SUB_BITS: u32 = 6;

impl Histogram {
    pub fn new() -> Self {
        Self { buckets: vec![0; 64 << SUB_BITS], count: 0, longest: Duration::ZERO }
    }

    pub fn record(&mut self, latency: Duration) {
        let nanos = (latency.as_nanos() as u64).max(1 << SUB_BITS);
        let power = nanos.ilog2();
        let sub = (nanos >> (power - SUB_BITS)) & ((1 << SUB_BITS) - 1);
        self.buckets[((power as usize) << SUB_BITS) + sub as usize] += 1;
        self.count += 1;
        self.longest = self.longest.max(latency);
    }

    /// The latency in µs that this share of the requests did not exceed.
    pub fn quantile_us(&self, share: f64) -> f64 {
        let wanted = (self.count as f64 * share).ceil() as u64;
        let mut seen = 0;
        for (index, count) in self.buckets.iter().enumerate() {
            seen += count;
            if seen >= wanted && *count > 0 {
                let (power, sub) = (index >> SUB_BITS, index & ((1 << SUB_BITS) - 1));
                return ((1u64 << power) as f64) * (1.0 + sub as f64 / f64::from(1u32 << SUB_BITS)) / 1000.0;
            }
        }
        0.0
    }
}
