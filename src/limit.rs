//! Limits by client: connections at once and new ones per time, in a table of bounded size, on an injected `now`; and
//! requests per time, by whatever key tells one client of HTTP from another.
//!
//! One limiter serves all worker threads. Rates are kept by GCRA, the virtual scheduling form of the leaky bucket
//! (ITU-T I.371, annex A): per client nothing but the time at which its bucket will be full again.
//!
//! **A full table.** An entry is given up only when that changes nothing: the client has no connection and its bucket
//! is full again. So nobody gets rid of a count by making others appear. When every entry matters, a connection of a
//! client without one is admitted and not counted: an address that fills the table (an IPv6 /48 has 65536 client
//! networks) must not lock out everybody else, and the limits of the process and of the listener still hold. A client
//! admitted like that may exceed its limit, by no more than the connections it opened meanwhile, until they end. Requests
//! of clients without an entry share one bucket for each part of the table: keys may be made up (a header), and who
//! sprays them must not be rid of the limit.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hash, RandomState};
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crossbeam_utils::CachePadded;

/// Clients that are counted at once where nothing else is said; some 3 MB when all are there.
pub const CLIENTS_MAX: usize = 65_536;

/// Parts of the table with a lock each, so that workers seldom wait for each other.
const SHARDS: usize = 16;

/// A full shard is searched for entries to give up at most this often: a flood must not buy a search with each
/// connection.
const SWEEP_INTERVAL: Duration = Duration::from_millis(100);

/// A longer period (73 years) of a rate counts as this, which keeps sums of times in range.
const PER_MAX_NANOSECONDS: u64 = 1 << 61;
/// A whole allowance that takes longer to refill counts as this.
const WINDOW_MAX_NANOSECONDS: u64 = 1 << 62;

/// A client as limits see it: an IPv4 address, or the /64 of an IPv6 one, which is what one subscriber gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ClientKey(Network);

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Network {
    V4(u32),
    V6(u64),
}

impl From<IpAddr> for ClientKey {
    /// An IPv4-mapped IPv6 address is the IPv4 address.
    fn from(address: IpAddr) -> Self {
        Self(match address.to_canonical() {
            IpAddr::V4(address) => Network::V4(address.to_bits()),
            IpAddr::V6(address) => Network::V6((address.to_bits() >> 64) as u64),
        })
    }
}

/// What one client may have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Connections at once.
    pub connections: Option<u32>,
    /// How fast new ones may come.
    pub rate: Option<Rate>,
}

/// So many in so much time. The allowance refills continuously; it is kept in nanoseconds for each, rounded up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// How many.
    pub count: u32,
    /// In how long.
    pub per: Duration,
    /// How many may come at once: a whole allowance.
    pub burst: u32,
}

/// What is left to who was let through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Allowance {
    /// So many more at once.
    pub left: u32,
    /// It is whole again in this time.
    pub whole_in: Duration,
}

/// Which limit a client has reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// It has as many connections as it may.
    Connections,
    /// It opens them faster than it may.
    Rate,
}

/// The counts of all clients. It counts whether or not there is a limit, so a limit that a reload brings holds at once
/// for what is open.
pub struct Limiter<K = ClientKey> {
    shards: [CachePadded<Mutex<Shard<K>>>; SHARDS],
    /// Seeded at random: clients cannot choose their shard.
    hasher: RandomState,
}

struct Shard<K> {
    limits: Limits,
    clients: HashMap<K, Client>,
    /// Of the requests of all who find no place.
    others: Client,
    clients_max: usize,
    /// Not searched again before this.
    sweep_at: u64,
}

/// What is known of a client. Times are nanoseconds since the owner's start: 64 bits last for 584 years.
#[derive(Clone, Copy, Default)]
struct Client {
    connections: u32,
    /// When its bucket is full again (GCRA's theoretical arrival time).
    full_at: u64,
}

/// A rate as GCRA wants it, in nanoseconds.
#[derive(Clone, Copy)]
struct Pace {
    /// Between two.
    interval: u64,
    /// How far `full_at` may lie ahead: a whole allowance.
    window: u64,
}

impl<K: Copy + Eq + Hash> Limiter<K> {
    /// A limiter that counts up to `clients_max` clients, rounded up to a multiple of 16.
    pub fn new(limits: Limits, clients_max: usize) -> Self {
        let clients_max = clients_max.div_ceil(SHARDS).max(1);
        let shard = |_| {
            let (clients, others) = (HashMap::new(), Client::default());
            Mutex::new(Shard { limits, clients, others, clients_max, sweep_at: 0 }).into()
        };
        Self { shards: std::array::from_fn(shard), hasher: RandomState::new() }
    }

