//! The running process's side of an upgrade. Nothing here is given away before the successor has said *taken*.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use tokio::process::{Child, Command as Process};
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use super::channel::Channel;
use super::{Program, VARIABLE, state};
use crate::api;
use crate::control::desk::{Refusal, Span};
use crate::control::source::Source;
use crate::control::{Supervisor, notify, now};
use crate::engine::{Answer, Command, HandOver, Paused};
use crate::handover::{Batch, Commit, FORMAT, FromSuccessor, Inventory, Prepared, ToSuccessor};
use crate::sys::rights::{self, RIGHTS_MAX};

/// How long the program may take to read its file and ask for its names.
const START_TIMEOUT: Duration = Duration::from_secs(20);
/// How long each later answer of it may take. Connections stand still meanwhile.
const STEP_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a program that has failed may take to end by itself, so that its status can be told.
const END_TIMEOUT: Duration = Duration::from_secs(1);
/// The longest that is waited for connections that are being established to backends.
const SETTLE_MAX: Duration = Duration::from_millis(250);
const SETTLE_LOOK: Duration = Duration::from_millis(2);
/// So many looks in a row must find none: a client may be on its way from worker to worker.
const SETTLED_LOOKS: u32 = 2;
/// Between two signs of life for the service manager.
const PULSE: Duration = Duration::from_secs(1);
/// Batches that the successor has not answered yet: they bound the descriptors that are open twice.
const BATCHES_MAX: usize = 2;

/// What is answered to whoever asked.
pub type Outcome = Result<api::Upgraded, Refusal>;

/// A successor that has said hello, or why there is none; and who waits.
pub type Arrival = (Result<Successor, Refusal>, oneshot::Sender<Outcome>);

/// What a process needs to be succeeded.
#[derive(Debug)]
pub struct Offer {
    /// What to start; `None` = it cannot be started again.
    program: Option<Program>,
    is_under_way: bool,
    /// A signal to end has come in the middle of a hand-over.
    is_to_end: bool,
    arrivals: mpsc::Sender<Arrival>,
}

/// A program that was started to take over.
#[derive(Debug)]
pub struct Successor {
    child: Child,
    pid: u32,
    version: String,
    channel: Channel,
}

/// What the successor holds.
#[derive(Clone, Copy, Debug, Default)]
struct Moved {
    connections: usize,
    flows: usize,
}

impl Offer {
    /// By the program that this process was started from, which is looked for before a new one is put in its place.
    pub fn new(source: &Source) -> (Self, mpsc::Receiver<Arrival>) {
        let program = matches!(source, Source::File(_)).then(Program::of_this_process).flatten();
        let (arrivals, inbox) = mpsc::channel(1);
        (Self { program, is_under_way: false, is_to_end: false, arrivals }, inbox)
    }

    /// Whether a new process has been started that does not serve yet.
    pub const fn is_under_way(&self) -> bool {
        self.is_under_way
    }
}

