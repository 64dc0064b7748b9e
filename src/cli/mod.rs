//! The command line: arguments here, a verb a file. Those that speak to a running process are clients of
//! the admin API and of nothing else.
//!
//! Exit status: 0 done, 1 it failed at run time, 2 the file or the arguments are wrong. Errors go to stderr, one cause
//! a line, with what to do about it.

mod backend;
mod check;
mod client;
mod completions;
mod demo;
mod doctor;
mod drain;
mod events;
#[cfg(feature = "gateway")]
mod explain;
#[cfg(not(feature = "gateway"))]
#[path = "no_explain.rs"]
mod explain;
mod man;
mod ready;
mod reload;
mod run;
mod schema;
mod status;
mod table;
mod top;
mod upgrade;
mod watch;

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{CommandFactory, Parser, Subcommand};

use self::client::Client;
use crate::config::Report;
use crate::control::log::wants_colour;

/// Where the file is when nothing says otherwise.
const DEFAULT_FILE: &str = "/etc/evener/evener.toml";

/// Layer-4 load balancer: TCP by zero-copy splice, UDP by the batch, health checks, one TOML file.
#[derive(Debug, Parser)]
#[command(name = "evener", version, max_term_width = 100, arg_required_else_help = true)]
struct Arguments {
    /// The file
    #[arg(short, long, global = true, env = "EVENER_CONFIG", value_name = "FILE")]
    #[arg(default_value = DEFAULT_FILE)]
    config: PathBuf,
    /// The admin socket of the running process, when it is not the one that the file names
    #[arg(long, global = true, value_name = "PATH")]
    admin: Option<PathBuf>,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Run in the foreground until SIGTERM or SIGINT; SIGHUP reads the file again
    Run,
    /// Validate the file: all problems at once, each with its place
    Check {
        /// Print the effective configuration, defaults included
        #[arg(long)]
        print: bool,
    },
    /// Show listeners, pools and backends, and why each backend is in its state. A narrow terminal gets fewer columns
    Status {
        /// Only this pool
        pool: Option<String>,
        /// What the admin API answers
        #[arg(long)]
        json: bool,
        /// Print nothing; exit status 1, and why, unless new clients are served by this pool, or by every pool
        #[arg(long, conflicts_with = "json")]
        ready: bool,
        /// Again and again, in place on a terminal, until Ctrl-C
        #[arg(long)]
        watch: bool,
        /// Between two looks
        #[arg(long, value_name = "TIME", value_parser = interval, default_value = "2s", requires = "watch")]
        interval: Duration,
    },
    /// The same live on the whole screen: rates, the past as lines, events; ? explains the keys
    Top {
        /// Between two looks
        #[arg(long, value_name = "TIME", value_parser = interval, default_value = "1s")]
        interval: Duration,
        /// Print one frame as text, after one interval; no terminal is needed
        #[arg(long)]
        once: bool,
    },
    /// Show what happens: backends that go and come back, reloads, overrides, limits; until Ctrl-C
    Events {
        #[command(flatten)]
        begin: events::Begin,
        /// A JSON object a line, as the admin API has it
        #[arg(long)]
        json: bool,
    },
    /// Override a backend's state or weight until `auto`, or end its connections
    Backend {
        /// Which one, as `status` shows it
        #[arg(value_name = "POOL/NAME", value_parser = backend::parse)]
        which: backend::Which,
        #[command(subcommand)]
        change: backend::Word,
    },
    /// Make the running process read its file again, and say what came of it
    Reload,
    /// Have the program on disk take over from the running one: connections and flows go on there
    Upgrade,
    /// Take no new clients, let connections and flows finish, end the process; or the same for one listener, until `ready`
    Drain {
        /// Only this listener: its sockets are closed, the process goes on
        listener: Option<String>,
        /// The longest that they may take [default: as the file says]
        #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
        deadline: Option<Duration>,
        /// What is left is ended evenly over this last part of the deadline [default: as the file says]
        #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
        spread: Option<Duration>,
    },
    /// Have a drained listener take clients again
    Ready {
        /// Which one
        listener: String,
    },
    /// Look at this host: what is in the way of the file, and what to type
    Doctor {
        /// For programs
        #[arg(long)]
        json: bool,
    },
    /// Say what would become of a request: which listener, route, policies and pool, or why it is refused
    Explain(explain::Question),
    /// Print the JSON Schema of the file, for editors
    Schema,
    /// Print what a shell needs to complete verbs and options
    Completions {
        /// Which one
        shell: clap_complete::Shell,
    },
    /// Print the manual page: `evener man | man -l -`
    Man,
    /// See it work: backends, a balancer and a load in this terminal; no file, no root
    Demo,
}

