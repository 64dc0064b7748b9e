//! What a worker does when control tells it to: listen, stop listening, end connections.

use super::connection::Connection;
use super::turn::Worker;
use super::udp;
use crate::engine::{Command, Ending, Scope};
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
                    self.leaving = self.leaving.min(Tick::at(self.now + deadline));
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
            Command::CloseBackend { backend, reason, spread } => {
                let ending = Ending { reason, deadline: spread, spread };
                self.doom(ending, |connection| connection.is_on(backend));
                self.doom_flows(ending, |_, id| id == backend);
            }
            Command::Stop => self.stop(),
            Command::HandOver(step) => self.on_hand_over(step),
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
        let times = ending.times(self.now, doomed.len(), &mut self.rng).into_iter().map(Tick::at);
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