impl Successor {
    /// Starts the program and waits until it has read its file.
    async fn summon(program: &Program) -> Result<Self, Refusal> {
        let path = program.path.display();
        let failed = |error: io::Error| Refusal::Failed(format!("{path} cannot be started: {error}"));
        let (ours, theirs) = std::os::unix::net::UnixStream::pair().map_err(failed)?;
        let channel = Channel::of(ours.into()).map_err(failed)?;
        let mut process = Process::new(&program.path);
        process.args(&program.arguments).stdin(Stdio::from(OwnedFd::from(theirs)));
        process.env(VARIABLE, std::process::id().to_string());
        // They name this process; without them they are for whoever is asked to look.
        for name in ["WATCHDOG_PID", "LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"] {
            process.env_remove(name);
        }
        let child = process.spawn().map_err(failed)?;
        // Its end of the channel: with it open here its death would not be seen.
        drop(process);
        let mut successor = Self { pid: child.id().unwrap_or(0), child, version: String::new(), channel };
        let heard = timeout(START_TIMEOUT, successor.channel.receive()).await;
        match heard.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())).map(|message| message.words) {
            Ok(FromSuccessor::Hello { format: FORMAT, version }) => {
                successor.version = version;
                Ok(successor)
            }
            Ok(FromSuccessor::Hello { format, version }) => {
                successor.dismiss().await;
                Err(Refusal::Failed(format!(
                    "{path} (version {version}) hands over in format {format}, this process in {FORMAT}: only a restart \
                     helps"
                )))
            }
            heard => Err(successor.explain(heard).await),
        }
    }

    /// Ends it; it has touched nothing.
    async fn dismiss(&mut self) -> Option<ExitStatus> {
        // It may have ended by itself.
        let _ = self.child.start_kill();
        self.child.wait().await.ok()
    }

    /// Why it did not say what it was to say. It has ended then.
    async fn explain(&mut self, heard: io::Result<FromSuccessor>) -> Refusal {
        let pid = self.pid;
        match heard {
            Ok(FromSuccessor::Refused { why, is_file: true }) => Refusal::Invalid(why),
            Ok(FromSuccessor::Refused { why, .. }) => Refusal::Failed(why),
            Err(error) if error.kind() == io::ErrorKind::TimedOut => {
                self.dismiss().await;
                Refusal::Failed(format!("the new process ({pid}) did not answer in time, and was ended"))
            }
            Err(error) if error.kind() != io::ErrorKind::InvalidData => {
                let status = timeout(END_TIMEOUT, self.child.wait()).await;
                let status = match status {
                    Ok(Ok(status)) => status.to_string(),
                    _ => {
                        self.dismiss().await;
                        format!("it has closed its side: {error}")
                    }
                };
                Refusal::Failed(format!("the new process ({pid}) ended too early, {status}; its log says why"))
            }
            Ok(_) | Err(_) => {
                self.dismiss().await;
                Refusal::Failed(format!("the new process ({pid}) cannot be understood: is it another program?"))
            }
        }
    }
}

impl Supervisor {
    /// Begins: the program is started beside everything else.
    pub(in crate::control) fn upgrade(&mut self, answer: oneshot::Sender<Outcome>) {
        let refused = match &self.offer.program {
            _ if self.leaving.is_some() => "the process is ending",
            _ if self.offer.is_under_way => "an upgrade is under way already",
            None => "this process was not started by its program and cannot start it again",
            Some(program) => {
                let (program, arrivals) = (program.clone(), self.offer.arrivals.clone());
                tracing::info!(program = %program.path.display(), "upgrade: the program on disk is started");
                self.offer.is_under_way = true;
                tokio::spawn(async move {
                    let successor = Successor::summon(&program).await;
                    // The process may have ended meanwhile; the successor ends with it.
                    let _ = arrivals.send((successor, answer)).await;
                });
                return;
            }
        };
        // Whoever asked may have gone away.
        let _ = answer.send(Err(Refusal::Failed(refused.to_owned())));
    }

    /// The program has read its file, or could not.
    pub(in crate::control) async fn on_arrival(&mut self, (successor, answer): Arrival) {
        self.offer.is_under_way = false;
        let outcome = match successor {
            Ok(_) if self.leaving.is_some() => Err(Refusal::Failed("the process is ending".to_owned())),
            Ok(successor) => self.hand_over(successor).await,
            Err(refusal) => Err(refusal),
        };
        if let Err(Refusal::Unknown(why) | Refusal::Invalid(why) | Refusal::Failed(why)) = &outcome {
            tracing::error!("the upgrade came to nothing, this process serves on:\n{why}");
        }
        // Whoever asked may have gone away.
        let _ = answer.send(outcome);
        if std::mem::take(&mut self.offer.is_to_end) {
            self.leave();
        }
    }

    /// Hands everything over, or nothing.
    async fn hand_over(&mut self, mut successor: Successor) -> Outcome {
        match self.offer_all(&mut successor).await {
            Ok((moved, prepared)) => Ok(self.succeeded(successor, moved, &prepared).await),
            Err(refusal) => {
                // Only once it is gone for certain may anybody read or write here again.
                successor.dismiss().await;
                self.engines.workers.tell_all(|| Command::HandOver(HandOver::Resume));
                Err(refusal)
            }
        }
    }

