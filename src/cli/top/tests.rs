//! Frames of made-up answers, drawn on ratatui's test terminal: no process, no clock.

use std::time::UNIX_EPOCH;

use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use serde_json::{Value, json};

use super::sample::{Link, Part};
use super::*;
use crate::api::EventKind;

const NOW: SystemTime = UNIX_EPOCH;

fn backend(name: &str, state: &str, total: u64) -> Value {
    json!({
        "name": name, "address": "10.0.0.1:80", "state": state, "why": format!("why {name} is {state}"),
        "since": "1970-01-01T00:00:00Z", "file": {"weight": 100, "tier": 0, "max_connections": null},
        "override": null, "observed": {"health": "up", "last_check": null, "ejected": false}, "weight": 100,
        "connections": {"active": 3, "total": total}, "connect_failures": 0,
        "connect_times": [total, 0, 0], "bytes_in": total * 1000, "bytes_out": total * 2000,
    })
}

fn status_of(backends: &[Value], total: u64) -> Status {
    let value = json!({
        "version": "0.1.0", "pid": 42, "generation": 7, "uptime_s": 3700, "draining": false,
        "process": {
            "workers": 2, "connections": 12, "max_connections": 8847, "flows": 0, "max_flows": 0, "fds_open": 19_500,
            "fds_limit": 20_000, "pipes_in_use": 1, "pipes_free": 2, "pipes_max": 512, "local_ports": 28232,
            "threads": [
                {"name": "worker-0", "connections": 6, "accepted": total, "cpu_ms": total as f64},
                {"name": "worker-1", "connections": 6, "accepted": 0, "cpu_ms": 0.0},
            ],
            "access_log_dropped": 0, "last_reload": {"at": "1970-01-01T00:00:00Z", "ok": true},
        },
        "listeners": [{
            "name": "web", "bind": ["127.0.0.1:80"], "protocol": "tcp", "pool": "app", "state": "listening",
            "connections": {"active": 12, "accepted": total, "refused": 0}, "bytes_in": total, "bytes_out": total,
        }],
        "pools": [{
            "name": "app", "balance": "least_conn", "connections": {"active": 12, "no_backend": 0},
            "queue": {"length": 0, "max": 0}, "panic": false, "backends": backends,
        }],
        "routes": [], "time_bounds_ms": [1.0, 10.0],
    });
    serde_json::from_value(value).expect("a status")
}

/// Two answers, a second apart: 500 connections, 200 of them on "b".
fn model() -> Model {
    let at = now();
    let backends = |a, b| [backend("a", "up", a), backend("b", "down", b)];
    let mut model = Model::new(status_of(&backends(1000, 0), 1000), at);
    model.take(status_of(&backends(1300, 200), 1500), at + Duration::from_secs(1));
    model
}

fn event(text: &str) -> Event {
    let (listener, lost) = (None, 0);
    let (pool, backend) = (Some("app".to_owned()), Some("b".to_owned()));
    let time = "1970-01-01T01:02:03.000Z".to_owned();
    Event { seq: 1, time, kind: EventKind::BackendDown, listener, pool, backend, text: text.to_owned(), lost }
}

fn frame(model: &Model, view: &View, width: u16, height: u16) -> String {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).expect("a terminal");
    let draw = |frame: &mut ratatui::Frame<'_>| {
        draw::draw(model, view, NOW, frame.area(), frame.buffer_mut());
    };
    terminal.draw(draw).expect("a frame");
    let buffer = terminal.backend().buffer();
    let line = |y| (0..width).map(|x| buffer[(x, y)].symbol()).collect::<String>().trim_end().to_owned();
    (0..height).map(line).collect::<Vec<_>>().join("\n")
}

fn press(view: &mut View, model: &Model, keys: &[KeyCode]) -> bool {
    keys.iter().all(|key| view.press(KeyEvent::new(*key, KeyModifiers::NONE), model, NOW))
}

fn typed(text: &str) -> Vec<KeyCode> {
    text.chars().map(KeyCode::Char).collect()
}

