//! Seeded simulation of the UDP core: clients, replies, dead backends, reloads, failed sockets, drains and time in any
//! order. For each of thousands of seeds: a reply reaches the client it belongs to and nobody else, a flow ends exactly
//! once and gives back all that it had, the table's bound holds and the longest idle flow is the one that goes, a flow
//! does not stay with a dead backend, and every datagram is forwarded or counted as dropped.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use evener::config::{self, Config, Endpoint, OnDown, PerClient, Protocol, Udp};
use evener::id::{BackendId, Ids, ListenerId, PoolId};
use evener::limit::{Limiter, Limits};
use evener::reason::{CloseReason, ConnectFailure, DropReason};
use evener::snapshot::{Backend, Listener, Member, Pool};
use evener::stats::{BackendCell, BackendStats, ListenerStats, PoolStats};
use evener::timer::Tick;
use evener::udp::table::{Left, Step};
use evener::udp::{Peer, Table};

const SEEDS: u64 = 3000;
const STEPS: usize = 300;

/// What the simulation knows of a flow without asking the table.
struct Known {
    peer: Peer,
    backend: BackendId,
    socket: Option<u32>,
    active: Tick,
    settled: bool,
    replies: u64,
    /// Replies that are still to come.
    awaited: u64,
    /// Nobody listens at its backend, as far as is known.
    suspect: bool,
    /// When it ends by force, and why.
    doom: Option<(Tick, CloseReason)>,
}

impl Known {
    fn move_to(&mut self, backend: BackendId) {
        self.backend = backend;
        // What was to happen to the flows of the old backend is no longer its concern.
        self.doom = self.doom.filter(|(_, reason)| *reason != CloseReason::BackendDown);
    }
}

struct World {
    rng: fastrand::Rng,
    now: Duration,
    table: Table<u32>,
    options: Udp,
    config: Arc<config::Listener>,
    pool_config: Arc<config::Pool>,
    stats: Arc<ListenerStats>,
    pool_stats: Arc<PoolStats>,
    backends: Vec<Arc<Backend>>,
    down: Vec<bool>,
    peers: Vec<Peer>,
    flows: HashMap<usize, Known>,
    by_peer: HashMap<Peer, usize>,
    sockets: u32,
    is_draining: bool,
    /// Flows there may be: `max_flows`, or as many as there were when a reload made that smaller, until they have gone.
    bound: usize,
    sent: u64,
    forwarded: u64,
    opened: u64,
    ended: u64,
    /// Times that a flow was given another backend.
    changed: u64,
    /// Times that a socket could not be had.
    failed: u64,
    /// Times that there was no backend.
    unserved: u64,
    bytes_out: u64,
}

fn base() -> Config {
    let text = "[listener.l]\nbind = \"127.0.0.1:0\"\npool = \"p\"\n[pool.p]\nbackends = [\"127.0.0.1:9\"]\n";
    config::parse("sim", text.as_bytes()).unwrap_or_else(|report| panic!("{}", report.render(false))).config
}

fn options(rng: &mut fastrand::Rng) -> Udp {
    Udp {
        idle_timeout: Duration::from_millis([1, 50, 400, 5_000][rng.usize(..4)]),
        responses: NonZeroU32::new(rng.u32(..4)),
        max_flows: NonZeroU32::new(rng.u32(1..25)).expect("at least 1"),
        one_way: false,
    }
}

fn on_down(rng: &mut fastrand::Rng) -> Option<OnDown> {
    match rng.u32(..4) {
        0 | 1 => None,
        2 => Some(OnDown::Keep),
        _ => Some(OnDown::CloseAfter(Duration::from_secs(rng.u64(..2)))),
    }
}

