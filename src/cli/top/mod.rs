//! `evener top`: what `status` shows, live. A client of the admin API and of nothing else.
//!
//! Four threads put what they learn into one channel: answers, events, keys, signals. The caller's thread takes it out,
//! changes the model (`sample`) or the view (`keys`), and draws (`draw`, `rows`). Nothing but the threads waits.

mod draw;
mod keys;
mod rows;
mod sample;

use std::io::{IsTerminal, Write};
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant, SystemTime};

use ratatui::DefaultTerminal;
use ratatui::buffer::Buffer;
use ratatui::crossterm::event::{self, Event as Input};
use ratatui::layout::Rect;

use self::keys::View;
use self::sample::Model;
use super::client::Client;
use super::table::Paper;
use super::{Misuse, coloured};
use crate::api::{Event, Status};

/// Before somebody who does not answer is asked again.
const RETRY_INTERVAL: Duration = Duration::from_secs(1);
/// How wide a frame is for scripts, where no terminal says otherwise.
const PLAIN_WIDTH: u16 = 160;
/// Lines that a frame for scripts has at most.
const PLAIN_HEIGHT_MAX: u16 = 10_000;
/// How long a frame for scripts waits for the events that have been.
const PLAIN_EVENTS_WAIT: Duration = Duration::from_millis(500);

/// What the threads learn.
enum News {
    /// An answer, and when it came; or why there is none.
    Status(Result<Box<Status>, String>, Instant),
    /// Something has happened.
    Event(Event),
    /// A key, or another size of the terminal.
    Input(Input),
    /// A signal to end, or no terminal any more.
    End,
}

/// Runs until somebody has seen enough; `once` = one frame as text.
pub fn top(client: Client, interval: Duration, once: bool) -> anyhow::Result<()> {
    // Whoever is not there at the start is an error like with any other command; later it is waited for.
    let mut model = Model::new(client.status()?, now());
    let client = Arc::new(client);
    let (sender, news) = channel();
    if once {
        return print_once(&client, model, interval, (sender, news));
    }
    if !std::io::stdout().is_terminal() {
        let why = "evener top draws on a terminal, and this is none: --once prints one frame, `evener status` a table";
        return Err(Misuse(why.to_owned()).into());
    }
    await_signals(sender.clone())?;
    let mut screen = Screen::open()?;
    ask(client.clone(), interval, sender.clone());
    follow(client, sender.clone());
    read_keys(sender);
    let mut view = View::new(coloured());
    loop {
        screen.0.draw(|frame| draw::draw(&model, &view, wall_clock(), frame.area(), frame.buffer_mut()))?;
        // What is there already is taken in before the next frame: keys that are held down do not pile up.
        let mut next = news.recv().ok();
        while let Some(one) = next {
            if take(&mut model, &mut view, one).is_break() {
                return Ok(());
            }
            next = news.try_recv().ok();
        }
    }
}

fn take(model: &mut Model, view: &mut View, news: News) -> ControlFlow<()> {
    match news {
        // What is shown stays, but for the word that nobody answers.
        News::Status(Ok(_), _) if view.is_paused => model.meet(),
        News::Status(Ok(status), at) => model.take(*status, at),
        News::Status(Err(why), _) => model.miss(why),
        News::Event(event) => model.hear(event),
        News::Input(Input::Key(key)) if !view.press(key, model, wall_clock()) => return ControlFlow::Break(()),
        News::Input(_) => {}
        News::End => return ControlFlow::Break(()),
    }
    ControlFlow::Continue(())
}

/// The terminal, given back as it was when this is dropped; a panic gives it back too.
struct Screen(DefaultTerminal);

impl Screen {
    fn open() -> anyhow::Result<Self> {
        Ok(Self(ratatui::try_init()?))
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        ratatui::restore();
    }
}

/// Asks for the state again and again. The threads end with the process.
fn ask(client: Arc<Client>, interval: Duration, news: Sender<News>) {
    std::thread::spawn(move || {
        let mut wait = interval;
        loop {
            pause(wait);
            let answer = client.status();
            wait = if answer.is_ok() { interval } else { RETRY_INTERVAL };
            let answer = answer.map(Box::new).map_err(|error| error.to_string());
            if news.send(News::Status(answer, now())).is_err() {
                return;
            }
        }
    });
}