#[test]
fn everything_has_its_place_on_80_by_24() {
    let mut model = model();
    model.hear(event("from up to down: refused"));
    let shown = frame(&model, &View::new(true), 80, 24);
    for words in [
        "evener 0.1.0  1/2 up  pid 42  for 1h01m  generation 7  in 500B/s  out 500B/s",
        "connections 12/8.8k  fds 19.5k/20.0k  pipes 3/512  ports 3/28.2k",
        "all new/s                     500 ",
        "connect p99                0.99ms ",
        "load  worker-0 ▅50%  worker-1 ▁0%",
        "web       listening      12    500 ",
        "app   1/2      12    500  0.99ms",
        "app/b    down        3    200  0.99ms",
        "why b is down",
        "01:02:03 backend_down app/b from up to down: refused",
        "? help",
    ] {
        assert!(shown.contains(words), "no {words:?} in\n{shown}");
    }
    let (b, a) = (shown.find("app/b  "), shown.find("app/a  "));
    assert!(b < a, "what is wrong stands first\n{shown}");
}

#[test]
fn nothing_breaks_at_any_size_or_with_nothing_to_show() {
    let mut nothing = Model::new(status_of(&[], 0), now());
    nothing.status.listeners.clear();
    nothing.status.pools.clear();
    nothing.status.process.threads.clear();
    nothing.status.process.max_connections = 0;
    let mut models = [model(), nothing];
    models.iter_mut().for_each(|model| (0..300).for_each(|_| model.hear(event("x"))));
    for model in &models {
        for (width, height) in [(80, 24), (200, 60), (20, 5), (1, 1), (3, 2), (40, 9), (300, 3), (5, 100)] {
            for part in Part::ALL {
                let mut view = View { part, ..View::new(false) };
                frame(model, &view, width, height);
                press(&mut view, model, &[KeyCode::End, KeyCode::Char('s'), KeyCode::Char('e')]);
                frame(model, &view, width, height);
                view.has_help = true;
                frame(model, &view, width, height);
            }
        }
    }
}

#[test]
fn a_small_screen_still_shows_the_state_of_backends() {
    let shown = frame(&model(), &View::new(false), 20, 5);
    assert!(shown.contains("evener 0.1.0  1/2 up") && shown.contains("app/b    down"), "{shown}");
}

#[test]
fn a_thousand_backends_are_scrolled_and_the_largest_screen_has_more_of_them() {
    let backends: Vec<Value> = (0..1000).map(|n| backend(&format!("b{n:04}"), "up", n)).collect();
    let model = Model::new(status_of(&backends, 0), now());
    let mut view = View::new(false);
    let shown = |view: &View, height| frame(&model, view, 200, height).matches("app/b").count();
    assert!(shown(&view, 24) >= 5);
    assert!(shown(&view, 60) >= 25);
    assert!(frame(&model, &view, 80, 24).contains("BACKEND (1000)"));
    press(&mut view, &model, &[KeyCode::End]);
    assert!(frame(&model, &view, 80, 24).contains("app/b0999"));
    press(&mut view, &model, &[KeyCode::PageUp]);
    assert_eq!(view.chosen.as_deref(), Some("app/b0989"));
    assert_eq!(plain(&model, None).matches("app/b").count(), 1000, "scripts get all of them");
}

#[test]
fn very_long_names_and_what_a_terminal_would_obey_do_no_harm() {
    let long = "n".repeat(500);
    let mut model = Model::new(status_of(&[backend(&long, "down", 0)], 0), now());
    model.status.pools[0].backends[0].why = "\x1b[2J\x07語\n".repeat(50);
    model.hear(event("\x1b[31m\r\n"));
    let shown = frame(&model, &View::new(false), 80, 24);
    assert!(shown.contains("app/nnn") && shown.contains("down"), "{shown}");
    assert!(!shown.contains('\x1b') && !shown.contains('\x07'));
    assert!(plain(&model, Some(80)).lines().all(|line| line.chars().count() <= 80));
}

#[test]
fn rates_are_those_between_two_answers_of_the_same_process() {
    let at = now();
    let mut model = model();
    assert_eq!(model.rates(Part::Backends, "app/b").fresh, Some(200.0));
    assert_eq!(model.rates(Part::Pools, "app").fresh, Some(500.0));
    assert_eq!(model.total.0.fresh, Some(500.0));
    assert_eq!(model.total.0.bytes_in, Some(500.0));
    assert_eq!(model.rates(Part::Threads, "worker-0").load, Some(0.5));
    assert!((model.total.0.p99_ms.expect("there were connects") - 0.99).abs() < 0.001);
    let mut restarted = status_of(&[backend("a", "up", 7)], 9);
    restarted.pid = 43;
    model.take(restarted.clone(), at + Duration::from_secs(5));
    assert_eq!(model.rates(Part::Listeners, "web").fresh, None, "it counts from the beginning");
    assert_eq!(model.line(Part::Backends, "app/b").map(|line| line.fresh.len()), None, "it is gone");
    restarted.listeners[0].connections.accepted = 29;
    model.take(restarted.clone(), at + Duration::from_secs(7));
    assert_eq!(model.rates(Part::Listeners, "web").fresh, Some(10.0));
    model.take(restarted, at + Duration::from_secs(7));
    assert_eq!(model.rates(Part::Listeners, "web").fresh, None, "no time has passed");
}

