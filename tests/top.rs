//! `evener top` and `evener status --watch` on a terminal, which python's pty is here, and without one.
#![allow(clippy::unwrap_used)]

mod harness;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use harness::{Backend, Evener, NO_CHECKS, SOON, config, evener, program, require, send_signal, wait_until};

/// Runs a command on a terminal of 80 by 24, sends it what is written into a file, and writes what it shows into
/// another one. What the terminal is set to afterwards stands at the end.
const PTY: &str = r#"
import fcntl, os, pty, select, signal, struct, sys, termios
shown, keys, command = open(sys.argv[1], "wb", 0), open(sys.argv[2], "rb", 0), sys.argv[3:]
master, slave = pty.openpty()
fcntl.ioctl(master, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
before = termios.tcgetattr(slave)
child = os.fork()
if child == 0:
    # Whoever runs the tests in the background has it ignored, and all below them.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    os.login_tty(slave) if hasattr(os, "login_tty") else (os.setsid(), fcntl.ioctl(slave, termios.TIOCSCTTY, 0), [os.dup2(slave, fd) for fd in range(3)])
    os.execv(command[0], command)
shown.write(b"pid %d\n" % child)
status = None
while True:
    ready, _, _ = select.select([master], [], [], 0.02)
    if ready:
        try:
            shown.write(os.read(master, 65536))
        except OSError:
            pass
    typed = keys.read()
    if typed:
        os.write(master, typed)
    if status is None:
        ended, code = os.waitpid(child, os.WNOHANG)
        if ended:
            status = code
    elif not ready:
        break
after = termios.tcgetattr(slave)
shown.write(b"\nended %d, terminal %s\n" % (os.waitstatus_to_exitcode(status), b"as before" if after == before else b"changed"))
"#;

struct Terminal {
    child: Child,
    folder: tempfile::TempDir,
}

impl Terminal {
    fn run(arguments: &[&str], environment: &[(&str, &str)]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (shown, keys) = (folder.path().join("shown"), folder.path().join("keys"));
        fs::write(&keys, "").unwrap();
        let mut command = Command::new("python3");
        command.args(["-c", PTY]).arg(shown).arg(keys).arg(program()).args(arguments);
        command.env_remove("NO_COLOR").env("TERM", "xterm-256color").envs(environment.iter().copied());
        Self { child: command.stdin(Stdio::null()).spawn().unwrap(), folder }
    }

    fn shown(&self) -> String {
        String::from_utf8_lossy(&fs::read(self.folder.path().join("shown")).unwrap_or_default()).into_owned()
    }

    #[track_caller]
    fn wait_for(&self, words: &str) {
        wait_until(SOON, &format!("the terminal shows {words:?}"), || self.shown().contains(words));
    }

    fn press(&self, keys: &str) {
        use std::io::Write;
        let file: PathBuf = self.folder.path().join("keys");
        fs::OpenOptions::new().append(true).open(file).unwrap().write_all(keys.as_bytes()).unwrap();
    }

    fn pid(&self) -> u32 {
        self.wait_for("pid ");
        let shown = self.shown();
        shown.strip_prefix("pid ").unwrap().split('\n').next().unwrap().parse().unwrap()
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The switch to the other screen and back (xterm, mode 1049).
const OTHER_SCREEN: &str = "\x1b[?1049h";
const BACK: &str = "\x1b[?1049l";

fn admin(evener: &Evener) -> String {
    evener.admin().to_str().unwrap().to_owned()
}

fn has_python(test: &str) -> bool {
    require(test, &["python3"])
}

#[test]
fn top_shows_what_is_takes_keys_and_gives_the_terminal_back() {
    if !has_python("top") {
        return;
    }
    let backend = Backend::named("alpha");
    let evener = Evener::start(&config("", NO_CHECKS, &[backend.entry("")]));
    let terminal = Terminal::run(&["top", "--interval", "100ms", "--admin", &admin(&evener)], &[]);
    terminal.wait_for(OTHER_SCREEN);
    terminal.wait_for("web/alpha");
    terminal.wait_for("\x1b[38;5;2"); // green
    evener.request("PUT", "/v1/pools/web/backends/alpha", "{\"state\": \"drain\"}");
    terminal.wait_for("override_set");
    terminal.press("?");
    terminal.wait_for("PgUp"); // only cells that change are sent, so words may be broken
    terminal.press("xq");
    terminal.wait_for("ended 0, terminal as before");
    assert!(terminal.shown().contains(BACK));
}

#[test]
fn top_gives_the_terminal_back_at_sigterm_and_at_ctrl_c_and_heeds_no_color() {
    if !has_python("top at signals") {
        return;
    }
    let backend = Backend::named("alpha");
    let evener = Evener::start(&config("", NO_CHECKS, &[backend.entry("")]));
    for by_signal in [true, false] {
        let terminal = Terminal::run(&["top", "--admin", &admin(&evener)], &[("NO_COLOR", "1")]);
        terminal.wait_for("web/alpha");
        if by_signal {
            send_signal(terminal.pid(), "TERM");
        } else {
            terminal.press("\x03");
        }
        terminal.wait_for("ended 0, terminal as before");
        assert!(terminal.shown().contains(BACK));
        assert!(!terminal.shown().contains("\x1b[38;5;"), "colour in spite of NO_COLOR");
    }
}

#[test]
fn top_waits_for_a_process_that_goes_away_and_goes_on_with_the_next_one() {
    if !has_python("top and a restart") {
        return;
    }
    let backend = Backend::named("alpha");
    let toml = config("", NO_CHECKS, &[backend.entry("")]);
    let evener = Evener::start(&toml);
    let file = evener.file();
    let socket = admin(&evener);
    let terminal = Terminal::run(&["top", "--interval", "100ms", "--admin", &socket], &[]);
    terminal.wait_for("web/alpha");
    let (text, folder) = (fs::read_to_string(&file).unwrap(), tempfile::tempdir().unwrap());
    evener.stop();
    terminal.wait_for("no answer");
    // The folder of the first one went with it.
    fs::create_dir_all(Path::new(&socket).parent().unwrap()).unwrap();
    let file = folder.path().join("evener.toml");
    fs::write(&file, text.replace("alpha", "omega")).unwrap();
    let mut next = Command::new(program());
    next.args(["run", "-c"]).arg(&file).stdout(Stdio::null()).stderr(Stdio::null());
    let mut next = next.spawn().unwrap();
    terminal.wait_for("omega");
    let _ = next.kill();
    let _ = next.wait();
    let _ = fs::remove_dir_all(Path::new(&socket).parent().unwrap());
}

#[test]
fn top_without_a_process_or_a_terminal_says_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let nobody = folder.path().join("none.sock");
    let output = evener(&["top", "--admin", nobody.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("is evener running?"));

    let backend = Backend::named("alpha");
    let running = Evener::start(&config("", NO_CHECKS, &[backend.entry("")]));
    let output = evener(&["top", "--admin", &admin(&running)]);
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("--once"));
    let output = evener(&["top", "--once", "--interval", "100ms", "--admin", &admin(&running)]);
    assert_eq!(output.status.code(), Some(0));
    let shown = String::from_utf8_lossy(&output.stdout).into_owned();
    for words in ["evener ", "connections 0/", "LISTENER", "web/alpha", "THREAD", "worker-0", " started "] {
        assert!(shown.contains(words), "no {words:?} in\n{shown}");
    }
    assert!(!shown.contains('\x1b'));
}

#[test]
fn status_is_watched_in_place_on_a_terminal_and_repeated_elsewhere() {
    if !has_python("status --watch") {
        return;
    }
    let backend = Backend::named("alpha");
    let running = Evener::start(&config("", NO_CHECKS, &[backend.entry("")]));
    let terminal = Terminal::run(&["status", "--watch", "--interval", "100ms", "--admin", &admin(&running)], &[]);
    wait_until(SOON, "it was drawn three times", || terminal.shown().matches("\x1b[H").count() >= 3);
    assert!(terminal.shown().contains("alpha"));
    terminal.press("\x03");
    terminal.wait_for("ended ");

    let mut command = Command::new("timeout");
    command.args(["1"]).arg(program()).args(["status", "--watch", "--json", "--interval", "100ms", "--admin"]);
    let output = command.arg(admin(&running)).output().unwrap();
    let lines = String::from_utf8(output.stdout).unwrap();
    assert!(lines.lines().count() >= 2, "{lines}");
    assert!(lines.lines().all(|line| serde_json::from_str::<serde_json::Value>(line).is_ok()), "a line each");
    assert_eq!(evener(&["status", "--interval", "1s"]).status.code(), Some(2), "only with --watch");
    assert_eq!(evener(&["status", "--watch", "--interval", "1ms"]).status.code(), Some(2));
}
