//! evener: a load balancer for TCP, UDP and HTTP. This is the map of its house: which room is above which, how a
//! connection, a datagram and a request walk through them, and what always holds. `tests/house.rs` reads the table below and fails when the code differs.
//!
//! # Direction
//!
//! A row imports what stands behind its arrow and nothing else, and only from rows above it: so there are no cycles.
//!
//! ```text
//! L0  id, reason, api, timer, limit, queue ->
//!     handover -> api
//!     stats    -> handover id limit queue reason
//!     access   -> reason stats
//! L1  sys, config, balance, proxy_header ->
//! L2  tls      -> config
//!     snapshot -> balance config id stats tls
//!     engine   -> config handover id reason snapshot stats
//! L3  tcp      -> handover id reason sys
//!     udp      -> balance config handover id limit reason snapshot stats sys timer
//! L4  worker   -> access balance config engine handover id limit proxy_header queue reason snapshot stats sys tcp timer udp
//!     health   -> config id proxy_header tls
//!     gateway  -> access balance config engine id limit proxy_header queue reason snapshot stats sys tls
//! L5  control  -> access api balance config engine gateway handover health id limit reason snapshot stats sys tls worker
//! L6  cli      -> api config control gateway sys
//!     main     -> cli sys
//! ```
//!
//! - **L0** words and counts. [`id`] what things are called inside, [`reason`] why a connection ended, [`api`] what the
//!   admin API says (the only place with serde's derives), [`timer`] the wheel, [`limit`] what one client may have,
//!   [`queue`] who waits for a backend, [`stats`] what is counted, [`access`] events on their way to the access log,
//!   Queue and journal are rooms of their own and not part of the worker, because all workers share them.
//! - **L1** [`sys`] holds all `unsafe`, also that by which the gateway's sockets get into tokio's loop (`watched`);
//!   [`config`] makes a file into types that cannot be wrong; [`balance`] chooses; [`proxy_header`] reads and writes the
//!   PROXY protocol.
//! - **L2** [`tls`]: what the configuration says of TLS, ready for use; nobody else builds it. [`snapshot`]:
//!   configuration, rotation and pickers at one moment, immutable. [`engine`]: what control and the engines tell each other.
//! - **L3** [`tcp`]: two directions and their end, over traits: no socket, no poll, no clock. How a connection is set up
//!   and when it is due is not in here but in the worker (`connection`, `open`), since each step of it is a system call.
//!   [`udp`]: which flow a datagram belongs to, which backend the flow, when it ends, and what may leave as one train;
//!   no socket, no poll, no clock. Of [`sys`] it knows the limits of a train.
//! - **L4** the engines. [`worker`]: one thread and one mio poll each. [`gateway`]: threads with a runtime of tokio each,
//!   for HTTP; without its feature `no_gateway` stands there. [`health`]: tasks of tokio. They never import each
//!   other; what one learns reaches the other through control.
//! - **L5** [`control`]: the supervisor, one task that owns what is wanted and is told everything by message.
//! - **L6** [`cli`]: one file a verb; what concerns a running process goes through the admin API. `doctor` looks at the host too.
//!
//! Knowledge flows up as messages (a verdict, a note, an event) and down as a snapshot or a command.
//!
//! # Lives
//!
//! **A TCP connection.** `worker::turn` finds a listening socket readable; `worker::accept` takes a bounded batch, looks
//! at the limits of process and listener and at `allow` and `deny`, and gives the client to the least loaded worker.
//! `worker::open` inserts it into the slab, reads its PROXY header where one is due, asks the client's own limits, reads
//! as much of its TLS hello as names the server where the listener routes by that (or ends the client's TLS where it has a
//! certificate: `worker::secure`, a few handshakes a turn), lets the pool pick a backend (which reserves a place on it),
//! and connects without blocking, where the pool has `tls` up to the end of the handshake. An attempt that fails is noted to control and leads to another
//! backend; a full pool leads to the queue. Once the backend answers, what was read goes first, and `tcp::relay` pumps
//! its two halves within a budget a turn: small messages through the worker's scratch buffer, streams through a borrowed
//! pipe, after those who say little. What is left when the budget is spent goes on the run queue, for no new edge will
//! come. Around TLS `tcp::tls` has a session for each side that speaks it, and the relay sees what is inside. A FIN is passed
//! on when everything before it has been; then the other side has its own deadline. `worker::tcp::close` is the end: it gives
//! the pipes back, resets or closes both sockets, counts and logs the reason, and gives the reserved places back, which
//! calls whoever is next in the queue.
//!
//! **A datagram.** `worker::udp` finds an inlet readable (a listener's socket of this worker, where the kernel brings all
//! datagrams of a client) and receives a batch into its arena. `udp::Table` finds each one's flow or opens one: allow and
//! deny, the client's limits, a backend, a place in the bounded table, for which the longest idle flow may have to go. A
//! flow has an outlet, a connected socket of its own; a new one gets one of a flow that had all its answers, or opens it.
//! What goes out through one outlet is sent with one call, equal sizes as one train, and nothing was copied or allocated
//! on the way. Replies are received behind each other into the same arena and leave together through the inlet, from the
//! address that the client spoke to. An ICMP answer makes the flow suspect: its next datagram goes to another backend.
//! `Table::end` is the one exit of a flow, `worker::udp::bury` the place where it is told and its outlet closed or laid by.
//!
//! **An HTTP request.** `gateway::accept` lets it in, `gateway::greeting` reads the PROXY header where one is due and ends TLS;
//! `gateway::http1` reads the request, or hyper does where it is HTTP/2. Each thread has its own runtime, sockets and connections to backends. `gateway::exchange` makes it canonical, and nothing later
//! sees another form; it finds the client, the route (`gateway::route`), and asks the route's policies in their fixed
//! order. `gateway::forward` lets the pool pick a backend, takes a connection that is idle or makes one, sends, and tries
//! again where that is safe. Both bodies stream through `gateway::body`, which drives the backend's connection too. The
//! `gateway::record` goes with the answer's body: when that is dropped the request is counted and logged, however it
//! ended. `gateway::motion` tells whether it still moves and is in time. The requests of a turn go in step, all heads
//! first, because one alone takes more code than the caches hold. An idle client keeps its socket and little else.
//!
//! **A place in the queue.** A connection or a request that finds all backends of its pool full joins the pool's line,
//! with the waker that tells it of its turn: a message into a worker's mailbox, or a task. A place that is given back calls
//! the first in line, and so does a new snapshot; one at a time, so that nobody overtakes. Called, it picks: served, it
//! leaves, which calls the next; in vain, it is the first in line again. Its time-out and its client's going away leave the
//! line, too.
//!
//! **A reload, a verdict, an override.** A signal, a request, a check's verdict, a worker's note, a resolver's answer,
//! a file of backends: all of them are messages to the supervisor. A reload reads and validates the file, binds what is
//! new, and only then changes `control::wanted`, where file, overrides and observations stand side by side; a failure
//! until here changes nothing. `Supervisor::refresh` is the funnel of all of them: it tells each change of state once, builds the next
//! snapshot (pools whose rotation is the same keep their picker) and publishes it by one swap. Workers look once a turn.
//! What was removed drains by command; connections keep what they need by `Arc`, and all others never notice.
//!
//! **An upgrade.** A request has the supervisor start the program on disk, whose standard input is a socket between the
//! two (`control::upgrade`). The successor reads the file and says hello; it is sent what there is, with the listening
//! sockets, and is prepared once all it needs is made of them. Then the workers take no new clients, and
//! `worker::handover` parks connections batch by batch, the longest idle ones first, and flows at the end: they are not
//! watched any more, and descriptors of the same sockets and pipes go out with how far each has come. The successor holds
//! them without touching one until it is told that this was all, and says *taken*: that word is the one point of no
//! return. Before it every failure and every death of the successor has the workers watch again what they have parked.
//! After it they forget, without an end, a count or a line in the log, and the process drains what could not move.
//!
//! # What always holds
//!
//! - One writer: only control publishes, through a [`snapshot::Publisher`] that cannot be cloned.
//! - One exit: each admitted connection ends in `worker::tcp::close` with one [`reason::CloseReason`]; one that was
//!   refused before it had a slot ends in `worker::accept`. No flag means "close me". A flow ends in `udp::Table::end`,
//!   and a datagram that goes nowhere is counted with its [`reason::DropReason`].
//! - Counts by guard: [`stats::ListenerSlot`] and [`stats::BackendSlot`] take a place once and give it back on drop.
//! - Stale is harmless: a token holds slot, side and generation; an event, timer or turn of a former owner finds nobody.
//! - The cores are given `now`: nothing below L4 asks the clock, or knows of mio, tokio or hyper.
//! - Every counter with one writer is a worker's own; shared atomics only where a limit must hold for all.
//! - Whatever can grow has a named limit with its unit beside it: batches, buffers, queues, tables, answers, names.
//! - The file is parsed, not checked: what [`config`] gives away needs no further question.

pub mod access;
pub mod api;
pub mod balance;
pub mod cli;
pub mod config;
pub mod control;
pub mod engine;
#[cfg(feature = "gateway")]
pub mod gateway;
#[cfg(not(feature = "gateway"))]
#[path = "no_gateway.rs"]
pub mod gateway;
pub mod handover;
pub mod health;
pub mod id;
pub mod limit;
pub mod proxy_header;
pub mod queue;
pub mod reason;
pub mod snapshot;
pub mod stats;
pub mod sys;
pub mod tcp;
pub mod timer;
pub mod tls;
pub mod udp;
pub mod worker;
