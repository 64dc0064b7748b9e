//! `evener man`: the manual page, evener(8). One page with all verbs, made of what `--help` says, so that neither can say
//! something else.

use std::io::Write;

use clap::{Arg, Command};
use clap_mangen::Man;
use clap_mangen::roff::{Inline, Roff, bold, italic, roman};

use super::DEFAULT_FILE;

/// When the words of this file were last changed; those of the verbs change without it.
const DATE: &str = "2026-11-22";

const EXIT_STATUS: &[(&str, &str)] = &[
    ("0", "Done."),
    (
        "1",
        "It failed at run time: nobody at the admin socket, a port that is taken, an unknown pool; and doctor has found what will break.",
    ),
    ("2", "The file or the arguments are wrong."),
];
const ENVIRONMENT: &[(&str, &str)] = &[
    ("EVENER_CONFIG", "The file, where -c does not name one."),
    ("NO_COLOR", "When set and not empty, a terminal gets no colours either."),
    ("NOTIFY_SOCKET, WATCHDOG_USEC", "Set by systemd: whom run tells that it is ready, reloads, stops and lives."),
];
const FILES: &[(&str, &str)] = &[
    (DEFAULT_FILE, "The file; every key of it is in docs/configuration.md, and evener schema describes it to editors."),
    (
        "/run/evener/admin.sock",
        "The admin socket, unless process.admin names another one: for the owner and the group of the process.",
    ),
];
const SIGNALS: &[(&str, &str)] = &[
    ("SIGHUP", "Read the file again. One that is wrong changes nothing."),
    (
        "SIGTERM, SIGINT",
        "Take no new clients, let connections finish until process.drain.deadline, end with status 0. A second one ends at once.",
    ),
];
const SEE_ALSO: &[&str] =
    &["systemctl(1)", "journalctl(1)", "sysctl(8)", "ss(8)", "splice(2)", "listen(2)", "udp(7)", "tcp(7)"];

/// Writes the page to stdout.
pub fn man(command: Command) -> anyhow::Result<()> {
    std::io::stdout().lock().write_all(&page(command)?)?;
    Ok(())
}

fn page(command: Command) -> std::io::Result<Vec<u8>> {
    let mut command = command.disable_help_subcommand(true);
    command.build();
    let mut out = Vec::new();
    let man = Man::new(command.clone()).section("8").manual("System Administration").date(DATE);
    man.render_title(&mut out)?;
    man.render_name_section(&mut out)?;
    man.render_synopsis_section(&mut out)?;
    man.render_description_section(&mut out)?;
    man.render_options_section(&mut out)?;
    let mut roff = Roff::new();
    roff.control("SH", ["VERBS"]);
    for verb in command.get_subcommands().filter(|verb| !verb.is_hide_set()) {
        describe(&mut roff, "evener", verb);
    }
    for (heading, items) in
        [("EXIT STATUS", EXIT_STATUS), ("ENVIRONMENT", ENVIRONMENT), ("FILES", FILES), ("SIGNALS", SIGNALS)]
    {
        roff.control("SH", [heading]);
        items.iter().for_each(|(name, what)| item(&mut roff, vec![bold(*name)], what));
    }
    roff.control("SH", ["SEE ALSO"]);
    let mut pages = Vec::new();
    for (at, page) in SEE_ALSO.iter().enumerate() {
        let (name, section) = page.split_at(page.find('(').unwrap_or(page.len()));
        pages.extend([bold(name), roman(section), roman(if at + 1 == SEE_ALSO.len() { "" } else { ", " })]);
    }
    roff.text(pages);
    roff.to_writer(&mut out)?;
    Ok(out)
}

/// A verb with its arguments, and the words that it takes.
fn describe(roff: &mut Roff, path: &str, verb: &Command) {
    let path = format!("{path} {}", verb.get_name());
    let arguments = || {
        verb.get_arguments()
            .filter(|argument| !argument.is_hide_set() && !argument.is_global_set() && argument.get_id() != "help")
    };
    let words = verb.get_subcommands().next().map(|_| " WORD").unwrap_or_default();
    let positional: String =
        arguments().filter(|one| one.is_positional()).map(|one| format!(" {}", shown(one))).collect();
    let has_options = arguments().any(|one| !one.is_positional());
    let options = if has_options { " [OPTIONS]" } else { "" };
    let heading = format!("{path}{options}{positional}{words}");
    roff.control("SS", [heading.as_str()]);
    if let Some(about) = verb.get_long_about().or(verb.get_about()) {
        roff.text([roman(format!("{}.", about.to_string().trim_end_matches('.')))]);
    }
    for argument in arguments() {
        item(roff, signature(argument), &argument.get_help().map(ToString::to_string).unwrap_or_default());
    }
    for word in verb.get_subcommands().filter(|word| !word.is_hide_set() && word.get_name() != "help") {
        let takes: Vec<Inline> = word
            .get_arguments()
            .filter(|argument| !argument.is_global_set() && argument.get_id() != "help")
            .flat_map(|argument| [roman(" ")].into_iter().chain(signature(argument)))
            .collect();
        let name = [bold(word.get_name())].into_iter().chain(takes).collect();
        item(roff, name, &word.get_about().map(ToString::to_string).unwrap_or_default());
    }
}

/// `--deadline TIME`, `POOL`.
fn signature(argument: &Arg) -> Vec<Inline> {
    if argument.is_positional() {
        return vec![italic(shown(argument))];
    }
    let short = argument.get_short().map(|short| format!("-{short}"));
    let long = argument.get_long().map(|long| format!("--{long}"));
    let names: Vec<String> = short.into_iter().chain(long).collect();
    let mut inlines = vec![bold(names.join(", "))];
    if argument.get_action().takes_values() {
        inlines.extend([roman(" "), italic(value(argument))]);
    }
    inlines
}

fn shown(argument: &Arg) -> String {
    let name = value(argument);
    if argument.is_required_set() { name } else { format!("[{name}]") }
}

fn value(argument: &Arg) -> String {
    let names = argument.get_value_names().unwrap_or_default();
    let names: Vec<&str> = names.iter().map(|name| name.as_str()).collect();
    if names.is_empty() { argument.get_id().as_str().to_uppercase() } else { names.join(" ") }
}

fn item(roff: &mut Roff, name: Vec<Inline>, what: &str) {
    roff.control("TP", []);
    roff.text(name);
    roff.text([roman(what)]);
}