impl World {
    fn new(seed: u64, base: &Config) -> Self {
        let mut rng = fastrand::Rng::with_seed(seed);
        let options = options(&mut rng);
        let mut config = (*base.listeners[0]).clone();
        config.protocol = Protocol::Udp(options);
        config.per_client = PerClient { connections: NonZeroU32::new(rng.u32(..6)), rate: None };
        if rng.u32(..4) == 0 {
            config.deny = vec!["10.0.0.3/32".parse().expect("a network")];
        }
        let mut pool_config = (*base.pools[0]).clone();
        pool_config.on_down = on_down(&mut rng);
        let limits = Limits { connections: config.per_client.connections.map(NonZeroU32::get), rate: None };
        let stats = Arc::new(ListenerStats::new(ListenerId(1), "l", Limiter::new(limits, 64), 1));
        let pool_stats = Arc::new(PoolStats::new(PoolId(1), "p", 1));
        let backends: Vec<_> = (0..rng.u32(1..5))
            .map(|number| {
                let mut config = (*base.pools[0].backends[0]).clone();
                config.name = format!("b{number}");
                config.max_connections = NonZeroU32::new(if rng.u32(..4) == 0 { rng.u32(1..10) } else { 0 });
                let id = BackendId(number);
                let endpoint = Endpoint::Ip(SocketAddr::from(([127, 0, 0, 1], 9)));
                let stats = Arc::new(BackendStats::new(id, &pool_stats, &config.name, "127.0.0.1:9", 1));
                Arc::new(Backend::new(id, Arc::new(config), endpoint, stats))
            })
            .collect();
        let peer = |rng: &mut fastrand::Rng| Peer {
            client: SocketAddr::from(([10, 0, 0, rng.u8(..5)], rng.u16(1..9))),
            local: rng.bool().then(|| IpAddr::V4(Ipv4Addr::new(192, 0, 2, rng.u8(1..3)))),
        };
        let peers = (0..rng.usize(1..60)).map(|_| peer(&mut rng)).collect();
        let down = vec![false; backends.len()];
        let (config, pool_config) = (Arc::new(config), Arc::new(pool_config));
        let listener = listener(&config, &pool_config, &stats, &pool_stats, &backends, &down);
        Self {
            table: Table::new(listener, options, Ids::new(0, 1), seed),
            now: Duration::from_secs(1),
            options,
            config,
            pool_config,
            stats,
            pool_stats,
            backends,
            down,
            peers,
            flows: HashMap::new(),
            by_peer: HashMap::new(),
            sockets: 0,
            is_draining: false,
            bound: options.max_flows.get() as usize,
            sent: 0,
            forwarded: 0,
            opened: 0,
            ended: 0,
            changed: 0,
            failed: 0,
            unserved: 0,
            bytes_out: 0,
            rng,
        }
    }

    fn may_move(&self) -> bool {
        matches!(self.pool_config.on_down, None | Some(OnDown::CloseAfter(Duration::ZERO)))
    }

    fn is_down(&self, id: BackendId) -> bool {
        self.backends.iter().position(|backend| backend.id == id).is_some_and(|at| self.down[at])
    }

    /// Whether another backend than this one could take a flow.
    fn has_other(&self, id: BackendId) -> bool {
        self.backends.iter().zip(&self.down).any(|(backend, down)| {
            let max = backend.config.max_connections.map_or(u32::MAX, NonZeroU32::get);
            backend.id != id && !down && backend.stats.active() < max
        })
    }

    fn publish(&mut self) {
        let listener =
            listener(&self.config, &self.pool_config, &self.stats, &self.pool_stats, &self.backends, &self.down);
        self.table.set(listener, self.options);
    }

    fn client_sends(&mut self) {
        let peer = self.peers[self.rng.usize(..self.peers.len())];
        let count = self.rng.u32(1..4);
        let before = self.by_peer.get(&peer).copied();
        let was_on = before.map(|slot| self.flows[&slot].backend);
        let had_other = was_on.is_some_and(|backend| self.has_other(backend));
        let dropped = self.dropped();
        let step = self.table.on_client(peer, count, 10 * u64::from(count), self.now);
        self.sent += u64::from(count);
        let slot = match step {
            Ok(Step::Forward(slot) | Step::Connect(slot)) => slot,
            Err(reason) => {
                assert!(before.is_none(), "a flow's own client is not refused: {reason:?}");
                assert_eq!(self.dropped(), dropped + u64::from(count), "a drop is counted");
                return self.hear_of_drop(peer, reason);
            }
        };
        self.forwarded += u64::from(count);
        let ended = self.ended;
        self.hear(before.is_none());
        assert!(self.ended <= ended + 1, "a new flow costs no more than one other");
        let flow = self.table.flow(slot);
        assert_eq!(flow.peer, peer, "a datagram belongs to its sender's flow");
        let backend = flow.backend.id;
        if let Some(was_on) = was_on {
            assert_eq!(before, Some(slot), "the flow goes on");
            let (was_down, may_move) = (self.is_down(was_on), self.may_move());
            let known = self.flows.get_mut(&slot).expect("it is known");
            known.settled |= known.replies > 0;
            let is_lost = may_move && (was_down || known.suspect);
            known.suspect &= !may_move;
            assert_eq!(backend != was_on, is_lost && had_other, "a flow stays with its backend unless that is dead");
            if backend != was_on {
                assert!(matches!(step, Ok(Step::Connect(_))), "another backend needs another socket");
                assert_eq!(known.socket, None, "the old socket was given back");
                known.move_to(backend);
                self.changed += 1;
                assert!(!self.is_down(backend));
            }
        } else {
            self.opened += 1;
            let known = Known {
                peer,
                backend,
                socket: None,
                active: Tick(0),
                settled: false,
                replies: 0,
                awaited: 0,
                suspect: false,
                doom: None,
            };
            self.flows.insert(slot, known);
            self.by_peer.insert(peer, slot);
            assert!(!self.is_down(backend), "a new flow goes to a backend that is up");
        }
        let known = self.flows.get_mut(&slot).expect("it is known");
        known.active = Tick::at(self.now);
        known.awaited += u64::from(count) * self.options.responses.map_or(0, |each| each.get().into());
        match step {
            Ok(Step::Forward(_)) => assert!(known.socket.is_some() && known.socket == flow.socket),
            _ => self.connect(slot),
        }
    }