    /// Asks for one connection at `now` (since any fixed start) and counts it as open when it is admitted; then
    /// [`Limiter::release`] has to follow when it has ended. A refusal costs the client nothing.
    pub fn admit(&self, key: K, now: Duration) -> Result<(), Refused> {
        self.shard(key).admit(key, nanoseconds(now))
    }

    /// Counts a connection that another process has admitted. [`Limiter::release`] has to follow.
    pub fn adopt(&self, key: K) {
        self.shard(key).adopt(key);
    }

    /// Asks for one request at `now`, of which only the rate counts.
    ///
    /// # Errors
    /// In how long the next one may come. A refusal costs nothing.
    pub fn request(&self, key: K, now: Duration) -> Result<Allowance, Duration> {
        self.shard(key).request(key, nanoseconds(now))
    }

    /// Whether a request at `now` would pass. Nothing is taken, and a client without an entry passes.
    ///
    /// # Errors
    /// In how long one would.
    pub fn peek(&self, key: K, now: Duration) -> Result<(), Duration> {
        self.shard(key).peek(key, nanoseconds(now)).map_err(Duration::from_nanos)
    }

    /// One admitted connection of this client has ended.
    pub fn release(&self, key: K) {
        self.shard(key).release(key);
    }

    /// Other limits from now on. Counts stay; nobody who is connected is disturbed.
    pub fn reconfigure(&self, limits: Limits) {
        self.shards.iter().for_each(|shard| lock(shard).limits = limits);
    }

    fn shard(&self, key: K) -> MutexGuard<'_, Shard<K>> {
        lock(&self.shards[self.hasher.hash_one(key) as usize % SHARDS])
    }
}

/// No operation leaves a shard half done, so one that a panic has poisoned is as good as before.
fn lock<K>(shard: &Mutex<Shard<K>>) -> MutexGuard<'_, Shard<K>> {
    shard.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<K: Copy + Eq + Hash> Shard<K> {
    fn admit(&mut self, key: K, now: u64) -> Result<(), Refused> {
        let pace = self.pace();
        let Some(client) = self.clients.get_mut(&key) else {
            let mut client = Client::default();
            client.admit(self.limits.connections, pace, now)?;
            if self.has_room(now) {
                self.clients.insert(key, client);
            }
            return Ok(());
        };
        client.admit(self.limits.connections, pace, now)
    }

    fn adopt(&mut self, key: K) {
        if self.clients.contains_key(&key) || self.has_room(0) {
            let client = self.clients.entry(key).or_default();
            client.connections = client.connections.saturating_add(1);
        }
    }

    fn request(&mut self, key: K, now: u64) -> Result<Allowance, Duration> {
        let Some(pace) = self.pace() else {
            return Ok(Allowance { left: u32::MAX, whole_in: Duration::ZERO });
        };
        let is_known = self.clients.contains_key(&key);
        let client = match is_known || self.has_room(now) {
            true => self.clients.entry(key).or_default(),
            false => &mut self.others,
        };
        client.take(pace, now).map_err(Duration::from_nanos)?;
        let debt = client.full_at - now;
        let left = u32::try_from((pace.window - debt) / pace.interval).unwrap_or(u32::MAX);
        Ok(Allowance { left, whole_in: Duration::from_nanos(debt) })
    }

    fn peek(&self, key: K, now: u64) -> Result<(), u64> {
        match (self.pace(), self.clients.get(&key).copied()) {
            (Some(pace), Some(mut client)) => client.take(pace, now),
            _ => Ok(()),
        }
    }

    fn release(&mut self, key: K) {
        // A client that was admitted to a full table may have no entry, or no connection in it.
        if let Some(client) = self.clients.get_mut(&key) {
            client.connections = client.connections.saturating_sub(1);
            if client.connections == 0 && self.limits.rate.is_none() {
                self.clients.remove(&key);
            }
        }
    }

    /// Whether a client can be added, after giving up the entries that say nothing.
    fn has_room(&mut self, now: u64) -> bool {
        if self.clients.len() >= self.clients_max && now >= self.sweep_at {
            let rated = self.limits.rate.is_some();
            self.clients.retain(|_, client| client.connections > 0 || (rated && client.full_at > now));
            self.sweep_at = now.saturating_add(nanoseconds(SWEEP_INTERVAL));
        }
        self.clients.len() < self.clients_max
    }

    fn pace(&self) -> Option<Pace> {
        self.limits.rate.map(|rate| {
            let count = u64::from(rate.count.max(1));
            let interval = nanoseconds(rate.per).min(PER_MAX_NANOSECONDS).div_ceil(count).max(1);
            let window = interval.saturating_mul(rate.burst.max(1).into()).min(WINDOW_MAX_NANOSECONDS);
            Pace { interval, window: window.max(interval) }
        })
    }
}

