//! `evener demo`: backends, a balancer in front of them and a load, in this process. One backend dies and comes back;
//! what the clients notice of it is counted. Needs no file and no rights, and ends by itself.

mod backends;
mod load;
mod screen;

use std::net::SocketAddr;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow};

use self::backends::Echo;
use self::load::Load;
use self::screen::Screen;
use crate::api::{self, State, Status};
use crate::config;
use crate::control::desk::{Desk, Request};
use crate::control::inherited::Inherited;
use crate::control::source::Source;
use crate::control::{self, Failure};

/// What the backends are called.
const NAMES: [&str; 3] = ["anna", "bert", "cleo"];
/// Who dies.
const VICTIM: usize = 1;
/// When it dies, when it comes back, and when the demo is over.
const DEATH: Duration = Duration::from_secs(5);
const RETURN: Duration = Duration::from_secs(9);
const END: Duration = Duration::from_secs(14);
/// Between two looks at the balancer: what is told of times is exact to this.
const LOOK_INTERVAL: Duration = Duration::from_millis(10);
/// The longest that the balancer may take to come up.
const START_TIMEOUT: Duration = Duration::from_secs(5);

/// The balancer of the demo, in a thread of its own.
struct Balancer {
    desk: Desk,
    ended: Receiver<Result<(), Failure>>,
    thread: JoinHandle<()>,
}

/// What was seen of the death and the return.
#[derive(Default)]
struct Story {
    died: Option<Instant>,
    /// Failed attempts to reach the dead one, and when the last one was seen.
    failures: u64,
    failures_before: u64,
    last_sent: Option<Instant>,
    noticed: Option<Instant>,
    returned: Option<Instant>,
    back: Option<Instant>,
}

/// Runs it.
pub fn demo() -> anyhow::Result<()> {
    let mut backends: Vec<Echo> = NAMES.iter().map(|_| Echo::start()).collect::<Result<_, _>>()?;
    let balancer = Balancer::start(&backends)?;
    let (address, _) = balancer.wait_until_up()?;
    let start = now();
    let load = Load::start(address)?;
    let mut screen = Screen::new(start, address);
    let mut story = Story::default();
    while let Err(RecvTimeoutError::Timeout) = balancer.ended.recv_timeout(LOOK_INTERVAL) {
        let at = now();
        let Ok(status) = balancer.desk.ask_blocking(Request::Status) else { break };
        if status.draining || at.duration_since(start) >= END {
            break;
        }
        story.follow(at, start, &status, &mut backends, &mut screen)?;
        screen.show(at, &status, &load);
    }
    let load = load.end();
    balancer.desk.stop();
    // The thread's panic has been printed already; its result is of no interest any more.
    let _ = balancer.thread.join();
    screen.summary(&load, &story, now());
    Ok(())
}

impl Balancer {
    fn start(backends: &[Echo]) -> anyhow::Result<Self> {
        let places: Vec<String> = NAMES
            .iter()
            .zip(backends)
            .map(|(name, backend)| format!("{{ address = \"{}\", name = \"{name}\" }}", backend.address()))
            .collect();
        let text = format!(
            r#"
            [process]
            admin = ""
            log = {{ level = "error", access = "off" }}
            [listener.demo]
            bind = "127.0.0.1:0"
            pool = "demo"
            [pool.demo]
            backends = [{}]
            health = {{ interval = "250ms", fast_interval = "50ms", timeout = "250ms", rise = 2, fall = 2 }}
            passive = false
            "#,
            places.join(", ")
        );
        let loaded = config::parse("demo", text.as_bytes()).map_err(|report| anyhow!(report.render(false)))?;
        let (desk, requests) = Desk::open();
        let (end, ended) = channel();
        let asking = desk.clone();
        let source = Source::Memory(Box::new(loaded.config));
        let thread = std::thread::Builder::new().name("balancer".to_owned()).spawn(move || {
            // Nobody listens any more when the demo is over already.
            let _ = end.send(control::run(source, Inherited::default(), (desk, requests)));
        })?;
        Ok(Self { desk: asking, ended, thread })
    }

    /// Where it listens, once every backend is known to be up.
    fn wait_until_up(&self) -> anyhow::Result<(SocketAddr, Status)> {
        let limit = now() + START_TIMEOUT;
        loop {
            match self.ended.recv_timeout(LOOK_INTERVAL) {
                Ok(result) => {
                    result?;
                    return Err(anyhow!("the balancer has ended"));
                }
                Err(RecvTimeoutError::Disconnected) => return Err(anyhow!("the balancer has ended")),
                Err(RecvTimeoutError::Timeout) => {}
            }
            let status = self.desk.ask_blocking(Request::Status)?;
            let checked = |backend: &api::Backend| backend.observed.health == api::Health::Up;
            if status.pools[0].backends.iter().all(checked) || now() > limit {
                let address = status.listeners[0].bind.first().context("the balancer does not listen")?;
                return Ok((address.parse()?, status));
            }
        }
    }
}

impl Story {
    /// Lets the victim die and return when it is time, and notes what the balancer makes of it.
    fn follow(
        &mut self,
        at: Instant,
        start: Instant,
        status: &Status,
        backends: &mut [Echo],
        screen: &mut Screen,
    ) -> anyhow::Result<()> {
        let name = NAMES[VICTIM];
        let victim = &status.pools[0].backends[VICTIM];
        if self.died.is_none() && at.duration_since(start) >= DEATH {
            self.failures_before = victim.connect_failures;
            self.failures = victim.connect_failures;
            backends[VICTIM].die();
            self.died = Some(now());
            screen.tell(at, &format!("{name} dies: its port is closed from now on"));
        }
        if self.returned.is_none() && at.duration_since(start) >= RETURN {
            backends[VICTIM].revive()?;
            self.returned = Some(now());
            screen.tell(at, &format!("{name} is back: it listens again"));
        }
        let (Some(died), true) = (self.died, self.back.is_none()) else { return Ok(()) };
        if self.returned.is_none() && victim.connect_failures > self.failures {
            self.failures = victim.connect_failures;
            self.last_sent = Some(at);
        }
        if self.noticed.is_none() && victim.state != State::Up {
            self.noticed = Some(at);
            let after = at.duration_since(died).as_millis();
            screen.tell(at, &format!("{name} is out of rotation {after}ms after its death: {}", victim.why));
        }
        if let (Some(returned), State::Up) = (self.returned, victim.state) {
            self.back = Some(at);
            let after = at.saturating_duration_since(returned).as_millis();
            screen.tell(at, &format!("{name} takes clients again, {after}ms after its return: {}", victim.why));
        }
        Ok(())
    }

    fn tried_in_vain(&self) -> u64 {
        self.failures - self.failures_before
    }
}

#[allow(clippy::disallowed_methods)] // the clock of the show
fn now() -> Instant {
    Instant::now()
}