    /// A datagram that belongs to no flow, as where the listener is one way.
    fn client_sends_one_way(&mut self) {
        let peer = self.peers[self.rng.usize(..self.peers.len())];
        self.sent += 1;
        match self.table.on_one_way(peer, 10, self.now) {
            Ok(backend) => {
                assert!(!self.is_down(backend.id));
                self.forwarded += 1;
            }
            Err(reason) => self.hear_of_drop(peer, reason),
        }
    }

    fn hear_of_drop(&mut self, peer: Peer, reason: DropReason) {
        match reason {
            DropReason::Draining => assert!(self.is_draining),
            DropReason::Denied => assert_eq!(peer.client.ip(), IpAddr::from([10, 0, 0, 3])),
            DropReason::Limited => assert!(self.config.per_client.connections.is_some()),
            DropReason::NoBackend => {
                assert!(self.down.iter().all(|down| *down));
                self.unserved += 1;
            }
            DropReason::BackendsFull => {}
            other => panic!("{other:?} is not what a table drops for while it has flows of its own"),
        }
        self.hear(false);
    }

    /// Opens a socket for a flow, as the worker does; sometimes that fails.
    fn connect(&mut self, slot: usize) {
        let mut tried = Vec::new();
        while self.rng.u32(..8) == 0 {
            let failure = [ConnectFailure::Unreachable, ConnectFailure::NoResource, ConnectFailure::NoPort];
            let failure = failure[self.rng.usize(..3)];
            if !failure.blames_backend() && self.table.shed_for(slot, self.now) {
                self.hear(true);
                continue;
            }
            let goes_on = self.table.failed(slot, failure, &mut tried, self.now);
            self.failed += 1;
            assert!(
                tried.len() <= self.pool_config.connect.attempts.get() as usize,
                "no more attempts than it may have"
            );
            if !goes_on {
                self.hear(false);
                assert!(!self.flows.contains_key(&slot), "a flow without a socket has ended");
                return;
            }
            let backend = self.table.flow(slot).backend.id;
            assert!(!tried.contains(&backend), "nobody is tried twice");
            self.hear(false);
            self.flows.get_mut(&slot).expect("it is known").move_to(backend);
            self.changed += 1;
        }
        self.sockets += 1;
        self.table.attach(slot, self.sockets);
        self.flows.get_mut(&slot).expect("it is known").socket = Some(self.sockets);
    }

    fn backend_replies(&mut self) {
        let open: Vec<usize> =
            self.flows.iter().filter(|(_, known)| known.socket.is_some()).map(|(at, _)| *at).collect();
        let Some(slot) = self.choice(&open) else { return };
        let count = self.rng.u32(1..4);
        let known = self.flows.get_mut(&slot).expect("it is known");
        let backend = self.table.flow(slot).backend.stats.clone();
        let is_first = known.replies == 0 && self.table.flow(slot).attempts == 1;
        (known.active, known.suspect, known.replies) = (Tick::at(self.now), false, known.replies + u64::from(count));
        let is_last = (1..=u64::from(count)).contains(&known.awaited) && self.options.responses.is_some();
        known.awaited = known.awaited.saturating_sub(count.into());
        let (peer, cost) = (known.peer, backend.connect_cost_us());
        assert_eq!(self.table.on_backend(slot, count, 7, self.now), peer, "a reply goes to the flow's own client");
        self.bytes_out += 7;
        assert!(is_first || backend.connect_cost_us() == cost, "only the first reply tells how far off a backend is");
        self.hear(false);
        assert_eq!(self.flows.contains_key(&slot), !is_last, "a flow ends with the last of its answers");
    }

