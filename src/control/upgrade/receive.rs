//! The successor's side of an upgrade.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use super::VARIABLE;
use super::channel::{Channel, Message};
use super::state::Places;
use crate::control::Failure;
use crate::engine::{AdoptedFlow, AdoptedPair, Held};
use crate::handover::{self, Commit, FORMAT, Flow, FromSuccessor, Inventory, Moved, Pair, Prepared, ToSuccessor};
use crate::limit::ClientKey;
use crate::snapshot;
use crate::stats::{BackendSlot, ListenerSlot, ListenerStats};
use crate::sys::rights;

/// How long the predecessor is given to tell the service manager who serves now.
const FAREWELL_TIMEOUT: Duration = Duration::from_secs(5);

/// Where tests write at which step this process is to stand still, see [`stand_at`].
const STAND: &str = "EVENER_TEST_STAND";

/// The way to the process that is to be succeeded.
#[derive(Debug)]
pub struct Predecessor {
    channel: Channel,
}

/// What there is, with its sockets.
#[derive(Debug)]
pub struct Inherited {
    /// What there is.
    pub inventory: Inventory,
    /// Listening sockets, the admin socket, the metrics'.
    pub sockets: VecDeque<OwnedFd>,
}

/// What goes on here, by worker.
#[derive(Debug, Default)]
pub struct Collected {
    /// Connections.
    pub pairs: Vec<Vec<AdoptedPair>>,
    /// Flows.
    pub flows: Vec<Vec<AdoptedFlow>>,
    next: usize,
}

/// Where it belongs.
pub struct Heirs {
    /// Listeners and backends.
    pub places: Places,
    /// The workers that have UDP sockets, by their inodes.
    pub inlets: HashMap<u64, usize>,
}

impl Predecessor {
    /// When this process was started by one; needs a runtime around it.
    ///
    /// # Errors
    /// When it was, and standard input is not the way to it.
    pub fn find() -> io::Result<Option<Self>> {
        let parent = std::env::var(VARIABLE).ok().and_then(|pid| pid.parse().ok());
        // What a process has inherited from one that was started so is not for it.
        if parent != Some(std::os::unix::process::parent_id()) {
            return Ok(None);
        }
        let channel = Channel::of(rights::take_standard_input()?)?;
        Ok(Some(Self { channel }))
    }

    /// Says that the file is read, and learns what there is.
    pub async fn hello(&mut self) -> Result<Inherited, Failure> {
        stand_at("hello");
        let version = env!("CARGO_PKG_VERSION").to_owned();
        self.say(&FromSuccessor::Hello { format: FORMAT, version }).await?;
        let Message { words, fds, .. } = self.hear().await?;
        let ToSuccessor::State(inventory) = words else { return Err(confused()) };
        if inventory.format != FORMAT {
            let theirs = inventory.format;
            return Err(Failure::Upgrade(format!(
                "the running process hands over in format {theirs}, this program in {FORMAT}: only a restart helps"
            )));
        }
        stand_at("state");
        Ok(Inherited { inventory: *inventory, sockets: fds })
    }

    /// All is there that is needed to serve: holds what comes until the last word, and says that it is taken. From then on
    /// it has to be served.
    pub async fn take_over(
        &mut self,
        prepared: Prepared,
        heirs: Heirs,
        workers: usize,
    ) -> Result<(Collected, Commit), Failure> {
        self.say(&FromSuccessor::Prepared(prepared)).await?;
        stand_at("prepared");
        let mut collected = Collected::default();
        collected.pairs.resize_with(workers, Vec::new);
        collected.flows.resize_with(workers, Vec::new);
        let commit = loop {
            let Message { words, bytes, fds } = self.hear().await?;
            match words {
                ToSuccessor::State(_) => return Err(confused()),
                ToSuccessor::Batch(moved) => {
                    stand_at("batch");
                    let left = collected.hold(moved, bytes, fds, &heirs).ok_or_else(confused)?;
                    self.say(&FromSuccessor::Held(left)).await?;
                    stand_at("held");
                }
                ToSuccessor::Commit(commit) => break commit,
            }
        };
        stand_at("commit");
        self.say(&FromSuccessor::Taken).await?;
        Ok((collected, commit))
    }

    /// Waits until the predecessor has told the service manager who serves now.
    pub async fn farewell(mut self) {
        // Its end is what is waited for; nothing is said any more.
        let _ = tokio::time::timeout(FAREWELL_TIMEOUT, self.channel.receive::<ToSuccessor>()).await;
    }