    /// Up to the point of no return.
    async fn offer_all(&mut self, successor: &mut Successor) -> Result<(Moved, Prepared), Refusal> {
        let inventory = self.inventory();
        let (_, mut sockets) = self.listeners.list();
        sockets.extend(self.inherited.units().map(|unit| unit.socket.as_fd()));
        sockets.extend(self.doors.sockets());
        let words = ToSuccessor::State(Box::new(inventory));
        let said = timeout(STEP_TIMEOUT, successor.channel.send(&words, &[], &sockets)).await;
        self.said(successor, said).await?;
        let prepared = match self.hear(successor).await? {
            FromSuccessor::Prepared(prepared) => prepared,
            other => return Err(successor.explain(Ok(other)).await),
        };
        let last_id = self.settle().await?;
        let moved = self.park_all(successor).await?;
        if self.signals.has_end().await {
            // The other process would not hear of it.
            self.offer.is_to_end = true;
            return Err(Refusal::Failed("the process is to end: the upgrade was given up".to_owned()));
        }
        let commit = Commit { last_id, counts: state::counts(&self.wanted) };
        let said = timeout(STEP_TIMEOUT, successor.channel.send(&ToSuccessor::Commit(commit), &[], &[])).await;
        self.said(successor, said).await?;
        match self.hear(successor).await? {
            FromSuccessor::Taken => Ok((moved, prepared)),
            other => Err(successor.explain(Ok(other)).await),
        }
    }

    fn inventory(&self) -> Inventory {
        let now = now();
        let clock = rights::monotonic().saturating_sub(now.saturating_duration_since(self.clock));
        let (listening, _) = self.listeners.list();
        Inventory {
            format: FORMAT,
            start_us: u64::try_from(clock.as_micros()).unwrap_or(0),
            listening,
            units: self.inherited.units().map(|unit| unit.name.clone()).collect(),
            admin: self.doors.admin(),
            metrics: self.doors.metrics(),
            drained: state::drained(&self.wanted, now),
            discovered: self.discovery.bequeath(),
            backends: state::known(&self.wanted, |id| self.closes.get(&id).copied(), now),
        }
    }

    /// Has all workers stop taking clients, and waits a moment for those that are being connected. Answers with the last
    /// id of the log.
    async fn settle(&mut self) -> Result<u64, Refusal> {
        let until = now() + SETTLE_MAX;
        let mut settled = 0;
        loop {
            let mut all = Paused::default();
            for worker in 0..self.engines.workers.count() {
                let paused: Paused = self.ask(worker, HandOver::Pause).await?;
                all.connecting += paused.connecting;
                all.last_id = all.last_id.max(paused.last_id);
            }
            settled = if all.connecting == 0 { settled + 1 } else { 0 };
            if settled >= SETTLED_LOOKS || now() > until {
                return Ok(all.last_id);
            }
            tokio::time::sleep(SETTLE_LOOK).await;
        }
    }

    /// Sends what can move, batch by batch: what is idle first, and flows last.
    async fn park_all(&mut self, successor: &mut Successor) -> Result<Moved, Refusal> {
        let mut moved = Moved::default();
        let mut unanswered = VecDeque::new();
        for busy in [false, true] {
            for worker in 0..self.engines.workers.count() {
                loop {
                    let max = RIGHTS_MAX;
                    let batch: Result<Batch, String> =
                        self.ask(worker, |answer| HandOver::Park { busy, max, answer }).await?;
                    let Batch { moved: words, bytes, fds } = batch.map_err(|error| {
                        Refusal::Failed(format!("no descriptor is left for the hand-over: {error}"))
                    })?;
                    let (connections, flows) = (words.pairs.len(), words.flows.len());
                    if connections + flows == 0 {
                        break;
                    }
                    (moved.connections, moved.flows) = (moved.connections + connections, moved.flows + flows);
                    let fds: Vec<BorrowedFd<'_>> = fds.iter().map(AsFd::as_fd).collect();
                    let words = ToSuccessor::Batch(words);
                    let said = timeout(STEP_TIMEOUT, successor.channel.send(&words, &bytes, &fds)).await;
                    self.said(successor, said).await?;
                    unanswered.push_back((worker, flows > 0));
                    while unanswered.len() > BATCHES_MAX {
                        self.hear_held(successor, &mut unanswered, &mut moved).await?;
                    }
                }
            }
        }
        while !unanswered.is_empty() {
            self.hear_held(successor, &mut unanswered, &mut moved).await?;
        }
        Ok(moved)
    }