    fn choice<T: Copy>(&mut self, of: &[T]) -> Option<T> {
        (!of.is_empty()).then(|| of[self.rng.usize(..of.len())])
    }

    /// Takes what the table has given up. `for_place` = somebody needed a place; else flows are shed only where a reload
    /// has made the bound smaller.
    fn hear(&mut self, for_place: bool) {
        while let Some(left) = self.table.take_left() {
            let (flow, reason) = match left {
                Left::Socket(socket) => {
                    let owner = self.flows.values_mut().find(|known| known.socket == Some(socket));
                    owner.expect("it was somebody's").socket = None;
                    continue;
                }
                Left::Flow(flow, reason) => (flow, reason),
            };
            self.ended += 1;
            assert!(reason.ends_flows(), "{reason:?}");
            let slot = self.by_peer.remove(&flow.peer).expect("each flow ends once");
            let known = self.flows.remove(&slot).expect("each flow ends once");
            assert_eq!(known.socket, flow.socket, "it gives its own socket back");
            let idle = |known: &Known| (known.settled, known.active);
            match reason {
                CloseReason::Shed => {
                    assert!(for_place || self.flows.len() >= self.options.max_flows.get() as usize, "it had to go");
                    let others = self.flows.values().filter(|other| other.active < Tick::at(self.now));
                    assert!(others.map(idle).all(|other| other >= idle(&known)), "the longest idle flow goes");
                }
                CloseReason::ClientIdle => {
                    assert!(known.active.since_start() + self.options.idle_timeout <= self.now, "it was idle");
                }
                CloseReason::Answered => assert!(self.options.responses.is_some()),
                CloseReason::Drained if self.is_draining => {}
                CloseReason::Drained | CloseReason::BackendDown => {
                    let due = known.doom.filter(|(at, _)| *at <= Tick::at(self.now));
                    assert_eq!(due.map(|(_, why)| why), Some(reason), "its time has come");
                }
                _ => {}
            }
        }
    }

    fn pass_time(&mut self) {
        if self.rng.bool() {
            self.now += Duration::from_millis(self.rng.u64(..700));
        } else if let Some(next) = self.table.next_deadline() {
            self.now = self.now.max(next.since_start());
        }
        self.table.expire(self.now);
        self.hear(false);
        let tick = Tick::at(self.now);
        assert!(self.table.next_deadline().is_none_or(|next| next > tick), "all that was due has ended");
        assert!(self.flows.values().all(|known| known.doom.is_none_or(|(at, _)| at > tick)));
        assert!(self.flows.len() <= self.options.max_flows.get() as usize, "a smaller bound holds before long");
    }

    fn turn(&mut self) {
        match self.rng.u32(..100) {
            0..50 => self.client_sends(),
            50..55 => self.client_sends_one_way(),
            55..75 => self.backend_replies(),
            75..85 => self.pass_time(),
            85..91 => {
                let at = self.rng.usize(..self.down.len());
                self.down[at] = !self.down[at];
                self.publish();
            }
            91..93 => {
                self.options = options(&mut self.rng);
                let mut pool = (*self.pool_config).clone();
                pool.on_down = on_down(&mut self.rng);
                self.pool_config = Arc::new(pool);
                self.publish();
            }
            93..96 => {
                let all: Vec<usize> = self.flows.keys().copied().collect();
                if let Some(slot) = self.choice(&all) {
                    self.table.suspect(slot);
                    self.flows.get_mut(&slot).expect("it is known").suspect = true;
                }
            }
            96..98 => {
                let at = Tick::at(self.now + Duration::from_millis(self.rng.u64(..900)));
                let gone = self.backends[self.rng.usize(..self.backends.len())].id;
                let reason = [CloseReason::BackendDown, CloseReason::Drained][self.rng.usize(..2)];
                let times = |count, _: &mut fastrand::Rng| vec![at; count];
                self.table.doom(reason, |flow| flow.backend.id == gone, times);
                for known in self.flows.values_mut().filter(|known| known.backend == gone) {
                    known.doom = [known.doom, Some((at, reason))].into_iter().flatten().min_by_key(|(at, _)| *at);
                }
            }
            98 if self.rng.u32(..5) == 0 => {
                self.is_draining = true;
                self.table.drain();
            }
            _ => {}
        }
    }

    fn dropped(&self) -> u64 {
        self.stats.cell(0).dropped.iter().map(|count| count.read()).sum()
    }