/// The file or the arguments are wrong: exit status 2.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Misuse(String);

impl Misuse {
    /// What is wrong with the file.
    fn file(report: Report) -> Self {
        Self(report.render(wants_colour(&std::io::stderr())))
    }
}

/// Of `--interval`.
const INTERVAL_MIN: Duration = Duration::from_millis(100);
const INTERVAL_MAX: Duration = Duration::from_secs(3600);

/// Runs the program and maps what came of it to an exit status.
pub fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match act(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            complain(&error);
            ExitCode::from(if error.is::<Misuse>() { 2 } else { 1 })
        }
    }
}

fn act(arguments: &Arguments) -> anyhow::Result<()> {
    let client = || Client::find(&arguments.config, arguments.admin.as_deref());
    match &arguments.verb {
        Verb::Run => run::run(&arguments.config),
        Verb::Check { print } => check::check(&arguments.config, *print),
        Verb::Status { pool, ready: true, .. } => ready::ready(&client()?, pool.as_deref()),
        Verb::Status { pool, json, watch: false, .. } => status::status(&client()?, pool.as_deref(), *json),
        Verb::Status { pool, json, interval, .. } => watch::watch(&client()?, pool.as_deref(), *json, *interval),
        Verb::Top { interval, once } => top::top(client()?, *interval, *once),
        Verb::Events { begin, json } => events::events(&client()?, *begin, *json),
        Verb::Backend { which, change } => backend::change(&client()?, which, change),
        Verb::Reload => reload::reload(&client()?),
        Verb::Upgrade => upgrade::upgrade(&client()?),
        Verb::Drain { listener, deadline, spread } => drain::drain(&client()?, listener.as_deref(), *deadline, *spread),
        Verb::Ready { listener } => drain::ready(&client()?, listener),
        Verb::Doctor { json } => doctor::doctor(&arguments.config, arguments.admin.as_deref(), *json),
        Verb::Explain(question) => explain::explain(&arguments.config, question),
        Verb::Schema => schema::schema(),
        Verb::Completions { shell } => completions::completions(Arguments::command(), *shell),
        Verb::Man => man::man(Arguments::command()),
        Verb::Demo => demo::demo(),
    }
}

/// Between two looks: long enough to be read, and short enough to be waited for.
fn interval(text: &str) -> Result<Duration, String> {
    let interval = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    match interval {
        span if span < INTERVAL_MIN => Err("at least 100ms".to_owned()),
        span if span > INTERVAL_MAX => Err("at most 1h".to_owned()),
        span => Ok(span),
    }
}

/// One cause a line. A report of the file comes ready to print.
fn complain(error: &anyhow::Error) {
    let mut stderr = std::io::stderr().lock();
    // There is nowhere left to complain when this fails.
    let _ = match error.downcast_ref::<Misuse>() {
        Some(Misuse(report)) => writeln!(stderr, "{}", report.trim_end()),
        None => {
            let causes: Vec<String> = error.chain().map(ToString::to_string).collect();
            writeln!(stderr, "error: {}", causes.join("\n").replace('\n', "\n  "))
        }
    };
}

/// Whether the reader of our output (`head`, a pager) has simply seen enough.
fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref::<std::io::Error>().is_some_and(|error| error.kind() == std::io::ErrorKind::BrokenPipe)
}

/// Whether to colour stdout.
fn coloured() -> bool {
    wants_colour(&std::io::stdout())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Verb, clap::Error> {
        Arguments::try_parse_from(line.split(' ')).map(|arguments| arguments.verb)
    }

    #[test]
    fn the_arguments_are_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn the_file_may_be_named_before_and_after_the_verb() {
        for line in ["evener -c /x run", "evener run -c /x", "evener run --config=/x"] {
            let arguments = Arguments::try_parse_from(line.split(' ')).expect("valid");
            assert_eq!(arguments.config, PathBuf::from("/x"));
        }
    }

    #[test]
    fn a_backend_is_named_by_pool_and_name_and_the_name_may_hold_slashes() {
        let Ok(Verb::Backend { which, .. }) = parse("evener backend pg/unix:/run/a.sock drain") else { panic!() };
        assert_eq!((which.pool.as_str(), which.name.as_str()), ("pg", "unix:/run/a.sock"));
        for bad in ["pg", "/x", "pg/", "/"] {
            let error = parse(&format!("evener backend {bad} drain")).expect_err("malformed");
            assert_eq!(error.exit_code(), 2, "{bad}");
        }
        assert!(parse("evener backend pg/x weight 65536").is_err());
        assert!(parse("evener backend pg/x weight").is_err());
        assert!(parse("evener backend pg/x off").is_err());
        assert!(parse("evener backend pg/x weight 0").is_ok());
    }
}