#[test]
fn a_table_is_chosen_filtered_and_sorted_by_keys() {
    let model = model();
    let mut view = View::new(false);
    press(&mut view, &model, &[KeyCode::Char('/')]);
    press(&mut view, &model, &typed("APP/A"));
    assert!(frame(&model, &view, 80, 24).contains("/APP/A_"), "it can be seen while it is typed");
    press(&mut view, &model, &[KeyCode::Enter]);
    let shown = frame(&model, &view, 80, 24);
    assert!(shown.contains("app/a") && !shown.contains("app/b"), "{shown}");
    press(&mut view, &model, &[KeyCode::Esc]);
    assert!(frame(&model, &view, 80, 24).contains("app/b"));

    let order = |view: &View| {
        let shown = frame(&model, view, 80, 24);
        (shown.find("app/a  ").expect("a"), shown.find("app/b  ").expect("b"))
    };
    press(&mut view, &model, &typed("s"));
    assert!(order(&view).0 < order(&view).1, "by name");
    press(&mut view, &model, &typed("sss"));
    assert!(frame(&model, &view, 80, 24).contains("▼NEW/s"));
    assert!(order(&view).0 < order(&view).1, "the busier one first");
    press(&mut view, &model, &typed("r"));
    assert!(order(&view).0 > order(&view).1);
    press(&mut view, &model, &[KeyCode::Down]);
    assert_eq!(view.chosen.as_deref(), Some("app/b"));
    assert!(frame(&model, &view, 80, 24).contains("app/b new/s"), "the lines are those of the chosen row");

    press(&mut view, &model, &[KeyCode::Tab]);
    assert_eq!(view.part, Part::Threads, "there are no routes");
    press(&mut view, &model, &[KeyCode::Tab]);
    assert_eq!(view.part, Part::Listeners);
    press(&mut view, &model, &typed("?"));
    assert!(frame(&model, &view, 80, 24).contains("sort the other way round"));
    assert!(press(&mut view, &model, &typed("q")), "any key only ends the help");
    assert!(!press(&mut view, &model, &typed("q")));
    let interrupt = KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL);
    view.is_typing = true;
    assert!(!view.press(interrupt, &model, NOW), "also while a filter is typed");
}

#[test]
fn a_pause_holds_the_picture_and_a_process_that_is_away_is_said() {
    let mut model = model();
    let mut view = View::new(false);
    press(&mut view, &model, &typed("p"));
    assert!(frame(&model, &view, 80, 24).contains("PAUSED"));
    let next = Box::new(status_of(&[], 9999));
    let _ = take(&mut model, &mut view, News::Status(Ok(next), now()));
    assert!(frame(&model, &view, 80, 24).contains("app/b"));
    let why = "admin.sock: No such file\nis evener running?".to_owned();
    let _ = take(&mut model, &mut view, News::Status(Err(why), now()));
    assert!(matches!(model.link, Link::Away(_)));
    assert!(
        frame(&model, &view, 120, 24).contains("! no answer, what is shown is older: admin.sock: No such file; is")
    );
}

#[test]
fn without_colour_nothing_has_one() {
    let mut terminal = Terminal::new(TestBackend::new(80, 24)).expect("a terminal");
    let model = model();
    for has_colour in [true, false] {
        let view = View::new(has_colour);
        let draw = |frame: &mut ratatui::Frame<'_>| {
            draw::draw(&model, &view, NOW, frame.area(), frame.buffer_mut());
        };
        terminal.draw(draw).expect("a frame");
        let coloured = terminal.backend().buffer().content().iter().any(|cell| cell.fg != ratatui::style::Color::Reset);
        assert_eq!(coloured, has_colour);
    }
}
