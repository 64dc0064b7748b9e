//! What a worker does when control tells it to: listen, stop listening, end connections.

use std::time::Duration;

use super::connection::Connection;
use super::turn::Worker;
use super::{Command, Scope, udp};
use crate::reason::CloseReason;
use crate::tcp::relay::End;
use crate::timer::Tick;

impl Worker {
    pub fn on_command(&mut self, command: Command) {
        match command {
            Command::Wake => {}
            Command::Listen { listener, bind, socket } => match self.snapshot.listener(listener).cloned() {
                Some(listener) => match udp::options(&listener) {
                    Some(options) => self.listen_udp(listener, options, bind, socket),
                    None => self.listen(listener, bind, socket),
                },
                None => tracing::debug!(%listener, "told to listen for a listener that is gone again"),
            },
            Command::Unlisten { listener, bind } => {
                self.unlisten_if(|at| at.listener.id == listener && at.bind == bind);
                self.unlisten_udp_if(|at, bound| at.id == listener && *bound == bind);
            }
            Command::Drain { scope, deadline, spread } => {
                if scope == Scope::All {
                    self.unlisten_if(|_| true);
                    self.drain_udp();
                }
                let ending = Ending { reason: CloseReason::Drained, deadline, spread };
                self.doom(ending, |connection| match scope {
                    Scope::All => true,
                    Scope::Listener(id) => connection.slot.stats().id == id,
                    Scope::Backend(id) => connection.is_on(id),
                });
                self.doom_flows(ending, |listener, backend| match scope {
                    Scope::All => true,
                    Scope::Listener(id) => listener.id == id,
                    Scope::Backend(id) => backend == id,
                });
            }
            Command::CloseBackend { backend, spread } => {
                let ending = Ending { reason: CloseReason::BackendDown, deadline: spread, spread };
                self.doom(ending, |connection| connection.is_on(backend));
                self.doom_flows(ending, |_, id| id == backend);
            }
            Command::Stop => self.stop(),
        }
    }

    fn unlisten_if(&mut self, which: impl Fn(&super::accept::Listening) -> bool) {
        let places: Vec<usize> =
            self.listening.iter().filter(|(_, listening)| which(listening)).map(|(at, _)| at).collect();
        for at in places {
            self.unlisten(at);
        }
    }

    /// Gives each of these connections a time to end by force. An earlier time stays.
    fn doom(&mut self, ending: Ending, which: impl Fn(&Connection) -> bool) {
        let mut doomed: Vec<_> = self
            .connections
            .iter()
            .filter(|(_, connection)| which(connection))
            .map(|(_, connection)| connection.key)
            .collect();
        self.rng.shuffle(&mut doomed);
        let times = ending.times(self.now, doomed.len(), &mut self.rng);
        for (key, at) in doomed.into_iter().zip(times) {
            let connection = &mut self.connections[key.slot as usize];
            if at < connection.kill_at {
                (connection.kill_at, connection.kill_reason) = (at, ending.reason);
            }
            self.arm_relay(key);
        }
    }

    fn stop(&mut self) {
        self.unlisten_if(|_| true);
        self.stop_udp();
        let all: Vec<_> = self.connections.iter().map(|(_, connection)| connection.key).collect();
        for key in all {
            self.close(key, End::reset(CloseReason::Killed));
        }
        self.stopping = true;
    }
}

/// How connections and flows are ended by force.
#[derive(Clone, Copy, Debug)]
pub struct Ending {
    pub reason: CloseReason,
    /// All have ended by then, from now.
    pub deadline: Duration,
    /// They end evenly over the last part of the deadline.
    pub spread: Duration,
}

impl Ending {
    /// So many moments, evenly spread with jitter, so that clients do not all come back at once.
    pub fn times(self, now: Duration, count: usize, rng: &mut fastrand::Rng) -> Vec<Tick> {
        let spread = self.spread.min(self.deadline);
        let start = now + (self.deadline - spread);
        let share = spread.as_secs_f64() / count.max(1) as f64;
        (0..count).map(|i| Tick::at(start + Duration::from_secs_f64(share * (i as f64 + rng.f64())))).collect()
    }
}