impl Client {
    fn admit(&mut self, connections: Option<u32>, pace: Option<Pace>, now: u64) -> Result<(), Refused> {
        if connections.is_some_and(|limit| self.connections >= limit) {
            return Err(Refused::Connections);
        }
        if let Some(pace) = pace {
            self.take(pace, now).map_err(|_| Refused::Rate)?;
        }
        self.connections = self.connections.saturating_add(1);
        Ok(())
    }

    /// One out of the bucket, or the time until there is one.
    fn take(&mut self, Pace { interval, window }: Pace, now: u64) -> Result<(), u64> {
        // Never deeper in debt than an empty bucket: an old rate's debt could be a long one.
        self.full_at = self.full_at.clamp(now, now.saturating_add(window));
        let full_at = self.full_at.saturating_add(interval);
        match (full_at - now).checked_sub(window) {
            None | Some(0) => {
                self.full_at = full_at;
                Ok(())
            }
            Some(wait) => Err(wait),
        }
    }
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use proptest::prelude::*;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn key(text: &str) -> ClientKey {
        text.parse::<IpAddr>().unwrap().into()
    }

    fn numbered(number: u32) -> ClientKey {
        IpAddr::from(Ipv4Addr::from_bits(number)).into()
    }

    fn at(milliseconds: u64) -> Duration {
        Duration::from_millis(milliseconds)
    }

    fn steady(count: u32, per: Duration) -> Option<Rate> {
        Some(Rate { count, per, burst: count })
    }

    fn rate(count: u32, per: Duration) -> Limits {
        Limits { connections: None, rate: steady(count, per) }
    }

    fn connections(count: u32) -> Limits {
        Limits { connections: Some(count), rate: None }
    }

    fn admitted(limiter: &Limiter, key: ClientKey, now: Duration, tries: usize) -> usize {
        (0..tries).filter(|_| limiter.admit(key, now).is_ok()).count()
    }

    fn entries<K>(limiter: &Limiter<K>) -> usize {
        limiter.shards.iter().map(|shard| lock(shard).clients.len()).sum()
    }

    #[test]
    fn a_client_is_an_ipv4_address_or_an_ipv6_network() {
        assert_eq!(key("10.1.2.3"), key("::ffff:10.1.2.3"));
        assert_ne!(key("10.1.2.3"), key("10.1.2.4"));
        assert_eq!(key("2001:db8:1:2::1"), key("2001:db8:1:2:ffff::9"));
        assert_ne!(key("2001:db8:1:2::1"), key("2001:db8:1:3::1"));
        assert_ne!(key("::1"), key("0.0.0.0"));
    }

    #[test]
    fn connections_are_limited_and_come_free_again() {
        let limiter = Limiter::new(connections(3), CLIENTS_MAX);
        let (one, other) = (key("10.0.0.1"), key("2001:db8::1"));
        assert_eq!(admitted(&limiter, one, at(0), 9), 3);
        assert_eq!(limiter.admit(one, at(9_999_999)), Err(Refused::Connections));
        assert_eq!(limiter.admit(other, at(0)), Ok(()));
        limiter.release(one);
        assert_eq!(admitted(&limiter, one, at(0), 9), 1);
        (0..3).for_each(|_| limiter.release(one));
        limiter.release(other);
        assert_eq!(entries(&limiter), 0, "nothing is left of clients that are gone");
    }

    #[test]
    fn one_periods_worth_may_come_at_once_and_refills_continuously() {
        let limiter = Limiter::new(rate(50, SECOND), CLIENTS_MAX);
        let client = key("10.0.0.1");
        assert_eq!(admitted(&limiter, client, at(5000), 200), 50);
        assert_eq!(limiter.admit(client, at(5000)), Err(Refused::Rate));
        assert_eq!(admitted(&limiter, client, at(5019), 9), 0);
        assert_eq!(admitted(&limiter, client, at(5020), 9), 1);
        assert_eq!(admitted(&limiter, client, at(5120), 9), 5);
        assert_eq!(admitted(&limiter, client, at(60_000), 200), 50, "and no more after a long rest");
    }