    /// What the successor says of the first batch that it has not answered.
    async fn hear_held(
        &mut self,
        successor: &mut Successor,
        unanswered: &mut VecDeque<(usize, bool)>,
        moved: &mut Moved,
    ) -> Result<(), Refusal> {
        let left = match self.hear(successor).await? {
            FromSuccessor::Held(left) => left,
            other => return Err(successor.explain(Ok(other)).await),
        };
        let Some((worker, are_flows)) = unanswered.pop_front() else { return Ok(()) };
        let count = if are_flows { &mut moved.flows } else { &mut moved.connections };
        *count = count.saturating_sub(left.len());
        if !left.is_empty() {
            self.engines.workers.tell(worker, Command::HandOver(HandOver::Keep(left)));
        }
        Ok(())
    }

    /// The next words of the successor. The service manager hears that this process lives meanwhile.
    async fn hear(&mut self, successor: &mut Successor) -> Result<FromSuccessor, Refusal> {
        let until = now() + STEP_TIMEOUT;
        loop {
            let heard = match timeout(PULSE, successor.channel.receive()).await {
                Ok(heard) => heard.map(|message| message.words),
                Err(_) if now() < until => {
                    self.sign_of_life(now());
                    continue;
                }
                Err(_) => Err(io::ErrorKind::TimedOut.into()),
            };
            self.sign_of_life(now());
            return match heard {
                Ok(refused @ FromSuccessor::Refused { .. }) => Err(successor.explain(Ok(refused)).await),
                Ok(words) => Ok(words),
                Err(error) => Err(successor.explain(Err(error)).await),
            };
        }
    }

    /// What became of saying something. Whoever could not be told has said why, perhaps.
    async fn said(
        &mut self,
        successor: &mut Successor,
        said: Result<io::Result<()>, tokio::time::error::Elapsed>,
    ) -> Result<(), Refusal> {
        match said {
            Ok(Ok(())) => Ok(()),
            // Behind what it has said before stands why, or its end.
            Ok(Err(_)) => loop {
                self.hear(successor).await?;
            },
            Err(_) => Err(successor.explain(Err(io::ErrorKind::TimedOut.into())).await),
        }
    }

    /// Asks one worker.
    async fn ask<T: Send + 'static>(
        &self,
        worker: usize,
        step: impl FnOnce(Answer<T>) -> HandOver,
    ) -> Result<T, Refusal> {
        let (sender, answer) = oneshot::channel();
        // Nobody waits for it any more when the worker was too slow.
        let step = step(Answer::new(move |answer| drop(sender.send(answer))));
        self.engines.workers.tell(worker, Command::HandOver(step));
        let answer = timeout(STEP_TIMEOUT, answer).await;
        answer.ok().and_then(Result::ok).ok_or_else(|| Refusal::Failed(format!("worker {worker} does not answer")))
    }

    /// Behind the point of no return: the successor serves. What could not move is drained.
    async fn succeeded(&mut self, successor: Successor, moved: Moved, prepared: &Prepared) -> api::Upgraded {
        let Successor { mut child, pid, version, channel } = successor;
        notify::succeeded_by(pid);
        // The successor waits for this to say that it is ready.
        drop(channel);
        self.engines.order(self.listeners.leave(&prepared.left, |name| self.wanted.listener_id(name)));
        for worker in 0..self.engines.workers.count() {
            // A worker that does not answer has not forgotten, and keeps its sockets until the end.
            let _ = self.ask(worker, HandOver::Forget).await;
        }
        // Who waits in a backlog is served there, too.
        self.engines.gateway.tell_all(|| Command::HandOver(HandOver::Forget(Answer::new(drop))));
        self.doors.leave(prepared.admin);
        let (connections, flows) = (moved.connections as u64, moved.flows as u64);
        let draining = notify::carried(self.engines.running(&self.counts)) + self.wanted.flows();
        tracing::info!(pid, version, connections, flows, draining, "upgrade: another process serves from now on");
        let deadline = self.drain(Span::default());
        self.leaving.iter_mut().for_each(|leaving| leaving.is_succeeded = true);
        // Should it end before this process, somebody has to look, or it stays a zombie.
        tokio::spawn(async move { child.wait().await });
        let drain_deadline = humantime::format_duration(deadline).to_string();
        api::Upgraded { pid, version, connections, flows, draining: draining.into(), drain_deadline }
    }
}
