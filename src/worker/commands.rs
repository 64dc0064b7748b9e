//! What a worker does when control tells it to: listen, stop listening, end connections.

use std::time::Duration;

use super::connection::Connection;
use super::turn::Worker;
use super::{Command, Scope};
use crate::reason::CloseReason;
use crate::tcp::relay::End;
use crate::timer::Tick;

impl Worker {
    pub fn on_command(&mut self, command: Command) {
        match command {
            Command::Wake => {}
            Command::Listen { listener, bind, socket } => match self.snapshot.listener(listener).cloned() {
                Some(listener) => self.listen(listener, bind, socket),
                None => tracing::debug!(%listener, "told to listen for a listener that is gone again"),
            },
            Command::Unlisten { listener, bind } => {
                self.unlisten_if(|at| at.listener.id == listener && at.bind == bind)
            }
            Command::Drain { scope, deadline, spread } => {
                if scope == Scope::All {
                    self.unlisten_if(|_| true);
                }
                self.doom(CloseReason::Drained, deadline, spread, |connection| match scope {
                    Scope::All => true,
                    Scope::Listener(id) => connection.slot.stats().id == id,
                    Scope::Backend(id) => connection.is_on(id),
                });
            }
            Command::CloseBackend { backend, spread } => {
                self.doom(CloseReason::BackendDown, spread, spread, |connection| connection.is_on(backend));
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

    /// Gives each of these connections a time to end by force: evenly over `spread`, which ends at `deadline`, with
    /// jitter, so that their clients do not all come back at the same moment. An earlier time stays.
    fn doom(&mut self, reason: CloseReason, deadline: Duration, spread: Duration, which: impl Fn(&Connection) -> bool) {
        let start = self.now + deadline.saturating_sub(spread);
        let spread = spread.min(deadline);
        let mut doomed: Vec<_> = self
            .connections
            .iter()
            .filter(|(_, connection)| which(connection))
            .map(|(_, connection)| connection.key)
            .collect();
        self.rng.shuffle(&mut doomed);
        let share = spread.as_secs_f64() / doomed.len().max(1) as f64;
        for (i, key) in doomed.into_iter().enumerate() {
            let at = Tick::at(start + Duration::from_secs_f64(share * (i as f64 + self.rng.f64())));
            let connection = &mut self.connections[key.slot as usize];
            if at < connection.kill_at {
                (connection.kill_at, connection.kill_reason) = (at, reason);
            }
            self.arm_relay(key);
        }
    }

    fn stop(&mut self) {
        self.unlisten_if(|_| true);
        let all: Vec<_> = self.connections.iter().map(|(_, connection)| connection.key).collect();
        for key in all {
            self.close(key, End::reset(CloseReason::Killed));
        }
        self.stopping = true;
    }
}