    #[test]
    fn a_refusal_costs_nothing() {
        let limiter = Limiter::new(Limits { connections: Some(1), rate: steady(2, SECOND) }, CLIENTS_MAX);
        let client = key("10.0.0.1");
        assert_eq!(admitted(&limiter, client, at(0), 100), 1);
        limiter.release(client);
        assert_eq!(limiter.admit(client, at(0)), Ok(()), "the refused ones took no token");
        limiter.release(client);
        assert_eq!(limiter.admit(client, at(0)), Err(Refused::Rate));
        assert_eq!(limiter.admit(client, at(500)), Ok(()), "nor did they count as connections");
    }

    #[test]
    fn odd_rates_allow_what_they_say() {
        for (count, per) in
            [(1, SECOND), (3, SECOND), (7, at(10)), (u32::MAX, at(1)), (1, Duration::ZERO), (5, Duration::MAX)]
        {
            let limiter = Limiter::new(rate(count, per), CLIENTS_MAX);
            let expected = if per.is_zero() { 1 } else { 100.min(count as usize) };
            assert_eq!(admitted(&limiter, key("10.0.0.1"), at(77), 100), expected, "{count} per {per:?}");
        }
    }

    #[test]
    fn a_reload_keeps_counts_and_does_not_collect_old_debts() {
        let limiter = Limiter::new(Limits::default(), CLIENTS_MAX);
        let client = key("10.0.0.1");
        assert_eq!(admitted(&limiter, client, at(0), 5), 5);
        limiter.reconfigure(connections(5));
        assert_eq!(limiter.admit(client, at(0)), Err(Refused::Connections), "opened before there was a limit");
        limiter.reconfigure(rate(10, Duration::from_secs(3600)));
        assert_eq!(admitted(&limiter, client, at(0), 99), 10);
        limiter.reconfigure(rate(10, SECOND));
        assert_eq!(admitted(&limiter, client, at(0), 99), 0);
        assert_eq!(admitted(&limiter, client, at(100), 99), 1, "an hour's debt became a second's");
    }

    #[test]
    fn a_full_table_forgets_only_what_does_not_matter() {
        let limiter = Limiter::new(Limits { connections: Some(2), rate: steady(2, SECOND) }, 1024);
        let (holder, hot) = (key("2001:db8::1"), key("2001:db8:1::1"));
        assert_eq!(admitted(&limiter, holder, at(0), 2), 2);
        assert_eq!(admitted(&limiter, hot, at(0), 2), 2);
        (0..2).for_each(|_| limiter.release(hot));
        for number in 0..10_000 {
            assert_eq!(limiter.admit(numbered(number), at(10)), Ok(()), "a full table locks nobody out");
            limiter.release(numbered(number));
            assert!(entries(&limiter) <= 1024);
        }
        assert_eq!(limiter.admit(holder, at(999_999)), Err(Refused::Connections));
        assert_eq!(limiter.admit(hot, at(10)), Err(Refused::Rate));
        // A second later their buckets are full: new clients are counted again.
        let counted = (20_000..20_020).filter(|&number| admitted(&limiter, numbered(number), at(2000), 3) == 2).count();
        assert_eq!(counted, 20);
        assert_eq!(limiter.admit(holder, at(2000)), Err(Refused::Connections));
    }

    #[test]
    fn a_flood_pays_for_a_search_only_now_and_then() {
        let limiter = Limiter::new(rate(1, SECOND), 16);
        (0..1000).for_each(|number| assert_eq!(limiter.admit(numbered(number), at(0)), Ok(())));
        (0..1000).for_each(|number| limiter.release(numbered(number)));
        let full = entries(&limiter);
        assert_eq!(full, 16);
        limiter.shards.iter().for_each(|shard| assert_eq!(lock(shard).sweep_at, nanoseconds(SWEEP_INTERVAL)));
    }

    #[test]
    fn a_client_of_a_full_table_is_counted_rightly_again_later() {
        let limiter = Limiter::new(connections(2), 16);
        (0..1000).for_each(|number| assert_eq!(limiter.admit(numbered(number), at(0)), Ok(())));
        let late = key("2001:db8::1");
        assert_eq!(admitted(&limiter, late, at(1), 5), 5, "not counted");
        (0..1000).for_each(|number| limiter.release(numbered(number)));
        assert_eq!(admitted(&limiter, late, at(200), 5), 2);
        (0..7).for_each(|_| limiter.release(late));
        assert_eq!(admitted(&limiter, late, at(300), 5), 2);
    }

