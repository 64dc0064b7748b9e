//! The command line: exit statuses, what is said and where, and two runs that do not get in each other's way.
#![allow(clippy::unwrap_used)]

mod harness;

use std::process::{Command, Output};

use harness::{Backend, Evener, config, evener, free_port, program, who};

fn write(folder: &tempfile::TempDir, text: &str) -> String {
    let file = folder.path().join("evener.toml");
    std::fs::write(&file, text).unwrap();
    file.to_str().unwrap().to_owned()
}

fn folder() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

fn out(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn err(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// A run with one backend.
fn running(backend: &str) -> (Backend, Evener) {
    let backend = Backend::named(backend);
    let evener = Evener::start(&config("", "", &[backend.entry("")]));
    (backend, evener)
}

const GOOD: &str = "[listener.pg]\nbind = \"127.0.0.1:0\"\npool = \"pg\"\n\n[pool.pg]\nbackends = [\"127.0.0.1:1\"]\n";

#[test]
fn help_and_version_are_status_0_on_stdout() {
    let help = evener(&["--help"]);
    assert_eq!(help.status.code(), Some(0));
    for verb in ["run", "check", "status", "reload", "backend", "demo"] {
        assert!(out(&help).contains(verb), "no {verb} in {}", out(&help));
        assert_eq!(evener(&[verb, "--help"]).status.code(), Some(0), "{verb} --help");
    }
    let version = evener(&["--version"]);
    assert_eq!(version.status.code(), Some(0));
    assert!(out(&version).starts_with(&format!("evener {}", env!("CARGO_PKG_VERSION"))), "{}", out(&version));
}

#[test]
fn wrong_arguments_are_status_2_on_stderr() {
    for arguments in [vec!["gallop"], vec!["run", "--gallop"], vec![], vec!["backend"], vec!["status", "a", "b"]] {
        let output = evener(&arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {output:?}");
        assert!(!err(&output).is_empty() && out(&output).is_empty(), "{arguments:?}");
    }
}

#[test]
fn check_of_a_good_file_is_status_0() {
    let folder = folder();
    let file = write(&folder, GOOD);
    assert_eq!(evener(&["check", "-c", &file]).status.code(), Some(0));
    let printed = evener(&["check", "--print", "-c", &file]);
    assert_eq!(printed.status.code(), Some(0));
    for words in ["[listener.pg]", "[pool.pg]", "round_robin", "127.0.0.1:1"] {
        assert!(out(&printed).contains(words), "no {words} in {}", out(&printed));
    }
    let again = write(&folder, &out(&printed));
    let twice = evener(&["check", "--print", "-c", &again]);
    assert_eq!(out(&twice), out(&printed), "what is printed is a file with the same meaning");
}

#[test]
fn check_names_every_problem_with_its_place_and_the_nearest_key() {
    let folder = folder();
    let text =
        GOOD.replace("bind", "bnid").replace("pool = \"pg\"", "pool = \"pq\"") + "balance = \"fair\"\nqueeu = 1\n";
    let file = write(&folder, &text);
    let output = evener(&["check", "-c", &file]);
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    let said = err(&output);
    for words in ["evener.toml:2:1", "bnid", "bind", "evener.toml:3:8", "pq", "fair", "round_robin", "queeu", "queue"] {
        assert!(said.contains(words), "no {words} in\n{said}");
    }
    assert!(!said.contains('\x1b'), "colour without a terminal");
}

#[test]
fn a_missing_file_is_status_2_and_named() {
    for verb in ["check", "run"] {
        let output = evener(&[verb, "-c", "/nowhere/evener.toml"]);
        assert_eq!(output.status.code(), Some(2), "{verb}: {output:?}");
        assert!(err(&output).contains("/nowhere/evener.toml"), "{verb}: {}", err(&output));
    }
}

#[test]
fn run_with_a_wrong_file_is_status_2_before_anything_is_bound() {
    let folder = folder();
    let file = write(&folder, &GOOD.replace("bind", "bnid"));
    let output = evener(&["run", "-c", &file]);
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    assert!(err(&output).contains("bnid"));
}

#[test]
fn the_environment_names_the_file() {
    let folder = folder();
    let file = write(&folder, GOOD);
    let output = Command::new(program()).arg("check").env("EVENER_CONFIG", &file).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
}

#[test]
fn without_a_running_process_the_verbs_are_status_1_and_say_so() {
    let folder = folder();
    let socket = folder.path().join("none.sock");
    let file = write(&folder, &format!("[process]\nadmin = \"{}\"\n\n{GOOD}", socket.display()));
    for arguments in [vec!["status"], vec!["reload"], vec!["backend", "pg/a", "drain"]] {
        let output = evener(&[arguments.as_slice(), &["-c", &file]].concat());
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {output:?}");
        assert!(err(&output).contains("none.sock"), "{arguments:?}: {}", err(&output));
    }
}

#[test]
fn a_second_run_on_the_same_file_ends_with_1_and_leaves_the_first_alone() {
    let (_backend, first) = running("a");
    for _ in 0..2 {
        let output = first.cli(&["run"]);
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        assert!(!err(&output).is_empty());
        assert_eq!(first.status()["pools"][0]["name"], "web", "the first one answers");
        assert_eq!(who(first.port("web")).unwrap(), "a");
    }
}

#[test]
fn a_socket_left_behind_by_a_killed_run_is_no_obstacle() {
    let backend = Backend::named("a");
    let file = config("", "", &[backend.entry("")]);
    let mut killed = Evener::start(&file);
    let folder = folder();
    let left = folder.path().join("left.sock");
    killed.signal("KILL");
    killed.wait(harness::SOON);
    std::fs::rename(killed.admin(), &left).unwrap();
    let port = free_port();
    let text = format!("[process]\nadmin = \"{}\"\n\n{file}", left.display()).replace(":0\"", &format!(":{port}\""));
    let path = write(&folder, &text);
    let mut second = Command::new(program()).args(["run", "-c", &path]).spawn().unwrap();
    let start = harness::now();
    while who(port).is_err() && start.elapsed() < harness::SOON {
        harness::breathe();
    }
    let served = who(port);
    second.kill().unwrap();
    second.wait().unwrap();
    assert_eq!(served.unwrap(), "a");
}

#[test]
fn a_taken_port_is_status_1_and_named() {
    let folder = folder();
    let holder = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = holder.local_addr().unwrap().port();
    let admin = folder.path().join("admin.sock");
    let text = format!("[process]\nadmin = \"{}\"\n\n{}", admin.display(), GOOD.replace(":0", &format!(":{port}")));
    let output = evener(&["run", "-c", &write(&folder, &text)]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(err(&output).contains(&port.to_string()), "{}", err(&output));
    assert_eq!(err(&output).matches("Address already in use").count(), 1, "said once: {}", err(&output));
    assert!(!admin.exists(), "nothing is left behind");
}

#[test]
fn two_runs_never_share_a_port() {
    let (a, b) = (Backend::named("a"), Backend::named("b"));
    let port = free_port();
    let fixed =
        |backend: &Backend| config("", "", &[backend.entry("")]).replace("127.0.0.1:0", &format!("127.0.0.1:{port}"));
    let first = Evener::start(&fixed(&a));
    let folder = folder();
    let admin = folder.path().join("admin.sock");
    let path = write(&folder, &format!("[process]\nadmin = \"{}\"\n\n{}", admin.display(), fixed(&b)));
    let output = evener(&["run", "-c", &path]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!((0..10).all(|_| who(port).unwrap() == "a"));
    drop(first);
}

#[test]
fn the_admin_socket_belongs_to_owner_and_group() {
    use std::os::unix::fs::PermissionsExt;
    let (_backend, running) = running("a");
    let mode = std::fs::metadata(running.admin()).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o660);
}

#[test]
fn status_shows_the_same_to_people_and_machines() {
    let (_backend, running) = running("pony");
    let table = running.cli_ok(&["status"]);
    for words in ["web", "pony", "up", &running.port("web").to_string()] {
        assert!(table.contains(words), "no {words} in\n{table}");
    }
    assert!(!table.contains('\x1b'), "colour without a terminal");
    let json: serde_json::Value = serde_json::from_str(&running.cli_ok(&["status", "--json"])).unwrap();
    assert_eq!(json["pools"][0]["backends"][0]["name"], "pony");
    assert_eq!(json["listeners"][0]["name"], "web");
    assert_eq!(json["listeners"][0]["protocol"], "tcp");
    assert!(json["listeners"][0].get("udp").is_none() && !table.contains("udp"), "{table}");
    assert!(running.cli_ok(&["status", "web"]).contains("pony"));
    assert_eq!(running.cli(&["status", "nowhere"]).status.code(), Some(1));
}

#[test]
fn the_api_answers_404_and_422_where_they_belong() {
    let (_backend, running) = running("a");
    let code = |method: &str, path: &str, body: &str| running.request(method, path, body).unwrap().0;
    assert_eq!(code("GET", "/v1/pools/web", ""), 200);
    assert_eq!(code("GET", "/v1/pools/nowhere", ""), 404);
    assert_eq!(code("GET", "/v1/nothing", ""), 404);
    assert_eq!(code("PUT", "/v1/pools/web/backends/zebra", "{\"state\": \"drain\"}"), 404);
    assert_eq!(code("PUT", "/v1/pools/web/backends/a", "{\"state\": \"sleepy\"}"), 422);
    assert_eq!(code("PUT", "/v1/pools/web/backends/a", "{"), 422);
    assert_eq!(code("PUT", "/v1/pools/web/backends/a", "{\"weight\": 3}"), 200);
    assert!(matches!(code("DELETE", "/v1/status", ""), 404 | 405));
}

#[test]
fn the_api_survives_nonsense() {
    use std::io::{Read, Write};
    let (_backend, running) = running("a");
    for nonsense in [
        &b"\0\0\0\0"[..],
        b"GET\r\n\r\n",
        &[b'x'; 100_000],
        b"PUT /v1/pools/web/backends/a HTTP/1.1\r\ncontent-length: 99999999999\r\n\r\n{",
    ] {
        let mut socket = std::os::unix::net::UnixStream::connect(running.admin()).unwrap();
        let _ = socket.write_all(nonsense);
        let _ = socket.shutdown(std::net::Shutdown::Write);
        socket.set_read_timeout(Some(harness::SOON)).unwrap();
        let _ = socket.read_to_end(&mut Vec::new());
    }
    assert_eq!(who(running.port("web")).unwrap(), "a");
    assert_eq!(running.status()["pools"][0]["name"], "web");
}