    fn assert_sound(&mut self) {
        self.table.assert_sound();
        assert!(self.flows.len() <= self.bound, "the table's bound holds");
        self.bound = self.flows.len().max(self.options.max_flows.get() as usize);
        assert_eq!(self.table.len(), self.flows.len());
        assert_eq!(self.stats.active() as usize, self.flows.len());
        for backend in &self.backends {
            let on_it = self.flows.values().filter(|known| known.backend == backend.id).count();
            assert_eq!(backend.stats.active() as usize, on_it, "places on a backend are those of its flows");
            assert!(backend.config.max_connections.is_none_or(|max| on_it <= max.get() as usize));
        }
        assert_eq!(self.sent, self.forwarded + self.dropped(), "each datagram is forwarded or dropped");
        assert_eq!(self.stats.cell(0).datagrams_in.read(), self.sent);
        let closed: u64 = self.stats.cell(0).closed.iter().map(|count| count.read()).sum();
        assert_eq!((self.stats.cell(0).accepted.read(), closed), (self.opened, self.ended));
        let bytes = (self.stats.cell(0).bytes_in.read(), self.stats.cell(0).bytes_out.read());
        assert_eq!(bytes, (10 * self.forwarded, self.bytes_out));
        let sum = |count: fn(&BackendCell) -> u64| -> u64 {
            self.backends.iter().map(|backend| count(backend.stats.cell(0))).sum()
        };
        assert_eq!((sum(|cell| cell.bytes_in.read()), sum(|cell| cell.bytes_out.read())), bytes);
        let moves = (sum(|cell| cell.established.read()), sum(|cell| cell.retries.read()));
        assert_eq!(moves, (self.opened + self.changed, self.changed));
        assert_eq!(sum(|cell| cell.connect_failures.iter().map(|count| count.read()).sum()), self.failed);
        assert_eq!(self.pool_stats.cell(0).no_backend.read(), self.unserved);
    }

    /// The end: nothing is left behind.
    fn end(mut self) {
        self.table.end_all(CloseReason::Killed, self.now);
        self.hear(false);
        self.assert_sound();
        assert!(self.table.is_empty() && self.flows.is_empty());
        assert_eq!(self.opened, self.ended);
        let Some(limit) = self.config.per_client.connections else { return };
        let client = IpAddr::from([10, 0, 0, 1]).into();
        let admitted = (0..20).filter(|_| self.stats.clients.admit(client, self.now).is_ok()).count();
        assert_eq!(admitted, limit.get() as usize, "no client is left with flows that are gone");
    }
}

fn listener(
    config: &Arc<config::Listener>,
    pool_config: &Arc<config::Pool>,
    stats: &Arc<ListenerStats>,
    pool_stats: &Arc<PoolStats>,
    backends: &[Arc<Backend>],
    down: &[bool],
) -> Arc<Listener> {
    let (lost, up): (Vec<_>, Vec<_>) = backends.iter().zip(down).partition(|(_, down)| **down);
    let rotation = up.into_iter().map(|(backend, _)| Member { backend: backend.clone(), weight: 100 }).collect();
    let lost = lost.into_iter().map(|(backend, _)| backend.id).collect();
    let pool = Pool::new(pool_config.clone(), pool_stats.clone(), None, rotation, lost, None);
    let (config, stats) = (config.clone(), stats.clone());
    Arc::new(Listener { id: stats.id, config, stats, pool: Arc::new(pool), named: Vec::new(), drain: None, tls: None })
}

#[test]
fn whatever_happens_replies_find_their_clients_and_nothing_is_left_behind() {
    let base = base();
    let one = std::env::var("EVENER_SIM_SEED").ok().and_then(|seed| seed.parse::<u64>().ok());
    let mut ended = HashMap::new();
    for seed in one.map_or(0..SEEDS, |seed| seed..seed + 1) {
        let run = std::panic::AssertUnwindSafe(|| {
            let mut world = World::new(seed, &base);
            for _ in 0..STEPS {
                world.turn();
                world.assert_sound();
            }
            let stats = world.stats.clone();
            world.end();
            stats
        });
        match std::panic::catch_unwind(run) {
            Ok(stats) => {
                for reason in CloseReason::ALL {
                    *ended.entry(reason).or_insert(0) += stats.cell(0).closed[reason.index()].read();
                }
            }
            Err(panic) => {
                eprintln!("seed {seed}: run it alone with EVENER_SIM_SEED={seed}");
                std::panic::resume_unwind(panic);
            }
        }
    }
    if one.is_none() {
        for reason in CloseReason::ALL.into_iter().filter(|reason| reason.ends_flows()) {
            assert!(ended[&reason] > 100, "the simulation must reach {reason:?}");
        }
    }
}