    #[test]
    fn requests_have_a_burst_of_their_own_and_are_told_what_is_left() {
        let limiter = Limiter::new(
            Limits { connections: Some(0), rate: Some(Rate { count: 60, per: Duration::from_secs(60), burst: 3 }) },
            CLIENTS_MAX,
        );
        let ask = |now| limiter.request(7_u64, at(now));
        let allowance = |left, whole_in| Ok(Allowance { left, whole_in: at(whole_in) });
        assert_eq!(ask(1000), allowance(2, 1000));
        assert_eq!(ask(1000), allowance(1, 2000));
        assert_eq!(ask(1500), allowance(0, 2500));
        assert_eq!(ask(1600), Err(at(400)), "the next one may come in so long");
        assert_eq!(ask(1999), Err(at(1)));
        assert_eq!(ask(2000), allowance(0, 3000));
        assert_eq!(ask(90_000), allowance(2, 1000));
        assert_eq!(limiter.request(8, at(2000)), allowance(2, 1000), "another key");
        assert_eq!((limiter.peek(9, at(2000)), entries(&limiter)), (Ok(()), 2), "looking costs nothing");
        (0..3).for_each(|_| assert!(limiter.peek(8, at(2000)).is_ok()));
        (0..2).for_each(|_| assert!(limiter.request(8, at(2000)).is_ok()));
        assert_eq!(limiter.peek(8, at(2400)), Err(at(600)));
        let unlimited = Limiter::new(Limits::default(), CLIENTS_MAX);
        assert_eq!(unlimited.request(7_u64, at(0)), Ok(Allowance { left: u32::MAX, whole_in: Duration::ZERO }));
        assert_eq!(entries(&unlimited), 0);
    }

    #[test]
    fn sprayed_keys_share_what_is_left_and_reset_no_other() {
        let limiter = Limiter::new(rate(2, SECOND), 160);
        let taken = |key: u64, now| (0..9).filter(|_| limiter.request(key, at(now)).is_ok()).count();
        assert_eq!(taken(u64::MAX, 0), 2);
        let passed: usize = (0..10_000).map(|key| taken(key, 1)).sum();
        assert!(entries(&limiter) <= 160);
        assert!(passed <= 2 * (160 + SHARDS), "each place in the table and each part of it once: {passed}");
        assert_eq!(taken(u64::MAX, 1), 0, "the hot key is still hot");
        assert_eq!(taken(u64::MAX, 1500), 2);
        assert_eq!(taken(20_000, 3000), 2, "and there is room again");
    }

    #[test]
    fn many_threads_together_get_what_one_would() {
        let limiter = Limiter::new(Limits { connections: Some(100), rate: steady(150, SECOND) }, CLIENTS_MAX);
        let client = key("10.0.0.1");
        let open = |_| admitted(&limiter, client, at(0), 60);
        let total: usize = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4).map(|number| scope.spawn(move || open(number))).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).sum()
        });
        assert_eq!(total, 100);
    }

    /// The plain way: a bucket of time that fills, and a count.
    struct Naive {
        tokens: u128,
        filled_at: u128,
        open: u32,
    }

    impl Naive {
        fn admit(&mut self, now: u128, limit: u32, interval: u128, count: u128) -> Result<(), Refused> {
            self.tokens = (self.tokens + now - self.filled_at).min(count * interval);
            self.filled_at = now;
            if self.open >= limit {
                return Err(Refused::Connections);
            }
            if self.tokens < interval {
                return Err(Refused::Rate);
            }
            self.tokens -= interval;
            self.open += 1;
            Ok(())
        }
    }

    proptest! {
        #[test]
        fn it_does_what_a_bucket_and_a_counter_for_each_client_do(
            limit in 1_u32..8,
            count in 1_u32..12,
            per in 1_u64..3_000_000_000,
            steps in prop::collection::vec((0_u8..3, 0_usize..5, 0_u64..400_000_000), 1..400),
        ) {
            let limits = Limits { connections: Some(limit), rate: steady(count, Duration::from_nanos(per)) };
            let limiter = Limiter::new(limits, CLIENTS_MAX);
            let interval = u128::from(per.div_ceil(u64::from(count)));
            let full = u128::from(count) * interval;
            let mut models: Vec<_> = (0..5).map(|_| Naive { tokens: full, filled_at: 0, open: 0 }).collect();
            let mut now = 0;
            for (action, client, pass) in steps {
                let client_key: ClientKey = IpAddr::from(Ipv6Addr::new(0x2001, 0xdb8, 0, client as u16, 0, 0, 0, 1)).into();
                if action == 0 {
                    now += pass;
                } else if action == 1 && models[client].open > 0 {
                    models[client].open -= 1;
                    limiter.release(client_key);
                } else {
                    let expected = models[client].admit(u128::from(now), limit, interval, u128::from(count));
                    prop_assert_eq!(limiter.admit(client_key, Duration::from_nanos(now)), expected);
                }
            }
        }
    }
}