    /// Says why not.
    pub async fn refuse(&mut self, failure: &Failure) {
        let is_file = matches!(failure, Failure::File(_));
        // It may be gone, which is why.
        let _ = self.say(&FromSuccessor::Refused { why: failure.to_string(), is_file }).await;
    }

    async fn say(&self, words: &FromSuccessor) -> Result<(), Failure> {
        self.channel.send(words, &[], &[]).await.map_err(|error| lost(&error))
    }

    async fn hear(&mut self) -> Result<Message<ToSuccessor>, Failure> {
        self.channel.receive().await.map_err(|error| lost(&error))
    }
}

impl Collected {
    /// Takes a batch, and answers with what does not belong here any more. `None` when it cannot be understood.
    fn hold(&mut self, moved: Moved, bytes: Vec<u8>, mut fds: VecDeque<OwnedFd>, heirs: &Heirs) -> Option<Vec<u64>> {
        let mut left = Vec::new();
        let mut bytes = VecDeque::from(bytes);
        for pair in moved.pairs {
            let (client, backend) = (fds.pop_front()?, fds.pop_front()?);
            let mut take = |held| match held {
                handover::Held::Nothing => Some(Held::Nothing),
                handover::Held::Bytes(count) if count as usize <= bytes.len() => {
                    Some(Held::Bytes(bytes.drain(..count as usize).collect()))
                }
                handover::Held::Bytes(_) => None,
                handover::Held::Pipe(_) => Some(Held::Pipe(fds.pop_front()?, fds.pop_front()?)),
            };
            let held = [take(pair.to_backend.held)?, take(pair.to_client.held)?];
            match heirs.places.find(&pair.listener, false, &pair.backend) {
                Some((listener, place)) => {
                    let (slot, place) = admit(listener, place, client_of(&pair).filter(|_| pair.limited))?;
                    let worker = self.next % self.pairs.len();
                    self.next += 1;
                    self.pairs[worker].push(AdoptedPair { pair, client, backend, held, slot, place });
                }
                None => left.push(pair.token),
            }
        }
        for flow in moved.flows {
            let outlet = fds.pop_front()?;
            let place = heirs.places.find(&flow.listener, true, &flow.backend);
            match place.zip(heirs.inlets.get(&flow.inlet).copied()) {
                Some(((listener, backend), worker)) => {
                    let (slot, place) = admit(listener, backend, Some(client_of_flow(&flow)))?;
                    let backend = backend.clone();
                    self.flows[worker].push(AdoptedFlow { flow, outlet, slot, place, backend });
                }
                None => left.push(flow.token),
            }
        }
        Some(left)
    }
}

/// Places that the predecessor has given already; no limit takes them away.
fn admit(
    listener: &std::sync::Arc<ListenerStats>,
    backend: &snapshot::Backend,
    limited: Option<ClientKey>,
) -> Option<(ListenerSlot, BackendSlot)> {
    limited.into_iter().for_each(|client| listener.clients.adopt(client));
    Some((ListenerSlot::take(listener, u32::MAX)?, BackendSlot::take(&backend.stats, u32::MAX)?))
}

fn client_of(pair: &Pair) -> Option<ClientKey> {
    let address = pair.ends.map(|(client, _)| client).or(pair.peer)?;
    Some(ClientKey::from(address.ip()))
}

fn client_of_flow(flow: &Flow) -> ClientKey {
    ClientKey::from(flow.client.ip())
}

fn confused() -> Failure {
    Failure::Upgrade("the running process and this program do not understand each other".to_owned())
}

fn lost(error: &io::Error) -> Failure {
    Failure::Upgrade(match error.kind() {
        io::ErrorKind::UnexpectedEof => "the running process has given the upgrade up".to_owned(),
        _ => format!("the running process cannot be understood: {error}"),
    })
}

/// For tests: stands still where the file that the environment names says so, until that says something else; writes its
/// process id beside it meanwhile.
fn stand_at(step: &str) {
    let Some(file) = std::env::var_os(STAND) else { return };
    let is_here = || std::fs::read_to_string(&file).is_ok_and(|said| said.trim() == step);
    while is_here() {
        let mut beside = file.clone();
        beside.push(".pid");
        // The test waits for it in vain then.
        let _ = std::fs::write(&beside, std::process::id().to_string());
        pause();
    }
}

#[allow(clippy::disallowed_methods)] // to stand still is what it is for
fn pause() {
    std::thread::sleep(Duration::from_millis(2));
}
