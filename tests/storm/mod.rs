//! A storm: backends with moods, clients that check every byte, and what disturbs them.
#![allow(clippy::unwrap_used)]

mod backends;
mod clients;

use std::collections::BTreeMap;
use std::fs;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use crate::harness::datagram::UdpServer;
use crate::harness::http::pool_of;
use crate::harness::{Backend, Evener, Line, breathe, is_alive, memory_of, now, wait_until};
use backends::{Mood, Moody};
use clients::{Clients, Trouble};

/// Backends that are harmed; one more never is.
const HARMED: usize = 4;
/// How long one disturbance lasts.
const GUST: Duration = Duration::from_millis(250);
/// In which all that clients began comes to its end.
const AFTERMATH: Duration = Duration::from_secs(30);

/// Whether storms are long ones.
pub fn is_long() -> bool {
    std::env::var_os("EVENER_LONG").is_some()
}

pub struct Storm {
    evener: Line,
    backends: Vec<Moody>,
    web: Backend,
    resolver: UdpServer,
    hole: Backend,
    trouble: Arc<Trouble>,
    clients: Option<Clients>,
    rng: fastrand::Rng,
    /// Descriptors that may be open when all is quiet.
    descriptors: Option<usize>,
}

impl Storm {
    pub fn new(environment: &[(&'static str, String)]) -> Self {
        let usual = if is_long() { fastrand::u64(..) } else { 4 };
        let seed = std::env::var("EVENER_SEED").map_or(usual, |seed| seed.parse().unwrap());
        println!("EVENER_SEED={seed}");
        let backends: Vec<Moody> = (0..=HARMED).map(|number| Moody::new(&format!("b{number}"))).collect();
        let (web, resolver, hole) = (Backend::webs("web"), UdpServer::echo("127.0.0.2:0"), Backend::black_hole());
        let file = file(&backends, &hole, &web, &resolver, &Variation::default());
        let plan = environment.iter().fold(Evener::plan(&file), |plan, (name, value)| plan.env(name, value));
        let evener = Line::of(plan);
        Self {
            evener,
            backends,
            web,
            resolver,
            hole,
            trouble: Arc::default(),
            clients: None,
            rng: fastrand::Rng::with_seed(seed),
            descriptors: None,
        }
    }

    /// So many disturbances, one after the other, while clients work.
    pub fn blow(&mut self, gusts: usize) {
        if self.clients.is_none() {
            let status = self.evener.status();
            if self.descriptors.is_none() {
                self.descriptors = Some(status["process"]["fds_open"].as_u64().unwrap() as usize);
            }
            let port = |name: &str| self.evener.address(name);
            let ports = (port("tcp"), port("http"), port("udp"));
            self.clients = Some(Clients::start(ports, &self.trouble, self.rng.u64(..)));
        }
        for _ in 0..gusts {
            self.gust();
        }
        let clients = self.clients.as_ref().unwrap();
        let (start, before) = (now(), clients.perfect());
        wait_until(AFTERMATH, "clients are served again", || clients.perfect() > before + 20);
        println!("{} after {:?}", clients.summary(), start.elapsed());
    }

    fn gust(&mut self) {
        let number = self.rng.usize(1..=HARMED);
        match self.rng.u32(0..11) {
            0 | 1 => {
                self.trouble.begin();
                self.backends[number].kill();
                self.rest();
                self.backends[number].revive();
                self.trouble.end();
            }
            2 => self.mood(number, Mood::Frozen),
            3 => self.mood(number, Mood::Resetting),
            // Slow is no trouble: it takes its time, and no byte is lost.
            4 => {
                self.backends[number].feel(Mood::Slow);
                self.rest();
                self.backends[number].feel(Mood::Well);
            }
            5 => self.reload(),
            6 => self.override_one(number),
            7 => self.starve(),
            8 | 9 => self.upgrade(),
            _ => {
                self.resolver.kill();
                self.rest();
                self.resolver.revive();
            }
        }
        self.rest();
    }

    fn mood(&mut self, number: usize, mood: Mood) {
        self.trouble.begin();
        self.backends[number].feel(mood);
        self.rest();
        self.rest();
        self.backends[number].feel(Mood::Well);
        self.trouble.end();
    }

    /// Another file: other weights, another limit, a listener more, a backend that comes or goes.
    fn reload(&mut self) {
        let variation = Variation {
            weight: self.rng.u32(1..200),
            has_extra: self.rng.bool(),
            left_out: self.rng.bool().then(|| self.rng.usize(1..=HARMED)),
            workers_per_backend: self.rng.u32(20..60),
        };
        self.evener.reload(&file(&self.backends, &self.hole, &self.web, &self.resolver, &variation));
    }

    fn override_one(&mut self, number: usize) {
        let which = format!("tcp/b{number}");
        let word = *self.rng.choice(&["drain", "maint"]).unwrap();
        // It may have been left out of the file just now.
        if self.evener.backend("tcp", &format!("b{number}")).is_null() {
            return;
        }
        self.evener.cli_ok(&["backend", &which, word]);
        self.rest();
        self.evener.cli_ok(&["backend", &which, "auto"]);
    }

    /// Out of file descriptors for a moment: new clients wait or are refused, those who are in are served.
    fn starve(&mut self) {
        self.trouble.begin();
        let pid = self.evener.now();
        let limits = fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
        let line = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
        let hard: u64 = line.split_whitespace().nth(4).unwrap().parse().unwrap();
        let open = fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count();
        let limit = |soft: u64| {
            let arguments = [format!("--pid={pid}"), format!("--nofile={soft}:{hard}")];
            assert!(Command::new("prlimit").args(arguments).status().unwrap().success());
        };
        limit(open as u64 + 3);
        self.rest();
        limit(hard);
        self.trouble.end();
    }

    /// Another process takes over. Idle connections with HTTP end meanwhile, of all others none does.
    fn upgrade(&mut self) {
        self.trouble.begin_for_http();
        let before = self.evener.now();
        self.evener.upgrade();
        self.rest();
        wait_until(AFTERMATH, "the process before has ended", || !is_alive(before));
        self.trouble.end_for_http();
    }

    fn rest(&self) {
        let start = now();
        while start.elapsed() < GUST {
            breathe();
        }
    }

    /// The storm is over: clients finish what they do, and everything ends.
    pub fn calm(&mut self) {
        if let Some(clients) = self.clients.take() {
            let wrong = clients.finish();
            assert!(wrong.is_empty(), "{wrong:?}\n{}", self.evener.log());
        }
        let variation = Variation::default();
        self.evener.reload(&file(&self.backends, &self.hole, &self.web, &self.resolver, &variation));
        wait_until(AFTERMATH, "all connections and flows have ended", || {
            let process = &self.evener.status()["process"];
            process["connections"] == 0 && process["flows"] == 0
        });
    }

    /// Whether the log has a time that begins so.
    pub fn was_in(&self, years: &str) -> bool {
        self.evener.access().lines().any(|line| line.contains(&format!("\"time\":\"{years}")))
    }

    pub fn memory(&self) -> u64 {
        memory_of(self.evener.now())
    }

    /// What must be true when nobody is there any more.
    pub fn nothing_is_left(&self) {
        let allowed = self.descriptors.unwrap();
        let pid = self.evener.now();
        wait_until(AFTERMATH, "descriptors are as many as before", || {
            let links = fs::read_dir(format!("/proc/{pid}/fd")).unwrap().flatten();
            let links = links.filter_map(|entry| fs::read_link(entry.path()).ok());
            let (pipes, others): (Vec<_>, Vec<_>) = links.partition(|link| link.to_string_lossy().contains("pipe:"));
            let kept = self.evener.status()["process"]["pipes_free"].as_u64().unwrap() as usize;
            // Two of each empty pipe that is kept for the next use.
            others.len() <= allowed + 2 && pipes.len() <= 2 * kept + 4
        });
        let status = self.evener.status();
        for pool in status["pools"].as_array().unwrap() {
            for backend in pool["backends"].as_array().unwrap() {
                assert_eq!(backend["connections"]["active"], 0, "{backend}");
            }
        }
        assert_eq!(status["process"]["pipes_in_use"], 0);
        self.every_ending_is_told();
        let log = self.evener.log();
        assert!(!log.contains("panicked"), "{log}");
    }

    /// Each connection that was accepted has one line, with a reason.
    fn every_ending_is_told(&self) {
        let told = || {
            let mut reasons: BTreeMap<String, u64> = BTreeMap::new();
            for event in self.evener.events() {
                if event["event"] == "close" && event["listener"] == "tcp" {
                    *reasons.entry(event["reason"].as_str().expect("a reason").to_owned()).or_default() += 1;
                }
            }
            reasons
        };
        let status = self.evener.status();
        let listeners = status["listeners"].as_array().unwrap();
        let tcp = listeners.iter().find(|listener| listener["name"] == "tcp").unwrap();
        let accepted = tcp["connections"]["accepted"].as_u64().unwrap();
        wait_until(AFTERMATH, "each connection is in the log", || told().values().sum::<u64>() >= accepted);
        let reasons = told();
        println!("{reasons:?}");
        assert_eq!(reasons.values().sum::<u64>(), accepted, "{reasons:?}");
    }
}

/// What differs from one file to the next.
struct Variation {
    weight: u32,
    has_extra: bool,
    left_out: Option<usize>,
    workers_per_backend: u32,
}

impl Default for Variation {
    fn default() -> Self {
        Self { weight: 100, has_extra: false, left_out: None, workers_per_backend: 40 }
    }
}

fn file(backends: &[Moody], hole: &Backend, web: &Backend, resolver: &UdpServer, variation: &Variation) -> String {
    let Variation { weight, has_extra, left_out, workers_per_backend } = variation;
    let listed = backends.iter().enumerate().filter(|(number, _)| Some(*number) != *left_out);
    let mut entries: Vec<String> = listed
        .map(|(number, backend)| {
            let weight = if number == 1 { *weight } else { 100 };
            backend.entry(&format!("weight = {weight}, max_connections = {workers_per_backend}"))
        })
        .collect();
    entries.push(hole.entry("weight = 10"));
    let extra = if *has_extra { "[listener.extra]\nbind = \"127.0.0.1:0\"\npool = \"tcp\"\n" } else { "" };
    format!(
        "[process]\nworkers = 2\ndrain = {{ deadline = \"60s\", spread = \"1s\" }}\n\n\
         [listener.tcp]\nbind = \"127.0.0.1:0\"\npool = \"tcp\"\nidle_timeout = \"20s\"\n\n{extra}\n\
         [pool.tcp]\nbalance = \"least_conn\"\nbackends = [{}]\nconnect = {{ timeout = \"300ms\", attempts = 5 }}\n\
         queue = {{ max = 200, timeout = \"3s\" }}\n\
         health = {{ kind = \"tcp\", interval = \"200ms\", fast_interval = \"100ms\", timeout = \"200ms\", rise = 1, fall = 2 }}\n\n\
         [listener.udp]\nbind = \"127.0.0.1:0\"\nprotocol = \"udp\"\npool = \"udp\"\nudp = {{ idle_timeout = \"2s\" }}\n\n\
         [pool.udp]\nbackends = [{}]\nhealth = {{ kind = \"none\" }}\npassive = false\n\n{}",
        entries.join(", "),
        resolver.entry(""),
        http(web)
    )
}

fn http(web: &Backend) -> String {
    format!(
        "[listener.http]\nbind = \"127.0.0.1:0\"\nprotocol = \"http\"\n\n[[route]]\nname = \"all\"\nlistener = \"http\"\n\
         pool = \"web\"\n\n{}",
        pool_of("web", web.address(), "http = { idle_timeout = \"1s\" }\n")
    )
}