/// Follows the events, again and again.
fn follow(client: Arc<Client>, news: Sender<News>) {
    std::thread::spawn(move || {
        let mut begin = "last=100".to_owned();
        loop {
            // Its failure is that of the other thread too, which tells it.
            let from = begin.clone();
            let _ = client.follow(&from, |event| {
                begin = format!("since={}", event.seq);
                match news.send(News::Event(event)) {
                    Ok(()) => ControlFlow::Continue(()),
                    Err(_) => ControlFlow::Break(()),
                }
            });
            pause(RETRY_INTERVAL);
        }
    });
}

fn read_keys(news: Sender<News>) {
    std::thread::spawn(move || {
        while let Ok(input) = event::read() {
            if news.send(News::Input(input)).is_err() {
                return;
            }
        }
        let _ = news.send(News::End);
    });
}

/// Signals to end: from now on they do not end the process by themselves, and so the terminal is given back.
fn await_signals(news: Sender<News>) -> anyhow::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (mut terminate, mut interrupt, mut hangup) = {
        let _context = runtime.enter();
        (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?, signal(SignalKind::hangup())?)
    };
    std::thread::spawn(move || {
        runtime.block_on(async {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
                _ = hangup.recv() => {}
            }
        });
        let _ = news.send(News::End);
    });
    Ok(())
}

/// Two answers make the rates of one frame.
fn print_once(
    client: &Arc<Client>,
    mut model: Model,
    interval: Duration,
    (sender, news): (Sender<News>, Receiver<News>),
) -> anyhow::Result<()> {
    follow(client.clone(), sender);
    pause(interval);
    model.take(client.status()?, now());
    let deadline = now() + PLAIN_EVENTS_WAIT;
    // The stream has no end: the newest event is known by the silence after it.
    while let Ok(News::Event(event)) = next(&news, deadline) {
        model.hear(event);
    }
    let mut stdout = std::io::stdout().lock();
    stdout.write_all(plain(&model, Paper::of_stdout().width).as_bytes())?;
    Ok(())
}

fn next(news: &Receiver<News>, deadline: Instant) -> Result<News, RecvTimeoutError> {
    news.recv_timeout(deadline.saturating_duration_since(now()))
}

/// One frame as text, as high as it needs to be.
fn plain(model: &Model, width: Option<usize>) -> String {
    let view = View { is_plain: true, ..View::new(false) };
    let status = &model.status;
    let backends: usize = status.pools.iter().map(|pool| pool.backends.len()).sum();
    let rows = status.listeners.len() + status.pools.len() + backends + status.routes.len();
    let height = rows + status.process.threads.len() + 40;
    let width = width.and_then(|width| u16::try_from(width).ok()).unwrap_or(PLAIN_WIDTH);
    let height = u16::try_from(height).unwrap_or(u16::MAX).min(PLAIN_HEIGHT_MAX);
    let area = Rect::new(0, 0, width, height);
    let mut buffer = Buffer::empty(area);
    draw::draw(model, &view, wall_clock(), area, &mut buffer);
    text(&buffer)
}

/// What a buffer shows, without what is blank at the ends of its lines; blank lines come one at a time.
fn text(buffer: &Buffer) -> String {
    let mut text = String::new();
    for y in buffer.area.y..buffer.area.bottom() {
        let cells = (buffer.area.x..buffer.area.right()).map(|x| buffer[(x, y)].symbol());
        let line: String = cells.collect();
        let line = line.trim_end();
        if !line.is_empty() || !(text.is_empty() || text.ends_with("\n\n")) {
            text.push_str(line);
            text.push('\n');
        }
    }
    text.truncate(text.trim_end().len());
    text + "\n"
}

/// Waits where nothing can tell that the wait is over.
#[allow(clippy::disallowed_methods)] // the interval between two questions is time itself
fn pause(span: Duration) {
    std::thread::sleep(span);
}

#[allow(clippy::disallowed_methods)] // rates are over the time between two answers
fn now() -> Instant {
    Instant::now()
}

#[allow(clippy::disallowed_methods)] // how long ago is told from the time of day
fn wall_clock() -> SystemTime {
    SystemTime::now()
}

#[cfg(test)]
mod tests;
